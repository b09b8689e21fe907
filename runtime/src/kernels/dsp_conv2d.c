/* Convolution for cores with the DSP extension: a tile of pixels becomes columns of int16, and each
 * block of four channels passes over the tile. See ee_kernels_dsp.h for layouts and scratch.
 *
 * With weights16 a tile is as short as two pixels; with weights8 a block's weights are widened once
 * for each tile, which costs 0.65 instructions a weight, so longer tiles are better.
 */
#include "ee_dsp.h"

/* Where windows are: x and y of the next one's corner, and between which corners windows lie in the
 * input as a whole, with kernel rows in one piece each. */
typedef struct {
    const ee_conv2d_dsp_op *op;
    const int8_t *input;
    uint32_t row_bytes;  /* of a kernel row */
    uint32_t line_bytes; /* from one kernel row to the next one, in the input */
    int32_t most_x, most_y;
    int32_t x, y;
    uint32_t output_x;
} walk;

typedef struct {
    int32_t x, y;
} corner;

static inline corner next(walk *w) {
    const ee_conv2d_dsp_op *op = w->op;
    corner at = {w->x, w->y};
    w->x += op->stride_w;
    if (++w->output_x == op->output_w) {
        w->output_x = 0;
        w->x = -(int32_t)op->pad_left;
        w->y += op->stride_h;
    }
    return at;
}

static inline bool is_inside(const walk *w, corner at) {
    return at.x >= 0 && at.x <= w->most_x && at.y >= 0 && at.y <= w->most_y;
}

/* Of a corner inside. */
static inline const int8_t *find(const walk *w, corner at) {
    const ee_conv2d_dsp_op *op = w->op;
    return w->input + ((uint32_t)at.y * op->input_w + (uint32_t)at.x) * op->input_c;
}

/* C libraries for small cores have byte loops for memset and memcpy, and compilers like to call
 * them; EE_DSP_KEEP_LOOP keeps these loops of words. */
static void copy(int8_t *to, const int8_t *from, uint32_t count) {
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        ee_dsp_store(to, ee_dsp_load(from));
        EE_DSP_KEEP_LOOP;
    }
    for (; count > 0; count--) {
        *to++ = *from++;
        EE_DSP_KEEP_LOOP;
    }
}

static int8_t *fill(int8_t *to, int32_t value, uint32_t count) {
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; count >= 4; count -= 4, to += 4) {
        ee_dsp_store(to, word);
        EE_DSP_KEEP_LOOP;
    }
    for (; count > 0; count--) {
        *to++ = (int8_t)value;
        EE_DSP_KEEP_LOOP;
    }
    return to;
}

/* One kernel row of one window, padding included, to `to`. */
static void copy_row(const walk *w, int32_t y, int32_t x, int8_t *to) {
    const ee_conv2d_dsp_op *op = w->op;
    uint32_t channels = op->input_c;
    if ((uint32_t)y >= op->input_h) {
        fill(to, op->input_zero_point, w->row_bytes);
        return;
    }
    const int8_t *row = w->input + (uint32_t)y * op->input_w * channels;
    for (uint32_t i = 0; i < op->kernel_w; i++, x += op->dilation_w, to += channels) {
        if ((uint32_t)x >= op->input_w) {
            fill(to, op->input_zero_point, channels);
        } else {
            copy(to, row + (uint32_t)x * channels, channels);
        }
    }
}

/* One window in bytes, padding included. What follows it meets weights that are zero. */
static void copy_window(const walk *w, corner at, int8_t *to) {
    const ee_conv2d_dsp_op *op = w->op;
    uint32_t row_bytes = w->row_bytes;
    ee_dsp_store(to + op->depth - 4, 0);
    if (row_bytes < 4 || !is_inside(w, at)) {
        for (uint32_t i = op->kernel_h; i > 0; i--, at.y += op->dilation_h, to += row_bytes) {
            copy_row(w, at.y, at.x, to);
        }
        return;
    }
    const int8_t *from = find(w, at);
    for (uint32_t i = op->kernel_h; i > 0; i--, from += w->line_bytes, to += row_bytes) {
        for (uint32_t done = 0; done + 4 < row_bytes; done += 4) {
            ee_dsp_store(to + done, ee_dsp_load(from + done));
            EE_DSP_KEEP_LOOP;
        }
        ee_dsp_store(to + row_bytes - 4, ee_dsp_load(from + row_bytes - 4));
    }
}

/* Two windows to columns. Those inside are widened from where they are, if rows are of words. */
static inline void gather(const walk *w, corner first, corner second, int8_t *edge,
                          int16_t *columns) {
    const ee_conv2d_dsp_op *op = w->op;
    if (op->input_c % 4 == 0 && is_inside(w, first) && is_inside(w, second)) {
        const int8_t *row0 = find(w, first);
        const int8_t *row1 = find(w, second);
        for (uint32_t i = op->kernel_h; i > 0; i--) {
            columns = ee_dsp_interleave(columns, row0, row1, w->row_bytes / 4);
            row0 += w->line_bytes;
            row1 += w->line_bytes;
        }
        return;
    }
    copy_window(w, first, edge);
    copy_window(w, second, edge + op->depth);
    ee_dsp_interleave(columns, edge, edge + op->depth, op->depth / 4u);
}

/* Two pixels by four channels of which some are missing or inexact, by way of `spare`. */
EE_DSP_COLD static void run_partly(const ee_conv2d_dsp_op *op, const ee_dsp_pass *pass,
                                   uint32_t channels, bool both) {
    int8_t spare[8];
    if (op->rescale_exactly != 0) {
        int32_t sums[8];
        ee_dsp_tile_sums(pass->columns, pass->weights, pass->block, sums, pass->end);
        for (uint32_t i = 0; i < 8; i++) {
            const int32_t *channel = pass->block + 4 + 3 * (i & 3);
            int32_t value = ee_dsp_rescale(sums[i], channel[0], channel[2]) + channel[1];
            spare[i] = (int8_t)ee_dsp_clamp(value, INT8_MIN, INT8_MAX);
        }
    } else {
        ee_dsp_pass one = *pass;
        one.out0 = spare;
        one.out1 = spare + 4;
        one.count = 1;
        ee_dsp_tiles(&one);
    }
    for (uint32_t i = 0; i < channels && i < 4; i++) {
        pass->out0[i] = spare[i];
        if (both) {
            pass->out0[op->output_c + i] = spare[4 + i];
        }
    }
}

/* A tile of pixels for one block of channels, or, with a single pair of pixels, for more. */
static void run_blocks(const ee_conv2d_dsp_op *op, ee_dsp_pass *pass, uint32_t pixels,
                       uint32_t channels) {
    const uint32_t step = 2 * (uint32_t)op->depth;
    uint32_t whole = op->rescale_exactly == 0 ? channels / 4 : 0;
    if (pixels == 2 && whole > 0) {
        pass->count = whole;
        pass->column_step = 0;
        pass->weight_step = 8 * op->depth;
        pass->block_step = 4 * EE_DSP_BLOCK_WORDS;
        pass->out_step = 0;
        ee_dsp_tiles(pass);
    } else {
        whole = 0;
    }
    pass->weights += whole * 2 * step;
    pass->block += whole * EE_DSP_BLOCK_WORDS;
    pass->out0 += 4 * whole;
    pass->out1 += 4 * whole;
    for (uint32_t c = 4 * whole; c < channels; c += 4) {
        ee_dsp_pass at = *pass;
        uint32_t left = pixels;
        if (c + 4 <= channels && pixels >= 2 && op->rescale_exactly == 0) {
            at.count = pixels / 2;
            at.column_step = (int32_t)(2 * step);
            at.weight_step = 0;
            at.block_step = 0;
            at.out_step = 2 * op->output_c - 4;
            ee_dsp_tiles(&at);
            at.columns += at.count * step;
            at.end += at.count * step;
            at.out0 += at.count * 2 * op->output_c;
            left &= 1;
        }
        while (left > 0) {
            run_partly(op, &at, channels - c, left > 1);
            at.columns += step;
            at.end += step;
            at.out0 += 2 * (uint32_t)op->output_c;
            left -= left > 1 ? 2 : 1;
        }
        pass->weights += 2 * step;
        pass->block += EE_DSP_BLOCK_WORDS;
        pass->out0 += 4;
        pass->out1 += 4;
    }
}

/* All channels of a tile. int8 weights are widened block by block. */
static void run_tile(const ee_conv2d_dsp_op *op, const int16_t *columns, int16_t *widened,
                     int8_t *out, uint32_t pixels, uint32_t entry) {
    const uint32_t depth = op->depth;
    const int8_t *packed = op->weights8;
    ee_dsp_pass pass = {
        .columns = columns,
        .weights = op->weights16,
        .block = op->channels,
        .end = columns + 2 * depth,
        .entry = entry,
    };
    pass.out0 = out;
    pass.out1 = out + op->output_c;
    if (packed == NULL) {
        run_blocks(op, &pass, pixels, op->output_c);
        return;
    }
    for (uint32_t c = 0; c < op->output_c; c += 4, packed += 4 * depth) {
        ee_dsp_widen_block(widened, packed, depth / 4);
        pass.weights = widened;
        run_blocks(op, &pass, pixels, op->output_c - c < 4 ? op->output_c - c : 4u);
    }
}

static void run(const ee_conv2d_dsp_op *op, const int8_t *input, const int8_t *skip, int8_t *output,
                void *scratch) {
    const uint32_t depth = op->depth;
    int16_t *columns = scratch;
    int16_t *widened = columns + op->tile * depth;
    int8_t *edge = (int8_t *)(op->weights16 == NULL ? widened + 4 * depth : widened);
    int8_t *result = edge + 2 * depth;
    const uint32_t entry = ee_dsp_entry(depth);
    walk w = {
        .op = op,
        .input = input,
        .row_bytes = op->kernel_w * (uint32_t)op->input_c,
        .line_bytes = op->dilation_h * (uint32_t)op->input_w * op->input_c,
        .most_x = op->dilation_w == 1 ? op->input_w - op->kernel_w : -1,
        .most_y = op->input_h - (op->kernel_h - 1) * op->dilation_h - 1,
        .x = -(int32_t)op->pad_left,
        .y = -(int32_t)op->pad_top,
    };
    const bool is_narrow = op->activation_min > INT8_MIN || op->activation_max < INT8_MAX;
    uint32_t left = (uint32_t)op->output_h * op->output_w;
    while (left > 0) {
        uint32_t pixels = left < op->tile ? left : op->tile;
        uint32_t count = pixels * op->output_c;
        int8_t *to = skip != NULL ? result : output;
        for (uint32_t i = 0; i < pixels; i += 2) {
            corner first = next(&w);
            corner second = i + 1 < pixels ? next(&w) : first;
            gather(&w, first, second, edge, columns + i * depth);
        }
        run_tile(op, columns, widened, to, pixels, entry);
        if (is_narrow) {
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
