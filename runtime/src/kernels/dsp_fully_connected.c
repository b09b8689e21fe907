/* Fully connected layer for cores with the DSP extension. Every weight is used once, so weights
 * stay int8 until the loop; see ee_kernels_dsp.h for the layout. */
#include "ee_dsp.h"

static void widen(int16_t *to, const int8_t *from, uint32_t count, uint32_t depth) {
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint32_t word = ee_dsp_load(from + i);
        ee_dsp_store(to + i, ee_dsp_even(word));
        ee_dsp_store(to + i + 2, ee_dsp_odd(word));
    }
    if (i < depth) {
        uint32_t word = 0;
        memcpy(&word, from + i, count - i);
        ee_dsp_store(to + i, ee_dsp_even(word));
        ee_dsp_store(to + i + 2, ee_dsp_odd(word));
    }
}

void ee_fully_connected_dsp(const ee_fully_connected_dsp_op *op, const int8_t *input,
                            int8_t *output, void *scratch) {
    int16_t *row = scratch;
    bool narrow = op->activation_min > INT8_MIN || op->activation_max < INT8_MAX;
    for (uint32_t r = 0; r < op->num_rows; r++, input += op->in_features) {
        const int8_t *weights = op->weights8;
        const int32_t *block = op->channels;
        widen(row, input, op->in_features, op->depth);
        for (uint32_t c = 0; c < op->out_features; c += 4) {
            int32_t sums[4];
            uint32_t channels = op->out_features - c < 4 ? op->out_features - c : 4;
            ee_dsp_row(row, weights, block, sums, row + op->depth);
            for (uint32_t i = 0; i < channels; i++) {
                const int32_t *channel = block + 4 + 3 * i;
                if (op->rescale_exactly != 0) {
                    int32_t value = ee_dsp_rescale(sums[i], channel[0], channel[2]) + channel[1];
                    output[c + i] = (int8_t)ee_dsp_clamp(value, INT8_MIN, INT8_MAX);
                } else {
                    output[c + i] = ee_dsp_rescale_fast(2 * sums[i], channel);
                }
            }
            weights += 4 * op->depth;
            block += EE_DSP_BLOCK_WORDS;
        }
        if (narrow) {
            ee_dsp_clamp_all(output, op->out_features, op->activation_min, op->activation_max);
        }
        output += op->out_features;
    }
}
