/* Depthwise convolution 3x3 for cores with the DSP extension.
 *
 * Four channels at a time, since they are a word of the input: each line of it is split once into
 * four planes of int16, in which neighbours are side by side as SMLAD wants them. Three lines of
 * planes are kept, in slots; a new line replaces the oldest one, and the weights rotate with it.
 */
#include "ee_dsp.h"

/* The line at `input`, or one of padding if that is NULL, into the four planes. */
static void load_line(const ee_depthwise_dsp_op *op, const int8_t *input, int32_t *slot) {
    const uint32_t plane = 3u * op->plane_words;
    const uint32_t padding = (uint8_t)op->input_zero_point * 0x01010101u;
    const uint32_t step = op->input_step;
    const int32_t *end = slot + plane;
    if (input != NULL) {
        uint32_t left = op->line_in;
        uint32_t words = op->plane_words;
        if (op->line_pad != 0) {
            ee_dsp_put(slot, plane, padding, ee_dsp_load(input));
            input += step;
            slot += 3;
            left--;
            words--;
        }
        uint32_t whole = left / 2 < words ? left / 2 : words;
        if (whole > 0) {
            ee_dsp_split(slot, 4 * plane, input, step, whole);
            slot += 3 * whole;
            input += 2 * whole * step;
        }
        if (left % 2 != 0 && whole < words) {
            ee_dsp_put(slot, plane, ee_dsp_load(input), padding);
            slot += 3;
        }
    }
    for (; slot != end; slot += 3) {
        ee_dsp_put(slot, plane, padding, padding);
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
    uint32_t steps = op->line_out;
    ee_dsp_depthwise_pass pass = {
        .planes = planes,
        .channels = channels,
        .plane_bytes = 12u * op->plane_words,
        .output_step = op->output_step,
    };
    if (op->stride == 1) {
        pass.odd = steps > 1 ? steps & 1 : 0;
        pass.output_step = steps > 1 ? pass.output_step : 0; /* both outputs of the only step */
        steps = steps > 1 ? steps / 2 : 1;
    }
    pass.length = 12 * steps;
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
        pass.weights = weights + 4 * (slot == 0 ? 0 : 3 - slot);
        pass.out = output;
        if (op->stride == 1) {
            ee_dsp_depthwise_s1(&pass);
        } else {
            ee_dsp_depthwise_s2(&pass);
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
