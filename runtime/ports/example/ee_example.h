/* A few samples that came with the model, and the answers that the compiler's reference gave. */
#ifndef EE_EXAMPLE_H
#define EE_EXAMPLE_H

#include "edgeexit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Runs all samples at the model's default operating point.
 *
 *   tell         called after each sample, unless it is NULL; `as_expected` is whether label and
 *                exit are those of the reference
 *   num_wrong    how many samples were not as expected; written only on EE_OK
 *
 * EE_ERROR_NULL, or what ee_init or ee_run returned.
 */
ee_status ee_example_run(void (*tell)(unsigned sample, const ee_result *result, bool as_expected),
                         unsigned *num_wrong);

#ifdef __cplusplus
}
#endif
#endif
