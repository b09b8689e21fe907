/* What reduces many values to one, four (sums) or sixteen (maxima) channels at a time. */
#include "ee_kernels_mve.h"
#include "ee_mve.h"
#include "ee_portable.h"
#include "mve_requantize.h"

/* Sums of four neighbouring channels over num_rows x num_columns pixels. */
static int32x4_t add_up(const int8_t *row, int32_t num_rows, int32_t num_columns, uint32_t step,
                        uint32_t row_step, int32x4_t sum, mve_pred16_t active) {
    if (active == 0xFFFFu) {
        for (; num_rows != 0; num_rows--, row += row_step) {
            const int8_t *value = row;
            for (int32_t x = num_columns; x != 0; x--, value += step) {
                sum = vaddq_s32(sum, vldrbq_s32(value));
            }
        }
        return sum;
    }
    for (; num_rows != 0; num_rows--, row += row_step) {
        const int8_t *value = row;
        for (int32_t x = num_columns; x != 0; x--, value += step) {
            sum = vaddq_s32(sum, vldrbq_z_s32(value, active));
        }
    }
    return sum;
}

static int8x16_t maxima(const int8_t *row, int32_t num_rows, int32_t num_columns, uint32_t step,
                        uint32_t row_step, mve_pred16_t active) {
    int8x16_t best = vdupq_n_s8(INT8_MIN);
    for (; num_rows != 0; num_rows--, row += row_step) {
        const int8_t *value = row;
        for (int32_t x = num_columns; x != 0; x--, value += step) {
            best = vmaxq_s8(best, vldrbq_z_s8(value, active));
        }
    }
    return best;
}

/* The quotient, rounded to the nearest, halves away from zero. */
static int32_t divide(int32_t sum, int32_t count) {
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

void ee_average_pool_mve(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    const uint32_t channels = op->channels;
    const int32_t low = op->activation_min, high = op->activation_max;
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = 0; y < op->output_h; y++, top += op->stride_h) {
        const ee_taps rows = ee_clip(top, 1, op->kernel_h, op->input_h);
        int32_t left = -(int32_t)op->pad_left;
        for (uint32_t x = 0; x < op->output_w; x++, left += op->stride_w) {
            const ee_taps columns = ee_clip(left, 1, op->kernel_w, op->input_w);
            const int32_t num_rows = rows.end - rows.first;
            const int32_t num_columns = columns.end - columns.first;
            const int8_t *first =
                input +
                (size_t)((top + rows.first) * op->input_w + left + columns.first) * channels;
            for (uint32_t c = 0; c < channels; c += 4u) {
                int32_t sums[4];
                vstrwq_s32(sums,
                           add_up(first + c, num_rows, num_columns, channels,
                                  op->input_w * channels, vdupq_n_s32(0), vctp32q(channels - c)));
                for (uint32_t i = 0; i < 4u && c + i < channels; i++) {
                    output[c + i] = ee_clamp(divide(sums[i], num_rows * num_columns), low, high);
                }
            }
            output += channels;
        }
    }
}

void ee_max_pool_mve(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    const uint32_t channels = op->channels;
    const int8x16_t low = vdupq_n_s8((int8_t)op->activation_min);
    const int8x16_t high = vdupq_n_s8((int8_t)op->activation_max);
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = 0; y < op->output_h; y++, top += op->stride_h) {
        const ee_taps rows = ee_clip(top, 1, op->kernel_h, op->input_h);
        int32_t left = -(int32_t)op->pad_left;
        for (uint32_t x = 0; x < op->output_w; x++, left += op->stride_w) {
            const ee_taps columns = ee_clip(left, 1, op->kernel_w, op->input_w);
            const int8_t *first =
                input +
                (size_t)((top + rows.first) * op->input_w + left + columns.first) * channels;
            for (uint32_t c = 0; c < channels; c += 16u) {
                const mve_pred16_t active = vctp8q(channels - c);
                const int8x16_t best =
                    maxima(first + c, rows.end - rows.first, columns.end - columns.first, channels,
                           op->input_w * channels, active);
                vstrbq_p_s8(output + c, vminq_s8(vmaxq_s8(best, low), high), active);
            }
            output += channels;
        }
    }
}

void ee_mean_mve(const ee_mean *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    for (uint32_t i = 0; i < op->outer; i++) {
        for (uint32_t c = 0; c < op->inner; c += 4u) {
            const mve_pred16_t active = vctp32q(op->inner - c);
            const int32x4_t sum = add_up(input + c, 1, (int32_t)op->reduced, op->inner, 0u,
                                         vdupq_n_s32(op->sum_offset), active);
            vstrbq_p_s32(output + c,
                         ee_mve_requantize(sum, vdupq_n_s32(op->multiplier), vdupq_n_s32(op->shift),
                                           op->output_offset, INT8_MIN, INT8_MAX),
                         active);
        }
        output += op->inner;
        input += (size_t)op->reduced * op->inner;
    }
}
