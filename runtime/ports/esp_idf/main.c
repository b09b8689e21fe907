/* Runs the samples that came with the model and prints what they were taken for. */
#include <stdio.h>

#include "ee_example.h"

static void tell(unsigned sample, const ee_result *result, bool as_expected) {
    printf("sample %u: class %u, answered by exit %u%s\n", sample, (unsigned)result->label,
           (unsigned)result->exit, as_expected ? "" : "  NOT as the compiler's reference");
}

void app_main(void) {
    unsigned num_wrong = 0;
    ee_status status = ee_example_run(tell, &num_wrong);
    if (status != EE_OK) {
        printf("the model did not run: %s\n", ee_status_name(status));
        return;
    }
    printf("%s\n", num_wrong == 0 ? "all as expected" : "some answers are wrong");
}
