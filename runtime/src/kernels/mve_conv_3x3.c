/* 3x3 convolution of 16, 32 or 64 channels, which reads windows where they lie. Tiles that reach
 * outside the image are copied with their padding first. */
#include "ee_kernels_mve.h"
#include "mve_add.h"
#include "mve_copy.h"
#include "mve_tile.h"

/* Scratch: a tile's three input rows, of 3 * stride + 3 pixels, and with `skip` a row of output. */
static __attribute__((noinline)) void convolve(const ee_mve_conv2d *op, const int8_t *input,
                                               const int8_t *skip, int8_t *output, int8_t *scratch,
                                               int32_t channels, int32_t stride,
                                               void (*multiply)(ee_mve_tile *)) {
    const int32_t input_w = op->input_w, input_h = op->input_h;
    const int32_t row_bytes = input_w * channels;
    const int32_t num_columns = 3 * stride + 3;
    const int32_t patch_row_bytes = num_columns * channels;
    const int32_t output_c = op->output_c;
    const int32_t last_x = op->output_w - 4;
    const uint32_t output_row_bytes = (uint32_t)op->output_w * op->output_c;
    int8_t *const stage = scratch + 3 * patch_row_bytes;
    ee_mve_tile tile = {.restart.num_blocks = (uint32_t)channels / 16u,
                        .weights = op->weights,
                        .output_offset = op->output_offset,
                        .activation_min = op->activation_min,
                        .activation_max = op->activation_max};
    for (uint32_t i = 0; i < 4u; i++) {
        tile.pixel_offsets[i] = i * op->output_c;
    }
    int32_t top = -(int32_t)op->pad_top;
    for (uint32_t y = op->output_h; y != 0u; y--, top += stride) {
        int8_t *const to = skip != NULL ? stage : output;
        /* The last tile of a row may compute pixels once more. */
        for (int32_t x = 0;; x = x + 4 < last_x ? x + 4 : last_x) {
            const int32_t left = x * stride - op->pad_left;
            if (top >= 0 && top + 3 <= input_h && left >= 0 && left + num_columns <= input_w) {
                tile.restart.x0 = input + top * row_bytes + left * channels;
                tile.restart.x1 = tile.restart.x0 + row_bytes;
                tile.restart.x2 = tile.restart.x1 + row_bytes;
            } else {
                int8_t *patch = scratch;
                for (int32_t i = top; i < top + 3; i++, patch += patch_row_bytes) {
                    const int8_t *row = i < 0 || i >= input_h ? NULL : input + i * row_bytes;
                    ee_mve_copy_padded(patch, row, left, num_columns, input_w, channels,
                                       op->pad_value);
                }
                tile.restart.x0 = scratch;
                tile.restart.x1 = scratch + patch_row_bytes;
                tile.restart.x2 = scratch + 2 * patch_row_bytes;
            }
            tile.output = to + x * output_c;
            tile.output_end = tile.output + output_c;
            multiply(&tile);
            if (x == last_x) {
                break;
            }
        }
        if (skip != NULL) {
            ee_mve_add_bytes(op->residual, stage, skip, output, output_row_bytes);
            skip += output_row_bytes;
        }
        output += output_row_bytes;
    }
}

#define DEFINE(c, s)                                                                               \
    void ee_conv2d_mve_3x3_c##c##_s##s(const ee_mve_conv2d *op, const int8_t *input,               \
                                       int8_t *output, void *scratch) {                            \
        convolve(op, input, NULL, output, scratch, c, s, ee_mve_tile_3x3_c##c##_s##s);             \
    }                                                                                              \
    void ee_conv2d_mve_3x3_c##c##_s##s##_relu(const ee_mve_conv2d *op, const int8_t *input,        \
                                              int8_t *output, void *scratch) {                     \
        convolve(op, input, NULL, output, scratch, c, s, ee_mve_tile_3x3_c##c##_s##s##_relu);      \
    }                                                                                              \
    void ee_conv2d_mve_3x3_c##c##_s##s##_add(const ee_mve_conv2d *op, const int8_t *input,         \
                                             const int8_t *input2, int8_t *output,                 \
                                             void *scratch) {                                      \
        convolve(op, input, input2, output, scratch, c, s, ee_mve_tile_3x3_c##c##_s##s);           \
    }

EE_MVE_FOR_EACH_3X3(DEFINE)
