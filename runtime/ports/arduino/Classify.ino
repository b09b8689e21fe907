// Runs the samples that came with the model and prints what they were taken for.
#include "ee_example.h"

static void tell(unsigned sample, const ee_result *result, bool as_expected) {
    Serial.print("sample ");
    Serial.print(sample);
    Serial.print(": class ");
    Serial.print(result->label);
    Serial.print(", answered by exit ");
    Serial.print(result->exit);
    Serial.println(as_expected ? "" : "  NOT as the compiler's reference");
}

void setup() {
    Serial.begin(115200);
    unsigned num_wrong = 0;
    ee_status status = ee_example_run(tell, &num_wrong);
    if (status != EE_OK) {
        Serial.print("the model did not run: ");
        Serial.println(ee_status_name(status));
    } else {
        Serial.println(num_wrong == 0 ? "all as expected" : "some answers are wrong");
    }
}

void loop() {}
