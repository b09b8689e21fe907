/* What moves or translates values without computing: strided copies and tables. */
#include <string.h>

#include "ee_portable.h"

void ee_copy_portable(const ee_copy *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    const uint32_t *n = op->extents;
    const int32_t *s = op->input_strides;
    const int32_t *t = op->output_strides;
    memset(output, op->fill, op->fill_bytes);
    for (int32_t i = 0; i < (int32_t)n[0]; i++) {
        for (int32_t j = 0; j < (int32_t)n[1]; j++) {
            for (int32_t k = 0; k < (int32_t)n[2]; k++) {
                const int8_t *from =
                    input + ((int32_t)op->input_start + i * s[0] + j * s[1] + k * s[2]);
                int8_t *to = output + ((int32_t)op->output_start + i * t[0] + j * t[1] + k * t[2]);
                if (s[3] == 1 && t[3] == 1) {
                    memcpy(to, from, n[3]);
                } else {
                    /* By index: a pointer that walks on would end outside the tensor. */
                    for (int32_t l = 0; l < (int32_t)n[3]; l++) {
                        to[l * t[3]] = from[l * s[3]];
                    }
                }
            }
        }
    }
}

void ee_table_portable(const ee_table *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    for (uint32_t count = op->num_bytes; count != 0u; count--) {
        *output++ = op->table[*input++ + 128];
    }
}
