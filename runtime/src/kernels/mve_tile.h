/* The innermost kernels of convolutions on MVE, and the fallback for other machines.
 *
 * A tile is four output pixels; a kernel computes all output channels of it. Eight accumulators
 * (four pixels, two channels) fill the eight registers that VMLADAVA can add to, so that every
 * vector of weights is used four times and every vector of pixels at least twice.
 */
#ifndef EE_MVE_TILE_H
#define EE_MVE_TILE_H

#include <stddef.h>
#include <stdint.h>

/* `restart` is loaded by a single LDM into r0-r8, r10-r12 and lr: accumulators (even registers and
 * lr) get zero, r1, r3, r5, r7 the pointers x and r11 num_blocks. Its layout is known to assembly,
 * as are the offsets of all other fields. */
typedef struct {
    struct {
        int32_t zero_r0;
        const int8_t *x0;
        int32_t zero_r2;
        const int8_t *x1;
        int32_t zero_r4;
        const int8_t *x2;
        int32_t zero_r6;
        const int8_t *x3;
        int32_t zero_r8, zero_r10;
        uint32_t num_blocks;
        int32_t zero_r12, zero_lr;
    } restart;
    const int32_t *weights;
    int8_t *output;     /* of the first pixel; advances by 4 until it is output_end */
    int8_t *output_end; /* at least 4 behind */
    int32_t output_offset;
    uint32_t pixel_offsets[4]; /* bytes from the first pixel's output to each pixel's */
    int32_t activation_min, activation_max;
} ee_mve_tile;

/* x0 to x3: each pixel's window, as num_blocks * 16 contiguous bytes. */
void ee_mve_tile_matmul(ee_mve_tile *tile);
void ee_mve_tile_matmul_relu(ee_mve_tile *tile);

/* x0 to x2: the three rows of a 3x3 window, first pixel; pixels are `channels` bytes apart.
 * num_blocks is channels / 16. */
#define EE_MVE_FOR_EACH_3X3(X) X(16, 1) X(16, 2) X(32, 1) X(32, 2) X(64, 1) X(64, 2)
#define EE_MVE_DECLARE_3X3(channels, stride)                                                       \
    void ee_mve_tile_3x3_c##channels##_s##stride(ee_mve_tile *tile);                               \
    void ee_mve_tile_3x3_c##channels##_s##stride##_relu(ee_mve_tile *tile);
EE_MVE_FOR_EACH_3X3(EE_MVE_DECLARE_3X3)
#undef EE_MVE_DECLARE_3X3

#endif
