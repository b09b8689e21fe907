/* Addition and multiplication of two tensors, with broadcasting by strides of zero.
 *
 * The compiler has merged the dimensions that can be merged: where nothing is broadcast, the
 * innermost loop runs over everything.
 */
#include "ee_portable.h"

static void add(const ee_add *op, const int8_t *a, const int8_t *b, int8_t *output) {
    const uint32_t *n = op->extents;
    const uint32_t *s = op->strides1;
    const uint32_t *t = op->strides2;
    for (uint32_t i = 0; i < n[0]; i++) {
        for (uint32_t j = 0; j < n[1]; j++) {
            for (uint32_t k = 0; k < n[2]; k++) {
                const int8_t *x = a + (i * s[0] + j * s[1] + k * s[2]);
                const int8_t *y = b + (i * t[0] + j * t[1] + k * t[2]);
                for (uint32_t l = 0; l < n[3]; l++, x += s[3], y += t[3]) {
                    *output++ = ee_add_elements(op->addition, *x, *y);
                }
            }
        }
    }
}

static void multiply(const ee_multiply *op, const int8_t *a, const int8_t *b, int8_t *output) {
    const uint32_t *n = op->extents;
    const uint32_t *s = op->strides1;
    const uint32_t *t = op->strides2;
    for (uint32_t i = 0; i < n[0]; i++) {
        for (uint32_t j = 0; j < n[1]; j++) {
            for (uint32_t k = 0; k < n[2]; k++) {
                const int8_t *x = a + (i * s[0] + j * s[1] + k * s[2]);
                const int8_t *y = b + (i * t[0] + j * t[1] + k * t[2]);
                for (uint32_t l = 0; l < n[3]; l++, x += s[3], y += t[3]) {
                    const int32_t product = (*x + op->offset1) * (*y + op->offset2);
                    const int32_t rescaled = ee_requantize(product, op->multiplier, op->shift);
                    *output++ = ee_clamp(op->output_offset + rescaled, op->activation_min,
                                         op->activation_max);
                }
            }
        }
    }
}

void ee_add_portable(const ee_add *op, const int8_t *input, const int8_t *input2, int8_t *output,
                     void *scratch) {
    (void)scratch;
    add(op, input, input2, output);
}

void ee_add_constant_portable(const ee_add *op, const int8_t *input, int8_t *output,
                              void *scratch) {
    (void)scratch;
    add(op, input, op->constant, output);
}

void ee_multiply_portable(const ee_multiply *op, const int8_t *input, const int8_t *input2,
                          int8_t *output, void *scratch) {
    (void)scratch;
    multiply(op, input, input2, output);
}

void ee_multiply_constant_portable(const ee_multiply *op, const int8_t *input, int8_t *output,
                                   void *scratch) {
    (void)scratch;
    multiply(op, input, op->constant, output);
}
