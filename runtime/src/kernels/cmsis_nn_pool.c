#include "cmsis_nn.h"

typedef arm_cmsis_nn_status pooling(const cmsis_nn_context *context,
                                    const cmsis_nn_pool_params *params, const cmsis_nn_dims *source,
                                    const int8_t *input, const cmsis_nn_dims *window,
                                    const cmsis_nn_dims *result, int8_t *output);

static inline void pool(pooling *run, const ee_pool2d *op, const int8_t *input, int8_t *output,
                        void *scratch) {
    const cmsis_nn_pool_params params = {
        .stride = ee_tile(op->stride_h, op->stride_w),
        .padding = ee_tile(op->pad_top, op->pad_left),
        .activation = ee_limits(op->activation_min, op->activation_max),
    };
    const cmsis_nn_context context = ee_context(scratch);
    const cmsis_nn_dims source = ee_dims(1, op->input_h, op->input_w, op->channels);
    const cmsis_nn_dims window = ee_dims(1, op->kernel_h, op->kernel_w, 1);
    const cmsis_nn_dims result = ee_dims(1, op->output_h, op->output_w, op->channels);
    (void)run(&context, &params, &source, input, &window, &result, output);
}

void ee_average_pool_cmsis_nn(const ee_pool2d *op, const int8_t *input, int8_t *output,
                              void *scratch) {
    pool(arm_avgpool_s8, op, input, output, scratch);
}

void ee_max_pool_cmsis_nn(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch) {
    pool(arm_max_pool_s8, op, input, output, scratch);
}
