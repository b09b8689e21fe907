/* Fully connected layers in plain C: four output features at once. */
#include "ee_portable.h"

static void multiply_row(const ee_fully_connected *op, const int8_t *input, int8_t *output) {
    const ee_output finish = {op->multiplier,     op->shift,          op->output_offset,
                              op->activation_min, op->activation_max, NULL};
    const size_t num_inputs = op->in_features;
    const int8_t *weights = op->weights;
    uint32_t feature = 0;
    while (feature < op->out_features) {
        const uint32_t count = op->out_features - feature >= 4u ? 4u : 1u;
        uint32_t sums[4];
        for (uint32_t i = 0; i < count; i++) {
            sums[i] = (uint32_t)op->bias[feature + i];
        }
        if (count == 4u) {
            ee_dot4(input, weights, num_inputs, op->in_features, sums);
        } else {
            sums[0] = ee_dot(input, weights, op->in_features, sums[0]);
        }
        ee_finish(&finish, feature, count, sums, NULL, output);
        weights += count * num_inputs;
        feature += count;
    }
}

void ee_fully_connected_portable(const ee_fully_connected *op, const int8_t *input, int8_t *output,
                                 void *scratch) {
    (void)scratch;
    for (uint32_t row = 0; row < op->num_rows; row++) {
        multiply_row(op, input, output);
        input += op->in_features;
        output += op->out_features;
    }
}
