/* Addition and clamping of int8 vectors for cores with the DSP extension. */
#include "ee_dsp.h"

void ee_dsp_clamp_all(int8_t *values, uint32_t count, int32_t low, int32_t high) {
    uint32_t lows = (uint8_t)low * 0x01010101u;
    uint32_t highs = (uint8_t)high * 0x01010101u;
    for (; count >= 4; count -= 4, values += 4) {
        ee_dsp_store(values, ee_dsp_clamp4(ee_dsp_load(values), lows, highs));
    }
    for (; count > 0; count--, values++) {
        *values = (int8_t)ee_dsp_clamp(*values, low, high);
    }
}

static int8_t add_exactly(const ee_addition *add, int32_t a, int32_t b) {
    int32_t x = (a + add->offset1) * (1 << add->left_shift);
    int32_t y = (b + add->offset2) * (1 << add->left_shift);
    int32_t sum = ee_dsp_rescale(x, add->multiplier1, add->shift1) +
                  ee_dsp_rescale(y, add->multiplier2, add->shift2);
    sum = ee_dsp_rescale(sum, add->output_multiplier, add->output_shift) + add->output_offset;
    return (int8_t)ee_dsp_clamp(sum, add->activation_min, add->activation_max);
}

static inline int8_t add_fast(const ee_dsp_addition *add, int32_t a, int32_t b) {
    return (int8_t)ee_dsp_saturate((a * add->factor1 + b * add->factor2 + add->constant) >>
                                   add->shift);
}

void ee_dsp_add(const ee_dsp_addition *add, const int8_t *a, const int8_t *b, int8_t *output,
                uint32_t count) {
    if (add->exact != NULL) {
        for (uint32_t i = 0; i < count; i++) {
            output[i] = add_exactly(add->exact, a[i], b[i]);
        }
        return;
    }
    ee_dsp_addition fixed = *add; /* the output may alias anything of the caller's */
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        output[i] = add_fast(&fixed, a[i], b[i]);
        output[i + 1] = add_fast(&fixed, a[i + 1], b[i + 1]);
        output[i + 2] = add_fast(&fixed, a[i + 2], b[i + 2]);
        output[i + 3] = add_fast(&fixed, a[i + 3], b[i + 3]);
    }
    for (; i < count; i++) {
        output[i] = add_fast(&fixed, a[i], b[i]);
    }
    if (fixed.activation_min > INT8_MIN || fixed.activation_max < INT8_MAX) {
        ee_dsp_clamp_all(output, count, fixed.activation_min, fixed.activation_max);
    }
}

void ee_add_dsp(const ee_add_dsp_op *op, const int8_t *input1, const int8_t *input2, int8_t *output,
                void *scratch) {
    (void)scratch;
    ee_dsp_add(op->addition, input1, input2, output, op->count);
}
