#include "mve_strip.h"

#if defined(__ARM_FEATURE_MVE)

_Static_assert(offsetof(ee_mve_strip, num_channels) == 8, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, channel_bytes) == 12, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, num_columns) == 16, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, pad_value) == 20, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, output) == 24, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, output_offset) == 28, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, activation_min) == 32, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, pad_left) == 40, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, output_rows) == 44, "known to assembly");
_Static_assert(offsetof(ee_mve_strip, rows) == 60, "known to assembly");

/* Assembly, since nine weights and the loop need all of the registers.
 *
 * r0-r8: weights. r9: the input's column. r11: multiplier. r12: channel_bytes. lr: columns to go.
 * r10: shift (stride 1), or the output's column (stride 2, where the shift is a vector).
 * q0-q2: sums of up to three columns that are being computed. q5-q7: rows.
 * On the stack: [0] bias, [16] output_rows, [32] output_offset, [48] and [64] activation_min and
 * max, [80] shift: vectors; [96] the strip. */
// clang-format off
#define ENTER                                                                                      \
    "push {r3-r11, lr}\n"                                                                          \
    "vpush {d8-d15}\n"                                                                             \
    "sub sp, #104\n"                                                                               \
    "str r0, [sp, #96]\n"                                                                          \
    "vldrw.u32 q0, [r0, #44]\n"                                                                    \
    "vstrw.32 q0, [sp, #16]\n"                                                                     \
    "ldrd r1, r2, [r0, #28]\n"                                                                     \
    "ldr r3, [r0, #36]\n"                                                                          \
    "vdup.32 q0, r1\n"                                                                             \
    "vstrw.32 q0, [sp, #32]\n"                                                                     \
    "vdup.32 q0, r2\n"                                                                             \
    "vstrw.32 q0, [sp, #48]\n"                                                                     \
    "vdup.32 q0, r3\n"                                                                             \
    "vstrw.32 q0, [sp, #64]\n"                                                                     \
    "vldrw.u32 q5, [r0, #60]\n"                                                                    \
    "vldrw.u32 q6, [r0, #76]\n"                                                                    \
    "vldrw.u32 q7, [r0, #92]\n"

#define LEAVE                                                                                      \
    "add sp, #104\n"                                                                               \
    "vpop {d8-d15}\n"                                                                              \
    "pop {r3-r11, pc}\n"

/* Of the next channel: weights, r9, r11, r12, lr; r10 is the shift; q0 and [sp] the bias. */
#define CHANNEL                                                                                    \
    "1:\n"                                                                                         \
    "ldr r12, [sp, #96]\n"                                                                         \
    "ldrd r9, r11, [r12]\n"                                                                        \
    "adds.w r0, r9, #1\n"                                                                          \
    "add r1, r11, #24\n"                                                                           \
    "strd r0, r1, [r12]\n"                                                                         \
    "ldrd r12, lr, [r12, #12]\n"                                                                   \
    "ldr r10, [r11]\n"                                                                             \
    "vdup.32 q0, r10\n"                                                                            \
    "vstrw.32 q0, [sp]\n"                                                                          \
    "ldrsb r0, [r11, #12]\n"                                                                       \
    "ldrsb r1, [r11, #13]\n"                                                                       \
    "ldrsb r2, [r11, #14]\n"                                                                       \
    "ldrsb r3, [r11, #15]\n"                                                                       \
    "ldrsb r4, [r11, #16]\n"                                                                       \
    "ldrsb r5, [r11, #17]\n"                                                                       \
    "ldrsb r6, [r11, #18]\n"                                                                       \
    "ldrsb r7, [r11, #19]\n"                                                                       \
    "ldrsb r8, [r11, #20]\n"                                                                       \
    "ldrd r11, r10, [r11, #4]\n"

#define NEXT_CHANNEL                                                                               \
    "ldr r0, [sp, #96]\n"                                                                          \
    "ldr r1, [r0, #8]\n"                                                                           \
    "subs r1, #1\n"                                                                                \
    "str r1, [r0, #8]\n"                                                                           \
    "bne.w 1b\n"

/* A column of padding, times a column of weights. */
#define ADD_PADDING(first, second, third, scratch)                                                 \
    "add " third ", " first "\n"                                                                   \
    "add " third ", " second "\n"                                                                  \
    "ldr " scratch ", [sp, #96]\n"                                                                 \
    "ldr " scratch ", [" scratch ", #20]\n"                                                        \
    "mul " third ", " third ", " scratch "\n"                                                      \
    "vadd.i32 q0, q0, " third "\n"

#define MLA(to, from, weight) "vmla.s32 " to ", " from ", " weight "\n"

/* One column of the input, used as left, middle and right column of windows, as the case may be. */
#define COLUMN(TAPS)                                                                               \
    "vldrb.s32 q3, [r9, q5]\n"                                                                     \
    "vldrb.s32 q4, [r9, q6]\n"                                                                     \
    TAPS("q3", "r0", "r1", "r2")                                                                   \
    "vldrb.s32 q3, [r9, q7]\n"                                                                     \
    TAPS("q4", "r3", "r4", "r5")                                                                   \
    TAPS("q3", "r6", "r7", "r8")                                                                   \

#define START(q) "vldrw.u32 " q ", [sp]\n"

#define FIX(q) "vshr.s32 q4, " q ", #31\n vadd.i32 " q ", " q ", q4\n"
#define NO_FIX(q)
#define CLAMP(q)                                                                                   \
    "vldrw.u32 q3, [sp, #48]\n"                                                                    \
    "vldrw.u32 q4, [sp, #64]\n"                                                                    \
    "vmax.s32 " q ", " q ", q3\n"                                                                  \
    "vmin.s32 " q ", " q ", q4\n"
#define SATURATE(q) "vqmovnb.s32 " q ", " q "\n vqmovnb.s16 " q ", " q "\n"

#define FINISH_1(q, ROUND, LIMIT)                                                                  \
    "vqrdmulh.s32 " q ", " q ", r11\n"                                                             \
    "vldrw.u32 q3, [sp, #32]\n"                                                                    \
    ROUND(q)                                                                                       \
    "vrshl.s32 " q ", r10\n"                                                                       \
    "vadd.i32 " q ", " q ", q3\n"                                                                  \
    LIMIT(q)                                                                                       \
    "vldrw.u32 q3, [sp, #16]\n"                                                                    \
    "vstrb.32 " q ", [r9, q3]\n"

#define FINISH_2(q, ROUND, LIMIT)                                                                  \
    "vqrdmulh.s32 " q ", " q ", r11\n"                                                             \
    "vldrw.u32 q3, [sp, #80]\n"                                                                    \
    ROUND(q)                                                                                       \
    "vrshl.s32 " q ", " q ", q3\n"                                                                 \
    "vldrw.u32 q3, [sp, #32]\n"                                                                    \
    "vadd.i32 " q ", " q ", q3\n"                                                                  \
    LIMIT(q)                                                                                       \
    "vldrw.u32 q3, [sp, #16]\n"                                                                    \
    "vstrb.32 " q ", [r10, q3]\n"                                                                  \
    "add r10, r12\n"

/* Taps of one vector; the names say which sums get the left, middle and right weight. */
#define LEFT_1_MIDDLE_0(x, l, m, r) MLA("q0", x, m) MLA("q1", x, l)
#define LEFT_2_MIDDLE_1_RIGHT_0(x, l, m, r) MLA("q0", x, r) MLA("q1", x, m) MLA("q2", x, l)
#define LEFT_0_MIDDLE_2_RIGHT_1(x, l, m, r) MLA("q1", x, r) MLA("q2", x, m) MLA("q0", x, l)
#define LEFT_1_MIDDLE_0_RIGHT_2(x, l, m, r) MLA("q2", x, r) MLA("q0", x, m) MLA("q1", x, l)
#define LEFT_0(x, l, m, r) MLA("q0", x, l)
#define MIDDLE_0(x, l, m, r) MLA("q0", x, m)
#define LEFT_1_RIGHT_0(x, l, m, r) MLA("q0", x, r) MLA("q1", x, l)

/* Column j of the input ends window j - 1; the loop is unrolled so that sums change places. */
#define STRIDE_1(ROUND, LIMIT)                                                                     \
    ENTER                                                                                          \
    CHANNEL                                                                                        \
    "mov.w r12, r6\n"                                                                              \
    "add r12, r0\n"                                                                                \
    "add r12, r3\n"                                                                                \
    "str r10, [sp, #100]\n"                                                                        \
    "ldr r10, [sp, #96]\n"                                                                         \
    "ldr r10, [r10, #20]\n"                                                                        \
    "mul r12, r12, r10\n"                                                                          \
    "vadd.i32 q0, q0, r12\n"                                                                       \
    "ldrd r12, r10, [sp, #96]\n"                                                                   \
    "ldr r12, [r12, #12]\n"                                                                        \
    START("q1")                                                                                    \
    COLUMN(LEFT_1_MIDDLE_0)                                                                        \
    "add r9, r12\n"                                                                                \
    "subs.w lr, lr, #1\n"                                                                          \
    "2:\n"                                                                                         \
    START("q2")                                                                                    \
    COLUMN(LEFT_2_MIDDLE_1_RIGHT_0)                                                                \
    FINISH_1("q0", ROUND, LIMIT)                                                                   \
    "add r9, r12\n"                                                                                \
    "subs.w lr, lr, #1\n"                                                                          \
    "beq.w 3f\n"                                                                                   \
    START("q0")                                                                                    \
    COLUMN(LEFT_0_MIDDLE_2_RIGHT_1)                                                                \
    FINISH_1("q1", ROUND, LIMIT)                                                                   \
    "add r9, r12\n"                                                                                \
    "subs.w lr, lr, #1\n"                                                                          \
    "beq.w 4f\n"                                                                                   \
    START("q1")                                                                                    \
    COLUMN(LEFT_1_MIDDLE_0_RIGHT_2)                                                                \
    FINISH_1("q2", ROUND, LIMIT)                                                                   \
    "add r9, r12\n"                                                                                \
    "subs.w lr, lr, #1\n"                                                                          \
    "bne.w 2b\n"                                                                                   \
    "b 5f\n"                                                                                       \
    "3: vmov q0, q1\n"                                                                             \
    "b 5f\n"                                                                                       \
    "4: vmov q0, q2\n"                                                                             \
    "5:\n"                                                                                         \
    ADD_PADDING("r2", "r5", "r8", "r0")                                                            \
    FINISH_1("q0", ROUND, LIMIT)                                                                   \
    NEXT_CHANNEL                                                                                   \
    LEAVE

#define STRIDE_2(ROUND, LIMIT)                                                                     \
    ENTER                                                                                          \
    CHANNEL                                                                                        \
    "vdup.32 q1, r10\n"                                                                            \
    "vstrw.32 q1, [sp, #80]\n"                                                                     \
    "ldr r10, [sp, #96]\n"                                                                         \
    "ldr r12, [r10, #40]\n"                                                                        \
    "cmp r12, #0\n"                                                                                \
    "beq 6f\n"                                                                                     \
    "ldr r12, [r10, #20]\n"                                                                        \
    "mla r10, r0, r12, r12\n"                                                                      \
    "sub r10, r12\n"                                                                               \
    "mla r10, r3, r12, r10\n"                                                                      \
    "mla r10, r6, r12, r10\n"                                                                      \
    "vadd.i32 q0, q0, r10\n"                                                                       \
    "ldr r10, [sp, #96]\n"                                                                         \
    "ldr r12, [r10, #12]\n"                                                                        \
    "b 7f\n"                                                                                       \
    "6: ldr r12, [r10, #12]\n"                                                                     \
    COLUMN(LEFT_0)                                                                                 \
    "add r9, r12\n"                                                                                \
    "7:\n"                                                                                         \
    "ldr r10, [r10, #24]\n"                                                                        \
    "subs.w lr, lr, #1\n"                                                                          \
    "beq 3f\n"                                                                                     \
    "2:\n"                                                                                         \
    START("q1")                                                                                    \
    COLUMN(MIDDLE_0)                                                                               \
    "add r9, r12\n"                                                                                \
    COLUMN(LEFT_1_RIGHT_0)                                                                         \
    "add r9, r12\n"                                                                                \
    FINISH_2("q0", ROUND, LIMIT)                                                                   \
    "vmov q0, q1\n"                                                                                \
    "subs.w lr, lr, #1\n"                                                                          \
    "bne.w 2b\n"                                                                                   \
    "3:\n"                                                                                         \
    COLUMN(MIDDLE_0)                                                                               \
    ADD_PADDING("r2", "r5", "r8", "r0")                                                            \
    FINISH_2("q0", ROUND, LIMIT)                                                                   \
    "ldr r0, [sp, #96]\n"                                                                          \
    "ldr r1, [r0, #24]\n"                                                                          \
    "adds r1, #1\n"                                                                                \
    "str r1, [r0, #24]\n"                                                                          \
    NEXT_CHANNEL                                                                                   \
    LEAVE
// clang-format on

#define DEFINE(stride)                                                                             \
    __attribute__((naked)) void ee_mve_strip_3x3_s##stride(__attribute__((unused))                 \
                                                           ee_mve_strip *strip) {                  \
        __asm volatile(STRIDE_##stride(FIX, CLAMP));                                               \
    }                                                                                              \
    __attribute__((naked)) void ee_mve_strip_3x3_s##stride##_relu(__attribute__((unused))          \
                                                                  ee_mve_strip *strip) {           \
        __asm volatile(STRIDE_##stride(NO_FIX, SATURATE));                                         \
    }

DEFINE(1)
DEFINE(2)

#else
#include <string.h>

#include "ee_portable.h"

static void strip_3x3(ee_mve_strip *strip, uint32_t stride, uint32_t num_input_columns) {
    for (; strip->num_channels != 0u; strip->num_channels--) {
        int32_t numbers[3];
        int8_t weights[9];
        memcpy(numbers, strip->parameters, sizeof numbers);
        memcpy(weights, strip->parameters + 3, sizeof weights);
        for (uint32_t x = 0; x < strip->num_columns; x++) {
            for (uint32_t lane = 0; lane < 4u; lane++) {
                uint32_t sum = (uint32_t)numbers[0];
                for (uint32_t i = 0; i < 9u; i++) {
                    const uint32_t column = x * stride + i % 3u - strip->pad_left;
                    const uintptr_t at = (uintptr_t)strip->input + strip->rows[i / 3u][lane] +
                                         column * strip->channel_bytes;
                    const int32_t value =
                        column < num_input_columns ? *(const int8_t *)at : strip->pad_value;
                    sum += (uint32_t)(value * weights[i]);
                }
                uintptr_t to = strip->output_rows[lane] + x * strip->channel_bytes;
                to += stride == 1u ? (uintptr_t)strip->input + strip->channel_bytes
                                   : (uintptr_t)strip->output;
                *(int8_t *)to = ee_clamp(ee_requantize((int32_t)sum, numbers[1], numbers[2]) +
                                             strip->output_offset,
                                         strip->activation_min, strip->activation_max);
            }
        }
        strip->input++;
        strip->output++;
        strip->parameters += 6;
    }
}

void ee_mve_strip_3x3_s1(ee_mve_strip *strip) { strip_3x3(strip, 1u, strip->num_columns); }

void ee_mve_strip_3x3_s1_relu(ee_mve_strip *strip) { ee_mve_strip_3x3_s1(strip); }

void ee_mve_strip_3x3_s2(ee_mve_strip *strip) {
    strip_3x3(strip, 2u, 2u * strip->num_columns - strip->pad_left);
}

void ee_mve_strip_3x3_s2_relu(ee_mve_strip *strip) { ee_mve_strip_3x3_s2(strip); }
#endif
