/* Convolution of any shape: windows are made contiguous, four at a time, and multiplied. */
#include <stdbool.h>

#include "ee_kernels_mve.h"
#include "mve_add.h"
#include "mve_copy.h"
#include "mve_tile.h"

/* Sizes in bytes: of a row of the input, of a row of a window, and the
 * furthest start of a window that can be read row by row in whole vectors. */
typedef struct {
    int32_t row, window_row, most_start;
} sizes;

/* The window at (top, left) as contiguous bytes: in `column`, or where it lies. What follows it, up
 * to a multiple of 16 bytes, is any readable memory, as the weights there are zero. */
static inline const int8_t *find_window(const ee_mve_conv2d *op, const sizes *bytes,
                                        const int8_t *input, int32_t top, int32_t left,
                                        int8_t *column) {
    const int32_t start = top * bytes->row + left * op->input_c;
    int8_t *to = column;
    if (top >= 0 && left >= 0 && left + op->kernel_w <= op->input_w && start <= bytes->most_start) {
        const int8_t *from = input + start;
        if (op->kernel_h == 1u) {
            return from;
        }
        if (bytes->window_row <= 16) {
            for (uint32_t y = op->kernel_h; y != 0u; y--) {
                vstrbq_s8(to, vldrbq_s8(from));
                to += bytes->window_row;
                from += bytes->row;
            }
            return column;
        }
        for (uint32_t y = op->kernel_h; y != 0u; y--) {
            ee_mve_copy_over(to, from, bytes->window_row);
            to += bytes->window_row;
            from += bytes->row;
        }
        return column;
    }
    for (int32_t y = top; y < top + op->kernel_h; y++, to += bytes->window_row) {
        const int8_t *row = y < 0 || y >= op->input_h ? NULL : input + y * bytes->row;
        ee_mve_copy_padded(to, row, left, op->kernel_w, op->input_w, op->input_c, op->pad_value);
    }
    return column;
}

static ee_mve_tile make_tile(const ee_mve_conv2d *op) {
    return (ee_mve_tile){.restart.num_blocks = op->k_blocks,
                         .weights = op->weights,
                         .output_offset = op->output_offset,
                         .activation_min = op->activation_min,
                         .activation_max = op->activation_max};
}

/* The first `count` pixels' results go to `output`, whose channels need not fill a word, after
 * `skip` was added. */
static __attribute__((noinline)) void take_from_stage(const ee_mve_conv2d *op, const int8_t *stage,
                                                      uint32_t padded_c, uint32_t count,
                                                      const int8_t *skip, int8_t *output) {
    const uint32_t channels = op->output_c;
    if (skip != NULL && padded_c == channels) {
        ee_mve_add_bytes(op->residual, stage, skip, output, count * channels);
        return;
    }
    for (uint32_t i = 0; i < count; i++, stage += padded_c, output += channels) {
        if (skip == NULL) {
            ee_mve_copy(output, stage, (int32_t)channels);
        } else {
            ee_mve_add_bytes(op->residual, stage, skip + i * channels, output, channels);
        }
    }
}

/* Pixels that are missing from the last tile repeat its last one. */
static void set_pixel_offsets(ee_mve_tile *tile, uint32_t count, uint32_t step) {
    for (uint32_t i = 0; i < 4u; i++) {
        tile->pixel_offsets[i] = (i < count ? i : count - 1u) * step;
    }
}

/* Scratch: four windows of k_blocks * 16 bytes, 16 bytes that copying may overwrite, and with
 * `staged` four pixels of the output, whose channels are padded to a multiple of four. */
static __attribute__((noinline)) void convolve(const ee_mve_conv2d *op, const int8_t *input,
                                               const int8_t *skip, int8_t *output, int8_t *scratch,
                                               void (*multiply)(ee_mve_tile *)) {
    const uint32_t num_pixels = (uint32_t)op->output_h * op->output_w;
    const uint32_t padded_c = (op->output_c + 3u) / 4u * 4u;
    const uint32_t window_bytes = op->k_blocks * 16u;
    const bool staged = skip != NULL || padded_c != op->output_c;
    int8_t *const stage = scratch + 4u * window_bytes + 16u;
    sizes bytes = {.row = op->input_w * op->input_c, .window_row = op->kernel_w * op->input_c};
    bytes.most_start =
        (op->input_h - op->kernel_h + 1) * bytes.row - (bytes.window_row + 15) / 16 * 16;
    ee_mve_tile tile = make_tile(op);
    set_pixel_offsets(&tile, 4u, padded_c);
    int32_t top = -(int32_t)op->pad_top;
    int32_t left = -(int32_t)op->pad_left;
    const int32_t right = left + op->output_w * op->stride_w;
    for (uint32_t pixel = 0; pixel < num_pixels; pixel += 4u) {
        const uint32_t count = num_pixels - pixel < 4u ? num_pixels - pixel : 4u;
        const int8_t *windows[4];
        for (uint32_t i = 0; i < count; i++) {
            windows[i] = find_window(op, &bytes, input, top, left, scratch + i * window_bytes);
            left += op->stride_w;
            if (left == right) {
                left = -(int32_t)op->pad_left;
                top += op->stride_h;
            }
        }
        if (count < 4u) {
            set_pixel_offsets(&tile, count, padded_c);
            for (uint32_t i = count; i < 4u; i++) {
                windows[i] = windows[count - 1u];
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
            take_from_stage(op, stage, padded_c, count, skip, output);
            skip = skip == NULL ? NULL : skip + count * op->output_c;
        }
        output += count * op->output_c;
    }
}

/* 1x1, without strides and padding: windows are pixels. Scratch is the same. */
static __attribute__((noinline)) void convolve_pixels(const ee_mve_conv2d *op, const int8_t *input,
                                                      const int8_t *skip, int8_t *output,
                                                      int8_t *scratch,
                                                      void (*multiply)(ee_mve_tile *)) {
    const uint32_t num_pixels = (uint32_t)op->output_h * op->output_w;
    const uint32_t padded_c = (op->output_c + 3u) / 4u * 4u;
    const uint32_t window_bytes = op->k_blocks * 16u;
    const uint32_t input_c = op->input_c;
    const bool staged = skip != NULL || padded_c != op->output_c;
    int8_t *const stage = scratch + 4u * window_bytes + 16u;
    ee_mve_tile tile = make_tile(op);
    set_pixel_offsets(&tile, 4u, padded_c);
    for (uint32_t rest = num_pixels; rest != 0u;) {
        const uint32_t count = rest < 4u ? rest : 4u;
        const int8_t *from = input;
        uint32_t step = input_c;
        if (rest < 4u || (rest - 3u) * input_c < window_bytes) {
            /* What follows the last pixels may not be readable. */
            set_pixel_offsets(&tile, count, padded_c);
            for (uint32_t i = 0; i < count; i++) {
                ee_mve_copy(scratch + i * window_bytes, input + i * input_c, (int32_t)input_c);
            }
            from = scratch;
            step = window_bytes;
        }
        tile.restart.x0 = from;
        tile.restart.x1 = from + (count > 1u ? step : 0u);
        tile.restart.x2 = from + (count > 2u ? 2u : count - 1u) * step;
        tile.restart.x3 = from + (count - 1u) * step;
        tile.output = staged ? stage : output;
        tile.output_end = tile.output + padded_c;
        multiply(&tile);
        if (staged) {
            take_from_stage(op, stage, padded_c, count, skip, output);
            skip = skip == NULL ? NULL : skip + count * op->output_c;
        }
        input += count * input_c;
        output += count * op->output_c;
        rest -= count;
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

void ee_conv2d_mve_1x1(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                       void *scratch) {
    convolve_pixels(op, input, NULL, output, scratch, ee_mve_tile_matmul);
}

void ee_conv2d_mve_1x1_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                            void *scratch) {
    convolve_pixels(op, input, NULL, output, scratch, ee_mve_tile_matmul_relu);
}

void ee_conv2d_mve_1x1_add(const ee_mve_conv2d *op, const int8_t *input, const int8_t *input2,
                           int8_t *output, void *scratch) {
    convolve_pixels(op, input, input2, output, scratch, ee_mve_tile_matmul);
}
