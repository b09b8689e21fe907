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

/* The same for an operand of an addition: a negative multiplier is the positive one, negated at
 * last, as halves are not rounded alike for both signs. */
static inline int32_t ee_rescale_operand(int32_t value, int32_t multiplier, int32_t shift) {
    return multiplier < 0 ? -ee_requantize(value, -multiplier, shift)
                          : ee_requantize(value, multiplier, shift);
}

static inline int8_t ee_add_elements(const ee_addition *op, int32_t a, int32_t b) {
    const int32_t a_rescaled = ee_rescale_operand(ee_shift_left(a + op->offset1, op->left_shift),
                                                  op->multiplier1, op->shift1);
    const int32_t b_rescaled = ee_rescale_operand(ee_shift_left(b + op->offset2, op->left_shift),
                                                  op->multiplier2, op->shift2);
    const int32_t sum = ee_requantize((int32_t)((uint32_t)a_rescaled + (uint32_t)b_rescaled),
                                      op->output_multiplier, op->output_shift);
    return ee_clamp(op->output_offset + sum, op->activation_min, op->activation_max);
}

/* How sums become outputs; pointers are to the first channel. */
typedef struct {
    const int32_t *multiplier, *shift;
    int32_t offset, min, max;
    const ee_addition *residual; /* not read without a skip */
} ee_output;

/* Writes `count` outputs, from `channel` on, of one pixel; with a skip, each is added to it, which
 * may be the same memory. */
void ee_finish(const ee_output *op, uint32_t channel, uint32_t count, const uint32_t *sums,
               const int8_t *skip, int8_t *output);

/* sum + the dot product of count values. */
uint32_t ee_dot(const int8_t *x, const int8_t *w, uint32_t count, uint32_t sum);

/* Adds to sums the dot products of x with four rows of w, row_bytes apart. */
void ee_dot4(const int8_t *x, const int8_t *w, size_t row_bytes, uint32_t count, uint32_t sums[4]);

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
