/* Depthwise convolution in plain C: four channels at once where each input channel has one output
 * channel, so that neighbours are neighbours in the image, in the weights and in the output.
 */
#include "ee_portable.h"

typedef struct {
    ee_taps rows, columns;
    const int8_t *input; /* at the first tap inside, channel 0 */
    size_t input_step, input_row_step;
    uint8_t is_clipped; /* taps lie outside the image */
} window;

/* Adds `factor` times the weights of `taps` taps, for as many channels as `count` says. */
static const int8_t *add_taps(const int8_t *weights, size_t step, int32_t taps, int32_t factor,
                              uint32_t count, uint32_t sums[4]) {
    for (; taps > 0; taps--, weights += step) {
        for (uint32_t i = 0; i < count; i++) {
            sums[i] += (uint32_t)(factor * weights[i]);
        }
    }
    return weights;
}

/* See portable_conv.c: taps outside the image would read the zero point. */
static void add_outside(const ee_conv2d *op, const window *at, const int8_t *weights,
                        uint32_t count, uint32_t sums[4]) {
    const size_t step = op->output_c;
    const int32_t zero_point = -op->input_offset;
    const int32_t num_inside = at->columns.end - at->columns.first;
    const int32_t width = op->kernel_w;
    weights = add_taps(weights, step, at->rows.first * width, zero_point, count, sums);
    for (int32_t y = at->rows.first; y < at->rows.end; y++) {
        weights = add_taps(weights, step, at->columns.first, zero_point, count, sums);
        weights += num_inside * (int32_t)op->output_c;
        weights = add_taps(weights, step, width - at->columns.end, zero_point, count, sums);
    }
    add_taps(weights, step, (op->kernel_h - at->rows.end) * width, zero_point, count, sums);
}

/* `input` and `weights` are at the channel's first tap inside the image. */
static uint32_t convolve_channel(const ee_conv2d *op, const window *at, const int8_t *input,
                                 const int8_t *weights, uint32_t sum) {
    const size_t step = op->output_c;
    for (int32_t y = at->rows.first; y < at->rows.end; y++) {
        const int8_t *value = input;
        const int8_t *weight = weights;
        for (int32_t x = at->columns.first; x < at->columns.end; x++) {
            sum += (uint32_t)(*value * *weight);
            value += at->input_step;
            weight += step;
        }
        input += at->input_row_step;
        weights += op->kernel_w * step;
    }
    return sum;
}

static void convolve_four(const ee_conv2d *op, const window *at, const int8_t *input,
                          const int8_t *weights, uint32_t sums[4]) {
    const size_t step = op->output_c;
    uint32_t sum0 = sums[0], sum1 = sums[1], sum2 = sums[2], sum3 = sums[3];
    for (int32_t y = at->rows.first; y < at->rows.end; y++) {
        const int8_t *value = input;
        const int8_t *weight = weights;
        for (int32_t x = at->columns.first; x < at->columns.end; x++) {
            sum0 += (uint32_t)(value[0] * weight[0]);
            sum1 += (uint32_t)(value[1] * weight[1]);
            sum2 += (uint32_t)(value[2] * weight[2]);
            sum3 += (uint32_t)(value[3] * weight[3]);
            value += at->input_step;
            weight += step;
        }
        input += at->input_row_step;
        weights += op->kernel_w * step;
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
}

/* All output channels of one pixel. */
static void convolve_pixel(const ee_conv2d *op, const ee_output *finish, const window *at,
                           const int8_t *skip, int8_t *output) {
    const size_t first_tap =
        (size_t)(at->rows.first * op->kernel_w + at->columns.first) * op->output_c;
    const int8_t *input = at->input;
    uint32_t copies = 0; /* output channels that the current input channel has had */
    uint32_t c = 0;
    while (c < op->output_c) {
        const uint32_t count = op->depth_multiplier == 1u && op->output_c - c >= 4u ? 4u : 1u;
        const int8_t *weights = op->weights + c;
        uint32_t sums[4];
        for (uint32_t i = 0; i < count; i++) {
            sums[i] = (uint32_t)op->bias[c + i];
        }
        if (count == 4u) {
            convolve_four(op, at, input, weights + first_tap, sums);
            input += 4;
        } else {
            sums[0] = convolve_channel(op, at, input, weights + first_tap, sums[0]);
            if (++copies == op->depth_multiplier) {
                copies = 0;
                input++;
            }
        }
        if (at->is_clipped) {
            add_outside(op, at, weights, count, sums);
        }
        ee_finish(finish, c, count, sums, skip, output);
        c += count;
    }
}

static void convolve(const ee_conv2d *op, const int8_t *input, const int8_t *skip, int8_t *output) {
    const ee_output finish = {op->multiplier,     op->shift,          op->output_offset,
                              op->activation_min, op->activation_max, op->residual};
    window at = {.input_step = (size_t)op->dilation_w * op->input_c,
                 .input_row_step = (size_t)op->dilation_h * op->input_w * op->input_c};
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = 0; y < op->output_h; y++, top += op->stride_h) {
        int32_t left = -(int32_t)op->pad_left;
        for (uint32_t x = 0; x < op->output_w; x++, left += op->stride_w) {
            at.rows = ee_clip(top, op->dilation_h, op->kernel_h, op->input_h);
            at.columns = ee_clip(left, op->dilation_w, op->kernel_w, op->input_w);
            const int32_t num_columns = at.columns.end - at.columns.first;
            const int32_t num_rows = at.rows.end - at.rows.first;
            at.is_clipped = num_columns < op->kernel_w || num_rows < op->kernel_h;
            at.input = input;
            if (num_columns > 0 && num_rows > 0) {
                const int32_t image_y = top + at.rows.first * op->dilation_h;
                const int32_t image_x = left + at.columns.first * op->dilation_w;
                at.input += (size_t)(image_y * op->input_w + image_x) * op->input_c;
            } else {
                at.rows.end = at.rows.first;
            }
            convolve_pixel(op, &finish, &at, skip, output);
            output += op->output_c;
            skip = skip == NULL ? NULL : skip + op->output_c;
        }
    }
}

void ee_depthwise_portable(const ee_conv2d *op, const int8_t *input, int8_t *output,
                           void *scratch) {
    (void)scratch;
    convolve(op, input, NULL, output);
}

void ee_depthwise_portable_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                               int8_t *output, void *scratch) {
    (void)scratch;
    convolve(op, input, input2, output);
}
