/* Shared by the sources of the runtime, and by nobody else. */
#ifndef EE_INTERNAL_H
#define EE_INTERNAL_H

#include "edgeexit.h"

/* In ee_session.mark: ee_init succeeded here. */
#define EE_SESSION_MARK 0x45455353u

/* In ee_session.state. */
#define EE_STATE_IDLE 0u    /* nothing begun since ee_init */
#define EE_STATE_RUNNING 1u /* begun, and no exit has answered */
#define EE_STATE_OVER 2u    /* an exit answered */
#define EE_STATE_FAILED 3u  /* a segment failed, and the arena with it */

static inline bool ee_is_ready(const ee_session *session) {
    return session->mark == EE_SESSION_MARK;
}

static inline void ee_log(const ee_session *session, ee_event event, uint32_t index,
                          uint32_t value) {
    const ee_port *port = session->port;
    if (port != NULL && port->log != NULL) {
        port->log(port->context, event, index, value);
    }
}

/* EE_OK, EE_ERROR_MAGIC, EE_ERROR_VERSION or EE_ERROR_MODEL; `model` is not NULL. */
ee_status ee_check_model(const ee_model *model);

/* Sets label, streak and score of the session from what segment `exit_index` left in the arena.
 * Returns whether the exit answers. The caller sees to streak being 0 before exit 0. */
bool ee_decide(ee_session *session, uint32_t exit_index);

#endif
