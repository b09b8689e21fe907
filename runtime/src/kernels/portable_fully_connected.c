/* Fully connected layers in plain C: four output features at once. */
#include "ee_portable.h"

static int8_t finish(const ee_fully_connected *op, uint32_t feature, uint32_t sum) {
    const int32_t rescaled =
        ee_requantize((int32_t)sum, op->multiplier[feature], op->shift[feature]);
    return ee_clamp(rescaled + op->output_offset, op->activation_min, op->activation_max);
}

static void multiply_row(const ee_fully_connected *op, const int8_t *input, int8_t *output) {
    const size_t num_inputs = op->in_features;
    const int8_t *weights = op->weights;
    uint32_t feature = 0;
    for (; op->out_features - feature >= 4u; feature += 4u) {
        uint32_t sums[4];
        for (uint32_t i = 0; i < 4u; i++) {
            sums[i] = (uint32_t)op->bias[feature + i];
        }
        ee_dot4(input, weights, num_inputs, op->in_features, sums);
        for (uint32_t i = 0; i < 4u; i++) {
            output[feature + i] = finish(op, feature + i, sums[i]);
        }
        weights += 4u * num_inputs;
    }
    for (; feature < op->out_features; feature++) {
        const uint32_t sum = ee_dot(input, weights, op->in_features, (uint32_t)op->bias[feature]);
        output[feature] = finish(op, feature, sum);
        weights += num_inputs;
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
