/* Runs prepared logits through ee_run and the anytime calls; standard input to standard output.
 *
 * In, all uint32 little-endian where nothing else is said: rule, num_exits, num_classes,
 * feature_bytes, num_points, num_samples; tables [exits][256] (confidence only); means
 * int8 [exits][classes][feature_bytes]; thresholds [points][exits]; then for each sample logits
 * int8 [exits][classes] and features int8 [exits][feature_bytes].
 * Out, for each point and sample: label, exit, score, cost. Segment k costs 10^k.
 */
#include "fixture.h"

static void take(void *to, size_t num_bytes) {
    CHECK(num_bytes == 0 || fread(to, num_bytes, 1, stdin) == 1);
}

static void *take_new(size_t num_bytes) {
    void *memory = malloc(num_bytes + 1);
    CHECK(memory != NULL);
    take(memory, num_bytes);
    return memory;
}

int main(void) {
    uint32_t head[6];
    take(head, sizeof head);
    const uint32_t num_exits = head[1];
    const uint32_t num_classes = head[2];
    const uint32_t feature_bytes = head[3];
    const uint32_t num_points = head[4];
    const uint32_t num_samples = head[5];
    CHECK(num_exits <= MAX_EXITS);
    uint32_t *tables =
        take_new(head[0] == EE_RULE_CONFIDENCE ? (size_t)num_exits * EE_TABLE_ENTRIES * 4 : 0);
    int8_t *means = take_new((size_t)num_exits * num_classes * feature_bytes);
    uint32_t *thresholds = take_new((size_t)num_points * num_exits * 4);

    ee_exit exits[MAX_EXITS] = {0};
    for (uint32_t k = 0, cost = 1; k < num_exits; k++, cost *= 10) {
        exits[k].cost = cost;
        exits[k].feature_offset = 1;
        exits[k].feature_bytes = feature_bytes;
        exits[k].logits_offset = 1 + feature_bytes; /* to the end of the arena */
        if (head[0] == EE_RULE_CONFIDENCE) {
            exits[k].table = tables + (size_t)k * EE_TABLE_ENTRIES;
        }
        if (head[0] == EE_RULE_CLASS_MEANS) {
            exits[k].means = means + (size_t)k * num_classes * feature_bytes;
        }
    }
    ee_point *points = take_new(0);
    points = realloc(points, num_points * sizeof *points);
    CHECK(points != NULL);
    for (uint32_t p = 0; p < num_points; p++) {
        points[p] = (ee_point){"point", thresholds + (size_t)p * num_exits};
    }
    engine_state state = {.fails_at = MAX_EXITS};
    const ee_model model = {
        .magic = EE_MODEL_MAGIC,
        .abi_version = EE_ABI_VERSION,
        .name = "prepared",
        .arena_bytes = 1 + feature_bytes + num_classes,
        .input_bytes = 1,
        .num_exits = (uint16_t)num_exits,
        .num_classes = (uint16_t)num_classes,
        .num_points = (uint16_t)num_points,
        .rule = head[0],
        .exits = exits,
        .points = points,
        .cost_unit = "units",
        .engine = {copy_prepared, &state},
    };
    state.model = &model;
    uint8_t *arena = take_arena(model.arena_bytes);
    int8_t *logits = take_new((size_t)num_samples * num_exits * (num_classes + feature_bytes));
    ee_session session = {0};
    CHECK(ee_init(&session, &model, arena, model.arena_bytes) == EE_OK);

    for (uint32_t p = 0; p < num_points; p++) {
        CHECK(ee_select(&session, p) == EE_OK);
        for (uint32_t n = 0; n < num_samples; n++) {
            state.logits = logits + (size_t)n * num_exits * (num_classes + feature_bytes);
            state.features = state.logits + (size_t)num_exits * num_classes;
            ee_result result;
            CHECK(ee_run(&session, &result) == EE_OK);
            CHECK(memcmp(result.logits, state.logits + result.exit * num_classes, num_classes) ==
                  0);

            bool answered = false;
            ee_result best = {0};
            CHECK(ee_begin(&session) == EE_OK);
            for (uint32_t k = 0; !answered; k++) {
                CHECK(ee_step(&session, &answered) == EE_OK && ee_best(&session, &best) == EE_OK);
                CHECK(best.exit == k);
            }
            CHECK(best.label == result.label && best.exit == result.exit &&
                  best.score == result.score && best.cost == result.cost);
            const uint32_t row[4] = {result.label, result.exit, result.score, result.cost};
            CHECK(fwrite(row, sizeof row, 1, stdout) == 1);
        }
    }
    free(logits);
    free(arena);
    free(points);
    free(thresholds);
    free(means);
    free(tables);
    return 0;
}
