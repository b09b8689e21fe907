#include "ee_example.h"

#include <string.h>

#include "ee_example_samples.h"

static EE_ALIGNAS(16) uint8_t arena[EE_EXAMPLE_ARENA_BYTES];
static ee_session session;

ee_status ee_example_run(void (*tell)(unsigned sample, const ee_result *result, bool as_expected),
                         unsigned *num_wrong) {
    if (num_wrong == NULL) {
        return EE_ERROR_NULL;
    }
    ee_status status = ee_init(&session, &EE_EXAMPLE_MODEL, arena, sizeof arena);
    unsigned wrong = 0;
    for (unsigned sample = 0; status == EE_OK && sample < EE_EXAMPLE_NUM_SAMPLES; sample++) {
        memcpy(ee_input(&session), ee_example_inputs[sample], sizeof ee_example_inputs[sample]);
        ee_result result;
        status = ee_run(&session, &result);
        if (status == EE_OK) {
            bool as_expected = result.label == ee_example_labels[sample] &&
                               result.exit == ee_example_exits[sample];
            wrong += as_expected ? 0 : 1;
            if (tell != NULL) {
                tell(sample, &result, as_expected);
            }
        }
    }
    if (status == EE_OK) {
        *num_wrong = wrong;
    }
    return status;
}
