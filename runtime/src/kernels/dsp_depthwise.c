/* Depthwise convolution 3x3 for cores with the DSP extension.
 *
 * Four channels at a time, since they are a word of the input: each line of it is split once into
 * four planes of int16, in which neighbours are side by side as SMLAD wants them. Three lines of
 * planes are kept, in slots; a new line replaces the oldest one, and the weights rotate with it.
 */
#include "ee_dsp.h"

/* Four channels of two neighbours, as a pair for each of four planes. */
static inline void put(int32_t *slot, uint32_t plane, uint32_t first, uint32_t second) {
    uint32_t even0 = ee_dsp_even(first);
    uint32_t even1 = ee_dsp_even(second);
    uint32_t odd0 = ee_dsp_odd(first);
    uint32_t odd1 = ee_dsp_odd(second);
    slot[0] = (int32_t)ee_dsp_lows(even0, even1);
    slot[plane] = (int32_t)ee_dsp_lows(odd0, odd1);
    slot[2 * plane] = (int32_t)ee_dsp_highs(even0, even1);
    slot[3 * plane] = (int32_t)ee_dsp_highs(odd0, odd1);
}

/* The line at `input`, or one of padding if that is NULL, into the four planes. */
static void load_line(const ee_depthwise_dsp_op *op, const int8_t *input, int32_t *slot) {
    const uint32_t plane = 3u * op->plane_words;
    const uint32_t zeros = (uint8_t)op->input_zero_point * 0x01010101u;
    const uint32_t step = op->input_step;
    const int32_t *end = slot + plane;
    if (input == NULL) {
        for (; slot != end; slot += 3) {
            put(slot, plane, zeros, zeros);
        }
        return;
    }
    const int8_t *last = input + (op->line_in - 1u) * step;
    if (op->line_pad != 0) {
        put(slot, plane, zeros, ee_dsp_load(input));
        input += step;
        slot += 3;
    }
    for (; slot != end && input < last; slot += 3) {
        uint32_t first = ee_dsp_load(input);
        uint32_t second = ee_dsp_load(input + step);
        input += 2 * step;
        put(slot, plane, first, second);
    }
    if (slot != end && input == last) {
        put(slot, plane, ee_dsp_load(input), zeros);
        slot += 3;
    }
    for (; slot != end; slot += 3) {
        put(slot, plane, zeros, zeros);
    }
}

/* Kernel lines 0, 1, 2, 0, 1 of four channels, each as (w0, w1, w1, w2), doubled. */
static void load_weights(const ee_depthwise_dsp_op *op, const int8_t *from, int16_t *to) {
    uint32_t step = op->weight_step;
    for (uint32_t c = 0; c < 4; c++, from++, to += 20) {
        const int8_t *line = from;
        for (uint32_t i = 0; i < 3; i++, line += op->weight_line_step) {
            uint32_t w0 = (uint16_t)(2 * line[0]);
            uint32_t w1 = (uint16_t)(2 * line[step]);
            uint32_t w2 = (uint16_t)(2 * line[2 * step]);
            ee_dsp_store(to + 4 * i, w0 | w1 << 16);
            ee_dsp_store(to + 4 * i + 2, w1 | w2 << 16);
            if (i < 2) {
                ee_dsp_store(to + 4 * i + 12, w0 | w1 << 16);
                ee_dsp_store(to + 4 * i + 14, w1 | w2 << 16);
            }
        }
    }
}

/* Four channels of the whole image; input, output and channels are at the first of them. */
static void run_block(const ee_depthwise_dsp_op *op, const int8_t *input, int8_t *output,
                      const int32_t *channels, int32_t *planes, const int16_t *weights) {
    const uint32_t plane = 3u * op->plane_words;
    uint32_t steps = op->line_out;
    ee_dsp_depthwise_args args = {.output_step = op->output_step, .odd = 0};
    if (op->stride == 1) {
        args.odd = steps > 1 ? steps & 1 : 0;
        args.output_step = steps > 1 ? args.output_step : 0; /* a single output: see the loop */
        steps = steps > 1 ? steps / 2 : 1;
    }
    int32_t line = -(int32_t)op->lines_pad; /* the next one to load */
    uint32_t slot = 0;                      /* where it goes */
    uint32_t missing = 3;
    for (uint32_t i = 0; i < op->lines_out; i++, output += op->output_line_step) {
        for (; missing > 0; missing--, line++) {
            bool inside = (uint32_t)line < op->lines_in;
            load_line(op, inside ? input + (uint32_t)line * op->input_line_step : NULL,
                      planes + slot);
            slot = slot == 2 ? 0 : slot + 1;
        }
        missing = op->stride;
        /* The topmost line is in `slot`: kernel line 0 belongs there. */
        const int16_t *rotated = weights + 4 * (slot == 0 ? 0 : 3 - slot);
        const int32_t *channel = channels;
        const int32_t *values = planes;
        for (uint32_t c = 0; c < 4; c++, values += plane, channel += 4, rotated += 20) {
            args.multiplier = channel[0];
            args.rounding = channel[1];
            args.shift = channel[2];
            args.bias = channel[3];
            args.end = values + 3 * steps;
            if (op->stride == 1) {
                ee_dsp_depthwise_line_s1(values, rotated, output + c, &args);
            } else {
                ee_dsp_depthwise_line_s2(values, rotated, output + c, &args);
            }
        }
    }
}

void ee_depthwise_dsp_3x3(const ee_depthwise_dsp_op *op, const int8_t *input, int8_t *output,
                          void *scratch) {
    int32_t *planes = scratch;
    int16_t *weights = (int16_t *)(planes + 12u * op->plane_words);
    for (uint32_t c = 0; c < op->num_channels; c += 4) {
        /* A last block of fewer than four channels repeats some of the one before. */
        uint32_t first = c + 4 <= op->num_channels ? c : op->num_channels - 4u;
        load_weights(op, op->weights + first, weights);
        run_block(op, input + first, output + first, op->channels + 4 * first, planes, weights);
    }
    if (op->activation_min > INT8_MIN || op->activation_max < INT8_MAX) {
        uint32_t count = (uint32_t)op->lines_out * op->line_out * op->num_channels;
        ee_dsp_clamp_all(output, count, op->activation_min, op->activation_max);
    }
}
