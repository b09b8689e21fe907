/* What the packed DSP kernels share: single instructions, and the inner loops in dsp_tile.c.
 *
 * With EE_DSP_ASM the inner loops are Thumb-2 assembly; otherwise (the host) C that computes the
 * same integers, so that everything around them is tested there too.
 *
 * A "pair" is a word of two int16: of four bytes b0..b3 in memory, widening gives the pairs
 * (b0, b2) and (b1, b3), in this order. Weights and inputs are widened in the same way, so the
 * order within four never matters.
 */
#ifndef EE_DSP_H
#define EE_DSP_H

#include "ee_kernels_dsp.h"

#include <stdbool.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__)
#define EE_DSP_ASM 1
#else
#define EE_DSP_ASM 0
#endif

#define EE_DSP_KEEP_LOOP __asm__ volatile("" ::: "memory")
#define EE_DSP_COLD __attribute__((noinline, cold))

/* Words of int32 in a block of ee_conv2d_dsp_op.channels. */
#define EE_DSP_BLOCK_WORDS 16

static inline uint32_t ee_dsp_load(const void *address) {
    uint32_t word;
    memcpy(&word, address, sizeof word);
    return word;
}

static inline void ee_dsp_store(void *address, uint32_t word) {
    memcpy(address, &word, sizeof word);
}

#if EE_DSP_ASM
static inline uint32_t ee_dsp_even(uint32_t bytes) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(bytes));
    return pair;
}

static inline uint32_t ee_dsp_odd(uint32_t bytes) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
    return pair;
}

/* (low half of a, low half of b) */
static inline uint32_t ee_dsp_lows(uint32_t a, uint32_t b) {
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

/* (high half of a, high half of b) */
static inline uint32_t ee_dsp_highs(uint32_t a, uint32_t b) {
    uint32_t pair;
    __asm__("pkhtb %0, %2, %1, asr #16" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

/* Each byte of x, kept within the bytes of low and high. */
static inline uint32_t ee_dsp_clamp4(uint32_t x, uint32_t low, uint32_t high) {
    uint32_t unused;
    __asm__("ssub8 %1, %0, %2\n\tsel %0, %0, %2\n\tssub8 %1, %3, %0\n\tsel %0, %0, %3"
            : "+&r"(x), "=&r"(unused)
            : "r"(low), "r"(high)
            : "cc");
    return x;
}
#else
static inline uint32_t ee_dsp_even(uint32_t bytes) {
    return (uint16_t)(int8_t)bytes | (uint32_t)(uint16_t)(int8_t)(bytes >> 16) << 16;
}

static inline uint32_t ee_dsp_odd(uint32_t bytes) { return ee_dsp_even(bytes >> 8); }

static inline uint32_t ee_dsp_lows(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }

static inline uint32_t ee_dsp_highs(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

static inline uint32_t ee_dsp_clamp4(uint32_t x, uint32_t low, uint32_t high) {
    uint32_t result = 0;
    for (int shift = 0; shift < 32; shift += 8) {
        int8_t value = (int8_t)(x >> shift);
        if (value < (int8_t)(low >> shift)) {
            value = (int8_t)(low >> shift);
        }
        if (value > (int8_t)(high >> shift)) {
            value = (int8_t)(high >> shift);
        }
        result |= (uint32_t)(uint8_t)value << shift;
    }
    return result;
}
#endif

static inline int32_t ee_dsp_clamp(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : value > high ? high : value;
}

static inline int32_t ee_dsp_saturate(int32_t value) {
#if EE_DSP_ASM
    int32_t result;
    __asm__("ssat %0, #8, %1" : "=r"(result) : "r"(value) : "cc");
    return result;
#else
    return ee_dsp_clamp(value, INT8_MIN, INT8_MAX);
#endif
}

/* TFLite's rescaling for any shift; a negative multiplier is the positive one, negated at last. */
static inline int32_t ee_dsp_rescale(int32_t value, int32_t multiplier, int32_t shift) {
    uint32_t left = shift > 0 ? (uint32_t)shift : 0;
    int64_t product = (int64_t)(int32_t)((uint32_t)value << left) *
                      (multiplier < 0 ? -(int64_t)multiplier : multiplier);
    int32_t high = (int32_t)((product + (1 << 30)) >> 31);
    if (shift < 0) {
        int32_t half = (int32_t)(1u << (-shift - 1));
        high = (int32_t)(((int64_t)high - (high < 0) + half) >> -shift);
    }
    return multiplier < 0 ? -high : high;
}

/* From twice a sum; channel is (multiplier, rounding, shift). */
static inline int8_t ee_dsp_rescale_fast(int32_t doubled, const int32_t *channel) {
#if EE_DSP_ASM
    int32_t y;
    __asm__("smmulr %0, %1, %2\n\tadd %0, %0, %0, asr #31\n\tadd %0, %3\n\tasr %0, %4\n\t"
            "ssat %0, #8, %0"
            : "=&r"(y)
            : "r"(doubled), "r"(channel[0]), "r"(channel[1]), "r"(channel[2]));
    return (int8_t)y;
#else
    int32_t y = (int32_t)(((int64_t)doubled * channel[0] + INT64_C(0x80000000)) >> 32);
    y = (y - (y < 0) + channel[1]) >> channel[2];
    return (int8_t)ee_dsp_clamp(y, INT8_MIN, INT8_MAX);
#endif
}

/* Where in a tile's loop a depth enters it; ee_dsp_pass.entry. */
uint32_t ee_dsp_entry(uint32_t depth);

/* Tiles of two pixels by four channels, one after another. columns: [depth / 2] (pair of pixel 0,
 * pair of pixel 1); weights: [depth / 2][4 channels] pairs; end is columns + 2 * depth. Each tile
 * writes four outputs to out0 and out1. Steps are in bytes: what is added after each tile, to the
 * outs beside the four that they have moved. Read by assembly in this order. */
typedef struct {
    const int16_t *columns, *weights;
    const int32_t *block;
    int8_t *out0, *out1;
    const int16_t *end;
    uint32_t entry;
    int32_t column_step, weight_step, block_step, out_step;
    uint32_t count; /* of tiles, at least 1 */
} ee_dsp_pass;

void ee_dsp_tiles(const ee_dsp_pass *pass);

/* The sums of one tile, bias included: four of pixel 0, four of pixel 1. */
void ee_dsp_tile_sums(const int16_t *columns, const int16_t *weights, const int32_t *block,
                      int32_t *sums, const int16_t *end);

/* One row by four channels; row: [depth / 4][2] pairs, weights as weights8. */
void ee_dsp_row(const int16_t *row, const int8_t *weights, const int32_t *block, int32_t *sums,
                const int16_t *end);

/* Widens 4 * words bytes of two pixels into columns; all word-aligned. Returns what follows. */
int16_t *ee_dsp_interleave(int16_t *columns, const int8_t *pixel0, const int8_t *pixel1,
                           uint32_t words);

/* weights8 of one block to weights16; groups = depth / 4. */
void ee_dsp_widen_block(int16_t *weights, const int8_t *packed, uint32_t groups);

/* Four channels of one line of outputs, each output_step after the other. planes: for each channel
 * [word][3 slots] pairs of neighbours in a line, plane_bytes apart; weights: for each channel and
 * slot (w0, w1), (w1, w2), doubled, channels 40 bytes apart; channels as in ee_depthwise_dsp_op.
 * length, not 0: the bytes of a plane that whole steps take, 12 each (stride 1: two outputs, stride
 * 2: one); odd, at stride 1: whether one output follows them. Read by assembly in this order. */
typedef struct {
    const int32_t *planes;
    const int16_t *weights;
    int8_t *out;
    const int32_t *channels;
    uint32_t plane_bytes, length, odd, output_step;
} ee_dsp_depthwise_pass;

void ee_dsp_depthwise_s1(const ee_dsp_depthwise_pass *pass);
void ee_dsp_depthwise_s2(const ee_dsp_depthwise_pass *pass);

/* Four channels of two neighbours, as a pair for each of four planes; plane in words. */
static inline void ee_dsp_put(int32_t *slot, uint32_t plane, uint32_t first, uint32_t second) {
    uint32_t even0 = ee_dsp_even(first);
    uint32_t even1 = ee_dsp_even(second);
    uint32_t odd0 = ee_dsp_odd(first);
    uint32_t odd1 = ee_dsp_odd(second);
    slot[0] = (int32_t)ee_dsp_lows(even0, even1);
    slot[plane] = (int32_t)ee_dsp_lows(odd0, odd1);
    slot[2 * plane] = (int32_t)ee_dsp_highs(even0, even1);
    slot[3 * plane] = (int32_t)ee_dsp_highs(odd0, odd1);
}

/* The same for `words` pairs of neighbours, at least one; slots of a plane are 12 bytes apart. */
void ee_dsp_split(int32_t *slot, uint32_t plane_bytes, const int8_t *input, uint32_t step,
                  uint32_t words);

/* Keeps count bytes within a range that is narrower than int8. */
void ee_dsp_clamp_all(int8_t *values, uint32_t count, int32_t low, int32_t high);

void ee_dsp_add(const ee_dsp_addition *add, const int8_t *a, const int8_t *b, int8_t *output,
                uint32_t count);

#endif
