/* Inner loops of the packed depthwise convolution. See ee_dsp.h for what they compute.
 *
 * A word holds two neighbours of one channel, so a kernel line of three taps is one SMLAD and one
 * product of halves. At stride 1 two outputs share two words; six words of weights stay in
 * registers for the whole line.
 */
#include "ee_dsp.h"

#if EE_DSP_ASM

/* Arguments are in registers, where the compiler does not see them used. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"

/* r0 planes, r2 out, r4-r9 weights, lr output_step; at sp: multiplier, rounding, shift, bias, end,
 * odd. */
#define ENTER                                                                                      \
    ".syntax unified\n"                                                                            \
    "push {r4-r11, lr}\n"                                                                          \
    "ldm r3, {r4-r10}\n"                                                                           \
    "mov lr, r9\n"                                                                                 \
    "push {r4-r8, r10}\n"                                                                          \
    "ldm r1, {r4-r9}\n"

#define LEAVE                                                                                      \
    "add sp, #24\n"                                                                                \
    "pop {r4-r11, pc}\n"

__attribute__((naked)) void ee_dsp_depthwise_line_s1(const int32_t *planes, const int16_t *weights,
                                                     int8_t *out,
                                                     const ee_dsp_depthwise_args *args) {
    __asm__ volatile(ENTER "1: ldr r10, [sp, #12]\n"
                           "ldm r0!, {r1, r3, r12}\n"
                           "mov r11, r10\n"
                           "smlad r10, r1, r4, r10\n"
                           "smlatb r11, r1, r4, r11\n"
                           "smlad r10, r3, r6, r10\n"
                           "smlatb r11, r3, r6, r11\n"
                           "smlad r10, r12, r8, r10\n"
                           "smlatb r11, r12, r8, r11\n"
                           "ldm r0, {r1, r3, r12}\n"
                           "smlabt r10, r1, r5, r10\n"
                           "smlad r11, r1, r5, r11\n"
                           "smlabt r10, r3, r7, r10\n"
                           "smlad r11, r3, r7, r11\n"
                           "smlabt r10, r12, r9, r10\n"
                           "smlad r11, r12, r9, r11\n"
                           "ldm sp, {r1, r3, r12}\n"
                           "smmulr r10, r10, r1\n"
                           "smmulr r11, r11, r1\n"
                           "add r10, r10, r10, asr #31\n"
                           "add r11, r11, r11, asr #31\n"
                           "add r10, r3\n"
                           "add r11, r3\n"
                           "asr r10, r12\n"
                           "asr r11, r12\n"
                           "ssat r10, #8, r10\n"
                           "ssat r11, #8, r11\n"
                           "ldr r1, [sp, #16]\n"
                           "strb r11, [r2, lr]\n" /* with lr 0, the next one overwrites it */
                           "strb r10, [r2]\n"
                           "add r2, r2, lr, lsl #1\n"
                           "cmp r0, r1\n"
                           "bne 1b\n"
                           "ldr r3, [sp, #20]\n"
                           "cbz r3, 2f\n"
                           "mov lr, #0\n"
                           "str lr, [sp, #20]\n"
                           "add r1, #12\n"
                           "str r1, [sp, #16]\n"
                           "b 1b\n"
                           "2:\n" LEAVE);
}

__attribute__((naked)) void ee_dsp_depthwise_line_s2(const int32_t *planes, const int16_t *weights,
                                                     int8_t *out,
                                                     const ee_dsp_depthwise_args *args) {
    __asm__ volatile(ENTER "ldr r11, [sp, #16]\n"
                           "1: ldr r10, [sp, #12]\n"
                           "ldm r0!, {r1, r3, r12}\n"
                           "smlad r10, r1, r4, r10\n"
                           "smlad r10, r3, r6, r10\n"
                           "smlad r10, r12, r8, r10\n"
                           "ldm r0, {r1, r3, r12}\n"
                           "smlabt r10, r1, r5, r10\n"
                           "smlabt r10, r3, r7, r10\n"
                           "smlabt r10, r12, r9, r10\n"
                           "ldm sp, {r1, r3, r12}\n"
                           "smmulr r10, r10, r1\n"
                           "add r10, r10, r10, asr #31\n"
                           "add r10, r3\n"
                           "asr r10, r12\n"
                           "ssat r10, #8, r10\n"
                           "strb r10, [r2]\n"
                           "add r2, lr\n"
                           "cmp r0, r11\n"
                           "bne 1b\n" LEAVE);
}

#pragma GCC diagnostic pop

#else

/* One output at an even (shift 0) or odd (shift 1) position of the word that planes is at. */
static int8_t compute(const int32_t *planes, const int16_t *weights,
                      const ee_dsp_depthwise_args *args, int shift) {
    int16_t values[4];
    int32_t sum = args->bias;
    for (int slot = 0; slot < 3; slot++) {
        const int16_t *w = weights + 4 * slot;
        memcpy(values, planes + slot, 4);
        memcpy(values + 2, planes + slot + 3, 4);
        sum += values[shift] * w[0] + values[shift + 1] * w[1] + values[shift + 2] * w[3];
    }
    return ee_dsp_rescale_fast(sum, &args->multiplier);
}

void ee_dsp_depthwise_line_s1(const int32_t *planes, const int16_t *weights, int8_t *out,
                              const ee_dsp_depthwise_args *args) {
    for (; planes != args->end; planes += 3, out += 2 * args->output_step) {
        out[args->output_step] = compute(planes, weights, args, 1);
        *out = compute(planes, weights, args, 0);
    }
    if (args->odd != 0) {
        *out = compute(planes, weights, args, 0);
    }
}

void ee_dsp_depthwise_line_s2(const int32_t *planes, const int16_t *weights, int8_t *out,
                              const ee_dsp_depthwise_args *args) {
    for (; planes != args->end; planes += 3, out += args->output_step) {
        *out = compute(planes, weights, args, 0);
    }
}

#endif
