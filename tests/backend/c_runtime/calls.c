/* Every function with what it must refuse, and the order of calls. Silent and 0 if all is well. */
#include "fixture.h"

#define NUM_CLASSES 3u
#define ARENA_BYTES 64u

static const int8_t g_means[3 * NUM_CLASSES * 4] = {0};
static const int8_t g_logits[3 * NUM_CLASSES] = {1, 2, 3, 9, 2, 1, 0, 50, 0};
static const int8_t g_features[3 * 4] = {0};
static uint32_t g_table[EE_TABLE_ENTRIES];
static uint32_t g_thresholds[2][3];

/* A model that a test may damage. */
typedef struct {
    ee_exit exits[3];
    ee_point points[2];
    engine_state state;
    ee_model model;
} bench;

static void make(bench *b, uint32_t rule) {
    static const uint32_t never[] = {0, 256, UINT32_MAX, INT32_MAX};
    static const uint32_t always[] = {UINT32_MAX, 0, 1, 0};
    for (uint32_t d = 0; d < EE_TABLE_ENTRIES; d++) {
        g_table[d] = EE_TABLE_ONE >> (d < 17 ? d : 17);
    }
    for (uint32_t k = 0; k < 3; k++) {
        g_thresholds[0][k] = k < 2 ? never[rule] : always[rule];
        g_thresholds[1][k] = k < 1 ? never[rule] : always[rule];
    }
    *b = (bench){0};
    for (uint32_t k = 0; k < 3; k++) {
        b->exits[k] = (ee_exit){
            .logits_offset = 16,
            .cost = k + 1,
            .table = rule == EE_RULE_CONFIDENCE ? g_table : NULL,
            .means = rule == EE_RULE_CLASS_MEANS ? g_means : NULL,
            .feature_offset = ARENA_BYTES - 4,
            .feature_bytes = 4,
        };
    }
    b->points[0] = (ee_point){"static", g_thresholds[0]};
    b->points[1] = (ee_point){"frugal", g_thresholds[1]};
    b->state = (engine_state){
        .model = &b->model, .logits = g_logits, .features = g_features, .fails_at = MAX_EXITS};
    b->model = (ee_model){
        .magic = EE_MODEL_MAGIC,
        .abi_version = EE_ABI_VERSION,
        .name = "calls",
        .arena_bytes = ARENA_BYTES,
        .input_offset = 8,
        .input_bytes = 12,
        .num_exits = 3,
        .num_classes = NUM_CLASSES,
        .num_points = 2,
        .rule = rule,
        .exits = b->exits,
        .points = b->points,
        .cost_unit = "units",
        .engine = {copy_prepared, &b->state},
    };
}

static bool is_all(const void *memory, uint8_t value, size_t num_bytes) {
    const uint8_t *bytes = memory;
    for (size_t i = 0; i < num_bytes; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

/* That ee_init gives `wanted` and, if that is a failure, has written nothing. */
static void init_gives(ee_status wanted, const ee_model *model, size_t num_bytes, size_t shift) {
    ee_session session;
    uint8_t *arena = take_arena(ARENA_BYTES + 16);
    memset(&session, 0xA5, sizeof session);
    memset(arena, 0x5A, ARENA_BYTES + 16);
    const ee_status status = ee_init(&session, model, arena + shift, num_bytes);
    if (status != wanted) {
        fprintf(stderr, "ee_init: %s, not %s\n", ee_status_name(status), ee_status_name(wanted));
    }
    CHECK(status == wanted);
    CHECK(status == EE_OK || is_all(&session, 0xA5, sizeof session));
    CHECK(is_all(arena, 0x5A, ARENA_BYTES + 16));
    free(arena);
}

static void test_nulls(void) {
    bench b;
    make(&b, EE_RULE_MARGIN);
    EE_ALIGNAS(16) uint8_t arena[ARENA_BYTES];
    ee_session session = {0};
    ee_guard guard = {0};
    ee_result result;
    bool answered = true;
    CHECK(ee_arena_bytes(NULL) == 0);
    CHECK(ee_init(NULL, &b.model, arena, sizeof arena) == EE_ERROR_NULL);
    init_gives(EE_ERROR_NULL, NULL, ARENA_BYTES, 0);
    CHECK(ee_init(&session, &b.model, NULL, sizeof arena) == EE_ERROR_NULL);
    CHECK(is_all(&session, 0, sizeof session));
    CHECK(ee_init(&session, &b.model, arena, sizeof arena) == EE_OK);
    CHECK(ee_attach(NULL, NULL) == EE_ERROR_NULL && ee_attach(&session, NULL) == EE_OK);
    CHECK(ee_select(NULL, 0) == EE_ERROR_NULL && ee_input(NULL) == NULL);
    CHECK(ee_run(NULL, &result) == EE_ERROR_NULL && ee_run(&session, NULL) == EE_ERROR_NULL);
    CHECK(ee_begin(NULL) == EE_ERROR_NULL && ee_begin(&session) == EE_OK);
    CHECK(ee_step(NULL, &answered) == EE_ERROR_NULL && ee_step(&session, NULL) == EE_ERROR_NULL);
    CHECK(ee_best(NULL, &result) == EE_ERROR_NULL && ee_best(&session, NULL) == EE_ERROR_NULL);
    CHECK(ee_guard_init(NULL, &session, 9, 9) == EE_ERROR_NULL);
    CHECK(ee_guard_init(&guard, NULL, 9, 9) == EE_ERROR_NULL);
    CHECK(is_all(&guard, 0, sizeof guard));
    CHECK(ee_guard_init(&guard, &session, 9, 9) == EE_OK);
    CHECK(ee_guard_run(NULL, &session, &result) == EE_ERROR_NULL);
    CHECK(ee_guard_run(&guard, NULL, &result) == EE_ERROR_NULL);
    CHECK(ee_guard_run(&guard, &session, NULL) == EE_ERROR_NULL);
    CHECK(ee_guard_begin(NULL, &session) == EE_ERROR_NULL);
    CHECK(ee_guard_begin(&guard, NULL) == EE_ERROR_NULL);
    CHECK(ee_guard_step(NULL, &session, &answered) == EE_ERROR_NULL);
    CHECK(ee_guard_step(&guard, NULL, &answered) == EE_ERROR_NULL);
    CHECK(ee_guard_step(&guard, &session, NULL) == EE_ERROR_NULL);
    CHECK(answered && b.state.num_runs == 0);
}

static void test_not_initialised(void) {
    ee_session session = {0};
    ee_guard guard = {0};
    ee_result result;
    bool answered;
    CHECK(ee_attach(&session, NULL) == EE_ERROR_STATE && ee_input(&session) == NULL);
    CHECK(ee_select(&session, 0) == EE_ERROR_STATE && ee_begin(&session) == EE_ERROR_STATE);
    CHECK(ee_step(&session, &answered) == EE_ERROR_STATE);
    CHECK(ee_best(&session, &result) == EE_ERROR_STATE);
    CHECK(ee_run(&session, &result) == EE_ERROR_STATE);
    CHECK(ee_guard_init(&guard, &session, 9, 9) == EE_ERROR_STATE);
    CHECK(ee_guard_run(&guard, &session, &result) == EE_ERROR_STATE);
    CHECK(ee_guard_step(&guard, &session, &answered) == EE_ERROR_STATE);
    CHECK(is_all(&session, 0, sizeof session) && is_all(&guard, 0, sizeof guard));
}

#define DAMAGED(rule, wanted, damage)                                                              \
    do {                                                                                           \
        bench b;                                                                                   \
        make(&b, rule);                                                                            \
        init_gives(EE_OK, &b.model, ARENA_BYTES, 0);                                               \
        damage;                                                                                    \
        init_gives(wanted, &b.model, ARENA_BYTES, 0);                                              \
    } while (0)
#define BAD_MODEL(rule, damage) DAMAGED(rule, EE_ERROR_MODEL, damage)

static void test_damaged_models(void) {
    const uint32_t margin = EE_RULE_MARGIN;
    const uint32_t means = EE_RULE_CLASS_MEANS;
    DAMAGED(margin, EE_ERROR_MAGIC, b.model.magic ^= 1);
    DAMAGED(margin, EE_ERROR_VERSION, b.model.abi_version++);
    BAD_MODEL(margin, b.model.name = NULL);
    BAD_MODEL(margin, b.model.cost_unit = NULL);
    BAD_MODEL(margin, b.model.exits = NULL);
    BAD_MODEL(margin, b.model.points = NULL);
    BAD_MODEL(margin, b.model.engine.run_segment = NULL);
    BAD_MODEL(margin, b.model.num_exits = 0);
    BAD_MODEL(margin, b.model.num_points = 0);
    BAD_MODEL(margin, b.model.num_exits = EE_MAX_EXITS + 1);
    BAD_MODEL(margin, b.model.num_points = EE_MAX_POINTS + 1);
    BAD_MODEL(margin, b.model.default_point = 2);
    BAD_MODEL(margin, b.model.num_classes = 1);
    BAD_MODEL(margin, b.model.num_classes = 0);
    BAD_MODEL(EE_RULE_PATIENCE, b.model.num_classes = 0);
    BAD_MODEL(margin, b.model.rule = 4);
    BAD_MODEL(margin, b.model.rule = UINT32_MAX);
    BAD_MODEL(margin, b.model.input_bytes = 0);
    BAD_MODEL(margin, b.model.input_bytes = ARENA_BYTES - 7);
    BAD_MODEL(margin, b.model.input_bytes = UINT32_MAX - 7);
    BAD_MODEL(margin, b.model.input_offset = UINT32_MAX);
    BAD_MODEL(margin, b.model.arena_bytes = 0);
    BAD_MODEL(margin, b.exits[2].logits_offset = ARENA_BYTES - 2);
    BAD_MODEL(margin, b.exits[0].logits_offset = UINT32_MAX);
    BAD_MODEL(margin, b.exits[1].cost = UINT32_MAX - 3);
    BAD_MODEL(margin, b.points[1].name = NULL);
    BAD_MODEL(margin, b.points[1].thresholds = NULL);
    BAD_MODEL(margin, g_thresholds[1][1] = 257);
    BAD_MODEL(margin, g_thresholds[0][2] = 1);
    BAD_MODEL(EE_RULE_PATIENCE, g_thresholds[0][0] = 0);
    BAD_MODEL(EE_RULE_PATIENCE, g_thresholds[0][2] = 2);
    BAD_MODEL(EE_RULE_CONFIDENCE, g_thresholds[1][2] = UINT32_MAX - 1);
    BAD_MODEL(EE_RULE_CONFIDENCE, b.exits[1].table = NULL);
    BAD_MODEL(EE_RULE_CONFIDENCE, g_table[0]++);
    BAD_MODEL(EE_RULE_CONFIDENCE, g_table[255]++);
    BAD_MODEL(means, g_thresholds[0][0] = (uint32_t)INT32_MAX + 1);
    BAD_MODEL(means, b.exits[0].means = NULL);
    BAD_MODEL(means, b.exits[0].feature_bytes = 0);
    BAD_MODEL(means, b.exits[0].feature_bytes = EE_MAX_FEATURE_BYTES + 1);
    BAD_MODEL(means, b.exits[0].feature_offset = ARENA_BYTES - 3);
    BAD_MODEL(means, b.model.num_classes = 1);

    bench b;
    make(&b, margin);
    b.model.arena_bytes = UINT32_MAX;
    b.model.num_classes = EE_MAX_CLASSES + 1;
    init_gives(EE_ERROR_MODEL, &b.model, ARENA_BYTES, 0);
    b.model.num_classes = EE_MAX_CLASSES;
    init_gives(EE_ERROR_ARENA_SIZE, &b.model, ARENA_BYTES, 0);
    make(&b, margin);
    b.exits[1].cost = UINT32_MAX - 4; /* 1 + this + 3 is the largest sum there is */
    init_gives(EE_OK, &b.model, ARENA_BYTES, 0);
    make(&b, EE_RULE_PATIENCE);
    b.model.num_classes = 1;
    init_gives(EE_OK, &b.model, ARENA_BYTES, 0);
}

static void test_arena(void) {
    bench b;
    make(&b, EE_RULE_MARGIN);
    CHECK(ee_arena_bytes(&b.model) == ARENA_BYTES);
    init_gives(EE_OK, &b.model, ARENA_BYTES + 16, 0);
    init_gives(EE_OK, &b.model, ARENA_BYTES, 16);
    init_gives(EE_ERROR_ARENA_SIZE, &b.model, ARENA_BYTES - 1, 0);
    init_gives(EE_ERROR_ARENA_SIZE, &b.model, 0, 0);
    for (size_t shift = 1; shift < 16; shift++) {
        init_gives(EE_ERROR_ARENA_ALIGNMENT, &b.model, ARENA_BYTES, shift);
    }
    b.model.magic = 0;
    CHECK(ee_arena_bytes(&b.model) == 0);
    make(&b, EE_RULE_MARGIN);
    b.model.abi_version = 0;
    CHECK(ee_arena_bytes(&b.model) == 0);
}

static void test_order(void) {
    bench b;
    make(&b, EE_RULE_MARGIN);
    EE_ALIGNAS(16) uint8_t arena[ARENA_BYTES] = {0};
    ee_session session;
    ee_result result;
    ee_result untouched;
    memset(&result, 0xA5, sizeof result);
    memcpy(&untouched, &result, sizeof result);
    bool answered = true;
    CHECK(ee_init(&session, &b.model, arena, sizeof arena) == EE_OK);
    CHECK(ee_input(&session) == (int8_t *)arena + 8);
    CHECK(ee_step(&session, &answered) == EE_ERROR_STATE && answered);
    CHECK(ee_best(&session, &result) == EE_ERROR_NO_ANSWER);
    CHECK(ee_select(&session, 2) == EE_ERROR_POINT);
    CHECK(ee_select(&session, UINT32_MAX) == EE_ERROR_POINT);
    CHECK(ee_select(&session, 65536) == EE_ERROR_POINT);
    CHECK(ee_begin(&session) == EE_OK);
    CHECK(ee_best(&session, &result) == EE_ERROR_NO_ANSWER);
    CHECK(memcmp(&result, &untouched, sizeof result) == 0);

    /* Point 0, chosen before, holds for this sample; point 1 would answer at exit 1. */
    CHECK(ee_step(&session, &answered) == EE_OK && !answered);
    CHECK(ee_select(&session, 1) == EE_OK);
    CHECK(ee_best(&session, &result) == EE_OK && result.exit == 0 && result.label == 2);
    CHECK(result.score == 1 && result.cost == 1 && result.logits == (int8_t *)arena + 16);
    CHECK(ee_step(&session, &answered) == EE_OK && !answered);
    CHECK(ee_best(&session, &result) == EE_OK && result.exit == 1 && result.label == 0);
    CHECK(ee_step(&session, &answered) == EE_OK && answered);
    CHECK(ee_step(&session, &answered) == EE_ERROR_STATE && b.state.num_runs == 3);
    CHECK(ee_best(&session, &result) == EE_OK && result.exit == 2 && result.label == 1);
    CHECK(result.score == 50 && result.cost == 6 && memcmp(result.logits, g_logits + 6, 3) == 0);

    CHECK(ee_run(&session, &result) == EE_OK && result.exit == 1 && result.cost == 3);
    CHECK(ee_begin(&session) == EE_OK && ee_step(&session, &answered) == EE_OK && !answered);
    CHECK(ee_run(&session, &result) == EE_OK && result.exit == 1); /* drops the one under way */
    CHECK(ee_begin(&session) == EE_OK);
    CHECK(ee_best(&session, &result) == EE_ERROR_NO_ANSWER);

    /* A failed ee_init leaves a session that works. */
    CHECK(ee_init(&session, &b.model, arena, 1) == EE_ERROR_ARENA_SIZE);
    CHECK(ee_run(&session, &result) == EE_OK && result.exit == 1);
}

static void test_engine_failure(void) {
    bench b;
    make(&b, EE_RULE_MARGIN);
    EE_ALIGNAS(16) uint8_t arena[ARENA_BYTES];
    ee_session session;
    ee_result result = {0};
    bool answered = true;
    CHECK(ee_init(&session, &b.model, arena, sizeof arena) == EE_OK);
    b.state.fails_at = 0;
    CHECK(ee_run(&session, &result) == EE_ERROR_ENGINE && result.logits == NULL);
    CHECK(ee_best(&session, &result) == EE_ERROR_NO_ANSWER);
    b.state.fails_at = 1;
    CHECK(ee_begin(&session) == EE_OK && ee_step(&session, &answered) == EE_OK);
    answered = true;
    CHECK(ee_step(&session, &answered) == EE_ERROR_ENGINE && answered);
    CHECK(ee_step(&session, &answered) == EE_ERROR_STATE);
    CHECK(ee_best(&session, &result) == EE_OK && result.logits == NULL);
    CHECK(result.exit == 0 && result.label == 2 && result.score == 1 && result.cost == 3);
    b.state.fails_at = MAX_EXITS;
    CHECK(ee_run(&session, &result) == EE_OK && result.logits != NULL && result.cost == 6);
}

typedef struct {
    uint32_t now, num_events;
    uint32_t events[32][3];
} notes;

static uint32_t clock_of(void *context) {
    notes *n = context;
    n->now += 7;
    return n->now;
}

static void note(void *context, ee_event event, uint32_t index, uint32_t value) {
    notes *n = context;
    CHECK(n->num_events < 32);
    uint32_t *row = n->events[n->num_events++];
    row[0] = event;
    row[1] = index;
    row[2] = value;
}

static void test_port(void) {
    bench b;
    make(&b, EE_RULE_MARGIN);
    EE_ALIGNAS(16) uint8_t arena[ARENA_BYTES];
    ee_session session;
    ee_result result;
    notes n = {.now = UINT32_MAX - 8}; /* wraps around within the first segment */
    const ee_port port = {clock_of, note, &n};
    const ee_port silent = {clock_of, NULL, &n};
    const ee_port timeless = {NULL, note, &n};
    CHECK(ee_init(&session, &b.model, arena, sizeof arena) == EE_OK);
    CHECK(ee_attach(&session, &port) == EE_OK && ee_select(&session, 1) == EE_OK);
    CHECK(ee_run(&session, &result) == EE_OK);
    b.state.fails_at = 0;
    CHECK(ee_run(&session, &result) == EE_ERROR_ENGINE);
    b.state.fails_at = MAX_EXITS;
    static const uint32_t wanted[][3] = {{EE_EVENT_SEGMENT, 0, 7},
                                         {EE_EVENT_SEGMENT, 1, 7},
                                         {EE_EVENT_ANSWER, 1, 7},
                                         {EE_EVENT_FAILURE, 0, EE_ERROR_ENGINE}};
    CHECK(n.num_events == 4 && memcmp(n.events, wanted, sizeof wanted) == 0);
    CHECK(ee_attach(&session, &timeless) == EE_OK && ee_run(&session, &result) == EE_OK);
    CHECK(n.num_events == 7 && n.events[4][2] == 0);
    CHECK(ee_attach(&session, &silent) == EE_OK && ee_run(&session, &result) == EE_OK);
    CHECK(ee_attach(&session, NULL) == EE_OK && ee_run(&session, &result) == EE_OK);
    CHECK(n.num_events == 7);
}

static void test_names(void) {
    CHECK(ee_version() == EE_ABI_VERSION);
    CHECK(strcmp(ee_status_name(EE_OK), "EE_OK") == 0);
    CHECK(strcmp(ee_status_name(EE_ERROR_ENGINE), "EE_ERROR_ENGINE") == 0);
    CHECK(strcmp(ee_status_name((ee_status)499), "unknown") == 0);
}

int main(void) {
    test_nulls();
    test_not_initialised();
    test_damaged_models();
    test_arena();
    test_order();
    test_engine_failure();
    test_port();
    test_names();
    return 0;
}
