/* Products of two computed matrices: sixteen columns of the second one are packed at a time, in the
 * order in which a fully connected layer has its weights, and multiplied with each row of the
 * first.
 *
 * The inner loop multiplies bare values; see portable_batch_matmul.c for what zero points add. */
#include "ee_kernels_mve.h"
#include "ee_mve.h"
#include "mve_dot.h"
#include "mve_requantize.h"

enum { COLUMNS_AT_ONCE = 16 };

/* What packed columns add to each sum, then the columns: [column / 4][k_blocks][4][16], zeros where
 * a column ends. */
typedef struct {
    int32_t *sums;
    int8_t *columns;
    uint32_t k_blocks;
} packing;

/* The sum of `count` values. */
static int32_t add_up(const int8_t *values, uint32_t count) {
    const int8x16_t ones = vdupq_n_s8(1);
    int32_t sum = 0;
    for (; count >= 16u; count -= 16u, values += 16) {
        sum = vmladavaq_s8(sum, vldrbq_s8(values), ones);
    }
    return vmladavaq_s8(sum, vldrbq_z_s8(values, vctp8q(count)), ones);
}

/* Columns whose values lie beside each other; those that are missing up to four are zeros. */
static void pack_along(const ee_batch_matmul *op, const int8_t *matrix, uint32_t count,
                       const packing *to) {
    for (uint32_t c = 0; c < (count + 3u) / 4u * 4u; c++) {
        const uint32_t depth = c < count ? op->depth : 0u;
        const int8_t *from = matrix + (c < count ? c * op->strides2[2] : 0u);
        int8_t *at = to->columns + 64u * to->k_blocks * (c / 4u) + 16u * (c % 4u);
        for (uint32_t k = 0; k < 16u * to->k_blocks; k += 16u, at += 64) {
            const mve_pred16_t active = vctp8q(k < depth ? depth - k : 0u);
            vstrbq_s8(at, vldrbq_z_s8(k < depth ? from + k : from, active));
        }
        to->sums[c] = add_up(from, depth);
    }
}

/* Columns that lie beside each other, four at a time. */
static void pack_across(const ee_batch_matmul *op, const int8_t *matrix, uint32_t count,
                        const packing *to) {
    static const uint32_t places[4] = {0, 16, 32, 48};
    const uint32x4_t lanes = vldrwq_u32(places);
    for (uint32_t c = 0; c < count; c += 4u) {
        const mve_pred16_t active = vctp32q(count - c);
        const int8_t *from = matrix + c;
        int8_t *at = to->columns + 16u * to->k_blocks * c;
        int32x4_t sums = vdupq_n_s32(0);
        for (uint32_t k = 0; k < 16u * to->k_blocks; k++) {
            int32x4_t values = vdupq_n_s32(0);
            if (k < op->depth) {
                values = vldrbq_z_s32(from, active);
                from += op->strides2[3];
            }
            sums = vaddq_s32(sums, values);
            vstrbq_scatter_offset_s32(at, lanes, values);
            at += k % 16u == 15u ? 49 : 1;
        }
        vstrwq_s32(to->sums + c, sums);
    }
}

/* One row with the columns that were packed. */
static void multiply_row(const ee_batch_matmul *op, const int8_t *row, uint32_t count,
                         int8_t *output, const packing *from) {
    const int32x4_t multiplier = vdupq_n_s32(op->multiplier), shift = vdupq_n_s32(op->shift);
    const int8_t *w = from->columns;
    int32_t row_sum = 0;
    if (op->offset2 != 0) {
        row_sum = (int32_t)((uint32_t)op->offset2 * (uint32_t)add_up(row, op->depth));
    }
    for (uint32_t column = 0; column < count; column += 4u) {
        int32x4_t sums = ee_mve_dot4(row, &w, op->depth);
        sums = vaddq_n_s32(vaddq_s32(sums, vldrwq_s32(from->sums + column)), row_sum);
        sums = ee_mve_requantize(sums, multiplier, shift, op->output_offset, INT8_MIN, INT8_MAX);
        vstrbq_p_s32(output + column, sums, vctp32q(count - column));
    }
}

static void multiply(const ee_batch_matmul *op, const int8_t *a, const int8_t *b, int8_t *output,
                     const packing *packed) {
    const int32_t constant = (int32_t)(op->depth * (uint32_t)op->offset1 * (uint32_t)op->offset2);
    for (uint32_t column = 0; column < op->extents[3]; column += COLUMNS_AT_ONCE) {
        const uint32_t left = op->extents[3] - column;
        const uint32_t count = left < COLUMNS_AT_ONCE ? left : COLUMNS_AT_ONCE;
        const int8_t *matrix = b + column * op->strides2[2];
        if (op->strides2[3] == 1u) {
            pack_along(op, matrix, count, packed);
        } else {
            pack_across(op, matrix, count, packed);
        }
        for (uint32_t c = 0; c < count; c += 4u) {
            const int32x4_t sums = vldrwq_s32(packed->sums + c);
            vstrwq_s32(packed->sums + c, vmlaq_n_s32(vdupq_n_s32(constant), sums, op->offset1));
        }
        for (uint32_t row = 0; row < op->extents[2]; row++) {
            multiply_row(op, a + row * op->strides1[2], count,
                         output + row * op->output_strides[2] + column, packed);
        }
    }
}

void ee_batch_matmul_mve(const ee_batch_matmul *op, const int8_t *input, const int8_t *input2,
                         int8_t *output, void *scratch) {
    const uint32_t *s = op->strides1, *t = op->strides2, *u = op->output_strides;
    const packing packed = {scratch, (int8_t *)scratch + 4 * COLUMNS_AT_ONCE,
                            (op->depth + 15u) / 16u};
    for (uint32_t i = 0; i < op->extents[0]; i++) {
        for (uint32_t j = 0; j < op->extents[1]; j++) {
            multiply(op, input + (i * s[0] + j * s[1]), input2 + (i * t[0] + j * t[1]),
                     output + (i * u[0] + j * u[1]), &packed);
        }
    }
}
