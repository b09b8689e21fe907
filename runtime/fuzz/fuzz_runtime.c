/* libFuzzer: every function of edgeexit.h and ee_guard.h with hostile arguments in any order.
 *
 * The input is a script. Its first part makes a model: a sound one, of which some fields are then
 * overwritten by what the script says, so that both refused and accepted models are common. What
 * pointers point at is as large as the fields claim (nothing can check more than that) and holds
 * whatever the script holds. The rest of the script is calls. Beside what the sanitizers find, this
 * stops when a failed ee_init has written something, when an answer is out of its range, or when
 * samples under the guard cost more than it promises.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "edgeexit.h"
#include "ee_guard.h"

#define MAX_MEANS_BYTES (1u << 20)
#define MAX_ARENA_BYTES (1u << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t num_bytes);

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

/* ---------------------------------------------------------------- the script */

typedef struct {
    const uint8_t *next, *end;
} script;

static bool is_over(const script *from) { return from->next == from->end; }

static uint8_t take_byte(script *from) { return is_over(from) ? 0u : *from->next++; }

static uint32_t take_word(script *from) {
    uint32_t word = 0;
    for (int i = 0; i < 4; i++) {
        word = word << 8 | take_byte(from);
    }
    return word;
}

/* A number of every order of magnitude, the ends of 16 and 32 bits included. */
static uint32_t take_number(script *from) {
    const uint8_t kind = take_byte(from);
    switch (kind & 7u) {
    case 0:
        return take_word(from);
    case 1:
        return UINT32_MAX - (kind >> 3);
    case 2:
        return 65535u - (kind >> 3);
    case 3:
        return take_word(from) & 0xFFFFu;
    case 4:
        return (uint32_t)INT32_MAX - 8u + (kind >> 3);
    case 5:
        return 4096u - 8u + (kind >> 3);
    default:
        return kind >> 3;
    }
}

/* Fills memory with a stretch of the script, over and over. */
static void fill(script *from, void *memory, size_t num_bytes) {
    const size_t wanted = 1u + take_byte(from) % 64u;
    const size_t left = (size_t)(from->end - from->next);
    const size_t length = wanted < left ? wanted : left;
    uint8_t *bytes = memory;
    for (size_t i = 0; i < num_bytes; i++) {
        bytes[i] = length > 0u ? from->next[i % length] : (uint8_t)i;
    }
}

/* ---------------------------------------------------------------- the model */

typedef struct {
    script *calls;
    const ee_model *model;
    uint64_t spent; /* by the segments that really ran */
} engine_state;

static ee_status run_segment(void *context, uint32_t segment, uint8_t *arena) {
    engine_state *state = context;
    const ee_model *model = state->model;
    const ee_exit *at = &model->exits[segment];
    require(segment < model->num_exits);
    state->spent += at->cost;
    const uint8_t kind = take_byte(state->calls);
    if (kind % 16u == 15u) {
        memset(arena, kind, model->arena_bytes);
        return (ee_status)take_word(state->calls);
    }
    if (kind % 16u == 14u) {
        fill(state->calls, arena, model->arena_bytes);
    }
    fill(state->calls, arena + at->logits_offset, model->num_classes);
    if (model->rule == EE_RULE_CLASS_MEANS) {
        fill(state->calls, arena + at->feature_offset, at->feature_bytes);
    }
    return EE_OK;
}

typedef struct {
    ee_model model;
    ee_exit *exits;
    ee_point *points;
    uint32_t *thresholds; /* [num_exits], shared by all points; another set for every second one */
    uint32_t table[EE_TABLE_ENTRIES];
    int8_t *means;
    engine_state state;
} bench;

static void *new_memory(size_t num_bytes) {
    void *memory = calloc(num_bytes > 0u ? num_bytes : 1u, 1u);
    require(memory != NULL);
    return memory;
}

static void damage_model(script *from, ee_model *model) {
    const uint32_t number = take_number(from);
    switch (take_byte(from) % 14u) {
    case 0:
        model->magic = number;
        break;
    case 1:
        model->abi_version = number;
        break;
    case 2:
        model->name = NULL;
        break;
    case 3:
        model->arena_bytes = number;
        break;
    case 4:
        model->input_offset = number;
        break;
    case 5:
        model->input_bytes = number;
        break;
    case 6:
        model->num_exits = (uint16_t)number;
        break;
    case 7:
        model->num_classes = (uint16_t)number;
        break;
    case 8:
        model->num_points = (uint16_t)number;
        break;
    case 9:
        model->default_point = (uint16_t)number;
        break;
    case 10:
        model->rule = number;
        break;
    case 11:
        model->cost_unit = NULL;
        break;
    case 12:
        model->engine.run_segment = NULL;
        break;
    default: /* the arena as large as all that asks for */
        model->arena_bytes = MAX_ARENA_BYTES;
        break;
    }
}

static void damage_exit(script *from, ee_exit *at) {
    const uint32_t number = take_number(from);
    switch (take_byte(from) % 6u) {
    case 0:
        at->logits_offset = number;
        break;
    case 1:
        at->cost = number;
        break;
    case 2:
        at->table = NULL;
        break;
    case 3:
        at->means = NULL;
        break;
    case 4:
        at->feature_offset = number;
        break;
    default:
        at->feature_bytes = number;
        break;
    }
}

static uint32_t sound_threshold(uint32_t rule, uint32_t number, bool is_last) {
    static const uint32_t always[] = {UINT32_MAX, 0u, 1u, 0u};
    static const uint32_t modulo[] = {UINT32_MAX, 257u, 4u, (uint32_t)INT32_MAX};
    if (rule > EE_RULE_CLASS_MEANS) {
        return number;
    }
    const uint32_t low = rule == EE_RULE_PATIENCE ? 1u : 0u;
    return is_last ? always[rule] : low + number % modulo[rule];
}

static void make(bench *b, script *from) {
    const uint8_t size = take_byte(from);
    b->model = (ee_model){
        .magic = EE_MODEL_MAGIC,
        .abi_version = EE_ABI_VERSION,
        .name = "hostile",
        .arena_bytes = 16u + take_byte(from),
        .input_offset = 1u,
        .input_bytes = 8u,
        .num_exits = (uint16_t)(1u + size % 5u),
        .num_classes = (uint16_t)(2u + size / 5u % 12u),
        .num_points = (uint16_t)(1u + size / 64u),
        .rule = take_byte(from) % 4u,
        .cost_unit = "units",
        .engine = {run_segment, &b->state},
    };
    for (uint32_t count = take_byte(from) % 4u; count > 0u; count--) {
        damage_model(from, &b->model);
    }
    ee_model *model = &b->model;
    b->exits = new_memory(model->num_exits * sizeof *b->exits);
    b->points = new_memory(model->num_points * sizeof *b->points);
    b->thresholds = new_memory((size_t)2 * model->num_exits * sizeof *b->thresholds);
    const uint32_t slope = take_byte(from) % 20u;
    for (uint32_t d = 0; d < EE_TABLE_ENTRIES; d++) {
        const uint32_t shift = d * slope / 8u;
        b->table[d] = shift > 31u ? 0u : EE_TABLE_ONE >> shift;
    }
    for (uint32_t k = 0; k < model->num_exits; k++) {
        const bool is_last = k + 1u == model->num_exits;
        b->exits[k] = (ee_exit){
            .logits_offset = take_byte(from) % 8u,
            .cost = take_byte(from),
            .table = b->table,
            .feature_offset = take_byte(from) % 8u,
            .feature_bytes = 1u + take_byte(from) % 8u,
        };
        for (uint32_t set = 0; set < 2u; set++) {
            b->thresholds[set * model->num_exits + k] =
                sound_threshold(model->rule, take_number(from), is_last);
        }
    }
    for (uint32_t p = 0; p < model->num_points; p++) {
        b->points[p] = (ee_point){"point", b->thresholds + (size_t)(p % 2u) * model->num_exits};
    }
    for (uint32_t count = take_byte(from) % 4u; count > 0u && model->num_exits > 0u; count--) {
        const uint32_t k = take_number(from) % model->num_exits;
        if (take_byte(from) % 2u) {
            damage_exit(from, &b->exits[k]);
        } else {
            b->thresholds[k] = take_number(from);
        }
    }
    if (take_byte(from) % 16u == 0u) {
        b->table[take_byte(from)] = take_number(from);
    }
    size_t means_bytes = 0;
    for (uint32_t k = 0; k < model->num_exits; k++) {
        const size_t wanted = (size_t)model->num_classes * b->exits[k].feature_bytes;
        means_bytes = wanted > means_bytes && wanted <= MAX_MEANS_BYTES ? wanted : means_bytes;
    }
    b->means = new_memory(means_bytes);
    fill(from, b->means, means_bytes);
    const bool has_means = take_byte(from) % 32u != 0u;
    for (uint32_t k = 0; k < model->num_exits; k++) {
        const size_t wanted = (size_t)model->num_classes * b->exits[k].feature_bytes;
        b->exits[k].means = has_means && wanted <= means_bytes ? b->means : NULL;
    }
    const uint8_t without = take_byte(from);
    model->exits = without % 32u == 31u ? NULL : b->exits;
    model->points = without % 32u == 30u ? NULL : b->points;
    b->state = (engine_state){.calls = from, .model = model};
}

/* ---------------------------------------------------------------- the calls */

typedef struct {
    bench *bench;
    ee_session session;
    ee_guard guard;
    uint8_t *memory; /* of the arena, from malloc */
    ee_port port;
    /* The largest sum of (cost - mean_cost) over samples in a row, as the guard's promise has it.
     * Only counted while nothing runs beside the guard. */
    int64_t excess;
} world;

static uint32_t ticks(void *context) { return ((world *)context)->bench->state.calls->next[-1]; }

static void note(void *context, ee_event event, uint32_t index, uint32_t value) {
    (void)value;
    require(event <= EE_EVENT_LIMIT && index <= ((world *)context)->bench->model.num_points +
                                                    ((world *)context)->bench->model.num_exits);
}

static void check_result(const world *w, ee_status status, const ee_result *result) {
    static const ee_result untouched = {.label = 0xA5A5u, .exit = 0x5A5Au};
    if (status != EE_OK) {
        require(result->label == untouched.label && result->exit == untouched.exit);
        return;
    }
    const ee_model *model = &w->bench->model;
    require(result->label < model->num_classes && result->exit < model->num_exits);
    if (result->logits != NULL) {
        volatile int8_t last = result->logits[model->num_classes - 1u];
        (void)last;
    }
}

static void check_init(world *w, script *from) {
    const ee_model *model = &w->bench->model;
    const uint8_t kind = take_byte(from);
    const uint32_t room = kind % 4u ? model->arena_bytes : take_number(from);
    const size_t num_bytes = room > MAX_ARENA_BYTES ? MAX_ARENA_BYTES : room;
    const size_t shift = kind / 4u % 8u ? 0u : kind / 32u;
    uint8_t *memory = new_memory(num_bytes + shift);
    ee_session session;
    memset(&session, (int)kind, sizeof session);
    const ee_status status = ee_init(&session, model, memory + shift, num_bytes);
    require(ee_status_name(status)[0] == 'E');
    for (size_t i = 0; i < num_bytes; i++) {
        require(memory[i] == 0u);
    }
    if (status == EE_OK) {
        require(num_bytes >= ee_arena_bytes(model) && shift % EE_ARENA_ALIGNMENT == 0u);
        free(w->memory);
        w->memory = memory;
        w->session = session;
        w->guard = (ee_guard){0};
        w->excess = 0;
        memset(ee_input(&w->session), (int)kind, model->input_bytes);
    } else {
        for (size_t i = 0; i < sizeof session; i++) {
            require(((const uint8_t *)&session)[i] == kind);
        }
        free(memory);
    }
}

/* Adds what was run to the guard's account and holds it to its promise. */
static void book(world *w, bool begins) {
    if (begins) {
        w->excess = (w->excess > 0 ? w->excess : 0) - (int64_t)w->guard.mean_cost;
    }
    w->excess += (int64_t)w->bench->state.spent;
    w->bench->state.spent = 0;
    require(w->excess <= (int64_t)w->guard.burst);
}

static void call_guard(world *w, script *from, uint8_t kind) {
    ee_guard *guard = kind & 0x80u ? NULL : &w->guard;
    ee_session *session = kind & 0x40u ? NULL : &w->session;
    ee_result result = {.label = 0xA5A5u, .exit = 0x5A5Au};
    bool answered = false;
    ee_status status = EE_OK;
    w->bench->state.spent = 0;
    switch (kind % 4u) {
    case 0: {
        /* Either anything, or bounds of the order of the costs, so that the point moves. */
        const bool is_close = (kind & 0x10u) != 0u && ee_input(&w->session) != NULL;
        const uint32_t first = is_close ? w->bench->exits[0].cost : 0u;
        const uint32_t mean_cost = is_close ? first + take_byte(from) : take_number(from);
        const uint32_t burst = is_close ? take_byte(from) * 8u : take_number(from);
        status = ee_guard_init(guard, session, mean_cost, burst);
        w->excess = status == EE_OK ? 0 : w->excess;
        break;
    }
    case 1:
        status = ee_guard_begin(guard, session);
        book(w, status == EE_OK);
        break;
    case 2:
        status = ee_guard_step(guard, session, kind & 0x20u ? NULL : &answered);
        book(w, false);
        break;
    default:
        for (uint32_t count = 1u + (kind >> 2) % 4u * 5u; count > 0u; count--) {
            result = (ee_result){.label = 0xA5A5u, .exit = 0x5A5Au};
            status = ee_guard_run(guard, session, kind & 0x20u ? NULL : &result);
            check_result(w, status, &result);
            book(w, status == EE_OK || status == EE_ERROR_ENGINE);
        }
        break;
    }
    (void)ee_status_name(status);
}

static void call(world *w, script *from) {
    const uint8_t kind = take_byte(from);
    ee_session *session = kind & 0x80u ? NULL : &w->session;
    ee_result result = {.label = 0xA5A5u, .exit = 0x5A5Au};
    bool answered = false;
    ee_status status = EE_OK;
    switch (kind % 16u) {
    case 0:
        check_init(w, from);
        break;
    case 1:
        status = ee_select(session, take_number(from));
        break;
    case 2:
        status = ee_attach(session, kind & 0x40u ? NULL : &w->port);
        break;
    case 3: {
        int8_t *input = ee_input(session);
        if (input != NULL) {
            memset(input, kind, w->bench->model.input_bytes);
        }
        break;
    }
    case 4:
        status = ee_begin(session);
        break;
    case 5:
    case 6:
        status = ee_step(session, kind & 0x40u ? NULL : &answered);
        break;
    case 7:
        status = ee_best(session, kind & 0x40u ? NULL : &result);
        check_result(w, status, &result);
        break;
    case 8:
        status = ee_run(session, kind & 0x40u ? NULL : &result);
        check_result(w, status, &result);
        break;
    case 9: /* NULLs of ee_init */
        require(ee_init(session, NULL, w, 16u) == EE_ERROR_NULL);
        require(ee_init(session, &w->bench->model, NULL, kind) == EE_ERROR_NULL);
        require(ee_init(NULL, &w->bench->model, w, kind) == EE_ERROR_NULL);
        break;
    case 10:
        (void)ee_arena_bytes(kind & 0x40u ? NULL : &w->bench->model);
        (void)ee_status_name((ee_status)take_number(from));
        (void)ee_status_name((ee_status)(kind % 6u * 100u + (kind & 0x20u ? 1u : 0u)));
        (void)ee_version();
        break;
    default:
        call_guard(w, from, take_byte(from));
        break;
    }
    (void)ee_status_name(status);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t num_bytes) {
    script from = {data, data + num_bytes};
    bench b = {0};
    make(&b, &from);
    world w = {.bench = &b};
    w.port = (ee_port){ticks, note, &w};
    check_init(&w, &from);
    /* A chain may be 64 segments long: enough calls, and no more than take a moment. */
    for (uint32_t count = 0; count < 64u && !is_over(&from); count++) {
        call(&w, &from);
    }
    free(w.memory);
    free(b.means);
    free(b.thresholds);
    free(b.points);
    free(b.exits);
    return 0;
}
