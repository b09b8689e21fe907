/* Inner loops of the packed convolution. See ee_dsp.h for what each computes.
 *
 * Two pixels by four channels hold eight sums in r4 to r11. With pixels interleaved and channels
 * interleaved, a pair of multiply-accumulates needs no address but the two running pointers, and
 * the fourteen registers are exactly enough: three loads and eight SMLAD for sixteen products.
 * Loads, not multiplications, bound the cycles: six words for eight SMLAD.
 */
#include "ee_dsp.h"

/* The loop is entered in its middle, so that a depth need not be a multiple of it. */
#define PAIRS_PER_TURN 8u
#define BYTES_PER_PAIR 44u /* eleven instructions of four bytes each */

uint32_t ee_dsp_entry(uint32_t depth) {
    uint32_t pairs = depth / 2;
    uint32_t skipped = (PAIRS_PER_TURN - pairs % PAIRS_PER_TURN) % PAIRS_PER_TURN;
    return skipped * BYTES_PER_PAIR + 1; /* bit 0: Thumb */
}

static int32_t multiply_add(int32_t sum, const int16_t *a, const int16_t *b) {
    return sum + a[0] * b[0] + a[1] * b[1];
}

void ee_dsp_tile_sums(const int16_t *columns, const int16_t *weights, const int32_t *block,
                      int32_t *sums, const int16_t *end) {
    for (int i = 0; i < 8; i++) {
        sums[i] = block[i & 3];
    }
    for (; columns != end; columns += 4, weights += 8) {
        for (int i = 0; i < 8; i++) {
            sums[i] = multiply_add(sums[i], columns + 2 * (i >> 2), weights + 2 * (i & 3));
        }
    }
}

#if EE_DSP_ASM

/* Arguments are in registers, where the compiler does not see them used. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"

#define PAIR                                                                                       \
    "ldrd r2, r3, [r0], #8\n"                                                                      \
    "ldrd r12, lr, [r1], #8\n"                                                                     \
    "smlad r4, r2, r12, r4\n"                                                                      \
    "smlad r8, r3, r12, r8\n"                                                                      \
    "smlad r5, r2, lr, r5\n"                                                                       \
    "smlad r9, r3, lr, r9\n"                                                                       \
    "ldrd r12, lr, [r1], #8\n"                                                                     \
    "smlad r6, r2, r12, r6\n"                                                                      \
    "smlad r10, r3, r12, r10\n"                                                                    \
    "smlad r7, r2, lr, r7\n"                                                                       \
    "smlad r11, r3, lr, r11\n"

/* One channel of both pixels, from sums p and q. */
#define RESCALE(p, q)                                                                              \
    "ldm r0!, {r2, r3, r12}\n"                                                                     \
    "lsl " p ", " p ", #1\n"                                                                       \
    "lsl " q ", " q ", #1\n"                                                                       \
    "smmulr " p ", " p ", r2\n"                                                                    \
    "smmulr " q ", " q ", r2\n"                                                                    \
    "add " p ", " p ", " p ", asr #31\n"                                                           \
    "add " q ", " q ", " q ", asr #31\n"                                                           \
    "add " p ", r3\n"                                                                              \
    "add " q ", r3\n"                                                                              \
    "asr " p ", r12\n"                                                                             \
    "asr " q ", r12\n"                                                                             \
    "ssat " p ", #8, " p "\n"                                                                      \
    "ssat " q ", #8, " q "\n"                                                                      \
    "strb " p ", [r1], #1\n"                                                                       \
    "strb " q ", [lr], #1\n"

/* The fields of ee_dsp_pass stay at sp, `entry` as an address. */
__attribute__((naked)) void ee_dsp_tiles(const ee_dsp_pass *pass) {
    __asm__ volatile(
        ".syntax unified\n"
        "push {r4-r11, lr}\n"
        "ldm r0, {r1-r12}\n"
        "adr r0, 1f\n"
        "add r7, r0\n"
        "push {r1-r12}\n"
        "0: ldm sp, {r0, r1, r2}\n"
        "ldm r2, {r4-r7}\n"
        "ldr r3, [sp, #24]\n"
        "mov r8, r4\n"
        "mov r9, r5\n"
        "mov r10, r6\n"
        "mov r11, r7\n"
        "bx r3\n"
        ".balign 4\n"
        "1:\n" PAIR PAIR PAIR PAIR PAIR PAIR PAIR PAIR "ldr r2, [sp, #20]\n"
        "cmp r0, r2\n"
        "bne 1b\n"
        "ldr r0, [sp, #8]\n"
        "ldrd r1, lr, [sp, #12]\n"
        "adds r0, #16\n" RESCALE("r4", "r8") RESCALE("r5", "r9") RESCALE("r6", "r10") RESCALE(
            "r7", "r11") "add r2, sp, #28\n"
                         "ldm r2, {r3-r7}\n" /* the four steps, and how many tiles are left */
                         "ldm sp, {r8-r10}\n"
                         "add r11, r1, r6\n"
                         "add r12, lr, r6\n"
                         "ldr lr, [sp, #20]\n"
                         "add r8, r3\n"
                         "add r9, r4\n"
                         "add r10, r5\n"
                         "add lr, r3\n"
                         "stm sp, {r8-r12, lr}\n"
                         "subs r7, #1\n"
                         "str r7, [sp, #44]\n"
                         "bne 0b\n"
                         "add sp, #48\n"
                         "pop {r4-r11, pc}\n");
}

#define GROUP_OF_ROW(word, sum)                                                                    \
    "sxtb16 r12, " word "\n"                                                                       \
    "sxtb16 " word ", " word ", ror #8\n"                                                          \
    "smlad " sum ", r12, r2, " sum "\n"                                                            \
    "smlad " sum ", " word ", r3, " sum "\n"

#define ROW                                                                                        \
    "ldrd r2, r3, [r0], #8\n"                                                                      \
    "ldm r1!, {r8-r11}\n" GROUP_OF_ROW("r8", "r4") GROUP_OF_ROW("r9", "r5")                        \
        GROUP_OF_ROW("r10", "r6") GROUP_OF_ROW("r11", "r7")

__attribute__((naked)) void ee_dsp_row(const int16_t *row, const int8_t *weights,
                                       const int32_t *block, int32_t *sums, const int16_t *end) {
    __asm__ volatile(".syntax unified\n"
                     "push {r3-r11, lr}\n"
                     "ldm r2, {r4-r7}\n"
                     "ldr lr, [sp, #40]\n"
                     "sub r2, lr, r0\n"
                     "tst r2, #8\n"
                     "bne 2f\n"
                     "1:\n" ROW "2:\n" ROW "cmp r0, lr\n"
                     "bne 1b\n"
                     "pop {r3}\n"
                     "stm r3, {r4-r7}\n"
                     "pop {r4-r11, pc}\n");
}

#define INTERLEAVE                                                                                 \
    "ldr r12, [r1], #4\n"                                                                          \
    "ldr lr, [r2], #4\n"                                                                           \
    "sxtb16 r4, r12\n"                                                                             \
    "sxtb16 r5, lr\n"                                                                              \
    "sxtb16 r6, r12, ror #8\n"                                                                     \
    "sxtb16 r7, lr, ror #8\n"                                                                      \
    "stm r0!, {r4-r7}\n"

__attribute__((naked)) int16_t *ee_dsp_interleave(int16_t *columns, const int8_t *pixel0,
                                                  const int8_t *pixel1, uint32_t words) {
    __asm__ volatile(".syntax unified\n"
                     "push {r4-r7, lr}\n"
                     "subs r3, #4\n"
                     "blo 2f\n"
                     "1:\n" INTERLEAVE INTERLEAVE INTERLEAVE INTERLEAVE "subs r3, #4\n"
                     "bhs 1b\n"
                     "2: adds r3, #4\n"
                     "beq 4f\n"
                     "3:\n" INTERLEAVE "subs r3, #1\n"
                     "bne 3b\n"
                     "4: pop {r4-r7, pc}\n");
}

__attribute__((naked)) void ee_dsp_widen_block(int16_t *weights, const int8_t *packed,
                                               uint32_t groups) {
    __asm__ volatile(".syntax unified\n"
                     "push {r4-r11, lr}\n"
                     "1: ldm r1!, {r8-r11}\n"
                     "sxtb16 r3, r8\n"
                     "sxtb16 r4, r9\n"
                     "sxtb16 r5, r10\n"
                     "sxtb16 r6, r11\n"
                     "sxtb16 r7, r8, ror #8\n"
                     "sxtb16 r8, r9, ror #8\n"
                     "sxtb16 r9, r10, ror #8\n"
                     "sxtb16 r10, r11, ror #8\n"
                     "stm r0!, {r3-r10}\n"
                     "subs r2, #1\n"
                     "bne 1b\n"
                     "pop {r4-r11, pc}\n");
}

#pragma GCC diagnostic pop

#else

void ee_dsp_tiles(const ee_dsp_pass *pass) {
    ee_dsp_pass at = *pass;
    for (; at.count > 0; at.count--) {
        int32_t sums[8];
        ee_dsp_tile_sums(at.columns, at.weights, at.block, sums, at.end);
        for (int i = 0; i < 8; i++) {
            const int32_t *channel = at.block + 4 + 3 * (i & 3);
            (i < 4 ? at.out0 : at.out1)[i & 3] = ee_dsp_rescale_fast(2 * sums[i], channel);
        }
        if (at.count > 1) {
            at.columns += at.column_step / 2;
            at.end += at.column_step / 2;
            at.weights += at.weight_step / 2;
            at.block += at.block_step / 4;
            at.out0 += 4 + at.out_step;
            at.out1 += 4 + at.out_step;
        }
    }
}

void ee_dsp_row(const int16_t *row, const int8_t *weights, const int32_t *block, int32_t *sums,
                const int16_t *end) {
    memcpy(sums, block, 4 * sizeof sums[0]);
    for (; row != end; row += 4) {
        for (int i = 0; i < 4; i++, weights += 4) {
            sums[i] += row[0] * weights[0] + row[1] * weights[2] + row[2] * weights[1] +
                       row[3] * weights[3];
        }
    }
}

int16_t *ee_dsp_interleave(int16_t *columns, const int8_t *pixel0, const int8_t *pixel1,
                           uint32_t words) {
    for (; words > 0; words--, columns += 8, pixel0 += 4, pixel1 += 4) {
        ee_dsp_store(columns, ee_dsp_even(ee_dsp_load(pixel0)));
        ee_dsp_store(columns + 2, ee_dsp_even(ee_dsp_load(pixel1)));
        ee_dsp_store(columns + 4, ee_dsp_odd(ee_dsp_load(pixel0)));
        ee_dsp_store(columns + 6, ee_dsp_odd(ee_dsp_load(pixel1)));
    }
    return columns;
}

void ee_dsp_widen_block(int16_t *weights, const int8_t *packed, uint32_t groups) {
    for (; groups > 0; groups--, weights += 16) {
        for (int i = 0; i < 4; i++, packed += 4) {
            ee_dsp_store(weights + 2 * i, ee_dsp_even(ee_dsp_load(packed)));
            ee_dsp_store(weights + 8 + 2 * i, ee_dsp_odd(ee_dsp_load(packed)));
        }
    }
}

#endif
