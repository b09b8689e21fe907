/* edgeexit: runs a network segment by segment and stops at the first exit that is sure.
 *
 * The compiler emits an `ee_model` as constants. The caller owns everything that changes: one
 * session and one arena. The runtime allocates nothing, keeps no globals and needs of a C library
 * only what a compiler may call by itself: memset and memcpy.
 *
 *     EE_ALIGNAS(16) static uint8_t arena[ARENA_BYTES];
 *     static ee_session session;
 *     ee_result result;
 *
 *     ee_status status = ee_init(&session, &ee_model_NAME, arena, sizeof arena);
 *     memcpy(ee_input(&session), image, image_bytes);
 *     status = ee_run(&session, &result);
 *
 * Promises that hold for every function below:
 *   - A pointer that must not be NULL and is gives EE_ERROR_NULL, or NULL or 0 where no status is
 *     returned.
 *   - What a function writes, it writes only when it returns EE_OK; the one exception is ee_step
 *     (and what is made of it), whose failure ends the sample, see there.
 *   - ee_init checks the whole model; later calls rely on it. The model and the arena have to stay
 *     as they are for as long as the session is used.
 *   - Different sessions may run in different threads or interrupts at the same time, as long as
 *     their arenas are different. One session must not be entered twice at the same time.
 *   - A session that is all zeros (a static one) is recognised as not initialised.
 */
#ifndef EDGEEXIT_H
#define EDGEEXIT_H

#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

#include "ee_port.h"

#ifdef __cplusplus
extern "C" {
#define EE_ALIGNAS(bytes) alignas(bytes)
#else
#define EE_ALIGNAS(bytes) _Alignas(bytes)
#endif

#define EE_MODEL_MAGIC 0x45455831u /* "EEX1" */
#define EE_ABI_VERSION 1u
#define EE_ARENA_ALIGNMENT 16u
#define EE_MAX_CLASSES 4096u
/* As in a bundle; they also bound how long ee_init takes. */
#define EE_MAX_EXITS 64u
#define EE_MAX_POINTS 64u
/* With this many int8 features a squared distance, at most bytes * 255^2, still fits int32. */
#define EE_MAX_FEATURE_BYTES 33025u
#define EE_TABLE_ENTRIES 256u
/* What a confidence table holds for a distance of zero: 1.0 in 16.16 fixed point. */
#define EE_TABLE_ONE 65536u

/* The hundreds are groups: 1xx arguments, 2xx model, 3xx memory, 4xx order of calls, 5xx engine. */
typedef enum {
    EE_OK = 0,
    EE_ERROR_NULL = 100,            /* a pointer is NULL */
    EE_ERROR_POINT = 101,           /* no such operating point */
    EE_ERROR_ARGUMENT = 102,        /* a number is out of its range */
    EE_ERROR_MAGIC = 200,           /* this is no model */
    EE_ERROR_VERSION = 201,         /* emitted for another ABI version than this runtime's */
    EE_ERROR_MODEL = 202,           /* the model contradicts itself */
    EE_ERROR_ARENA_SIZE = 300,      /* smaller than ee_arena_bytes */
    EE_ERROR_ARENA_ALIGNMENT = 301, /* not at a multiple of EE_ARENA_ALIGNMENT */
    EE_ERROR_STATE = 400,           /* not now: not initialised, not begun, or answered already */
    EE_ERROR_NO_ANSWER = 401,       /* no exit has run for this sample yet */
    EE_ERROR_ENGINE = 500           /* the engine failed; the log hook is told its own status */
} ee_status;

/* How an exit decides. z are the int8 logits of the exit, m = max z (ties: the lowest index).
 *
 *     rule         score                                     answers when   never     always
 *     CONFIDENCE   sum over c of table[m - z[c]]             <= threshold   0         2^32 - 1
 *     MARGIN       m - second largest z                      >= threshold   256       0
 *     PATIENCE     exits in a row with this label            >= threshold   2^32 - 1  1
 *     CLASS_MEANS  second smallest - smallest distance       >= threshold   2^31 - 1  0
 *
 * The label is the index of m; with CLASS_MEANS it is that of the mean with the smallest squared
 * distance to the exit's feature, ties to the lowest. The last exit always answers.
 */
typedef enum {
    EE_RULE_CONFIDENCE = 0,
    EE_RULE_MARGIN = 1,
    EE_RULE_PATIENCE = 2,
    EE_RULE_CLASS_MEANS = 3
} ee_rule;

/* What runs a segment: the emitted kernels, or an adapter for another engine.
 *
 * run_segment reads and writes only the model's arena_bytes from `arena` on. It is called with
 * segment = 0, 1, ... in this order within a sample, with what the segment before left in the
 * arena; when it returns EE_OK, logits (and feature) of exit `segment` are where ee_exit says.
 * Anything but EE_OK ends the sample.
 */
typedef struct {
    ee_status (*run_segment)(void *context, uint32_t segment, uint8_t *arena);
    void *context; /* the runtime never looks at it; NULL is allowed */
} ee_engine;

typedef struct {
    uint32_t logits_offset; /* bytes into the arena: int8 [num_classes], valid after the segment */
    uint32_t cost;          /* of this segment alone, in the model's cost unit; sums fit 32 bits */
    /* CONFIDENCE: [EE_TABLE_ENTRIES], beginning with EE_TABLE_ONE and never rising; else NULL. */
    const uint32_t *table;
    const int8_t *means; /* CLASS_MEANS: int8 [num_classes][feature_bytes]; else NULL */
    /* CLASS_MEANS: bytes into the arena and size (1 to EE_MAX_FEATURE_BYTES) of the int8 feature,
     * on the scale and zero point of the means; not read by the other rules. */
    uint32_t feature_offset, feature_bytes;
} ee_exit;

typedef struct {
    const char *name;
    const uint32_t *thresholds; /* [num_exits], in the range of the rule, the last one `always` */
} ee_point;

typedef struct {
    uint32_t magic, abi_version; /* EE_MODEL_MAGIC, EE_ABI_VERSION */
    const char *name;
    uint32_t arena_bytes;
    uint32_t input_offset, input_bytes; /* within the arena; at least one byte */
    uint16_t num_exits;                 /* 1 to EE_MAX_EXITS; as many segments */
    uint16_t num_classes; /* 1 to EE_MAX_CLASSES; at least 2 if the rule compares two */
    uint16_t num_points, default_point; /* 1 to EE_MAX_POINTS; default_point < num_points */
    uint32_t rule;                      /* an ee_rule */
    const ee_exit *exits;               /* [num_exits] */
    const ee_point *points;             /* [num_points], from the costliest to the cheapest */
    const char *cost_unit;              /* what `cost` counts, as "instructions" or "uJ" */
    ee_engine engine;
} ee_model;

/* Belongs to the caller, who gives it memory and nothing else: all fields are private. */
typedef struct {
    const ee_model *model;
    uint8_t *arena;
    const ee_port *port;
    const uint32_t *thresholds; /* of the sample under way */
    uint32_t mark;              /* says that ee_init has been here */
    uint32_t score, cost;
    uint32_t streak;       /* exits in a row with `label` */
    uint16_t point;        /* selected for the next sample */
    uint16_t next_segment; /* of the sample under way */
    uint16_t num_answers;  /* exits that have run for this sample; the last is the best */
    uint16_t label;
    uint16_t state;
} ee_session;

typedef struct {
    uint16_t label; /* 0 .. num_classes - 1 */
    uint16_t exit;  /* 0-based: which exit this answer is from */
    uint32_t score; /* of that exit, in the unit of the rule */
    uint32_t cost;  /* of all segments that were started for this sample, in the cost unit */
    /* int8 [num_classes] in the arena, until the next ee_step, ee_begin, ee_run or write to the
     * input. NULL if a later segment has failed, which may have overwritten them. */
    const int8_t *logits;
} ee_result;

/* ---------------------------------------------------------------- before the first sample */

/* The bytes of arena that the model needs; 0 if model is NULL or is no model of this version. */
size_t ee_arena_bytes(const ee_model *model);

/* EE_ABI_VERSION as it was when the runtime was built; differs from the macro if a firmware mixes
 * this header with a library of another version. */
uint32_t ee_version(void);

/* "EE_OK" and so on; "unknown" for a number that is no status. Never NULL; constant. */
const char *ee_status_name(ee_status status);

/* Checks the model and the arena, and makes the session ready, with the model's default_point.
 *
 *   session      written only on EE_OK
 *   model        has to outlive the session
 *   arena        at a multiple of EE_ARENA_ALIGNMENT; has to outlive the session; not written here
 *   arena_bytes  size of the arena in bytes, at least ee_arena_bytes(model); more is allowed
 *
 * EE_ERROR_NULL, _MAGIC, _VERSION, _MODEL, _ARENA_SIZE, _ARENA_ALIGNMENT; the first that applies.
 * Model checks read all tables, so this takes thousands of instructions; ee_run repeats none.
 * What it cannot check is whether pointers point at as much as they should.
 */
ee_status ee_init(ee_session *session, const ee_model *model, void *arena, size_t arena_bytes);

/* Lends the session a clock and a log (see ee_port.h); `port` has to outlive it. NULL ends that.
 * EE_ERROR_NULL without a session, EE_ERROR_STATE if it is not initialised. */
ee_status ee_attach(ee_session *session, const ee_port *port);

/* Uses another operating point from the next sample on; one under way keeps its thresholds.
 * EE_ERROR_NULL, EE_ERROR_STATE (not initialised), EE_ERROR_POINT (point >= num_points); the point
 * stays as it was then. */
ee_status ee_select(ee_session *session, uint32_t point);

/* ---------------------------------------------------------------- a sample, to its answer */

/* Where the caller writes the model's input_bytes before each sample: int8, NHWC, quantized.
 * Running a sample overwrites it. NULL if session is NULL or not initialised. */
int8_t *ee_input(ee_session *session);

/* Runs segments until an exit answers. Drops a sample that is under way.
 *
 *   result       written only on EE_OK
 *
 * EE_ERROR_NULL, EE_ERROR_STATE (not initialised), EE_ERROR_ENGINE (see ee_step).
 */
ee_status ee_run(ee_session *session, ee_result *result);

/* ---------------------------------------------------------------- a sample, a segment at a time */

/* Begins a sample whose input is, or will be before the first ee_step, at ee_input. Drops a sample
 * that is under way. Touches the session only. EE_ERROR_NULL, EE_ERROR_STATE (not initialised). */
ee_status ee_begin(ee_session *session);

/* Runs one segment and asks its exit.
 *
 *   answered     whether the exit answers: then the sample is over. The last exit does. Written
 *                only on EE_OK.
 *
 * EE_ERROR_NULL or EE_ERROR_STATE (no sample under way) change nothing. EE_ERROR_ENGINE ends the
 * sample: the arena is undefined, answers of earlier exits stay available to ee_best (without
 * logits), and ee_begin starts afresh.
 */
ee_status ee_step(ee_session *session, bool *answered);

/* The answer of the deepest exit that has run for this sample, whether or not it was sure. May be
 * called after any ee_step, any number of times, also after the sample is over.
 *
 *   result       written only on EE_OK
 *
 * EE_ERROR_NULL, EE_ERROR_STATE (not initialised), EE_ERROR_NO_ANSWER (no exit has run since
 * ee_begin).
 */
ee_status ee_best(const ee_session *session, ee_result *result);

#ifdef __cplusplus
}
#endif
#endif
