/* What the files that call CMSIS-NN share: its structs, filled from ours.
 *
 * CMSIS-NN's results are not looked at: it refuses shapes and missing buffers, and the compiler has
 * checked both. It wants multipliers and shifts without const, and writes to neither.
 */
#ifndef EE_CMSIS_NN_H
#define EE_CMSIS_NN_H

#include "ee_kernels_cmsis_nn.h"

#include "arm_nnfunctions.h"

static inline cmsis_nn_dims ee_dims(int32_t n, int32_t h, int32_t w, int32_t c) {
    const cmsis_nn_dims dims = {n, h, w, c};
    return dims;
}

static inline cmsis_nn_tile ee_tile(int32_t h, int32_t w) {
    const cmsis_nn_tile tile = {.w = w, .h = h};
    return tile;
}

static inline cmsis_nn_activation ee_limits(int32_t min, int32_t max) {
    const cmsis_nn_activation limits = {.min = min, .max = max};
    return limits;
}

static inline cmsis_nn_context ee_context(void *scratch) {
    const cmsis_nn_context context = {.buf = scratch, .size = 0}; /* nothing reads the size */
    return context;
}

static inline cmsis_nn_per_channel_quant_params ee_factors(const ee_conv2d *op) {
    const cmsis_nn_per_channel_quant_params factors = {
        .multiplier = (int32_t *)(uintptr_t)op->multiplier,
        .shift = (int32_t *)(uintptr_t)op->shift,
    };
    return factors;
}

/* output = convolved + input2, as ee_conv2d says; `convolved` lies at the beginning of scratch. */
static inline void ee_add_residual(const ee_conv2d *op, const int8_t *convolved,
                                   const int8_t *input2, int8_t *output) {
    const ee_add add = {
        .extents = {1, 1, 1, (uint32_t)op->output_h * op->output_w * op->output_c},
        .strides1 = {0, 0, 0, 1},
        .strides2 = {0, 0, 0, 1},
        .constant = NULL,
        .addition = op->residual,
    };
    ee_add_portable(&add, convolved, input2, output, NULL);
}

/* The rest of scratch, behind an output. */
static inline void *ee_behind_output(const ee_conv2d *op, void *scratch) {
    const size_t bytes = (size_t)op->output_h * op->output_w * op->output_c;
    return (uint8_t *)scratch + (bytes + 15) / 16 * 16;
}

#endif
