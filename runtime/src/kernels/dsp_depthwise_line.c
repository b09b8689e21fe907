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

/* From sp on: multiplier, rounding, shift and bias of the channel; 16: where its planes end; 20:
 * whether a single output is left then; 24: the fields of ee_dsp_depthwise_pass; 56: how many
 * channels are left. In registers: r0 planes, r2 out, r4-r9 weights, lr output_step. */
#define ENTER                                                                                      \
    ".syntax unified\n"                                                                            \
    "push {r4-r11, lr}\n"                                                                          \
    "ldm r0, {r1-r8}\n"                                                                            \
    "mov r9, #4\n"                                                                                 \
    "push {r1-r9}\n"                                                                               \
    "sub sp, #24\n"                                                                                \
    "0: add r1, sp, #24\n"                                                                         \
    "ldm r1, {r2-r9}\n"                                                                            \
    "mov r0, r2\n"                                                                                 \
    "add r7, r2\n"                                                                                 \
    "mov lr, r9\n"                                                                                 \
    "ldm r5!, {r9-r12}\n"                                                                          \
    "stm sp, {r9-r12}\n"                                                                           \
    "strd r7, r8, [sp, #16]\n"                                                                     \
    "add r2, r6\n"                                                                                 \
    "mov r6, r3\n"                                                                                 \
    "mov r7, r4\n"                                                                                 \
    "add r3, #40\n"                                                                                \
    "add r4, #1\n"                                                                                 \
    "stm r1, {r2-r5}\n"                                                                            \
    "mov r2, r7\n"                                                                                 \
    "ldm r6, {r4-r9}\n"

#define LEAVE                                                                                      \
    "ldr r1, [sp, #56]\n"                                                                          \
    "subs r1, #1\n"                                                                                \
    "str r1, [sp, #56]\n"                                                                          \
    "bne 0b\n"                                                                                     \
    "add sp, #60\n"                                                                                \
    "pop {r4-r11, pc}\n"

__attribute__((naked)) void ee_dsp_depthwise_s1(const ee_dsp_depthwise_pass *pass) {
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

__attribute__((naked)) void ee_dsp_depthwise_s2(const ee_dsp_depthwise_pass *pass) {
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

/* slot r0, r1, r5, r6; input r2, step r3, words r4 */
__attribute__((naked)) void ee_dsp_split(int32_t *slot, uint32_t plane_bytes, const int8_t *input,
                                         uint32_t step, uint32_t words) {
    __asm__ volatile(".syntax unified\n"
                     "push {r4-r11, lr}\n"
                     "ldr r4, [sp, #36]\n"
                     "add r6, r1, r1, lsl #1\n"
                     "add r5, r0, r1, lsl #1\n"
                     "add r6, r0\n"
                     "add r1, r0\n"
                     "1: ldr r7, [r2]\n"
                     "ldr r8, [r2, r3]\n"
                     "add r2, r2, r3, lsl #1\n"
                     "sxtb16 r9, r7\n"
                     "sxtb16 r10, r8\n"
                     "sxtb16 r7, r7, ror #8\n"
                     "sxtb16 r8, r8, ror #8\n"
                     "pkhbt r11, r9, r10, lsl #16\n"
                     "str r11, [r0], #12\n"
                     "pkhbt r11, r7, r8, lsl #16\n"
                     "str r11, [r1], #12\n"
                     "pkhtb r11, r10, r9, asr #16\n"
                     "str r11, [r5], #12\n"
                     "pkhtb r11, r8, r7, asr #16\n"
                     "str r11, [r6], #12\n"
                     "subs r4, #1\n"
                     "bne 1b\n"
                     "pop {r4-r11, pc}\n");
}

#pragma GCC diagnostic pop

#else

/* One output at an even (shift 0) or odd (shift 1) position of the word that planes is at. */
static int8_t compute(const int32_t *planes, const int16_t *weights, const int32_t *channel,
                      int shift) {
    int16_t values[4];
    int32_t sum = channel[3];
    for (int slot = 0; slot < 3; slot++) {
        const int16_t *w = weights + 4 * slot;
        memcpy(values, planes + slot, 4);
        memcpy(values + 2, planes + slot + 3, 4);
        sum += values[shift] * w[0] + values[shift + 1] * w[1] + values[shift + 2] * w[3];
    }
    return ee_dsp_rescale_fast(sum, channel);
}

/* Outputs of four channels; `per_word` of them for a step of planes. */
static void run_channels(const ee_dsp_depthwise_pass *pass, int per_word) {
    for (uint32_t c = 0; c < 4; c++) {
        const int32_t *planes = pass->planes + c * pass->plane_bytes / 4;
        const int32_t *end = planes + pass->length / 4;
        const int16_t *weights = pass->weights + 20 * c;
        const int32_t *channel = pass->channels + 4 * c;
        int8_t *out = pass->out + c;
        for (; planes != end; planes += 3, out += (uint32_t)per_word * pass->output_step) {
            /* The first last: with a step of 0 it is the one that stays. */
            for (int i = per_word - 1; i >= 0; i--) {
                out[(uint32_t)i * pass->output_step] = compute(planes, weights, channel, i);
            }
        }
        if (pass->odd != 0) {
            *out = compute(planes, weights, channel, 0);
        }
    }
}

void ee_dsp_depthwise_s1(const ee_dsp_depthwise_pass *pass) { run_channels(pass, 2); }

void ee_dsp_depthwise_s2(const ee_dsp_depthwise_pass *pass) { run_channels(pass, 1); }

void ee_dsp_split(int32_t *slot, uint32_t plane_bytes, const int8_t *input, uint32_t step,
                  uint32_t words) {
    uint32_t plane = plane_bytes / 4;
    for (; words > 0; words--, slot += 3, input += 2 * step) {
        ee_dsp_put(slot, plane, ee_dsp_load(input), ee_dsp_load(input + step));
    }
}

#endif
