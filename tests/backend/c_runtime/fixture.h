/* A model whose segments copy prepared logits and features into the arena, and a way to complain.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgeexit.h"
#include "ee_guard.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define MAX_EXITS 8u

/* What the fake engine gives; the model's engine.context. */
typedef struct {
    const ee_model *model;
    const int8_t *logits;      /* [num_exits][num_classes] */
    const int8_t *features;    /* [num_exits][feature_bytes] */
    uint32_t num_runs;         /* segments run so far */
    uint32_t spent;            /* their cost */
    uint32_t fails_at;         /* the segment that fails, MAX_EXITS for none */
    uint32_t expected_segment; /* segments have to come in order */
} engine_state;

static inline ee_status copy_prepared(void *context, uint32_t segment, uint8_t *arena) {
    engine_state *state = context;
    const ee_model *model = state->model;
    CHECK(segment < model->num_exits);
    CHECK(segment == 0 || segment == state->expected_segment);
    const ee_exit *at = &model->exits[segment];
    state->expected_segment = segment + 1;
    state->num_runs++;
    state->spent += at->cost;
    if (segment == state->fails_at) {
        memset(arena, 0x55, model->arena_bytes);
        return EE_ERROR_ENGINE;
    }
    const size_t num_classes = model->num_classes;
    memcpy(arena + at->logits_offset, state->logits + segment * num_classes, num_classes);
    if (at->means != NULL) {
        memcpy(arena + at->feature_offset, state->features + segment * at->feature_bytes,
               at->feature_bytes);
    }
    return EE_OK;
}

/* `num_bytes` at a multiple of 16, with nothing that may be touched behind them. */
static inline uint8_t *take_arena(size_t num_bytes) {
    uint8_t *memory = malloc(num_bytes);
    CHECK(memory != NULL && (uintptr_t)memory % EE_ARENA_ALIGNMENT == 0);
    return memory;
}

#endif
