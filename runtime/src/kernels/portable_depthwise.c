/* Depthwise convolution in plain C: four channels at once where each input channel has one output
 * channel, so that neighbours are neighbours in the image, in the weights and in the output.
 */
#include "ee_portable.h"

typedef struct {
    ee_taps rows, columns;
    const int8_t *input; /* at the first tap inside, channel 0 */
    size_t input_step, input_row_step;
    uint8_t is_clipped;
} window;

/* See portable_conv.c: taps outside the image would read the zero point. */
static uint32_t sum_outside(const ee_conv2d *op, const window *at, const int8_t *weights) {
    int32_t sum = 0;
    for (int32_t y = 0; y < op->kernel_h; y++) {
        const uint8_t is_row = y >= at->rows.first && y < at->rows.end;
        for (int32_t x = 0; x < op->kernel_w; x++, weights += op->output_c) {
            if (!is_row || x < at->columns.first || x >= at->columns.end) {
                sum += *weights;
            }
        }
    }
    return 0u - (uint32_t)(sum * op->input_offset);
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
static void convolve_pixel(const ee_conv2d *op, const window *at, const int8_t *skip,
                           int8_t *output) {
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
        for (uint32_t i = 0; i < count; i++, c++) {
            if (at->is_clipped) {
                sums[i] += sum_outside(op, at, op->weights + c);
            }
            output[c] = ee_finish(op, c, sums[i], skip == NULL ? NULL : skip + c);
        }
    }
}

static void convolve(const ee_conv2d *op, const int8_t *input, const int8_t *skip, int8_t *output) {
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
            convolve_pixel(op, &at, skip, output);
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
