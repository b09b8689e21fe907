/* Convolution of any shape: windows are made contiguous, four at a time, and multiplied. */
#include <stdbool.h>

#include "ee_kernels_mve.h"
#include "mve_add.h"
#include "mve_copy.h"
#include "mve_tile.h"

/* The window at (top, left) as contiguous bytes: in `column`, or where it lies. What follows it, up
 * to a multiple of 16 bytes, is any readable memory, as the weights there are zero. */
static const int8_t *find_window(const ee_mve_conv2d *op, const int8_t *input, int32_t top,
                                 int32_t left, int8_t *column) {
    const int32_t row_bytes = op->input_w * op->input_c;
    const int32_t window_bytes = op->kernel_w * op->input_c;
    const int32_t input_bytes = op->input_h * row_bytes;
    const int32_t start = top * row_bytes + left * op->input_c;
    const int32_t last_row = start + (op->kernel_h - 1) * row_bytes;
    if (top >= 0 && left >= 0 && left + op->kernel_w <= op->input_w &&
        last_row + (window_bytes + 15) / 16 * 16 <= input_bytes) {
        const int8_t *from = input + start;
        if (op->kernel_h == 1u) {
            return from;
        }
        int8_t *to = column;
        for (uint32_t y = op->kernel_h; y != 0u; y--, to += window_bytes, from += row_bytes) {
            ee_mve_copy_over(to, from, window_bytes);
        }
        return column;
    }
    int8_t *to = column;
    for (int32_t y = top; y < top + op->kernel_h; y++, to += window_bytes) {
        const int8_t *row = y < 0 || y >= op->input_h ? NULL : input + y * row_bytes;
        ee_mve_copy_padded(to, row, left, op->kernel_w, op->input_w, op->input_c, op->pad_value);
    }
    return column;
}

/* Scratch: four windows of k_blocks * 16 bytes, 16 bytes that copying may overwrite, and with
 * `staged` four pixels of the output, whose channels are padded to a multiple of four. */
static __attribute__((noinline)) void convolve(const ee_mve_conv2d *op, const int8_t *input, const int8_t *skip,
                            int8_t *output, int8_t *scratch, void (*multiply)(ee_mve_tile *)) {
    const uint32_t num_pixels = (uint32_t)op->output_h * op->output_w;
    const uint32_t padded_c = (op->output_c + 3u) / 4u * 4u;
    const uint32_t window_bytes = op->k_blocks * 16u;
    const bool staged = skip != NULL || padded_c != op->output_c;
    int8_t *const stage = scratch + 4u * window_bytes + 16u;
    ee_mve_tile tile = {.restart.num_blocks = op->k_blocks,
                        .weights = op->weights,
                        .output_offset = op->output_offset,
                        .activation_min = op->activation_min,
                        .activation_max = op->activation_max};
    int32_t top = -(int32_t)op->pad_top;
    int32_t left = -(int32_t)op->pad_left;
    const int32_t right = left + op->output_w * op->stride_w;
    for (uint32_t pixel = 0; pixel < num_pixels; pixel += 4u) {
        const uint32_t count = num_pixels - pixel < 4u ? num_pixels - pixel : 4u;
        const int8_t *windows[4];
        /* Pixels that are missing from the last tile repeat the last one. */
        for (uint32_t i = 0; i < 4u; i++) {
            if (i >= count) {
                windows[i] = windows[i - 1u];
                tile.pixel_offsets[i] = tile.pixel_offsets[i - 1u];
                continue;
            }
            windows[i] = find_window(op, input, top, left, scratch + i * window_bytes);
            tile.pixel_offsets[i] = i * padded_c;
            left += op->stride_w;
            if (left == right) {
                left = -(int32_t)op->pad_left;
                top += op->stride_h;
            }
        }
        tile.restart.x0 = windows[0];
        tile.restart.x1 = windows[1];
        tile.restart.x2 = windows[2];
        tile.restart.x3 = windows[3];
        tile.output = staged ? stage : output;
        tile.output_end = tile.output + padded_c;
        multiply(&tile);
        if (staged) {
            const uint32_t channels = op->output_c;
            for (uint32_t i = 0; i < count; i++) {
                int8_t *to = output + i * channels;
                if (skip == NULL) {
                    ee_mve_copy(to, stage + i * padded_c, (int32_t)channels);
                } else {
                    ee_mve_add_bytes(op->residual, stage + i * padded_c, skip, to, channels);
                    skip += channels;
                }
            }
        }
        output += count * op->output_c;
    }
}

void ee_conv2d_mve(const ee_mve_conv2d *op, const int8_t *input, int8_t *output, void *scratch) {
    convolve(op, input, NULL, output, scratch, ee_mve_tile_matmul);
}

void ee_conv2d_mve_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                        void *scratch) {
    convolve(op, input, NULL, output, scratch, ee_mve_tile_matmul_relu);
}

void ee_conv2d_mve_add(const ee_mve_conv2d *op, const int8_t *input, const int8_t *input2,
                       int8_t *output, void *scratch) {
    convolve(op, input, input2, output, scratch, ee_mve_tile_matmul);
}
