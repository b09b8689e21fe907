/* Addition of two tensors of one shape, four elements at a time. */
#include "mve_add.h"

#include "ee_mve.h"

/* `fix` is 1 where a shift follows whose halves must round away from zero: negative values then
 * lose one before the shift rounds halves up. */
static inline int32x4_t rescale(int32x4_t value, int32_t multiplier, int32_t shift, int32_t fix) {
    value = vqrdmulhq_n_s32(value, multiplier);
    value = vmlaq_n_s32(value, vshrq_n_s32(value, 31), fix);
    return vrshlq_n_s32(value, shift);
}

static inline int32x4_t add_exactly(const ee_addition *op, int32x4_t a, int32x4_t b) {
    a = rescale(vshlq_n_s32(vaddq_n_s32(a, op->offset1), 20), op->multiplier1, op->shift1,
                op->shift1 < 0);
    b = rescale(vshlq_n_s32(vaddq_n_s32(b, op->offset2), 20), op->multiplier2, op->shift2,
                op->shift2 < 0);
    const int32x4_t sum =
        rescale(vaddq_s32(a, b), op->output_multiplier, op->output_shift, op->output_shift < 0);
    return vaddq_n_s32(sum, op->output_offset);
}

static __attribute__((noinline)) void add_all_exactly(const ee_mve_addition *op, const int8_t *a,
                                                      const int8_t *b, int8_t *output,
                                                      uint32_t num_bytes) {
    const int32x4_t low = vdupq_n_s32(op->activation_min);
    const int32x4_t high = vdupq_n_s32(op->activation_max);
    for (uint32_t at = 0; at < num_bytes; at += 4u) {
        const mve_pred16_t active = vctp32q(num_bytes - at);
        const int32x4_t sum =
            add_exactly(op->exact, vldrbq_z_s32(a + at, active), vldrbq_z_s32(b + at, active));
        vstrbq_p_s32(output + at, vminq_s32(vmaxq_s32(sum, low), high), active);
    }
}

void ee_mve_add_bytes(const ee_mve_addition *op, const int8_t *a, const int8_t *b, int8_t *output,
                      uint32_t num_bytes) {
    if (op->exact != NULL) {
        add_all_exactly(op, a, b, output, num_bytes);
        return;
    }
    const int32_t factor1 = op->factor1, factor2 = op->factor2;
    const int32x4_t constant = vdupq_n_s32(op->constant), shift = vdupq_n_s32(op->shift);
    const int32x4_t low = vdupq_n_s32(op->activation_min);
    const int32x4_t high = vdupq_n_s32(op->activation_max);
    for (uint32_t k = num_bytes / 4u; k != 0u; k--, a += 4, b += 4, output += 4) {
        int32x4_t sum = vmlaq_n_s32(constant, vldrbq_s32(a), factor1);
        sum = vshlq_s32(vmlaq_n_s32(sum, vldrbq_s32(b), factor2), shift);
        vstrbq_s32(output, vminq_s32(vmaxq_s32(sum, low), high));
    }
    if (num_bytes % 4u != 0u) {
        const mve_pred16_t rest = vctp32q(num_bytes % 4u);
        int32x4_t sum = vmlaq_n_s32(constant, vldrbq_z_s32(a, rest), factor1);
        sum = vshlq_s32(vmlaq_n_s32(sum, vldrbq_z_s32(b, rest), factor2), shift);
        vstrbq_p_s32(output, vminq_s32(vmaxq_s32(sum, low), high), rest);
    }
}

void ee_add_mve(const ee_mve_add *op, const int8_t *input, const int8_t *input2, int8_t *output,
                void *scratch) {
    (void)scratch;
    ee_mve_add_bytes(op->addition, input, input2, output, op->num_bytes);
}
