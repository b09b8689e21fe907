/* Four windows that are contiguous in memory, times the weights of all output channels. */
#include "mve_tile.h"

#if defined(__ARM_FEATURE_MVE)
#include "mve_tile_asm.h"

// clang-format off
/* 16 weights of two channels: 14 instructions for 128 products. */
#define BLOCK                                                                                      \
    "vldrw.u32 q0, [r9], #16\n"                                                                    \
    "vldrb.u8 q2, [r1], #16\n"                                                                     \
    "vmladava.s8 r0, q0, q2\n"                                                                     \
    "vldrw.u32 q1, [r9], #16\n"                                                                    \
    "vmladava.s8 r8, q1, q2\n"                                                                     \
    "vldrb.u8 q3, [r3], #16\n"                                                                     \
    "vmladava.s8 r2, q0, q3\n"                                                                     \
    "vldrb.u8 q2, [r5], #16\n"                                                                     \
    "vmladava.s8 r10, q1, q3\n"                                                                    \
    "vldrb.u8 q3, [r7], #16\n"                                                                     \
    "vmladava.s8 r4, q0, q2\n"                                                                     \
    "vmladava.s8 r12, q1, q2\n"                                                                    \
    "vmladava.s8 r6, q0, q3\n"                                                                     \
    "vmladava.s8 lr, q1, q3\n"

/* The odd block first, then two at a time. Vector instructions leave the flags alone. */
#define DOT                                                                                        \
    "lsrs r11, r11, #1\n"                                                                          \
    "bcc 2f\n"                                                                                     \
    BLOCK                                                                                          \
    "2: beq 4f\n"                                                                                  \
    "3:\n"                                                                                         \
    BLOCK                                                                                          \
    BLOCK                                                                                          \
    "subs r11, #1\n"                                                                               \
    "bne 3b\n"                                                                                     \
    "4:\n"
// clang-format on

EE_TILE_FUNCTIONS(ee_mve_tile_matmul, DOT)

#else
#include "mve_tile_c.h"

static const int8_t *window(const ee_mve_tile *tile, uint32_t pixel, uint32_t block) {
    const int8_t *const x[4] = {tile->restart.x0, tile->restart.x1, tile->restart.x2,
                                tile->restart.x3};
    return x[pixel] + block * 16u;
}

void ee_mve_tile_matmul(ee_mve_tile *tile) { ee_tile_in_c(tile, tile->restart.num_blocks, window); }

void ee_mve_tile_matmul_relu(ee_mve_tile *tile) { ee_mve_tile_matmul(tile); }
#endif
