/* Short copies and fills, 16 bytes at a time. */
#ifndef EE_MVE_COPY_H
#define EE_MVE_COPY_H

#include "ee_mve.h"

/* Exactly num_bytes are read and written. */
static inline void ee_mve_copy(int8_t *to, const int8_t *from, int32_t num_bytes) {
    for (; num_bytes > 0; num_bytes -= 16, to += 16, from += 16) {
        const mve_pred16_t active = vctp8q((uint32_t)num_bytes);
        vstrbq_p_s8(to, vldrbq_z_s8(from, active), active);
    }
}

/* Reads and writes up to 15 bytes more. */
static inline void ee_mve_copy_over(int8_t *to, const int8_t *from, int32_t num_bytes) {
    for (; num_bytes > 0; num_bytes -= 16, to += 16, from += 16) {
        vstrbq_s8(to, vldrbq_s8(from));
    }
}

static inline void ee_mve_fill(int8_t *to, int8_t value, int32_t num_bytes) {
    for (; num_bytes > 0; num_bytes -= 16, to += 16) {
        vstrbq_p_s8(to, vdupq_n_s8(value), vctp8q((uint32_t)num_bytes));
    }
}

/* `num_columns` pixels of one image row, from column `left`, which may be outside; `row` is NULL
 * for a row outside. Pixels outside get `pad`. */
static inline void ee_mve_copy_padded(int8_t *to, const int8_t *row, int32_t left,
                                      int32_t num_columns, int32_t image_w, int32_t channels,
                                      int8_t pad) {
    int32_t first = left < 0 ? -left : 0;
    int32_t end = image_w - left < num_columns ? image_w - left : num_columns;
    if (row == 0 || first >= end) {
        ee_mve_fill(to, pad, num_columns * channels);
        return;
    }
    ee_mve_fill(to, pad, first * channels);
    ee_mve_copy(to + first * channels, row + (left + first) * channels, (end - first) * channels);
    ee_mve_fill(to + end * channels, pad, (num_columns - end) * channels);
}

#endif
