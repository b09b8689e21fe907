/* What the assembly kernels for tiles share. Assembly, since the compiler neither keeps eight
 * accumulators in even registers nor lr among them.
 *
 * r0, r2, r4, r6: first channel's sums of pixels 0 to 3; r8, r10, r12, lr: second channel's.
 * r1, r3, r5, r7: where pixels are read. r9: the stream of weights. r11: the loop's counter.
 * The tile is at [sp, #64]. q7 holds results of channels c and c + 2 while those of c + 1 and
 * c + 3 are computed.
 */
#ifndef EE_MVE_TILE_ASM_H
#define EE_MVE_TILE_ASM_H

// clang-format off
#define EE_TILE_ENTER                                                                              \
    "push {r0, r4-r11, lr}\n"                                                                      \
    "vpush {d8-d15}\n"                                                                             \
    "ldr r9, [r0, #52]\n"

#define EE_TILE_LEAVE                                                                              \
    "vpop {d8-d15}\n"                                                                              \
    "pop {r0, r4-r11, pc}\n"

#define EE_TILE_RESTART                                                                            \
    "ldr r1, [sp, #64]\n"                                                                          \
    "ldm r1, {r0-r8, r10-r12, lr}\n"

/* Halves away from zero, where the shift that follows rounds them up: one less if negative. */
#define EE_TILE_FIX                                                                                \
    "vshr.s32 q2, q0, #31\n"                                                                       \
    "vshr.s32 q3, q1, #31\n"                                                                       \
    "vadd.i32 q0, q0, q2\n"                                                                        \
    "vadd.i32 q1, q1, q3\n"
#define EE_TILE_NO_FIX

/* Rescales both channels, narrows them to 16 bits and interleaves them into the vector `to`. */
#define EE_TILE_RESCALE(FIX, to)                                                                   \
    "vmov q0[2], q0[0], r0, r4\n"                                                                  \
    "vmov q0[3], q0[1], r2, r6\n"                                                                  \
    "vmov q1[2], q1[0], r8, r12\n"                                                                 \
    "vmov q1[3], q1[1], r10, lr\n"                                                                 \
    "ldm r9!, {r0, r2, r4, r6, r8, r10}\n"                                                         \
    "vadd.i32 q0, q0, r0\n"                                                                        \
    "vadd.i32 q1, q1, r2\n"                                                                        \
    "vqrdmulh.s32 q0, q0, r4\n"                                                                    \
    "vqrdmulh.s32 q1, q1, r6\n"                                                                    \
    FIX                                                                                            \
    "vrshl.s32 q0, r8\n"                                                                           \
    "vrshl.s32 q1, r10\n"                                                                          \
    "vqmovnb.s32 " to ", q0\n"                                                                     \
    "vqmovnt.s32 " to ", q1\n"

#define EE_TILE_CLAMP                                                                              \
    "ldrd r4, r6, [r1, #84]\n"                                                                     \
    "vdup.8 q1, r4\n"                                                                              \
    "vdup.8 q2, r6\n"                                                                              \
    "vmax.s8 q0, q0, q1\n"                                                                         \
    "vmin.s8 q0, q0, q2\n"
#define EE_TILE_NO_CLAMP

/* q7 and q6 hold 16 bits of channels (c, c + 2) and (c + 1, c + 3); one word for each pixel. */
#define EE_TILE_STORE(CLAMP)                                                                       \
    "ldr r1, [sp, #64]\n"                                                                          \
    "ldrd r0, r2, [r1, #56]\n"                                                                     \
    "ldr r4, [r1, #64]\n"                                                                          \
    "vldrw.u32 q3, [r1, #68]\n"                                                                    \
    "vqadd.s16 q7, q7, r4\n"                                                                       \
    "vqadd.s16 q6, q6, r4\n"                                                                       \
    "vqmovnb.s16 q0, q7\n"                                                                         \
    "vqmovnt.s16 q0, q6\n"                                                                         \
    CLAMP                                                                                          \
    "vstrw.32 q0, [r0, q3]\n"                                                                      \
    "adds r0, #4\n"                                                                                \
    "str r0, [r1, #56]\n"                                                                          \
    "cmp r0, r2\n"

/* DOT sums the windows of two channels. */
#define EE_TILE_BODY(DOT, FIX, CLAMP)                                                              \
    EE_TILE_ENTER                                                                                  \
    "1:\n"                                                                                         \
    EE_TILE_RESTART                                                                                \
    DOT                                                                                            \
    EE_TILE_RESCALE(FIX, "q7")                                                                     \
    EE_TILE_RESTART                                                                                \
    DOT                                                                                            \
    EE_TILE_RESCALE(FIX, "q6")                                                                     \
    EE_TILE_STORE(CLAMP)                                                                           \
    "bne.w 1b\n"                                                                                   \
    EE_TILE_LEAVE

#define EE_TILE_FUNCTIONS(name, DOT)                                                               \
    __attribute__((naked)) void name(__attribute__((unused)) ee_mve_tile *tile) {                  \
        __asm volatile(EE_TILE_BODY(DOT, EE_TILE_FIX, EE_TILE_CLAMP));                             \
    }                                                                                              \
    __attribute__((naked)) void name##_relu(__attribute__((unused)) ee_mve_tile *tile) {           \
        __asm volatile(EE_TILE_BODY(DOT, EE_TILE_NO_FIX, EE_TILE_NO_CLAMP));                       \
    }
// clang-format on

_Static_assert(offsetof(ee_mve_tile, weights) == 52, "known to assembly");
_Static_assert(offsetof(ee_mve_tile, output) == 56, "known to assembly");
_Static_assert(offsetof(ee_mve_tile, output_offset) == 64, "known to assembly");
_Static_assert(offsetof(ee_mve_tile, pixel_offsets) == 68, "known to assembly");
_Static_assert(offsetof(ee_mve_tile, activation_min) == 84, "known to assembly");

#endif
