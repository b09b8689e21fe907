/* The token bucket of ee_guard.h.
 *
 * Invariant: 0 <= tokens <= burst + mean_cost. It is kept by ee_guard_begin, which caps before it
 * adds, and by ee_guard_step, which takes nothing that is not there.
 */
#include "ee_guard.h"

#include "ee_internal.h"

/* In ee_guard.mark: ee_guard_init succeeded here. */
#define GUARD_MARK 0x45454731u

ee_status ee_guard_init(ee_guard *guard, const ee_session *session, uint32_t mean_cost,
                        uint32_t burst) {
    if (guard == NULL || session == NULL) {
        return EE_ERROR_NULL;
    }
    if (!ee_is_ready(session)) {
        return EE_ERROR_STATE;
    }
    if (mean_cost < session->model->exits[0].cost || burst > UINT32_MAX - mean_cost) {
        return EE_ERROR_ARGUMENT;
    }
    *guard = (ee_guard){
        .model = session->model,
        .mark = GUARD_MARK,
        .mean_cost = mean_cost,
        .burst = burst,
        .tokens = burst,
    };
    return EE_OK;
}

static ee_status check(const ee_guard *guard, const ee_session *session) {
    if (guard == NULL || session == NULL) {
        return EE_ERROR_NULL;
    }
    if (guard->mark != GUARD_MARK || !ee_is_ready(session)) {
        return EE_ERROR_STATE;
    }
    return guard->model == session->model ? EE_OK : EE_ERROR_ARGUMENT;
}

/* How many points to be below the selected one; the two marks half a bucket apart are what keeps
 * the point from moving to and fro with each sample. */
static uint16_t lowered_by(const ee_guard *guard, uint32_t selected) {
    const uint32_t quarter = guard->burst / 4u;
    const uint32_t cheapest = guard->model->num_points - 1u - selected;
    uint32_t lowered = guard->lowered;
    if (guard->tokens < quarter) {
        lowered++;
    } else if (guard->tokens >= guard->burst - quarter && lowered > 0u) {
        lowered--;
    }
    return (uint16_t)(lowered < cheapest ? lowered : cheapest);
}

ee_status ee_guard_begin(ee_guard *guard, ee_session *session) {
    const ee_status status = check(guard, session);
    if (status != EE_OK) {
        return status;
    }
    if (guard->tokens > guard->burst) {
        guard->tokens = guard->burst;
    }
    const uint16_t before = guard->lowered;
    guard->lowered = lowered_by(guard, session->point);
    guard->tokens += guard->mean_cost;
    const uint32_t point = (uint32_t)session->point + guard->lowered;
    if (guard->lowered != before) {
        ee_log(session, EE_EVENT_POINT, point, guard->tokens);
    }
    (void)ee_begin(session); /* cannot fail: the session is initialised */
    session->thresholds = guard->model->points[point].thresholds;
    return EE_OK;
}

ee_status ee_guard_step(ee_guard *guard, ee_session *session, bool *answered) {
    if (answered == NULL) {
        return EE_ERROR_NULL;
    }
    ee_status status = check(guard, session);
    if (status != EE_OK) {
        return status;
    }
    const ee_exit *exits = guard->model->exits;
    if (session->state != EE_STATE_RUNNING || exits[session->next_segment].cost > guard->tokens) {
        return EE_ERROR_STATE;
    }
    guard->tokens -= exits[session->next_segment].cost;
    bool answers = false;
    status = ee_step(session, &answers);
    if (status != EE_OK) {
        return status;
    }
    if (!answers && exits[session->next_segment].cost > guard->tokens) {
        session->state = EE_STATE_OVER;
        guard->num_limited++;
        answers = true;
        ee_log(session, EE_EVENT_LIMIT, session->next_segment - 1u, guard->tokens);
    }
    *answered = answers;
    return EE_OK;
}

ee_status ee_guard_run(ee_guard *guard, ee_session *session, ee_result *result) {
    if (result == NULL) {
        return EE_ERROR_NULL;
    }
    ee_status status = ee_guard_begin(guard, session);
    for (bool answered = false; status == EE_OK && !answered;) {
        status = ee_guard_step(guard, session, &answered);
    }
    return status == EE_OK ? ee_best(session, result) : status;
}
