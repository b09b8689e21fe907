/* What a firmware may lend the runtime: a clock and a log. Both are optional.
 *
 * The runtime asks for nothing else of a platform. It calls these functions in the thread that
 * called it, never while it holds anything, so a hook may do what its thread may do.
 */
#ifndef EE_PORT_H
#define EE_PORT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What `log` is told, and the meaning of its two numbers. */
typedef enum {
    EE_EVENT_SEGMENT = 0, /* a segment ran:         its index,  ticks it took (0 without a clock) */
    EE_EVENT_ANSWER = 1,  /* an exit answered:      its index,  its score */
    EE_EVENT_FAILURE = 2, /* a segment failed:      its index,  what the engine returned */
    EE_EVENT_POINT = 3,   /* the guard chose a point: its index, tokens in the bucket */
    EE_EVENT_LIMIT = 4    /* the guard stopped here: last exit that ran, tokens in the bucket */
} ee_event;

typedef struct {
    /* A free-running counter of the caller's own unit; it may wrap around at 2^32. Or NULL. */
    uint32_t (*ticks)(void *context);
    /* Or NULL. */
    void (*log)(void *context, ee_event event, uint32_t index, uint32_t value);
    /* Handed to both; the runtime never looks at it. */
    void *context;
} ee_port;

#ifdef __cplusplus
}
#endif
#endif
