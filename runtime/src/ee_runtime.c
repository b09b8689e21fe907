/* A session: from a checked model and an arena to answers, one segment at a time. */
#include "ee_internal.h"

size_t ee_arena_bytes(const ee_model *model) {
    const bool is_model =
        model != NULL && model->magic == EE_MODEL_MAGIC && model->abi_version == EE_ABI_VERSION;
    return is_model ? model->arena_bytes : 0u;
}

uint32_t ee_version(void) { return EE_ABI_VERSION; }

ee_status ee_init(ee_session *session, const ee_model *model, void *arena, size_t arena_bytes) {
    if (session == NULL || model == NULL || arena == NULL) {
        return EE_ERROR_NULL;
    }
    const ee_status status = ee_check_model(model);
    if (status != EE_OK) {
        return status;
    }
    if (arena_bytes < model->arena_bytes) {
        return EE_ERROR_ARENA_SIZE;
    }
    if ((uintptr_t)arena % EE_ARENA_ALIGNMENT != 0u) {
        return EE_ERROR_ARENA_ALIGNMENT;
    }
    *session = (ee_session){
        .model = model,
        .arena = arena,
        .mark = EE_SESSION_MARK,
        .point = model->default_point,
        .state = EE_STATE_IDLE,
    };
    return EE_OK;
}

ee_status ee_attach(ee_session *session, const ee_port *port) {
    if (session == NULL) {
        return EE_ERROR_NULL;
    }
    if (!ee_is_ready(session)) {
        return EE_ERROR_STATE;
    }
    session->port = port;
    return EE_OK;
}

ee_status ee_select(ee_session *session, uint32_t point) {
    if (session == NULL) {
        return EE_ERROR_NULL;
    }
    if (!ee_is_ready(session)) {
        return EE_ERROR_STATE;
    }
    if (point >= session->model->num_points) {
        return EE_ERROR_POINT;
    }
    session->point = (uint16_t)point;
    return EE_OK;
}

int8_t *ee_input(ee_session *session) {
    if (session == NULL || !ee_is_ready(session)) {
        return NULL;
    }
    return (int8_t *)session->arena + session->model->input_offset;
}

ee_status ee_begin(ee_session *session) {
    if (session == NULL) {
        return EE_ERROR_NULL;
    }
    if (!ee_is_ready(session)) {
        return EE_ERROR_STATE;
    }
    session->thresholds = session->model->points[session->point].thresholds;
    session->cost = 0;
    session->streak = 0;
    session->next_segment = 0;
    session->num_answers = 0;
    session->state = EE_STATE_RUNNING;
    return EE_OK;
}

static uint32_t ticks(const ee_port *port) {
    return port != NULL && port->ticks != NULL ? port->ticks(port->context) : 0u;
}

ee_status ee_step(ee_session *session, bool *answered) {
    if (session == NULL || answered == NULL) {
        return EE_ERROR_NULL;
    }
    if (!ee_is_ready(session) || session->state != EE_STATE_RUNNING) {
        return EE_ERROR_STATE;
    }
    const ee_engine *engine = &session->model->engine;
    const uint32_t segment = session->next_segment;
    session->cost += session->model->exits[segment].cost;

    const uint32_t start = ticks(session->port);
    const ee_status status = engine->run_segment(engine->context, segment, session->arena);
    const uint32_t elapsed = ticks(session->port) - start;
    if (status != EE_OK) {
        session->state = EE_STATE_FAILED;
        ee_log(session, EE_EVENT_FAILURE, segment, (uint32_t)status);
        return EE_ERROR_ENGINE;
    }
    ee_log(session, EE_EVENT_SEGMENT, segment, elapsed);

    session->next_segment = (uint16_t)(segment + 1u);
    const bool answers = ee_decide(session, segment);
    session->num_answers = session->next_segment;
    if (answers) {
        session->state = EE_STATE_OVER;
        ee_log(session, EE_EVENT_ANSWER, segment, session->score);
    }
    *answered = answers;
    return EE_OK;
}

ee_status ee_best(const ee_session *session, ee_result *result) {
    if (session == NULL || result == NULL) {
        return EE_ERROR_NULL;
    }
    if (!ee_is_ready(session)) {
        return EE_ERROR_STATE;
    }
    if (session->num_answers == 0u) {
        return EE_ERROR_NO_ANSWER;
    }
    const uint32_t exit_index = session->num_answers - 1u;
    const int8_t *logits =
        (const int8_t *)session->arena + session->model->exits[exit_index].logits_offset;
    *result = (ee_result){
        .label = session->label,
        .exit = (uint16_t)exit_index,
        .score = session->score,
        .cost = session->cost,
        .logits = session->state == EE_STATE_FAILED ? NULL : logits,
    };
    return EE_OK;
}

ee_status ee_run(ee_session *session, ee_result *result) {
    if (result == NULL) {
        return EE_ERROR_NULL;
    }
    ee_status status = ee_begin(session);
    for (bool answered = false; status == EE_OK && !answered;) {
        status = ee_step(session, &answered);
    }
    return status == EE_OK ? ee_best(session, result) : status;
}
