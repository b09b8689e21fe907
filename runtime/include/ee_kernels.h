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
 *                             + rescale2((b + offset2) << left_shift)))
 * multiplier1 or multiplier2 may be negative: then the operand is rescaled by its absolute, and
 * subtracted. */
typedef struct {
    int32_t left_shift;
    int32_t offset1, multiplier1, shift1;
    int32_t offset2, multiplier2, shift2;
    int32_t output_offset, output_multiplier, output_shift;
    int32_t activation_min, activation_max;
} ee_addition;

/* Convolution and depthwise convolution. Portable layout of weights: [oc][kh][kw][ic] for a
 * convolution, [kh][kw][oc] for a depthwise one. bias, multiplier, shift: one for each output
 * channel. To the bias the portable kernels expect input_offset * (sum of the channel's weights)
 * added already, modulo 2^32, so that they multiply bare inputs; where the window leaves the image
 * they make up for it. With residual set, the second input, of the output's shape, is added to the
 * result (which is `a` of ee_addition); it may be the same memory as the output. */
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

void ee_conv2d_portable(const ee_conv2d *op, const int8_t *input, int8_t *output, void *scratch);
void ee_conv2d_portable_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                            int8_t *output, void *scratch);
void ee_depthwise_portable(const ee_conv2d *op, const int8_t *input, int8_t *output, void *scratch);
void ee_depthwise_portable_add(const ee_conv2d *op, const int8_t *input, const int8_t *input2,
                               int8_t *output, void *scratch);

/* input [num_rows][in_features], weights [out_features][in_features] in the portable layout; bias
 * as in ee_conv2d. */
typedef struct {
    uint32_t num_rows, in_features, out_features;
    int32_t input_offset, output_offset;
    int32_t activation_min, activation_max;
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier;
    const int32_t *shift;
} ee_fully_connected;

void ee_fully_connected_portable(const ee_fully_connected *op, const int8_t *input, int8_t *output,
                                 void *scratch);

/* Products of matrices, both computed: for all i, j, row, column below extents,
 * output[i][j][row][column] = clamp(output_offset + rescale(sum over d < depth of
 *                                   (a[i][j][row][d] + offset1) * (b[i][j][d][column] + offset2))).
 * Strides are in elements: strides1 for i, j, row, d; strides2 for i, j, column, d; output_strides
 * for i, j, row, column. scratch holds a uint32_t for each column. */
typedef struct {
    uint32_t extents[4];
    uint32_t depth;
    uint32_t strides1[4], strides2[4], output_strides[4];
    int32_t offset1, offset2, output_offset;
    int32_t multiplier, shift;
} ee_batch_matmul;

void ee_batch_matmul_portable(const ee_batch_matmul *op, const int8_t *input, const int8_t *input2,
                              int8_t *output, void *scratch);

/* Two tensors, element by element. The output is dense, of shape extents; strides say how many
 * elements one step along a dimension moves in an input, 0 where it is broadcast. An input that is
 * not broadcast may be the same memory as the output. */
typedef struct {
    uint32_t extents[4];
    uint32_t strides1[4], strides2[4];
    const int8_t *constant; /* the second input of the kernels that are called with one */
    const ee_addition *addition;
} ee_add;

void ee_add_portable(const ee_add *op, const int8_t *input, const int8_t *input2, int8_t *output,
                     void *scratch);
void ee_add_constant_portable(const ee_add *op, const int8_t *input, int8_t *output, void *scratch);

/* clamp(output_offset + rescale((a + offset1) * (b + offset2))) */
typedef struct {
    uint32_t extents[4];
    uint32_t strides1[4], strides2[4];
    const int8_t *constant;
    int32_t offset1, offset2, output_offset;
    int32_t multiplier, shift;
    int32_t activation_min, activation_max;
} ee_multiply;

void ee_multiply_portable(const ee_multiply *op, const int8_t *input, const int8_t *input2,
                          int8_t *output, void *scratch);
void ee_multiply_constant_portable(const ee_multiply *op, const int8_t *input, int8_t *output,
                                   void *scratch);

/* Pooling: what lies outside the image counts neither as values nor in the divisor. */
typedef struct {
    uint16_t input_h, input_w, channels;
    uint16_t output_h, output_w;
    uint16_t kernel_h, kernel_w;
    uint16_t stride_h, stride_w;
    uint16_t pad_top, pad_left;
    int32_t activation_min, activation_max;
} ee_pool2d;

void ee_average_pool_portable(const ee_pool2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_max_pool_portable(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch);

/* Mean over the middle axis: input [outer][reduced][inner], output [outer][inner].
 * clamp(output_offset + rescale(sum + sum_offset)), the division by `reduced` being in rescale. */
typedef struct {
    uint32_t outer, reduced, inner;
    int32_t sum_offset; /* -reduced * zero point of the input */
    int32_t output_offset, multiplier, shift;
} ee_mean;

void ee_mean_portable(const ee_mean *op, const int8_t *input, int8_t *output, void *scratch);

/* output = table[input + 128]; may run in place. */
typedef struct {
    uint32_t num_bytes;
    const int8_t *table; /* [256] */
} ee_table;

void ee_table_portable(const ee_table *op, const int8_t *input, int8_t *output, void *scratch);

/* Softmax over rows of `depth`, output scale 1/256 and zero point -128; may run in place.
 * exponentials[d] is exp, in units of 2^-31, of how far d steps of the input's scale are below 0;
 * what is num_exponentials steps or more below its row's largest counts as nothing. */
typedef struct {
    uint32_t num_rows, depth;
    uint32_t num_exponentials;
    const int32_t *exponentials;
} ee_softmax;

void ee_softmax_portable(const ee_softmax *op, const int8_t *input, int8_t *output, void *scratch);

/* output[output_start + sum of i_d * output_strides_d] =
 * input[input_start + sum of i_d * input_strides_d] for all i_d < extents_d, in elements; before
 * that, the first fill_bytes of the output are set to `fill`. */
typedef struct {
    uint32_t extents[4];
    uint32_t input_start, output_start;
    int32_t input_strides[4], output_strides[4];
    uint32_t fill_bytes;
    int32_t fill;
} ee_copy;

void ee_copy_portable(const ee_copy *op, const int8_t *input, int8_t *output, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
