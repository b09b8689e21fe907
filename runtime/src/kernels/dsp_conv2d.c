/* Convolution for cores with the DSP extension: a tile of pixels becomes columns of int16, and each
 * block of four channels passes over the tile. See ee_kernels_dsp.h for layouts and scratch.
 *
 * With weights16 a tile is as short as two pixels; with weights8 a block's weights are widened once
 * for each tile, which costs 0.65 instructions a weight, so longer tiles are better.
 */
#include "ee_dsp.h"

/* Where the pixels of a tile are; x and y are those of the next one's window. */
typedef struct {
    const ee_conv2d_dsp_op *op;
    const int8_t *input;
    uint32_t output_x;
    int32_t x, y;
} window;

static void advance(window *w) {
    const ee_conv2d_dsp_op *op = w->op;
    w->x += op->stride_w;
    if (++w->output_x == op->output_w) {
        w->output_x = 0;
        w->x = -(int32_t)op->pad_left;
        w->y += op->stride_h;
    }
}

static void copy(int8_t *to, const int8_t *from, uint32_t count) {
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        ee_dsp_store(to, ee_dsp_load(from));
    }
    for (; count > 0; count--) {
        *to++ = *from++;
    }
}

static int8_t *fill(int8_t *to, int32_t value, uint32_t count) {
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; count >= 4; count -= 4, to += 4) {
        ee_dsp_store(to, word);
    }
    for (; count > 0; count--) {
        *to++ = (int8_t)value;
    }
    return to;
}

/* One kernel row of one window, padding included, to `to`. */
static void copy_row(const ee_conv2d_dsp_op *op, const int8_t *input, int32_t y, int32_t x,
                     int8_t *to) {
    uint32_t channels = op->input_c;
    if ((uint32_t)y >= op->input_h) {
        fill(to, op->input_zero_point, op->kernel_w * channels);
        return;
    }
    const int8_t *row = input + (uint32_t)y * op->input_w * channels;
    for (uint32_t i = 0; i < op->kernel_w; i++, x += op->dilation_w, to += channels) {
        if ((uint32_t)x >= op->input_w) {
            fill(to, op->input_zero_point, channels);
        } else {
            copy(to, row + (uint32_t)x * channels, channels);
        }
    }
}

static bool is_inside(const ee_conv2d_dsp_op *op, int32_t y, int32_t x) {
    return (uint32_t)y < op->input_h && x >= 0 && x + op->kernel_w <= op->input_w &&
           op->dilation_w == 1;
}

/* One kernel row of one window: where it is in the input, or a copy in `edge`. */
static const int8_t *find_row(const ee_conv2d_dsp_op *op, const int8_t *input, int32_t y, int32_t x,
                              int8_t *edge) {
    if (is_inside(op, y, x)) {
        return input + ((uint32_t)y * op->input_w + (uint32_t)x) * op->input_c;
    }
    copy_row(op, input, y, x, edge);
    return edge;
}

/* Rows of whole words are widened from where they are. */
static void gather_words(const window *w0, const window *w1, int8_t *edge, int16_t *columns) {
    const ee_conv2d_dsp_op *op = w0->op;
    uint32_t row_words = op->kernel_w * (uint32_t)op->input_c / 4;
    int32_t y0 = w0->y;
    int32_t y1 = w1->y;
    for (uint32_t i = 0; i < op->kernel_h; i++, y0 += op->dilation_h, y1 += op->dilation_h) {
        const int8_t *row0 = find_row(op, w0->input, y0, w0->x, edge);
        const int8_t *row1 = find_row(op, w1->input, y1, w1->x, edge + op->depth);
        columns = ee_dsp_interleave(columns, row0, row1, row_words);
    }
}

/* Any number of channels: a window is put together in bytes first. */
static void gather_bytes(const window *w, int8_t *edge) {
    const ee_conv2d_dsp_op *op = w->op;
    uint32_t row_bytes = op->kernel_w * (uint32_t)op->input_c;
    int32_t y = w->y;
    int8_t *to = edge;
    for (uint32_t i = 0; i < op->kernel_h; i++, y += op->dilation_h, to += row_bytes) {
        if (is_inside(op, y, w->x)) {
            copy(to, w->input + ((uint32_t)y * op->input_w + (uint32_t)w->x) * op->input_c,
                 row_bytes);
        } else {
            copy_row(op, w->input, y, w->x, to);
        }
    }
    fill(to, 0, (uint32_t)(edge + op->depth - to));
}

/* `pixels` windows from w on to columns, two by two; the last of an odd number stands twice. */
static void gather(window *w, uint32_t pixels, int8_t *edge, int16_t *columns) {
    const ee_conv2d_dsp_op *op = w->op;
    for (uint32_t i = 0; i < pixels; i += 2, columns += 2 * (uint32_t)op->depth) {
        window first = *w;
        advance(w);
        window second = i + 1 < pixels ? *w : first;
        if (i + 1 < pixels) {
            advance(w);
        }
        if (op->input_c % 4 == 0) {
            gather_words(&first, &second, edge, columns);
        } else {
            gather_bytes(&first, edge);
            gather_bytes(&second, edge + op->depth);
            ee_dsp_interleave(columns, edge, edge + op->depth, op->depth / 4u);
        }
    }
}

/* A block of fewer than four channels, or without a second pixel, goes by way of `spare`. */
static void run_partly(const ee_conv2d_dsp_op *op, const int16_t *columns, const int16_t *weights,
                       const int32_t *block, int8_t *out, uint32_t channels, bool both,
                       uint32_t entry) {
    int8_t spare[8];
    const int16_t *end = columns + 2 * (uint32_t)op->depth;
    if (op->rescale_exactly != 0) {
        int32_t sums[8];
        ee_dsp_tile_sums(columns, weights, block, sums, NULL, end, entry);
        for (uint32_t i = 0; i < 8; i++) {
            const int32_t *channel = block + 4 + 3 * (i & 3);
            int32_t value = ee_dsp_rescale(sums[i], channel[0], channel[2]) + channel[1];
            spare[i] = (int8_t)ee_dsp_clamp(value, INT8_MIN, INT8_MAX);
        }
    } else {
        ee_dsp_tile(columns, weights, block, spare, spare + 4, end, entry);
    }
    for (uint32_t i = 0; i < channels; i++) {
        out[i] = spare[i];
        if (both) {
            out[op->output_c + i] = spare[4 + i];
        }
    }
}

static void run_block(const ee_conv2d_dsp_op *op, const int16_t *columns, const int16_t *weights,
                      const int32_t *block, int8_t *out, uint32_t pixels, uint32_t channels,
                      uint32_t entry) {
    uint32_t step = 2 * (uint32_t)op->depth;
    uint32_t outputs = op->output_c;
    bool fast = channels >= 4 && op->rescale_exactly == 0;
    for (; pixels >= 2 && fast; pixels -= 2, columns += step, out += 2 * outputs) {
        ee_dsp_tile(columns, weights, block, out, out + outputs, columns + step, entry);
    }
    channels = channels < 4 ? channels : 4;
    for (; pixels >= 2; pixels -= 2, columns += step, out += 2 * outputs) {
        run_partly(op, columns, weights, block, out, channels, true, entry);
    }
    if (pixels > 0) {
        run_partly(op, columns, weights, block, out, channels, false, entry);
    }
}

static void run(const ee_conv2d_dsp_op *op, const int8_t *input, const int8_t *skip, int8_t *output,
                void *scratch) {
    uint32_t depth = op->depth;
    int16_t *columns = scratch;
    int16_t *widened = columns + op->tile * depth;
    int8_t *edge = (int8_t *)(op->weights16 == NULL ? widened + 4 * depth : widened);
    int8_t *result = edge + 2 * depth;
    uint32_t entry = ee_dsp_entry(depth);
    window w = {op, input, 0, -(int32_t)op->pad_left, -(int32_t)op->pad_top};
    uint32_t left = (uint32_t)op->output_h * op->output_w;
    bool narrow = op->activation_min > INT8_MIN || op->activation_max < INT8_MAX;
    while (left > 0) {
        uint32_t pixels = left < op->tile ? left : op->tile;
        uint32_t count = pixels * op->output_c;
        int8_t *to = skip != NULL ? result : output;
        const int16_t *weights = op->weights16;
        const int8_t *packed = op->weights8;
        const int32_t *block = op->channels;
        gather(&w, pixels, edge, columns);
        for (uint32_t c = 0; c < op->output_c; c += 4, block += EE_DSP_BLOCK_WORDS) {
            if (weights == NULL) {
                ee_dsp_widen_block(widened, packed, depth / 4);
                run_block(op, columns, widened, block, to + c, pixels, op->output_c - c, entry);
                packed += 4 * depth;
            } else {
                run_block(op, columns, weights, block, to + c, pixels, op->output_c - c, entry);
                weights += 4 * depth;
            }
        }
        if (narrow) {
            ee_dsp_clamp_all(to, count, op->activation_min, op->activation_max);
        }
        if (skip != NULL) {
            ee_dsp_add(op->residual, result, skip, output, count);
            skip += count;
        }
        output += count;
        left -= pixels;
    }
}

void ee_conv2d_dsp(const ee_conv2d_dsp_op *op, const int8_t *input, int8_t *output, void *scratch) {
    run(op, input, NULL, output, scratch);
}

void ee_conv2d_dsp_add(const ee_conv2d_dsp_op *op, const int8_t *input, const int8_t *skip,
                       int8_t *output, void *scratch) {
    run(op, input, skip, output, scratch);
}
