/* Parameters of the kernels, and the portable kernels themselves.
 *
 * Every kernel has the form
 *
 *     void NAME(const STRUCT *op, const int8_t *input, [const int8_t *input2,] int8_t *output,
 *               void *scratch);
 *
 * Tensors are int8, NHWC, dense, batch 1. Nothing here fails: the compiler has checked all shapes.
 * Arithmetic is that of TFLite's reference kernels, to the bit. A real factor r is a pair
 * (multiplier, shift), r = multiplier * 2^(shift - 31), applied with double rounding.
 * Offsets: an input's is its negated zero point, an output's is its zero point.
 */
#ifndef EE_KERNELS_H
#define EE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clamp(output_offset + rescale(rescale1((a + offset1) << left_shift)
 *                             + rescale2((b + offset2) << left_shift))) */
typedef struct {
    int32_t left_shift;
    int32_t offset1, multiplier1, shift1;
    int32_t offset2, multiplier2, shift2;
    int32_t output_offset, output_multiplier, output_shift;
    int32_t activation_min, activation_max;
} ee_addition;

/* Convolution and depthwise convolution. Portable layout of weights: [oc][kh][kw][ic] for a
 * convolution, [kh][kw][oc] for a depthwise one. bias, multiplier, shift: one for each output
 * channel. With residual set, the second input, of the output's shape, is added to the result
 * (which is `a` of ee_addition); it may be the same memory as the output. */
typedef struct {
    uint16_t input_h, input_w, input_c;
    uint16_t output_h, output_w, output_c;
    uint16_t kernel_h, kernel_w;
    uint16_t stride_h, stride_w;
    uint16_t dilation_h, dilation_w;
    uint16_t pad_top, pad_left;
    uint16_t depth_multiplier; /* depthwise only; 1 otherwise */
    int32_t input_offset, output_offset;
    int32_t activation_min, activation_max;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
    const ee_addition *residual;
} ee_conv2d;

/* input [num_rows][in_features], weights [out_features][in_features] in the portable layout. */
typedef struct {
    uint32_t num_rows, in_features, out_features;
    int32_t input_offset, output_offset;
    int32_t activation_min, activation_max;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
} ee_fully_connected;

#ifdef __cplusplus
}
#endif
#endif
