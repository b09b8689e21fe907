#include "cmsis_nn.h"

void ee_depthwise_cmsis_nn(const ee_conv2d *op, const int8_t *input, int8_t *output,
                           void *scratch) {
    const cmsis_nn_dw_conv_params params = {
        .input_offset = op->input_offset,
        .output_offset = op->output_offset,
        .ch_mult = op->depth_multiplier,
        .stride = ee_tile(op->stride_h, op->stride_w),
        .padding = ee_tile(op->pad_top, op->pad_left),
        .dilation = ee_tile(op->dilation_h, op->dilation_w),
        .activation = ee_limits(op->activation_min, op->activation_max),
    };
    const cmsis_nn_context context = ee_context(scratch);
    const cmsis_nn_per_channel_quant_params factors = ee_factors(op);
    const cmsis_nn_dims source = ee_dims(1, op->input_h, op->input_w, op->input_c);
    const cmsis_nn_dims filter = ee_dims(1, op->kernel_h, op->kernel_w, op->output_c);
    const cmsis_nn_dims bias = ee_dims(1, 1, 1, op->output_c);
    const cmsis_nn_dims result = ee_dims(1, op->output_h, op->output_w, op->output_c);
    (void)arm_depthwise_conv_wrapper_s8(&context, &params, &factors, &source, input, &filter,
                                        op->weights, &bias, op->bias, &result, output);
}

void ee_depthwise_cmsis_nn_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                               int8_t *output, void *scratch) {
    ee_depthwise_cmsis_nn(op, input, scratch, ee_behind_output(op, scratch));
    ee_add_residual(op, scratch, input2, output);
}
