#ifndef EE_MVE_DOT_H
#define EE_MVE_DOT_H

#include "ee_mve.h"

/* The dot products of count values with four packed columns, [count / 16, rounded up][4][16] with
 * zeros at the end; w moves behind them. */
static inline int32x4_t ee_mve_dot4(const int8_t *x, const int8_t **w, uint32_t count) {
    const int8_t *at = *w;
    int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    for (uint32_t k = count / 16u; k != 0u; k--, x += 16, at += 64) {
        const int8x16_t values = vldrbq_s8(x);
        sum0 = vmladavaq_s8(sum0, values, vldrbq_s8(at));
        sum1 = vmladavaq_s8(sum1, values, vldrbq_s8(at + 16));
        sum2 = vmladavaq_s8(sum2, values, vldrbq_s8(at + 32));
        sum3 = vmladavaq_s8(sum3, values, vldrbq_s8(at + 48));
    }
    if (count % 16u != 0u) {
        const int8x16_t values = vldrbq_z_s8(x, vctp8q(count % 16u));
        sum0 = vmladavaq_s8(sum0, values, vldrbq_s8(at));
        sum1 = vmladavaq_s8(sum1, values, vldrbq_s8(at + 16));
        sum2 = vmladavaq_s8(sum2, values, vldrbq_s8(at + 32));
        sum3 = vmladavaq_s8(sum3, values, vldrbq_s8(at + 48));
        at += 64;
    }
    *w = at;
    int32x4_t sums = vdupq_n_s32(sum0);
    sums = vsetq_lane_s32(sum1, sums, 1);
    sums = vsetq_lane_s32(sum2, sums, 2);
    return vsetq_lane_s32(sum3, sums, 3);
}

#endif
