/* What the tile kernels compute, in plain C, for machines without MVE: to test the rest. */
#ifndef EE_MVE_TILE_C_H
#define EE_MVE_TILE_C_H

#include <string.h>

#include "ee_portable.h"
#include "mve_tile.h"

/* Where block `block` of pixel `pixel`'s window lies. */
typedef const int8_t *(*ee_tile_window)(const ee_mve_tile *tile, uint32_t pixel, uint32_t block);

static inline void ee_tile_in_c(ee_mve_tile *tile, uint32_t num_blocks, ee_tile_window window) {
    const int8_t *record = (const int8_t *)tile->weights;
    for (; tile->output != tile->output_end; tile->output += 4) {
        for (uint32_t half = 0; half < 2u; half++) {
            int32_t numbers[6]; /* bias, multiplier and shift of two channels */
            memcpy(numbers, record + num_blocks * 32u, sizeof numbers);
            for (uint32_t i = 0; i < 2u; i++) {
                for (uint32_t pixel = 0; pixel < 4u; pixel++) {
                    uint32_t sum = (uint32_t)numbers[i];
                    for (uint32_t block = 0; block < num_blocks; block++) {
                        sum = ee_dot(window(tile, pixel, block), record + block * 32u + i * 16u,
                                     16u, sum);
                    }
                    tile->output[tile->pixel_offsets[pixel] + half + 2u * i] =
                        ee_clamp(ee_requantize((int32_t)sum, numbers[2u + i], numbers[4u + i]) +
                                     tile->output_offset,
                                 tile->activation_min, tile->activation_max);
                }
            }
            record += num_blocks * 32u + sizeof numbers;
        }
    }
}

#endif
