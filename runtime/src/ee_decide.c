/* The four rules, in integers: the definition is edgeexit/runtime/decision.py, and for the same
 * int8 values this gives the same label, score and exit.
 *
 * Nothing here can overflow once ee_init has passed the model: a sum of table entries is at most
 * 4096 * 2^16, and a squared distance at most 33025 * 255^2 < 2^31.
 */
#include "ee_internal.h"

/* Index of the largest logit, ties to the lowest. The largest and the second largest value (which
 * is -128 where there is only one class) come along. */
static uint32_t largest(const int8_t *logits, uint32_t num_classes, int32_t *first,
                        int32_t *second) {
    uint32_t label = 0;
    int32_t best = logits[0];
    int32_t next = INT8_MIN;
    for (uint32_t c = 1; c < num_classes; c++) {
        const int32_t value = logits[c];
        if (value > best) {
            next = best;
            best = value;
            label = c;
        } else if (value > next) {
            next = value;
        }
    }
    *first = best;
    *second = next;
    return label;
}

/* The softmax denominator, in units of 2^-16 of its largest term. */
static uint32_t softmax_sum(const int8_t *logits, uint32_t num_classes, const uint32_t *table,
                            int32_t top) {
    uint32_t sum = 0;
    for (uint32_t c = 0; c < num_classes; c++) {
        sum += table[top - logits[c]];
    }
    return sum;
}

static uint32_t squared_distance(const int8_t *feature, const int8_t *mean, uint32_t num_bytes) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < num_bytes; i++) {
        const int32_t difference = feature[i] - mean[i];
        sum += (uint32_t)(difference * difference);
    }
    return sum;
}

/* Index of the nearest mean, ties to the lowest; by how much it beats the next. */
static uint32_t nearest(const ee_exit *at, const int8_t *feature, uint32_t num_classes,
                        uint32_t *lead) {
    const uint32_t num_bytes = at->feature_bytes;
    const int8_t *mean = at->means;
    uint32_t label = 0;
    uint32_t best = squared_distance(feature, mean, num_bytes);
    uint32_t next = UINT32_MAX;
    for (uint32_t c = 1; c < num_classes; c++) {
        mean += num_bytes;
        const uint32_t distance = squared_distance(feature, mean, num_bytes);
        if (distance < best) {
            next = best;
            best = distance;
            label = c;
        } else if (distance < next) {
            next = distance;
        }
    }
    *lead = next - best;
    return label;
}

bool ee_decide(ee_session *session, uint32_t exit_index) {
    const ee_model *model = session->model;
    const ee_exit *at = &model->exits[exit_index];
    const uint32_t threshold = session->thresholds[exit_index];
    const bool is_last = exit_index + 1u == model->num_exits;
    const uint32_t num_classes = model->num_classes;
    uint32_t label = 0;
    uint32_t score = 0;
    bool answers = false;

    if (model->rule == EE_RULE_CLASS_MEANS) {
        const int8_t *feature = (const int8_t *)session->arena + at->feature_offset;
        label = nearest(at, feature, num_classes, &score);
        answers = score >= threshold;
    } else {
        const int8_t *logits = (const int8_t *)session->arena + at->logits_offset;
        int32_t first = 0;
        int32_t second = 0;
        label = largest(logits, num_classes, &first, &second);
        if (model->rule == EE_RULE_CONFIDENCE) {
            score = softmax_sum(logits, num_classes, at->table, first);
            answers = score <= threshold;
        } else if (model->rule == EE_RULE_MARGIN) {
            score = (uint32_t)(first - second);
            answers = score >= threshold;
        } else {
            session->streak = label == session->label ? session->streak + 1u : 1u;
            score = session->streak;
            answers = score >= threshold;
        }
    }
    session->label = (uint16_t)label;
    session->score = score;
    return answers || is_last;
}
