/* Integer arithmetic that the portable kernels share. Source of the definition: Jacob et al. 2018,
 * "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
 * with the roundings of TFLite's reference kernels.
 *
 * Accumulators are uint32_t: sums wrap instead of being undefined, whatever the model's bias is.
 */
#ifndef EE_PORTABLE_H
#define EE_PORTABLE_H

#include "ee_kernels.h"

/* a * b / 2^31, rounded to the nearest, halves up. Not both may be INT32_MIN. */
static inline int32_t ee_multiply_high(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* value / 2^exponent, rounded to the nearest, halves away from zero; exponent is 0 to 31. */
static inline int32_t ee_divide_by_power(int32_t value, int32_t exponent) {
    const int32_t mask = (int32_t)((1u << exponent) - 1u);
    const int32_t half = (mask >> 1) + (value < 0 ? 1 : 0);
    return (value >> exponent) + ((value & mask) > half ? 1 : 0);
}

/* value * 2^exponent modulo 2^32; exponent is 0 to 31. */
static inline int32_t ee_shift_left(int32_t value, int32_t exponent) {
    return (int32_t)((uint32_t)value << exponent);
}

/* value * multiplier * 2^(shift - 31); shift is -31 to 31. */
static inline int32_t ee_requantize(int32_t value, int32_t multiplier, int32_t shift) {
    if (shift > 0) {
        return ee_multiply_high(ee_shift_left(value, shift), multiplier);
    }
    return ee_divide_by_power(ee_multiply_high(value, multiplier), -shift);
}

static inline int8_t ee_clamp(int32_t value, int32_t low, int32_t high) {
    return (int8_t)(value < low ? low : value > high ? high : value);
}

static inline int8_t ee_add_elements(const ee_addition *op, int32_t a, int32_t b) {
    const int32_t a_rescaled =
        ee_requantize(ee_shift_left(a + op->offset1, op->left_shift), op->multiplier1, op->shift1);
    const int32_t b_rescaled =
        ee_requantize(ee_shift_left(b + op->offset2, op->left_shift), op->multiplier2, op->shift2);
    const int32_t sum = ee_requantize((int32_t)((uint32_t)a_rescaled + (uint32_t)b_rescaled),
                                      op->output_multiplier, op->output_shift);
    return ee_clamp(op->output_offset + sum, op->activation_min, op->activation_max);
}

/* The clamped output of a convolution for one accumulator; with `skip`, the sum of both. */
static inline int8_t ee_finish(const ee_conv2d *op, uint32_t channel, uint32_t sum,
                               const int8_t *skip) {
    const int32_t rescaled =
        ee_requantize((int32_t)sum, op->multiplier[channel], op->shift[channel]);
    const int8_t result =
        ee_clamp(rescaled + op->output_offset, op->activation_min, op->activation_max);
    return skip == NULL ? result : ee_add_elements(op->residual, result, *skip);
}

static inline uint32_t ee_dot(const int8_t *x, const int8_t *w, uint32_t count, uint32_t sum) {
    for (; count != 0u; count--) {
        sum += (uint32_t)(*x++ * *w++);
    }
    return sum;
}

/* Four dot products of x at once: each value of x is loaded once. Rows of w are row_bytes apart. */
static inline void ee_dot4(const int8_t *x, const int8_t *w, size_t row_bytes, uint32_t count,
                           uint32_t sums[4]) {
    const int8_t *w1 = w + row_bytes;
    const int8_t *w2 = w1 + row_bytes;
    const int8_t *w3 = w2 + row_bytes;
    uint32_t sum0 = sums[0], sum1 = sums[1], sum2 = sums[2], sum3 = sums[3];
    for (; count != 0u; count--) {
        const int32_t value = *x++;
        sum0 += (uint32_t)(value * *w++);
        sum1 += (uint32_t)(value * *w1++);
        sum2 += (uint32_t)(value * *w2++);
        sum3 += (uint32_t)(value * *w3++);
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
}

/* Taps of a window along one axis that lie inside the image: [first, end). */
typedef struct {
    int32_t first, end;
} ee_taps;

/* `start` is where the window's first tap lies. Without a division, which small cores lack. */
static inline ee_taps ee_clip(int32_t start, int32_t dilation, int32_t num_taps, int32_t size) {
    ee_taps taps = {0, num_taps};
    while (taps.first < num_taps && start + taps.first * dilation < 0) {
        taps.first++;
    }
    while (taps.end > taps.first && start + (taps.end - 1) * dilation >= size) {
        taps.end--;
    }
    return taps;
}

#endif
