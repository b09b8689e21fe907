/* Products of two computed matrices for cores with the DSP extension: sixteen columns of the second
 * one are widened at a time, with offset2 added, and multiplied with two rows of the first one
 * after the other, as pixels are with weights in a convolution. */
#include "ee_dsp.h"

#define COLUMNS_AT_ONCE 16u
#define SPARE_BYTES 32u

/* What lies in scratch; see ee_kernels_dsp.h. */
typedef struct {
    int32_t *blocks;
    int8_t *spare; /* what a second row or further columns would be, where there are none */
    int16_t *rows, *columns;
} room;

static room divide(const ee_batch_matmul_dsp_op *op, void *scratch) {
    room r;
    r.blocks = scratch;
    r.spare = (int8_t *)(r.blocks + COLUMNS_AT_ONCE / 4u * EE_DSP_BLOCK_WORDS);
    r.rows = (int16_t *)(void *)(r.spare + SPARE_BYTES);
    r.columns = r.rows + 2u * op->depth;
    return r;
}

/* A column, or zeros if `from` is NULL; returns its sum. */
static int32_t widen(const ee_batch_matmul_dsp_op *op, const int8_t *from, int16_t *to) {
    const uint32_t stride = op->strides2[3];
    const int32_t offset = op->offset2;
    int32_t sum = 0;
    for (uint32_t k = 0; k < op->depth; k += 4u, to += 16) {
        int32_t first = 0, second = 0, third = 0, fourth = 0;
        if (from != NULL) {
            first = from[0] + offset;
            second = from[stride] + offset;
            third = from[2u * stride] + offset;
            fourth = from[3u * stride] + offset;
            from += 4u * stride;
        }
        to[0] = (int16_t)first;
        to[1] = (int16_t)third;
        to[8] = (int16_t)second;
        to[9] = (int16_t)fourth;
        sum += first + second + third + fourth;
    }
    return sum;
}

static void widen_columns(const ee_batch_matmul_dsp_op *op, const int8_t *matrix, uint32_t count,
                          const room *r) {
    for (uint32_t c = 0; c < (count + 3u) / 4u * 4u; c++) {
        const int8_t *from = c < count ? matrix + c * op->strides2[2] : NULL;
        int32_t *block = r->blocks + c / 4u * EE_DSP_BLOCK_WORDS;
        int32_t *channel = block + 4u + 3u * (c % 4u);
        const int32_t sum = widen(op, from, r->columns + 4u * op->depth * (c / 4u) + 2u * (c % 4u));
        block[c % 4u] = op->offset1 * sum;
        channel[0] = op->multiplier;
        channel[1] = op->rounding;
        channel[2] = op->shift;
    }
}

/* Two rows, or one if is_last, with the columns that were widened. */
static void multiply_rows(const ee_batch_matmul_dsp_op *op, const int8_t *row, bool is_last,
                          uint32_t count, int8_t *output, const room *r) {
    const uint32_t fours = count / 4u, rest = count % 4u;
    const uint32_t step = op->output_strides[2];
    ee_dsp_interleave(r->rows, row, is_last ? row : row + op->strides1[2], op->depth / 4u);
    ee_dsp_pass pass = {
        .columns = r->rows,
        .weights = r->columns,
        .block = r->blocks,
        .out0 = output,
        .out1 = is_last ? r->spare : output + step,
        .end = r->rows + 2u * op->depth,
        .entry = ee_dsp_entry(op->depth),
        .column_step = 0,
        .weight_step = (int32_t)(8u * op->depth),
        .block_step = 4 * EE_DSP_BLOCK_WORDS,
        .out_step = 0,
        .count = fours,
    };
    if (fours != 0u) {
        ee_dsp_tiles(&pass);
    }
    if (rest != 0u) {
        int8_t *results = r->spare + COLUMNS_AT_ONCE;
        pass.weights = r->columns + 4u * op->depth * fours;
        pass.block = r->blocks + fours * EE_DSP_BLOCK_WORDS;
        pass.out0 = results;
        pass.out1 = results + 4;
        pass.count = 1;
        ee_dsp_tiles(&pass);
        for (uint32_t i = 0; i < rest; i++) {
            output[4u * fours + i] = results[i];
            if (!is_last) {
                output[step + 4u * fours + i] = results[4u + i];
            }
        }
    }
}

static void multiply(const ee_batch_matmul_dsp_op *op, const int8_t *a, const int8_t *b,
                     int8_t *output, const room *r) {
    for (uint32_t column = 0; column < op->extents[3]; column += COLUMNS_AT_ONCE) {
        const uint32_t left = op->extents[3] - column;
        const uint32_t count = left < COLUMNS_AT_ONCE ? left : COLUMNS_AT_ONCE;
        widen_columns(op, b + column * op->strides2[2], count, r);
        for (uint32_t row = 0; row < op->extents[2]; row += 2u) {
            multiply_rows(op, a + row * op->strides1[2], row + 1u == op->extents[2], count,
                          output + row * op->output_strides[2] + column, r);
        }
    }
}

void ee_batch_matmul_dsp(const ee_batch_matmul_dsp_op *op, const int8_t *input,
                         const int8_t *input2, int8_t *output, void *scratch) {
    const uint32_t *s = op->strides1, *t = op->strides2, *u = op->output_strides;
    const room r = divide(op, scratch);
    for (uint32_t i = 0; i < op->extents[0]; i++) {
        for (uint32_t j = 0; j < op->extents[1]; j++) {
            multiply(op, input + (i * s[0] + j * s[1]), input2 + (i * t[0] + j * t[1]),
                     output + (i * u[0] + j * u[1]), &r);
        }
    }
}
