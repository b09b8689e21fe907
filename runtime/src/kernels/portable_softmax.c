/* Softmax in integers. Two bytes differ by one of 256 numbers, so the compiler computes all
 * exponentials that there can be. The reciprocal and its constants are those that define the result
 * of TFLite's int8 softmax (they come from gemmlowp): another one would differ in the last bit.
 *
 * A comment Qi.f gives a number's integer and fraction bits, beside the sign.
 */
#include "ee_portable.h"

enum { ACCUMULATOR_BITS = 12 }; /* the sum of exponentials is Q12.19 */

/* value * 2^exponent, stopping at the limits of int32. */
static int32_t scale_up(int32_t value, int32_t exponent) {
    const int32_t limit = INT32_MAX >> exponent;
    if (value > limit) {
        return INT32_MAX;
    }
    return value < -limit - 1 ? INT32_MIN : ee_shift_left(value, exponent);
}

/* 1 / (1 + value) - Q0.31 - for a value from 0 to 1 - Q0.31 -: three steps of Newton's method. */
static int32_t reciprocal_of_one_plus(int32_t value) {
    const int32_t denominator = (int32_t)(((int64_t)value + INT32_MAX + 1) / 2); /* halved */
    int32_t x = 1515870810 + ee_multiply_high(denominator, -1010580540); /* 48/17, 32/17: Q2.29 */
    for (int32_t i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - ee_multiply_high(denominator, x);
        x += scale_up(ee_multiply_high(x, error), 2);
    }
    return scale_up(x, 1);
}

static void softmax_row(const ee_softmax *op, const int8_t *input, int8_t *output) {
    int32_t largest = INT8_MIN;
    for (uint32_t c = 0; c < op->depth; c++) {
        largest = input[c] > largest ? input[c] : largest;
    }
    uint32_t sum = 0;
    for (uint32_t c = 0; c < op->depth; c++) {
        const uint32_t difference = (uint32_t)(largest - input[c]);
        if (difference < op->num_exponentials) {
            sum += (uint32_t)ee_divide_by_power(op->exponentials[difference], ACCUMULATOR_BITS);
        }
    }
    /* The sum is at least one: its highest bit makes it 2^n (1 + x). */
    int32_t num_zeros = 0;
    while ((sum & 0x80000000u) == 0u) {
        sum <<= 1;
        num_zeros++;
    }
    const int32_t reciprocal = reciprocal_of_one_plus((int32_t)(sum - 0x80000000u));
    const int32_t exponent = ACCUMULATOR_BITS - num_zeros + 31 - 8;
    for (uint32_t c = 0; c < op->depth; c++) {
        const uint32_t difference = (uint32_t)(largest - input[c]);
        int32_t result = INT8_MIN;
        /* Beyond 31, as from 512 equal values on, no share is as much as half of 1/256. */
        if (difference < op->num_exponentials && exponent <= 31) {
            const int32_t share = ee_multiply_high(reciprocal, op->exponentials[difference]);
            result += ee_divide_by_power(share, exponent);
        }
        output[c] = ee_clamp(result, INT8_MIN, INT8_MAX);
    }
}

void ee_softmax_portable(const ee_softmax *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    for (uint32_t row = 0; row < op->num_rows; row++) {
        softmax_row(op, input, output);
        input += op->depth;
        output += op->depth;
    }
}
