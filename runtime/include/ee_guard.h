/* The energy guard: keeps the mean cost of an inference under a bound, whatever the inputs are.
 *
 * A network with exits spends what its inputs make it spend, and inputs can be made to exit late.
 * The guard is a token bucket in the model's cost unit. It holds at most `burst` tokens between two
 * samples; each sample adds `mean_cost` tokens when it begins, and each segment takes its cost from
 * them before it runs. A segment that the bucket cannot pay does not run: the sample ends with the
 * answer of the deepest exit that did.
 *
 * Guaranteed: any n samples in a row, begun with the guard, cost at most n * mean_cost + burst.
 * Because: the bucket is never below zero, and never above burst + mean_cost after a sample began;
 * in n samples at most burst + mean_cost + (n - 1) * mean_cost tokens can be taken. And each sample
 * gets an answer, since ee_guard_init refuses a mean_cost that does not pay for segment 0.
 *
 * So that samples are rarely cut short, the guard also moves along the model's operating points,
 * which go from the costliest to the cheapest. When a sample begins with less than a quarter of
 * the burst in the bucket it lowers the point by one, down to the cheapest; with three quarters or
 * more it raises it by one, up to the point of ee_select. A burst of zero leaves the point alone.
 * Time does not count: a mean power is mean_cost times how often the firmware runs a sample.
 *
 * What is run on the session with ee_run or ee_step is not counted. Failed segments are.
 */
#ifndef EE_GUARD_H
#define EE_GUARD_H

#include "edgeexit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Belongs to the caller. One guard serves one session at a time. */
typedef struct {
    const ee_model *model;
    uint32_t mark;
    uint32_t mean_cost, burst, tokens;
    uint16_t lowered; /* points below the selected one */
    /* Samples that were cut short, modulo 2^32; the only field that a caller may read or write. */
    uint32_t num_limited;
} ee_guard;

/* Begins with a full bucket.
 *
 *   guard        written only on EE_OK
 *   session      initialised; says which model; not kept
 *   mean_cost    in the model's cost unit, at least the cost of segment 0
 *   burst        in the same unit; mean_cost + burst has to fit 32 bits
 *
 * EE_ERROR_NULL, EE_ERROR_STATE (session not initialised), EE_ERROR_ARGUMENT (a bound out of its
 * range).
 */
ee_status ee_guard_init(ee_guard *guard, const ee_session *session, uint32_t mean_cost,
                        uint32_t burst);

/* As ee_run, within the budget. EE_ERROR_ARGUMENT if guard and session have different models,
 * EE_ERROR_STATE if one of them is not initialised; otherwise as ee_run. */
ee_status ee_guard_run(ee_guard *guard, ee_session *session, ee_result *result);

/* As ee_begin; adds the tokens and chooses the operating point. Touches nothing on failure. */
ee_status ee_guard_begin(ee_guard *guard, ee_session *session);

/* As ee_step. `answered` is also true when the bucket cannot pay for the next segment: ee_best has
 * the answer. EE_ERROR_STATE, with nothing changed, also if it cannot pay for this one, which
 * happens only to a sample that was not begun with ee_guard_begin. */
ee_status ee_guard_step(ee_guard *guard, ee_session *session, bool *answered);

#ifdef __cplusplus
}
#endif
#endif
