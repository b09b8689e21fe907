#ifndef EE_MVE_ADD_H
#define EE_MVE_ADD_H

#include "ee_kernels_mve.h"

/* output[i] = a[i] + b[i] in the sense of `op`. The output may be either input. */
void ee_mve_add_bytes(const ee_mve_addition *op, const int8_t *a, const int8_t *b, int8_t *output,
                      uint32_t num_bytes);

#endif
