/* The innermost kernels of depthwise convolutions on MVE.
 *
 * A strip is four output rows; a kernel computes all columns and channels of it. The four lanes of
 * a vector are the four rows, so that a weight is a scalar, and walking along the columns every
 * vector of the image is used for all the windows it is part of.
 */
#ifndef EE_MVE_STRIP_H
#define EE_MVE_STRIP_H

#include <stddef.h>
#include <stdint.h>

/* Offsets of fields are known to assembly. `rows` and `output_rows` are distances in bytes: from
 * `input` to a row of the input, for each row of the window and each lane; and from `input` (stride
 * 1) or `output` (stride 2) to a row of the output. Rows outside the image are rows of padding;
 * lanes that are too many repeat the last row. */
typedef struct {
    const int8_t *input;       /* of the first channel and column; advances */
    const int32_t *parameters; /* see ee_mve_depthwise; advances */
    uint32_t num_channels;     /* counts down to 0 */
    uint32_t channel_bytes;    /* from one column to the next */
    uint32_t num_columns;      /* of the output */
    int32_t pad_value;
    int8_t *output; /* of the first channel and column; advances */
    int32_t output_offset, activation_min, activation_max;
    uint32_t pad_left; /* 0 or 1 */
    uintptr_t output_rows[4];
    uintptr_t rows[3][4];
} ee_mve_strip;

/* Requirements: those of the ee_depthwise_mve_3x3_* kernels. For stride 1, output_rows are
 * one column less. */
void ee_mve_strip_3x3_s1(ee_mve_strip *strip);
void ee_mve_strip_3x3_s1_relu(ee_mve_strip *strip);
void ee_mve_strip_3x3_s2(ee_mve_strip *strip);
void ee_mve_strip_3x3_s2_relu(ee_mve_strip *strip);

#endif
