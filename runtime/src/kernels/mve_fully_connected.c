/* Fully connected layers: four output features at once, so that inputs are loaded once for four. */
#include "ee_kernels_mve.h"
#include "ee_mve.h"
#include "mve_requantize.h"

void ee_fully_connected_mve(const ee_mve_fully_connected *op, const int8_t *input, int8_t *output,
                            void *scratch) {
    (void)scratch;
    const uint32_t num_whole = op->in_features / 16u;
    const uint32_t rest = op->in_features % 16u;
    for (uint32_t row = 0; row < op->num_rows; row++, input += op->in_features) {
        const int8_t *w = (const int8_t *)op->weights;
        for (uint32_t feature = 0; feature < op->out_features; feature += 4u) {
            int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
            const int8_t *x = input;
            for (uint32_t k = num_whole; k != 0u; k--, x += 16, w += 64) {
                const int8x16_t values = vldrbq_s8(x);
                sum0 = vmladavaq_s8(sum0, values, vldrbq_s8(w));
                sum1 = vmladavaq_s8(sum1, values, vldrbq_s8(w + 16));
                sum2 = vmladavaq_s8(sum2, values, vldrbq_s8(w + 32));
                sum3 = vmladavaq_s8(sum3, values, vldrbq_s8(w + 48));
            }
            if (rest != 0u) {
                const int8x16_t values = vldrbq_z_s8(x, vctp8q(rest));
                sum0 = vmladavaq_s8(sum0, values, vldrbq_s8(w));
                sum1 = vmladavaq_s8(sum1, values, vldrbq_s8(w + 16));
                sum2 = vmladavaq_s8(sum2, values, vldrbq_s8(w + 32));
                sum3 = vmladavaq_s8(sum3, values, vldrbq_s8(w + 48));
                w += 64;
            }
            const int32_t *numbers = (const int32_t *)(const void *)w;
            int32x4_t sums = vdupq_n_s32(sum0);
            sums = vsetq_lane_s32(sum1, sums, 1);
            sums = vsetq_lane_s32(sum2, sums, 2);
            sums = vsetq_lane_s32(sum3, sums, 3);
            sums = vaddq_s32(sums, vldrwq_s32(numbers));
            sums = ee_mve_requantize(sums, vldrwq_s32(numbers + 4), vldrwq_s32(numbers + 8),
                                     op->output_offset, op->activation_min, op->activation_max);
            vstrbq_p_s32(output + feature, sums, vctp32q(op->out_features - feature));
            w += 48;
        }
        output += op->out_features;
    }
}
