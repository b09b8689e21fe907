/* Products of two computed matrices in plain C: four columns at once, wherever elements lie.
 *
 * The inner loops multiply bare values. What the zero points add is
 * offset1 * (sum of the column) + offset2 * (sum of the row) + depth * offset1 * offset2.
 */
#include "ee_portable.h"

static uint32_t sum_of(const int8_t *values, uint32_t stride, uint32_t count) {
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++, values += stride) {
        sum += *values;
    }
    return (uint32_t)sum;
}

static uint32_t dot(const int8_t *x, uint32_t x_stride, const int8_t *w, uint32_t w_stride,
                    uint32_t count, uint32_t sum) {
    for (uint32_t i = 0; i < count; i++, x += x_stride, w += w_stride) {
        sum += (uint32_t)(*x * *w);
    }
    return sum;
}

/* Adds to sums the products of a row with four columns, which are column_stride apart. */
static void dot4(const int8_t *x, uint32_t x_stride, const int8_t *w, uint32_t w_stride,
                 uint32_t column_stride, uint32_t count, uint32_t sums[4]) {
    uint32_t sum0 = sums[0], sum1 = sums[1], sum2 = sums[2], sum3 = sums[3];
    for (uint32_t i = 0; i < count; i++, x += x_stride, w += w_stride) {
        const int32_t value = *x;
        const int8_t *column = w;
        sum0 += (uint32_t)(value * *column);
        column += column_stride;
        sum1 += (uint32_t)(value * *column);
        column += column_stride;
        sum2 += (uint32_t)(value * *column);
        column += column_stride;
        sum3 += (uint32_t)(value * *column);
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
}

static void multiply_row(const ee_batch_matmul *op, const int8_t *row, const int8_t *matrix,
                         const uint32_t *column_sums, int8_t *output) {
    const uint32_t row_stride = op->strides1[3];
    const uint32_t column_stride = op->strides2[2], depth_stride = op->strides2[3];
    const uint32_t columns = op->extents[3], depth = op->depth;
    const int dense = row_stride == 1u && depth_stride == 1u;
    uint32_t row_sum = 0;
    if (op->offset2 != 0) {
        row_sum = (uint32_t)op->offset2 * sum_of(row, row_stride, depth);
    }
    uint32_t column = 0;
    while (column < columns) {
        const uint32_t count = columns - column >= 4u ? 4u : 1u;
        uint32_t sums[4];
        for (uint32_t i = 0; i < count; i++) {
            sums[i] = column_sums[column + i] + row_sum;
        }
        if (count == 4u && dense) {
            ee_dot4(row, matrix, column_stride, depth, sums);
        } else if (count == 4u) {
            dot4(row, row_stride, matrix, depth_stride, column_stride, depth, sums);
        } else if (dense) {
            sums[0] = ee_dot(row, matrix, depth, sums[0]);
        } else {
            sums[0] = dot(row, row_stride, matrix, depth_stride, depth, sums[0]);
        }
        for (uint32_t i = 0; i < count; i++, output += op->output_strides[3]) {
            const int32_t rescaled = ee_requantize((int32_t)sums[i], op->multiplier, op->shift);
            *output = ee_clamp(op->output_offset + rescaled, INT8_MIN, INT8_MAX);
        }
        matrix += (size_t)count * column_stride;
        column += count;
    }
}

static void multiply(const ee_batch_matmul *op, const int8_t *a, const int8_t *b, int8_t *output,
                     uint32_t *column_sums) {
    const uint32_t constant = op->depth * (uint32_t)op->offset1 * (uint32_t)op->offset2;
    for (uint32_t column = 0; column < op->extents[3]; column++) {
        uint32_t sum = 0;
        if (op->offset1 != 0) {
            sum = sum_of(b + (size_t)column * op->strides2[2], op->strides2[3], op->depth);
        }
        column_sums[column] = constant + (uint32_t)op->offset1 * sum;
    }
    for (uint32_t row = 0; row < op->extents[2]; row++) {
        multiply_row(op, a, b, column_sums, output);
        a += op->strides1[2];
        output += op->output_strides[2];
    }
}

void ee_batch_matmul_portable(const ee_batch_matmul *op, const int8_t *input, const int8_t *input2,
                              int8_t *output, void *scratch) {
    const uint32_t *s = op->strides1, *t = op->strides2, *u = op->output_strides;
    for (uint32_t i = 0; i < op->extents[0]; i++) {
        for (uint32_t j = 0; j < op->extents[1]; j++) {
            multiply(op, input + (i * s[0] + j * s[1]), input2 + (i * t[0] + j * t[1]),
                     output + (i * u[0] + j * u[1]), (uint32_t *)scratch);
        }
    }
}
