/* Dot products, on which convolutions and fully connected layers spend their time, and what makes
 * outputs of their sums.
 *
 * These are functions and not inlined, so that the loops have all registers for themselves.
 */
#include "ee_portable.h"

uint32_t ee_dot(const int8_t *x, const int8_t *w, uint32_t count, uint32_t sum) {
    for (const int8_t *end = x + count; x != end;) {
        sum += (uint32_t)(*x++ * *w++);
    }
    return sum;
}

/* Each value of x is loaded once for four products. */
void ee_dot4(const int8_t *x, const int8_t *w, size_t row_bytes, uint32_t count, uint32_t sums[4]) {
    const int8_t *w1 = w + row_bytes;
    const int8_t *w2 = w1 + row_bytes;
    const int8_t *w3 = w2 + row_bytes;
    uint32_t sum0 = sums[0], sum1 = sums[1], sum2 = sums[2], sum3 = sums[3];
    for (const int8_t *end = x + count; x != end;) {
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

void ee_finish(const ee_output *op, uint32_t channel, uint32_t count, const uint32_t *sums,
               const int8_t *skip, int8_t *output) {
    const int32_t *multiplier = op->multiplier + channel;
    const int32_t *shift = op->shift + channel;
    /* Copies, because for all that the compiler knows the output may lie over the parameters. */
    const int32_t offset = op->offset, min = op->min, max = op->max;
    for (uint32_t i = 0; i < count; i++) {
        const int32_t rescaled = ee_requantize((int32_t)sums[i], multiplier[i], shift[i]);
        int8_t result = ee_clamp(rescaled + offset, min, max);
        if (skip != NULL) {
            result = ee_add_elements(op->residual, result, skip[channel + i]);
        }
        output[channel + i] = result;
    }
}
