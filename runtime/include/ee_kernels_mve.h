/* Parameters of the kernels for cores with Helium (Armv8.1-M MVE: Cortex-M55, M85), and the
 * kernels.
 *
 * Form, tensors and arithmetic are those of ee_kernels.h. What differs: weights are packed by the
 * compiler in the order in which a kernel reads them, the input offset is folded into the bias
 * (so padding has the value -input_offset, the input's zero point), and no shift is positive.
 */
#ifndef EE_KERNELS_MVE_H
#define EE_KERNELS_MVE_H

#include "ee_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Addition with one rounding, which the compiler has proved to be that of ee_addition for all pairs
 * of inputs: clamp((a * factor1 + b * factor2 + constant) >> -shift). With `exact` set there is no
 * such form; then its left_shift is 20 and no shift is positive. */
typedef struct {
    int32_t factor1, factor2, constant, shift;
    int32_t activation_min, activation_max;
    const ee_addition *exact;
} ee_mve_addition;

/* Convolution. `weights` is a stream of words. Output channels are padded with zeros to a multiple
 * of four; for each four of them, c to c + 3, there are two records, of channels (c, c + 2) and
 * (c + 1, c + 3):
 *   int8 w[k_blocks][2][16]           each channel's weights, 16 at a time
 *   int32 bias[2], multiplier[2], shift[2]
 * The order of a channel's weights is [kernel_h][kernel_w][input_c], padded with zeros to
 * k_blocks * 16; for the kernels ee_conv2d_mve_3x3_* it is [input_c / 16][3][3][16]. */
typedef struct {
    uint16_t input_h, input_w, input_c;
    uint16_t output_h, output_w, output_c;
    uint16_t kernel_h, kernel_w;
    uint16_t stride_h, stride_w;
    uint16_t pad_top, pad_left;
    uint16_t k_blocks;
    int8_t pad_value;
    int8_t activation_min, activation_max;
    int32_t output_offset;
    const int32_t *weights;
    const ee_mve_addition *residual; /* for the kernels named _add */
} ee_mve_conv2d;

/* Any convolution without dilation. Scratch: see mve.py. The kernels named _relu require
 * activation_min = output_offset = -128 and activation_max = 127; the others that every shift is
 * negative, or activation_min >= output_offset. */
void ee_conv2d_mve(const ee_mve_conv2d *op, const int8_t *input, int8_t *output, void *scratch);
void ee_conv2d_mve_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                        void *scratch);
void ee_conv2d_mve_add(const ee_mve_conv2d *op, const int8_t *input, const int8_t *input2,
                       int8_t *output, void *scratch);

/* 1x1, with stride 1 and without padding. */
void ee_conv2d_mve_1x1(const ee_mve_conv2d *op, const int8_t *input, int8_t *output, void *scratch);
void ee_conv2d_mve_1x1_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                            void *scratch);
void ee_conv2d_mve_1x1_add(const ee_mve_conv2d *op, const int8_t *input, const int8_t *input2,
                           int8_t *output, void *scratch);

/* 3x3, of 16, 32 or 64 input channels, with stride 1 or 2 in both directions; output_w >= 4 and
 * output_c a multiple of four. */
void ee_conv2d_mve_3x3_c16_s1(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_conv2d_mve_3x3_c16_s1_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                                   void *scratch);
void ee_conv2d_mve_3x3_c16_s1_add(const ee_mve_conv2d *op, const int8_t *input,
                                  const int8_t *input2, int8_t *output, void *scratch);
void ee_conv2d_mve_3x3_c16_s2(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_conv2d_mve_3x3_c16_s2_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                                   void *scratch);
void ee_conv2d_mve_3x3_c16_s2_add(const ee_mve_conv2d *op, const int8_t *input,
                                  const int8_t *input2, int8_t *output, void *scratch);
void ee_conv2d_mve_3x3_c32_s1(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_conv2d_mve_3x3_c32_s1_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                                   void *scratch);
void ee_conv2d_mve_3x3_c32_s1_add(const ee_mve_conv2d *op, const int8_t *input,
                                  const int8_t *input2, int8_t *output, void *scratch);
void ee_conv2d_mve_3x3_c32_s2(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_conv2d_mve_3x3_c32_s2_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                                   void *scratch);
void ee_conv2d_mve_3x3_c32_s2_add(const ee_mve_conv2d *op, const int8_t *input,
                                  const int8_t *input2, int8_t *output, void *scratch);
void ee_conv2d_mve_3x3_c64_s1(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_conv2d_mve_3x3_c64_s1_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                                   void *scratch);
void ee_conv2d_mve_3x3_c64_s1_add(const ee_mve_conv2d *op, const int8_t *input,
                                  const int8_t *input2, int8_t *output, void *scratch);
void ee_conv2d_mve_3x3_c64_s2(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                              void *scratch);
void ee_conv2d_mve_3x3_c64_s2_relu(const ee_mve_conv2d *op, const int8_t *input, int8_t *output,
                                   void *scratch);
void ee_conv2d_mve_3x3_c64_s2_add(const ee_mve_conv2d *op, const int8_t *input,
                                  const int8_t *input2, int8_t *output, void *scratch);

/* Depthwise convolution with a depth multiplier of one. `parameters` is a stream of words.
 * ee_depthwise_mve: channels are padded with zeros to a multiple of four; for each four of them,
 *   int32 bias[4], multiplier[4], shift[4]; int8 w[kernel_h][kernel_w][4]
 * with the bias as the model has it. The others: for each channel,
 *   int32 bias, multiplier, shift; int8 w[3][3], padded to 12 bytes
 * with the input offset folded into the bias. */
typedef struct {
    uint16_t input_h, input_w, channels;
    uint16_t output_h, output_w;
    uint16_t kernel_h, kernel_w;
    uint16_t stride_h, stride_w;
    uint16_t pad_top, pad_left;
    int8_t pad_value;
    int8_t activation_min, activation_max;
    int32_t output_offset;
    const int32_t *parameters;
} ee_mve_depthwise;

/* Any window; without scratch. */
void ee_depthwise_mve(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                      void *scratch);
/* Scratch: one row of the input. _relu and the others: as for ee_conv2d_mve.
 * 3x3 with a column of padding on the right that the last window reads. s1: stride 1 and as many
 * columns out as in, at least two. s2: stride 2; pad_left 0 and an even input_w, or pad_left 1 and
 * an odd one. */
void ee_depthwise_mve_3x3_s1(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                             void *scratch);
void ee_depthwise_mve_3x3_s1_relu(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                                  void *scratch);
void ee_depthwise_mve_3x3_s2(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                             void *scratch);
void ee_depthwise_mve_3x3_s2_relu(const ee_mve_depthwise *op, const int8_t *input, int8_t *output,
                                  void *scratch);

/* Fully connected. `weights` is a stream of words; output features are padded with zeros to a
 * multiple of four; for each four of them:
 *   int8 w[ceil(in_features / 16)][4][16]
 *   int32 bias[4], multiplier[4], shift[4] */
typedef struct {
    uint32_t num_rows, in_features, out_features;
    int32_t output_offset;
    int32_t activation_min, activation_max;
    const int32_t *weights;
} ee_mve_fully_connected;

void ee_fully_connected_mve(const ee_mve_fully_connected *op, const int8_t *input, int8_t *output,
                            void *scratch);

/* Two tensors of one shape. May run in place. */
typedef struct {
    uint32_t num_bytes;
    const ee_mve_addition *addition;
} ee_mve_add;

void ee_add_mve(const ee_mve_add *op, const int8_t *input, const int8_t *input2, int8_t *output,
                void *scratch);

/* Products of matrices of which strides1[3] and output_strides[3] are 1, and strides2[2] or
 * strides2[3]. scratch: int32 sums[16], int8 columns[16][depth rounded up to 16]. */
void ee_batch_matmul_mve(const ee_batch_matmul *op, const int8_t *input, const int8_t *input2,
                         int8_t *output, void *scratch);

void ee_average_pool_mve(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch);
void ee_max_pool_mve(const ee_pool2d *op, const int8_t *input, int8_t *output, void *scratch);
void ee_mean_mve(const ee_mean *op, const int8_t *input, int8_t *output, void *scratch);
void ee_table_mve(const ee_table *op, const int8_t *input, int8_t *output, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
