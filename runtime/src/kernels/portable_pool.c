/* What reduces many values to one: average and maximum of windows, and the mean of an axis. */
#include "ee_portable.h"

/* A window's first value inside the image, and what lies inside of it. */
typedef struct {
    const int8_t *first;
    int32_t num_rows, num_columns;
    size_t step, row_step;
} window;

/* The quotient, rounded to the nearest, halves away from zero. */
static int32_t divide(int32_t sum, int32_t count) {
    /* Never by zero: a pooling window has a tap inside the image. */
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

static int32_t average(const window *at, const int8_t *row) {
    int32_t sum = 0;
    for (int32_t y = at->num_rows; y != 0; y--, row += at->row_step) {
        const int8_t *value = row;
        for (int32_t x = at->num_columns; x != 0; x--, value += at->step) {
            sum += *value;
        }
    }
    return divide(sum, at->num_rows * at->num_columns);
}

static int32_t maximum(const window *at, const int8_t *row) {
    int32_t best = INT8_MIN;
    for (int32_t y = at->num_rows; y != 0; y--, row += at->row_step) {
        const int8_t *value = row;
        for (int32_t x = at->num_columns; x != 0; x--, value += at->step) {
            best = *value > best ? *value : best;
        }
    }
    return best;
}

static void pool(const ee_pool2d *op, const int8_t *input, int8_t *output,
                 int32_t (*reduce)(const window *, const int8_t *)) {
    window at = {.step = op->channels, .row_step = (size_t)op->input_w * op->channels};
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = 0; y < op->output_h; y++, top += op->stride_h) {
        const ee_taps rows = ee_clip(top, 1, op->kernel_h, op->input_h);
        at.num_rows = rows.end - rows.first;
        int32_t left = -(int32_t)op->pad_left;
        for (uint32_t x = 0; x < op->output_w; x++, left += op->stride_w) {
            const ee_taps columns = ee_clip(left, 1, op->kernel_w, op->input_w);
            at.num_columns = columns.end - columns.first;
            at.first = input + (size_t)((top + rows.first) * op->input_w + left + columns.first) *
                                   op->channels;
            for (uint32_t c = 0; c < op->channels; c++) {
                *output++ =
                    ee_clamp(reduce(&at, at.first + c), op->activation_min, op->activation_max);
            }
        }
    }
}

void ee_average_pool_portable(const ee_pool2d *op, const int8_t *input, int8_t *output,
                              void *scratch) {
    (void)scratch;
    pool(op, input, output, average);
}

void ee_max_pool_portable(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    pool(op, input, output, maximum);
}

void ee_mean_portable(const ee_mean *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    for (uint32_t i = 0; i < op->outer; i++) {
        for (uint32_t c = 0; c < op->inner; c++) {
            int32_t sum = op->sum_offset;
            const int8_t *value = input + c;
            for (uint32_t k = op->reduced; k != 0u; k--, value += op->inner) {
                sum += *value;
            }
            const int32_t rescaled = ee_requantize(sum, op->multiplier, op->shift);
            *output++ = ee_clamp(op->output_offset + rescaled, INT8_MIN, INT8_MAX);
        }
        input += (size_t)op->reduced * op->inner;
    }
}
