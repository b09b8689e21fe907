/* Fully connected layers: four output features at once, so that inputs are loaded once for four. */
#include "ee_kernels_mve.h"
#include "ee_mve.h"
#include "mve_dot.h"
#include "mve_requantize.h"

void ee_fully_connected_mve(const ee_mve_fully_connected *op, const int8_t *input, int8_t *output,
                            void *scratch) {
    (void)scratch;
    for (uint32_t row = 0; row < op->num_rows; row++, input += op->in_features) {
        const int8_t *w = (const int8_t *)op->weights;
        for (uint32_t feature = 0; feature < op->out_features; feature += 4u) {
            int32x4_t sums = ee_mve_dot4(input, &w, op->in_features);
            const int32_t *numbers = (const int32_t *)(const void *)w;
            sums = vaddq_s32(sums, vldrwq_s32(numbers));
            sums = ee_mve_requantize(sums, vldrwq_s32(numbers + 4), vldrwq_s32(numbers + 8),
                                     op->output_offset, op->activation_min, op->activation_max);
            vstrbq_p_s32(output + feature, sums, vctp32q(op->out_features - feature));
            w += 48;
        }
        output += op->out_features;
    }
}
