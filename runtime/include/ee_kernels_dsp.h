/* Parameters of the packed kernels for cores with the DSP extension (Cortex-M4, M7, M33).
 *
 * The compiler packs weights into the layouts given here and folds the input's zero point into the
 * bias, so that padding is the zero point itself. Kernels and tensors are those of ee_kernels.h.
 * Weights, columns and scratch lie at addresses divisible by 4; single words of a tensor may be
 * read at any address, which these cores allow unless UNALIGN_TRP is set.
 *
 * An output channel's rescaling is two steps, y = (2 acc * multiplier + 2^31) >> 32 and
 * (y - (y < 0) + rounding) >> shift, where rounding = 2^(shift - 1) + (output_offset << shift):
 * TFLite's double rounding where shift >= 1 and nothing overflows, which the compiler proves.
 */
#ifndef EE_KERNELS_DSP_H
#define EE_KERNELS_DSP_H

#include "ee_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* With exact NULL: (a * factor1 + b * factor2 + constant) >> shift, then a clamp; the compiler has
 * compared it with the exact form for all 65,536 pairs. Otherwise the exact form. */
typedef struct {
    int32_t factor1, factor2, constant, shift;
    int32_t activation_min, activation_max;
    const ee_addition *exact;
} ee_dsp_addition;

/* Elements are added in order, so the output may be either input. */
typedef struct {
    uint32_t count;
    const ee_dsp_addition *addition;
} ee_add_dsp_op;

/* How sums of four channels become outputs: a list of int32 for each block of four channels,
 * bias[4], then (multiplier, rounding, shift) for each channel. Where `rescale_exactly` is set, a
 * channel has (multiplier, output_offset, shift) with the sign of ee_kernels.h instead.
 *
 * Weights are padded with zeros to blocks of four channels and to `depth`, a multiple of 4, in
 * kernel_h * kernel_w * input_c. One of two layouts, the other pointer is NULL:
 * weights8:  [block][depth / 4][4 channels][4]
 * weights16: [block][depth / 4][2][4 channels][2]; the first pair is elements 0 and 2 of the four,
 *            the second one elements 1 and 3.
 *
 * scratch: int16 columns[tile][depth], int16 weights[4][depth] if weights8, int8 edge[2][depth],
 * int8 result[tile][output_c] with a residual. `tile`, even, is how many pixels share one widening
 * of the weights. */
typedef struct {
    uint16_t input_h, input_w, input_c;
    uint16_t output_h, output_w, output_c;
    uint16_t kernel_h, kernel_w;
    uint16_t stride_h, stride_w;
    uint16_t dilation_h, dilation_w;
    uint16_t pad_top, pad_left;
    uint16_t depth, tile;
    int32_t input_zero_point;
    int32_t activation_min, activation_max;
    int32_t rescale_exactly;
    const int8_t *weights8;
    const int16_t *weights16;
    const int32_t *channels;
    const ee_dsp_addition *residual;
} ee_conv2d_dsp_op;

/* Kernel 3x3, depth multiplier 1, at least four channels; strides 1 or 2, equal; no dilation.
 *
 * The image is walked in lines; a line is a row of it, or a column where columns are longer. Sizes
 * and pads are of lines (`lines_*`) and of positions in them (`line_*`); steps are in bytes, from
 * a position to the next one and from a line to the next one, for weights in int8 [3][3][channels].
 * channels: int32 [channel][4]: multiplier, rounding, shift, twice the bias.
 * scratch: int32 planes[4][plane_words][3 slots], then int16 weights[4][5][4]; plane_words is
 * (output + 1) / 2 + 1 for outputs in a line at stride 1, output + 1 at stride 2. */
typedef struct {
    uint16_t lines_in, line_in;
    uint16_t lines_out, line_out;
    uint16_t lines_pad, line_pad;
    uint16_t stride, num_channels, plane_words;
    uint32_t input_step, input_line_step;
    uint32_t output_step, output_line_step;
    uint32_t weight_step, weight_line_step;
    int32_t input_zero_point;
    int32_t activation_min, activation_max;
    const int8_t *weights;
    const int32_t *channels;
} ee_depthwise_dsp_op;

/* weights8 and channels as in ee_conv2d_dsp_op, depth is in_features rounded up to 4.
 * scratch: int16 row[depth]. */
typedef struct {
    uint32_t num_rows, in_features, out_features, depth;
    int32_t activation_min, activation_max;
    int32_t rescale_exactly;
    const int8_t *weights8;
    const int32_t *channels;
} ee_fully_connected_dsp_op;

void ee_conv2d_dsp(const ee_conv2d_dsp_op *op, const int8_t *input, int8_t *output, void *scratch);
void ee_conv2d_dsp_add(const ee_conv2d_dsp_op *op, const int8_t *input, const int8_t *skip,
                       int8_t *output, void *scratch);
void ee_depthwise_dsp_3x3(const ee_depthwise_dsp_op *op, const int8_t *input, int8_t *output,
                          void *scratch);
void ee_fully_connected_dsp(const ee_fully_connected_dsp_op *op, const int8_t *input,
                            int8_t *output, void *scratch);
void ee_add_dsp(const ee_add_dsp_op *op, const int8_t *input1, const int8_t *input2, int8_t *output,
                void *scratch);

/* Products of matrices as in ee_batch_matmul; strides1[3] and output_strides[3] are 1 and depth is
 * a multiple of 4. multiplier, rounding and shift: as said above, of any column. scratch: int32
 * blocks[4][16], int8 spare[32], int16 rows[2][depth], int16 columns[16][depth]. */
typedef struct {
    uint32_t extents[4];
    uint32_t depth;
    uint32_t strides1[4], strides2[4], output_strides[4];
    int32_t offset1, offset2;
    int32_t multiplier, rounding, shift;
} ee_batch_matmul_dsp_op;

void ee_batch_matmul_dsp(const ee_batch_matmul_dsp_op *op, const int8_t *input,
                         const int8_t *input2, int8_t *output, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
