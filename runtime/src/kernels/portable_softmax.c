/* Softmax in integers. The fixed point functions and their constants are those that define the
 * result of TFLite's int8 softmax (they come from gemmlowp): other approximations of exp and of the
 * reciprocal would differ in the last bit.
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

/* exp(value) - Q0.31 - of a value from -1/4 to 0 - Q0.31 -: a Taylor polynomial around -1/8. */
static int32_t exp_of_small(int32_t value) {
    const int32_t exp_of_center = 1895147668; /* exp(-1/8) */
    const int32_t third = 715827883;
    const int32_t x = value + (1 << 28);
    const int32_t x2 = ee_multiply_high(x, x);
    const int32_t x3 = ee_multiply_high(x2, x);
    const int32_t x4 = ee_multiply_high(x2, x2);
    const int32_t tail = ee_multiply_high(ee_divide_by_power(x4, 2) + x3, third) + x2;
    return exp_of_center + ee_multiply_high(exp_of_center, x + ee_divide_by_power(tail, 1));
}

/* exp(value) - Q0.31 - of a value - Q5.26 - that is not above 0: a quarter by the polynomial, the
 * other bits by one factor each. */
static int32_t exp_of_negative(int32_t value) {
    /* exp(-2^k) for k = -2 .. 4, in Q0.31 */
    static const int32_t factors[] = {1672461947, 1302514674, 790015084, 290630308,
                                      39332535,   720401,     242};
    const int32_t quarter = 1 << 24;
    if (value == 0) {
        return INT32_MAX;
    }
    const int32_t low = (value & (quarter - 1)) - quarter;
    const int32_t rest = (int32_t)((uint32_t)low - (uint32_t)value);
    int32_t result = exp_of_small(scale_up(low, 5));
    for (int32_t k = 0; k < 7; k++) {
        if ((rest & ee_shift_left(quarter, k)) != 0) {
            result = ee_multiply_high(result, factors[k]);
        }
    }
    return result;
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

static int32_t exp_of_difference(const ee_softmax *op, int32_t difference) {
    return exp_of_negative(
        ee_multiply_high(ee_shift_left(difference, op->input_shift), op->input_multiplier));
}

static void softmax_row(const ee_softmax *op, const int8_t *input, int8_t *output) {
    int32_t largest = INT8_MIN;
    for (uint32_t c = 0; c < op->depth; c++) {
        largest = input[c] > largest ? input[c] : largest;
    }
    uint32_t sum = 0;
    for (uint32_t c = 0; c < op->depth; c++) {
        const int32_t difference = input[c] - largest;
        if (difference >= op->diff_min) {
            sum +=
                (uint32_t)ee_divide_by_power(exp_of_difference(op, difference), ACCUMULATOR_BITS);
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
        const int32_t difference = input[c] - largest;
        int32_t result = INT8_MIN;
        /* Beyond 31, as from 512 equal values on, no share is as much as half of 1/256. */
        if (difference >= op->diff_min && exponent <= 31) {
            const int32_t share = ee_multiply_high(reciprocal, exp_of_difference(op, difference));
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
