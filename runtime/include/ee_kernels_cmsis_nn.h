/* Kernels of CMSIS-NN 4.0.0 behind the interface of ee_kernels.h, for cores with and without the
 * DSP and MVE extensions. CMSIS-NN is Arm's and has to be compiled beside them.
 *
 * Parameters are those of ee_kernels.h with one difference: a bias is the layer's own, because
 * CMSIS-NN adds the input's offset itself. What a kernel does with its scratch, and how much of it
 * it takes, differs from core to core; the compiler knows.
 *
 * Where CMSIS-NN is compiled for MVE, a depthwise kernel reads bias, multiplier and shift in fours
 * and the weights of the last tap likewise: these arrays are filled up with zeros to whole fours.
 */
#ifndef EE_KERNELS_CMSIS_NN_H
#define EE_KERNELS_CMSIS_NN_H

#include "ee_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

void ee_conv2d_cmsis_nn(const ee_conv2d *op, const int8_t *input, int8_t *output, void *scratch);

void ee_depthwise_cmsis_nn(const ee_conv2d *op, const int8_t *input, int8_t *output, void *scratch);

/* With op->residual. CMSIS-NN does not add, so scratch begins with room for the output before the
 * sum, filled up to a multiple of 16 bytes. */
void ee_conv2d_cmsis_nn_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                            int8_t *output, void *scratch);
void ee_depthwise_cmsis_nn_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                               int8_t *output, void *scratch);

/* One multiplier and one shift for all features: the first ones are taken. */
void ee_fully_connected_cmsis_nn(const ee_fully_connected *op, const int8_t *input, int8_t *output,
                                 void *scratch);

void ee_average_pool_cmsis_nn(const ee_pool2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_max_pool_cmsis_nn(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
