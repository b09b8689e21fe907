/* Depthwise convolution: four output rows at a time. */
#include "ee_kernels_mve.h"
#include "ee_portable.h"
#include "mve_copy.h"
#include "mve_requantize.h"
#include "mve_strip.h"

/* Fills in where each lane of a row of the window lies; `y` is the first lane's output row. */
static void find_rows(const ee_mve_depthwise *op, const int8_t *input, const int8_t *padding,
                      int32_t y, int32_t window_row, uintptr_t rows[4]) {
    const int32_t row_bytes = op->input_w * op->channels;
    for (int32_t lane = 0; lane < 4; lane++) {
        const int32_t output_row = y + lane < op->output_h ? y + lane : op->output_h - 1;
        const int32_t row = output_row * op->stride_h - op->pad_top + window_row;
        rows[lane] = row < 0 || row >= op->input_h ? (uintptr_t)padding - (uintptr_t)input
                                                   : (uintptr_t)(row * row_bytes);
    }
}

/* Scratch: a row of padding. */
static __attribute__((noinline)) void convolve_3x3(const ee_mve_depthwise *op, const int8_t *input,
                                                   int8_t *output, int8_t *padding,
                                                   void (*compute)(ee_mve_strip *)) {
    const uintptr_t output_row_bytes = (uintptr_t)op->output_w * op->channels;
    const uintptr_t from_input =
        op->stride_w == 1u ? (uintptr_t)output - (uintptr_t)input - op->channels : 0u;
    ee_mve_fill(padding, op->pad_value, op->input_w * op->channels);
    for (int32_t y = 0; y < op->output_h; y += 4) {
        ee_mve_strip strip = {.input = input,
                              .parameters = op->parameters,
                              .num_channels = op->channels,
                              .channel_bytes = op->channels,
                              .num_columns = op->output_w,
                              .pad_value = op->pad_value,
                              .output_offset = op->output_offset,
                              .activation_min = op->activation_min,
                              .activation_max = op->activation_max,
                              .pad_left = op->pad_left};
        strip.output = output;
        for (int32_t i = 0; i < 3; i++) {
            find_rows(op, input, padding, y, i, strip.rows[i]);
        }
        for (int32_t i = 0; i < 4; i++) {
            const int32_t row = y + i < op->output_h ? y + i : op->output_h - 1;
            strip.output_rows[i] = (uintptr_t)row * output_row_bytes + from_input;
        }
        compute(&strip);
    }
}

void ee_depthwise_mve_3x3_s1(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                             void *scratch) {
    convolve_3x3(op, input, output, scratch, ee_mve_strip_3x3_s1);
}

void ee_depthwise_mve_3x3_s1_relu(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                                  void *scratch) {
    convolve_3x3(op, input, output, scratch, ee_mve_strip_3x3_s1_relu);
}

void ee_depthwise_mve_3x3_s2(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                             void *scratch) {
    convolve_3x3(op, input, output, scratch, ee_mve_strip_3x3_s2);
}

void ee_depthwise_mve_3x3_s2_relu(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                                  void *scratch) {
    convolve_3x3(op, input, output, scratch, ee_mve_strip_3x3_s2_relu);
}

/* Sums of four channels of one window; `first` is its first value inside the image. */
static inline int32x4_t sum_window(const ee_mve_depthwise *op, const int8_t *first,
                                   const int8_t *weights, ee_taps rows, ee_taps columns,
                                   int32x4_t sum, mve_pred16_t active) {
    const int32_t channels = op->channels;
    for (int32_t i = rows.first; i < rows.end; i++, first += op->input_w * channels) {
        const int8_t *from = first;
        const int8_t *by = weights + (i * op->kernel_w + columns.first) * 4;
        for (int32_t j = columns.first; j < columns.end; j++, from += channels, by += 4) {
            const int32x4_t value = vaddq_n_s32(vldrbq_z_s32(from, active), -op->pad_value);
            sum = vaddq_s32(sum, vmulq_s32(value, vldrbq_s32(by)));
        }
    }
    return sum;
}

void ee_depthwise_mve(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                      void *scratch) {
    (void)scratch;
    const uint32_t record_words = 12u + (uint32_t)op->kernel_h * op->kernel_w;
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = 0; y < op->output_h; y++, top += op->stride_h) {
        const ee_taps rows = ee_clip(top, 1, op->kernel_h, op->input_h);
        int32_t left = -(int32_t)op->pad_left;
        for (uint32_t x = 0; x < op->output_w; x++, left += op->stride_w) {
            const ee_taps columns = ee_clip(left, 1, op->kernel_w, op->input_w);
            const int8_t *first =
                input + ((top + rows.first) * op->input_w + left + columns.first) * op->channels;
            const int32_t *record = op->parameters;
            for (uint32_t c = 0; c < op->channels; c += 4u, record += record_words) {
                const mve_pred16_t active = vctp32q(op->channels - c);
                const int32x4_t sum = sum_window(op, first + c, (const int8_t *)(record + 12), rows,
                                                 columns, vldrwq_s32(record), active);
                const int32x4_t result =
                    ee_mve_requantize(sum, vldrwq_s32(record + 4), vldrwq_s32(record + 8),
                                      op->output_offset, op->activation_min, op->activation_max);
                vstrbq_p_s32(output + c, result, active);
            }
            output += op->channels;
        }
    }
}
