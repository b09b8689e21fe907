#ifndef EE_MVE_REQUANTIZE_H
#define EE_MVE_REQUANTIZE_H

#include "ee_mve.h"

/* Sums of four channels to outputs. No shift is positive. Halves round away from zero: a negative
 * value that will be shifted loses one before the shift rounds halves up. */
static inline int32x4_t ee_mve_requantize(int32x4_t sum, int32x4_t multiplier, int32x4_t shift,
                                          int32_t offset, int32_t low, int32_t high) {
    sum = vqrdmulhq_s32(sum, multiplier);
    sum = vaddq_s32(sum, vshrq_n_s32(vandq_s32(sum, shift), 31));
    sum = vaddq_n_s32(vrshlq_s32(sum, shift), offset);
    return vminq_s32(vmaxq_s32(sum, vdupq_n_s32(low)), vdupq_n_s32(high));
}

#endif
