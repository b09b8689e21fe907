/* The guarantee of ee_guard.h against inputs that are made to exit late. Silent and 0 if it holds.
 *
 * The engine itself adds up what it runs, so nothing here believes the guard's own books.
 */
#include "fixture.h"

#define NUM_EXITS 4u
#define NUM_POINTS 3u
#define SEGMENT_SURE 200

/* Thresholds of the rule margin. Point 0 takes no early exit, point 2 almost each. */
static const uint32_t g_thresholds[NUM_POINTS][NUM_EXITS] = {
    {256, 256, 256, 0}, {150, 150, 150, 0}, {50, 50, 50, 0}};
static const ee_point g_points[NUM_POINTS] = {
    {"static", g_thresholds[0]}, {"balanced", g_thresholds[1]}, {"frugal", g_thresholds[2]}};
static EE_ALIGNAS(16) uint8_t g_arena[16];

static uint32_t g_seed = 1;

static uint32_t below(uint32_t limit) {
    g_seed = g_seed * 1664525u + 1013904223u;
    return (g_seed >> 8) % limit;
}

typedef struct {
    ee_exit exits[NUM_EXITS];
    int8_t logits[NUM_EXITS][2];
    engine_state state;
    ee_model model;
    ee_session session;
    ee_guard guard;
    /* Largest sum of (cost - mean_cost) over the samples up to now: the guarantee says <= burst. */
    int64_t excess;
    uint64_t total;
} bench;

static void make(bench *b, const uint32_t costs[NUM_EXITS], uint32_t mean_cost, uint32_t burst) {
    *b = (bench){0};
    for (uint32_t k = 0; k < NUM_EXITS; k++) {
        b->exits[k].cost = costs[k];
    }
    b->state = (engine_state){
        .model = &b->model, .logits = b->logits[0], .features = NULL, .fails_at = MAX_EXITS};
    b->model = (ee_model){
        .magic = EE_MODEL_MAGIC,
        .abi_version = EE_ABI_VERSION,
        .name = "guarded",
        .arena_bytes = sizeof g_arena,
        .input_offset = 8,
        .input_bytes = 1,
        .num_exits = NUM_EXITS,
        .num_classes = 2,
        .num_points = NUM_POINTS,
        .rule = EE_RULE_MARGIN,
        .exits = b->exits,
        .points = g_points,
        .cost_unit = "units",
        .engine = {copy_prepared, &b->state},
    };
    CHECK(ee_init(&b->session, &b->model, g_arena, sizeof g_arena) == EE_OK);
    CHECK(ee_guard_init(&b->guard, &b->session, mean_cost, burst) == EE_OK);
}

/* Books a sample by what the engine really ran. */
static void book(bench *b) {
    const int64_t over = (int64_t)b->state.spent - b->guard.mean_cost;
    b->excess = (b->excess > 0 ? b->excess : 0) + over;
    CHECK(b->excess <= (int64_t)b->guard.burst);
    b->total += b->state.spent;
    b->state.spent = 0;
}

/* A sample that is unsure before segment `sure_at`; sure means a margin of `margin`. */
static ee_result run(bench *b, uint32_t sure_at, uint32_t margin) {
    for (uint32_t k = 0; k < NUM_EXITS; k++) {
        const uint32_t lead = k >= sure_at ? margin : 0;
        b->logits[k][0] = -128;
        b->logits[k][1] = (int8_t)((int32_t)lead - 128);
    }
    ee_result result = {0};
    CHECK(ee_guard_run(&b->guard, &b->session, &result) == EE_OK);
    CHECK(result.cost == b->state.spent); /* each sample has an answer, and its true cost */
    book(b);
    return result;
}

static void test_bounds(void) {
    const uint32_t costs[NUM_EXITS] = {10, 10, 10, 10};
    bench b;
    make(&b, costs, 10, 0);
    const ee_guard before = b.guard;
    CHECK(ee_guard_init(&b.guard, &b.session, 9, 1000) == EE_ERROR_ARGUMENT);
    CHECK(ee_guard_init(&b.guard, &b.session, 10, UINT32_MAX - 9) == EE_ERROR_ARGUMENT);
    CHECK(memcmp(&before, &b.guard, sizeof before) == 0);
    CHECK(ee_guard_init(&b.guard, &b.session, 10, UINT32_MAX - 10) == EE_OK);
    CHECK(ee_guard_init(&b.guard, &b.session, UINT32_MAX, 0) == EE_OK);
    bench other;
    make(&other, costs, 10, 0);
    ee_result result;
    bool answered;
    CHECK(ee_guard_run(&other.guard, &b.session, &result) == EE_ERROR_ARGUMENT);
    CHECK(ee_guard_begin(&other.guard, &b.session) == EE_ERROR_ARGUMENT);
    CHECK(ee_guard_step(&other.guard, &b.session, &answered) == EE_ERROR_ARGUMENT);
}

/* All sequences of eight samples over five difficulties, with a bucket that is about one sample. */
static void test_all_short_sequences(void) {
    const uint32_t costs[NUM_EXITS] = {3, 5, 2, 7};
    for (uint32_t code = 0; code < 390625; code++) {
        bench b;
        make(&b, costs, 3 + code % 9, code % 20);
        for (uint32_t n = 0, rest = code; n < 8; n++, rest /= 5) {
            run(&b, rest % 5, SEGMENT_SURE);
        }
    }
}

/* Long sequences: costs, bounds, points, failures and behaviours of the attacker at random. */
static void test_random_attacks(void) {
    for (uint32_t round = 0; round < 400; round++) {
        const uint32_t scale = round % 3 == 0 ? 10u : 300000000u;
        const uint32_t costs[NUM_EXITS] = {below(scale), below(scale), below(scale), below(scale)};
        const uint32_t mean_cost = costs[0] + below(scale);
        bench b;
        make(&b, costs, mean_cost, below(2) ? below(scale * 4) : below(scale * 2 / 9 + 1));
        const uint32_t kind = below(5);
        for (uint32_t n = 0; n < 1000; n++) {
            uint32_t sure_at = NUM_EXITS; /* kind 0: always late */
            if (kind == 1) {              /* random */
                sure_at = below(NUM_EXITS + 1);
            } else if (kind == 2) { /* save, then spend all at once */
                sure_at = n / 50 % 2 ? NUM_EXITS : 0;
            } else if (kind == 3) { /* sees the bucket: late when the point is costly */
                sure_at = b.guard.lowered == 0 ? NUM_EXITS : 0;
            } else if (kind == 4) { /* sees the bucket: late when it is full */
                sure_at = b.guard.tokens >= b.guard.burst ? NUM_EXITS : below(2);
            }
            if (below(50) == 0) {
                CHECK(ee_select(&b.session, below(NUM_POINTS)) == EE_OK);
            }
            if (below(40) == 0) {
                ee_result result;
                b.state.fails_at = below(NUM_EXITS);
                const ee_status status = ee_guard_run(&b.guard, &b.session, &result);
                CHECK(status == EE_OK || status == EE_ERROR_ENGINE);
                b.state.fails_at = MAX_EXITS;
                book(&b);
            } else if (below(40) == 0) { /* a caller that stops by itself */
                bool answered;
                CHECK(ee_guard_begin(&b.guard, &b.session) == EE_OK);
                CHECK(ee_guard_step(&b.guard, &b.session, &answered) == EE_OK);
                book(&b);
            } else {
                run(&b, sure_at, below(256));
            }
        }
    }
}

/* What the bound is for: the same inputs without the guard break it; with it they use it up. */
static void test_attack_with_and_without(void) {
    const uint32_t costs[NUM_EXITS] = {100, 200, 300, 400};
    bench b;
    make(&b, costs, 350, 5000);
    for (uint32_t n = 0; n < 1000; n++) {
        run(&b, NUM_EXITS, 0);
    }
    CHECK(b.total <= 1000 * 350 + 5000 && b.total >= 990 * 300);
    CHECK(b.guard.num_limited > 900);
    for (uint32_t n = 0; n < 1000; n++) {
        ee_result result;
        CHECK(ee_run(&b.session, &result) == EE_OK);
    }
    CHECK(b.state.spent == 1000 * 1000);
}

/* Inputs that stay below the bound are never cut short, and the point comes back after an attack,
 * through each point and without going to and fro. */
static void test_comes_back(void) {
    const uint32_t costs[NUM_EXITS] = {100, 200, 300, 400};
    bench b;
    make(&b, costs, 350, 5000);
    CHECK(ee_select(&b.session, 1) == EE_OK);
    for (uint32_t n = 0; n < 100; n++) {
        CHECK(run(&b, 1, SEGMENT_SURE).exit == 1 && b.guard.lowered == 0);
    }
    CHECK(b.guard.num_limited == 0);
    for (uint32_t n = 0; n < 20; n++) {
        run(&b, NUM_EXITS, 0);
    }
    CHECK(b.guard.lowered == 1 && b.guard.num_limited > 0); /* there is none below point 2 */
    CHECK(run(&b, 0, 60).exit == 0);                        /* sure enough at point 2, not at 1 */
    uint32_t changes = 0;
    for (uint32_t n = 0; n < 200; n++) {
        const uint16_t before = b.guard.lowered;
        const uint32_t tokens = b.guard.tokens;
        run(&b, 0, SEGMENT_SURE);
        changes += before != b.guard.lowered;
        CHECK(before == b.guard.lowered || tokens >= 3750);
    }
    CHECK(changes == 1 && b.guard.lowered == 0);
    CHECK(run(&b, 1, 60).exit == 3);
    CHECK(b.session.point == 1);

    /* From point 0 it goes down twice, one point a sample. A new guard, so a new account. */
    b.excess = 0;
    CHECK(ee_guard_init(&b.guard, &b.session, 350, 5000) == EE_OK);
    CHECK(ee_select(&b.session, 0) == EE_OK);
    for (uint32_t n = 0, before = 0; n < 20; n++) {
        run(&b, NUM_EXITS, 0);
        CHECK(b.guard.lowered <= before + 1);
        before = b.guard.lowered;
    }
    CHECK(b.guard.lowered == 2);
}

/* A sample that the guard did not begin is refused once the bucket cannot pay; ee_step after a
 * sample was cut short is refused too. */
static void test_steps(void) {
    const uint32_t costs[NUM_EXITS] = {100, 200, 300, 400};
    bench b;
    ee_result result;
    bool answered = false;
    make(&b, costs, 100, 50);
    CHECK(ee_guard_step(&b.guard, &b.session, &answered) == EE_ERROR_STATE);
    CHECK(ee_begin(&b.session) == EE_OK);
    CHECK(ee_guard_step(&b.guard, &b.session, &answered) == EE_ERROR_STATE);
    CHECK(!answered && b.state.spent == 0 && b.guard.tokens == 50);
    CHECK(ee_guard_begin(&b.guard, &b.session) == EE_OK && b.guard.tokens == 150);
    CHECK(ee_best(&b.session, &result) == EE_ERROR_NO_ANSWER);
    CHECK(ee_guard_step(&b.guard, &b.session, &answered) == EE_OK && answered);
    CHECK(b.guard.tokens == 50 && b.guard.num_limited == 1);
    CHECK(ee_best(&b.session, &result) == EE_OK && result.exit == 0 && result.cost == 100);
    CHECK(result.logits != NULL);
    CHECK(ee_guard_step(&b.guard, &b.session, &answered) == EE_ERROR_STATE);
    CHECK(ee_step(&b.session, &answered) == EE_ERROR_STATE);
}

int main(void) {
    test_bounds();
    test_all_short_sequences();
    test_random_attacks();
    test_attack_with_and_without();
    test_comes_back();
    test_steps();
    return 0;
}
