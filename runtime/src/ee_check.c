/* What ee_init asks of a model before anything of it runs. */
#include "ee_internal.h"

/* The smallest and the largest threshold of a rule, and the one that every score meets. */
typedef struct {
    uint32_t low, high, always;
} limits;

static limits limits_of(uint32_t rule) {
    switch (rule) {
    case EE_RULE_MARGIN:
        return (limits){0u, 256u, 0u};
    case EE_RULE_PATIENCE:
        return (limits){1u, UINT32_MAX, 1u};
    case EE_RULE_CLASS_MEANS:
        return (limits){0u, INT32_MAX, 0u};
    default: /* EE_RULE_CONFIDENCE: the caller has refused what is no rule */
        return (limits){0u, UINT32_MAX, UINT32_MAX};
    }
}

/* Whether [offset, offset + num_bytes) lies in the arena; without a sum that could wrap around. */
static bool fits(const ee_model *model, uint32_t offset, uint32_t num_bytes) {
    return offset <= model->arena_bytes && num_bytes <= model->arena_bytes - offset;
}

/* The sum in ee_decide needs entries that are at most EE_TABLE_ONE; a table of exp also falls. */
static bool is_table(const uint32_t *table) {
    if (table == NULL || table[0] != EE_TABLE_ONE) {
        return false;
    }
    for (uint32_t i = 1; i < EE_TABLE_ENTRIES; i++) {
        if (table[i] > table[i - 1u]) {
            return false;
        }
    }
    return true;
}

static bool exit_is_sound(const ee_model *model, const ee_exit *at) {
    if (!fits(model, at->logits_offset, model->num_classes)) {
        return false;
    }
    if (model->rule == EE_RULE_CONFIDENCE) {
        return is_table(at->table);
    }
    if (model->rule == EE_RULE_CLASS_MEANS) {
        return at->means != NULL && at->feature_bytes >= 1u &&
               at->feature_bytes <= EE_MAX_FEATURE_BYTES &&
               fits(model, at->feature_offset, at->feature_bytes);
    }
    return true;
}

static bool point_is_sound(const ee_model *model, const ee_point *point) {
    const limits range = limits_of(model->rule);
    if (point->name == NULL || point->thresholds == NULL) {
        return false;
    }
    for (uint32_t k = 0; k < model->num_exits; k++) {
        if (point->thresholds[k] < range.low || point->thresholds[k] > range.high) {
            return false;
        }
    }
    return point->thresholds[model->num_exits - 1u] == range.always;
}

static bool header_is_sound(const ee_model *model) {
    const bool compares_two = model->rule == EE_RULE_MARGIN || model->rule == EE_RULE_CLASS_MEANS;
    return model->rule <= EE_RULE_CLASS_MEANS && model->name != NULL && model->cost_unit != NULL &&
           model->exits != NULL && model->points != NULL && model->engine.run_segment != NULL &&
           model->num_exits >= 1u && model->num_exits <= EE_MAX_EXITS && model->num_points >= 1u &&
           model->num_points <= EE_MAX_POINTS && model->default_point < model->num_points &&
           model->num_classes >= (compares_two ? 2u : 1u) && model->num_classes <= EE_MAX_CLASSES &&
           model->input_bytes >= 1u && fits(model, model->input_offset, model->input_bytes);
}

ee_status ee_check_model(const ee_model *model) {
    if (model->magic != EE_MODEL_MAGIC) {
        return EE_ERROR_MAGIC;
    }
    if (model->abi_version != EE_ABI_VERSION) {
        return EE_ERROR_VERSION;
    }
    if (!header_is_sound(model)) {
        return EE_ERROR_MODEL;
    }
    uint32_t cost = 0;
    for (uint32_t k = 0; k < model->num_exits; k++) {
        const ee_exit *at = &model->exits[k];
        if (!exit_is_sound(model, at) || at->cost > UINT32_MAX - cost) {
            return EE_ERROR_MODEL;
        }
        cost += at->cost;
    }
    for (uint32_t p = 0; p < model->num_points; p++) {
        if (!point_is_sound(model, &model->points[p])) {
            return EE_ERROR_MODEL;
        }
    }
    return EE_OK;
}
