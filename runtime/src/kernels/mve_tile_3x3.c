/* 3x3 windows read where the image lies, of four neighbouring output pixels.
 *
 * Six vectors hold one row of weights of two channels; each vector of the image is loaded once for
 * all the windows it is part of: 108 instructions for 1,152 products with stride 1, 117 with 2.
 */
#include "mve_tile.h"

#if defined(__ARM_FEATURE_MVE)
#include "mve_tile_asm.h"

// clang-format off
#define WEIGHTS                                                                                    \
    "vldrw.u32 q0, [r9], #16\n"                                                                    \
    "vldrw.u32 q1, [r9], #16\n"                                                                    \
    "vldrw.u32 q2, [r9], #16\n"                                                                    \
    "vldrw.u32 q3, [r9], #16\n"                                                                    \
    "vldrw.u32 q4, [r9], #16\n"                                                                    \
    "vldrw.u32 q5, [r9], #16\n"

/* The first load of a row also moves to the next 16 channels. */
#define FIRST(row) "vldrw.u32 q6, [" row "], #16\n"
#define PIXEL(row, column, channels) "vldrw.u32 q6, [" row ", #" #column "*" #channels "-16]\n"

/* The vector is the left, middle or right column of pixel 0's to 3's window. */
#define LEFT(first, second) "vmladava.s8 " first ", q0, q6\n vmladava.s8 " second ", q1, q6\n"
#define MIDDLE(first, second) "vmladava.s8 " first ", q2, q6\n vmladava.s8 " second ", q3, q6\n"
#define RIGHT(first, second) "vmladava.s8 " first ", q4, q6\n vmladava.s8 " second ", q5, q6\n"
#define OF0(TAP) TAP("r0", "r8")
#define OF1(TAP) TAP("r2", "r10")
#define OF2(TAP) TAP("r4", "r12")
#define OF3(TAP) TAP("r6", "lr")

#define ROW_1(row, c)                                                                              \
    WEIGHTS                                                                                        \
    FIRST(row) OF0(LEFT)                                                                           \
    PIXEL(row, 1, c) OF0(MIDDLE) OF1(LEFT)                                                         \
    PIXEL(row, 2, c) OF0(RIGHT) OF1(MIDDLE) OF2(LEFT)                                              \
    PIXEL(row, 3, c) OF1(RIGHT) OF2(MIDDLE) OF3(LEFT)                                              \
    PIXEL(row, 4, c) OF2(RIGHT) OF3(MIDDLE)                                                        \
    PIXEL(row, 5, c) OF3(RIGHT)

#define ROW_2(row, c)                                                                              \
    WEIGHTS                                                                                        \
    FIRST(row) OF0(LEFT)                                                                           \
    PIXEL(row, 1, c) OF0(MIDDLE)                                                                   \
    PIXEL(row, 2, c) OF0(RIGHT) OF1(LEFT)                                                          \
    PIXEL(row, 3, c) OF1(MIDDLE)                                                                   \
    PIXEL(row, 4, c) OF1(RIGHT) OF2(LEFT)                                                          \
    PIXEL(row, 5, c) OF2(MIDDLE)                                                                   \
    PIXEL(row, 6, c) OF2(RIGHT) OF3(LEFT)                                                          \
    PIXEL(row, 7, c) OF3(MIDDLE)                                                                   \
    PIXEL(row, 8, c) OF3(RIGHT)

#define DOT(ROW, c)                                                                                \
    "2:\n"                                                                                         \
    ROW("r1", c)                                                                                   \
    ROW("r3", c)                                                                                   \
    ROW("r5", c)                                                                                   \
    "subs r11, #1\n"                                                                               \
    "bne.w 2b\n"
// clang-format on

#define DEFINE(channels, stride)                                                                   \
    EE_TILE_FUNCTIONS(ee_mve_tile_3x3_c##channels##_s##stride, DOT(ROW_##stride, channels))

#else
#include "mve_tile_c.h"

#define DEFINE(channels, stride)                                                                   \
    static const int8_t *window_c##channels##_s##stride(const ee_mve_tile *tile, uint32_t pixel,   \
                                                        uint32_t block) {                          \
        const int8_t *const rows[3] = {tile->restart.x0, tile->restart.x1, tile->restart.x2};      \
        const uint32_t column = pixel * (stride) + block % 3u;                                     \
        return rows[block / 3u % 3u] + column * (channels) + block / 9u * 16u;                     \
    }                                                                                              \
    void ee_mve_tile_3x3_c##channels##_s##stride(ee_mve_tile *tile) {                              \
        ee_tile_in_c(tile, tile->restart.num_blocks * 9u, window_c##channels##_s##stride);         \
    }                                                                                              \
    void ee_mve_tile_3x3_c##channels##_s##stride##_relu(ee_mve_tile *tile) {                       \
        ee_mve_tile_3x3_c##channels##_s##stride(tile);                                             \
    }
#endif

EE_MVE_FOR_EACH_3X3(DEFINE)
