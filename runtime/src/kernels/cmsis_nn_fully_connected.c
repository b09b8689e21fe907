#include "cmsis_nn.h"

void ee_fully_connected_cmsis_nn(const ee_fully_connected *op, const int8_t *input, int8_t *output,
                                 void *scratch) {
    const cmsis_nn_fc_params params = {
        .input_offset = op->input_offset,
        .filter_offset = 0,
        .output_offset = op->output_offset,
        .activation = ee_limits(op->activation_min, op->activation_max),
    };
    const cmsis_nn_per_tensor_quant_params factor = {
        .multiplier = op->multiplier[0],
        .shift = op->shift[0],
    };
    const int32_t rows = (int32_t)op->num_rows, in_features = (int32_t)op->in_features;
    const int32_t out_features = (int32_t)op->out_features;
    const cmsis_nn_context context = ee_context(scratch);
    const cmsis_nn_dims source = ee_dims(rows, 1, 1, in_features);
    const cmsis_nn_dims filter = ee_dims(in_features, 1, 1, out_features);
    const cmsis_nn_dims bias = ee_dims(1, 1, 1, out_features);
    const cmsis_nn_dims result = ee_dims(rows, 1, 1, out_features);
    (void)arm_fully_connected_s8(&context, &params, &factor, &source, input, &filter, op->weights,
                                 &bias, op->bias, &result, output);
}
