/* Convolution in plain C: four output channels at once.
 *
 * The taps of a kernel row lie next to each other in the image and in the weights, so that one dot
 * product covers the row; only with a horizontal dilation it takes one for each tap.
 */
#include "ee_portable.h"

typedef struct {
    ee_taps rows, columns;
    const int8_t *input; /* at the first tap inside */
    size_t weights;      /* where the weights of that tap lie within a channel's */
    uint32_t num_runs, run_bytes;
    size_t input_step, weights_step; /* from run to run */
    uint8_t is_clipped;              /* taps lie outside the image */
} window;

static int32_t sum_of(const int8_t *weights, int32_t count) {
    int32_t sum = 0;
    for (const int8_t *end = weights + count; weights != end;) {
        sum += *weights++;
    }
    return sum;
}

/* What a window that leaves the image lacks: its bias counts all weights times the input's offset,
 * as if every tap were multiplied. Taps outside would read the zero point. */
static uint32_t sum_outside(const ee_conv2d *op, const window *at, const int8_t *weights) {
    const int32_t row_bytes = op->kernel_w * op->input_c;
    const int32_t left = at->columns.first * op->input_c;
    const int32_t right = at->columns.end * op->input_c;
    int32_t sum = sum_of(weights, at->rows.first * row_bytes);
    weights += at->rows.first * row_bytes;
    for (int32_t y = at->rows.first; y < at->rows.end; y++) {
        sum += sum_of(weights, left) + sum_of(weights + right, row_bytes - right);
        weights += row_bytes;
    }
    sum += sum_of(weights, (op->kernel_h - at->rows.end) * row_bytes);
    return 0u - (uint32_t)(sum * op->input_offset);
}

static void convolve_channel(const ee_conv2d *op, const window *at, const int8_t *weights,
                             uint32_t *sum) {
    const size_t row_bytes = (size_t)op->kernel_w * op->input_c;
    const size_t image_row_bytes = (size_t)op->input_w * op->input_c * op->dilation_h;
    const int8_t *row = at->input;
    weights += at->weights;
    for (int32_t y = at->rows.first; y < at->rows.end; y++) {
        for (uint32_t run = 0; run < at->num_runs; run++) {
            *sum = ee_dot(row + run * at->input_step, weights + run * at->weights_step,
                          at->run_bytes, *sum);
        }
        row += image_row_bytes;
        weights += row_bytes;
    }
}

static void convolve_four(const ee_conv2d *op, const window *at, const int8_t *weights,
                          uint32_t sums[4]) {
    const size_t row_bytes = (size_t)op->kernel_w * op->input_c;
    const size_t image_row_bytes = (size_t)op->input_w * op->input_c * op->dilation_h;
    const int8_t *row = at->input;
    weights += at->weights;
    for (int32_t y = at->rows.first; y < at->rows.end; y++) {
        for (uint32_t run = 0; run < at->num_runs; run++) {
            ee_dot4(row + run * at->input_step, weights + run * at->weights_step,
                    op->kernel_h * row_bytes, at->run_bytes, sums);
        }
        row += image_row_bytes;
        weights += row_bytes;
    }
}

/* All output channels of one pixel. */
static void convolve_pixel(const ee_conv2d *op, const ee_output *finish, const window *at,
                           const int8_t *skip, int8_t *output) {
    const size_t channel_bytes = (size_t)op->kernel_h * op->kernel_w * op->input_c;
    const int8_t *weights = op->weights;
    uint32_t c = 0;
    while (c < op->output_c) {
        const uint32_t count = op->output_c - c >= 4u ? 4u : 1u;
        uint32_t sums[4];
        for (uint32_t i = 0; i < count; i++) {
            sums[i] = (uint32_t)op->bias[c + i];
        }
        if (count == 4u) {
            convolve_four(op, at, weights, sums);
        } else {
            convolve_channel(op, at, weights, sums);
        }
        for (uint32_t i = 0; at->is_clipped && i < count; i++) {
            sums[i] += sum_outside(op, at, weights + i * channel_bytes);
        }
        ee_finish(finish, c, count, sums, skip, output);
        weights += count * channel_bytes;
        c += count;
    }
}

static void convolve(const ee_conv2d *op, const int8_t *input, const int8_t *skip, int8_t *output) {
    const ee_output finish = {op->multiplier,     op->shift,          op->output_offset,
                              op->activation_min, op->activation_max, op->residual};
    window at = {.input_step = (size_t)op->dilation_w * op->input_c, .weights_step = op->input_c};
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = 0; y < op->output_h; y++, top += op->stride_h) {
        const ee_taps rows = ee_clip(top, op->dilation_h, op->kernel_h, op->input_h);
        int32_t left = -(int32_t)op->pad_left;
        for (uint32_t x = 0; x < op->output_w; x++, left += op->stride_w) {
            at.rows = rows;
            at.columns = ee_clip(left, op->dilation_w, op->kernel_w, op->input_w);
            const int32_t num_columns = at.columns.end - at.columns.first;
            const int32_t num_rows = at.rows.end - at.rows.first;
            at.is_clipped = num_columns < op->kernel_w || num_rows < op->kernel_h;
            at.num_runs = op->dilation_w == 1u ? 1u : (uint32_t)num_columns;
            at.run_bytes = op->dilation_w == 1u ? (uint32_t)num_columns * op->input_c : op->input_c;
            at.weights = (size_t)(at.rows.first * op->kernel_w + at.columns.first) * op->input_c;
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

void ee_conv2d_portable(const ee_conv2d *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    convolve(op, input, NULL, output);
}

void ee_conv2d_portable_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                            int8_t *output, void *scratch) {
    (void)scratch;
    convolve(op, input, input2, output);
}
