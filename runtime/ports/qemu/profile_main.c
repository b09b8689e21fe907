/* Runs a model on samples from a file and writes what came out to another file.
 *
 * Built with EE_PROFILE_MODEL (the name of the emitted ee_model) and EE_PROFILE_ARENA_BYTES.
 * Numbers are uint32 in the byte order of the core, which is little-endian on all that are used.
 *
 * inputs.bin:   magic, mode, point, num_samples; then int8 [num_samples][input_bytes].
 * results.bin:  magic, num_exits, num_classes, ee_version; then records of
 *                   status, label, exit, score, cost, stack_bytes, stack_available,
 *                   and, if status is EE_OK, int8 logits [num_classes].
 *               stack_bytes is what the calls into the runtime took below this program's own frame.
 *               A record whose status is not EE_OK is the last one.
 *
 * Mode RUN calls ee_run, as a firmware would, and writes one record for each sample. Mode ALL makes
 * a copy of the model that never answers early, and writes one record for each exit of each sample.
 *
 * The exit code is 0 if results.bin is whole, which includes a sample that failed.
 */
#include <edgeexit.h>

#include "ee_model.h"
#include "profile_port.h"

enum { MODE_RUN = 0, MODE_ALL = 1 };
enum { EXIT_FILES = 10, EXIT_INPUTS = 11, EXIT_ARENA = 12, EXIT_WRITING = 13, EXIT_INIT = 14 };

#define INPUTS_MAGIC 0x49504545u  /* "EEPI" */
#define RESULTS_MAGIC 0x52504545u /* "EEPR" */
#define MAX_EXITS 64u
/* Around the arena, to notice a kernel that writes beyond it. */
#define GUARD_BYTES 64u
#define GUARD 0xa5u

static EE_ALIGNAS(16) uint8_t memory[GUARD_BYTES + EE_PROFILE_ARENA_BYTES + GUARD_BYTES];
static ee_session session;
static int results;

static void set_guards(void) {
    for (uint32_t i = 0; i < GUARD_BYTES; i++) {
        memory[i] = GUARD;
        memory[sizeof memory - 1 - i] = GUARD;
    }
}

static bool guards_hold(void) {
    for (uint32_t i = 0; i < GUARD_BYTES; i++)
        if (memory[i] != GUARD || memory[sizeof memory - 1 - i] != GUARD)
            return false;
    return true;
}

/* A threshold that no score reaches, and one that every score does, as edgeexit.h lists them. */
static uint32_t never(uint32_t rule) {
    switch ((ee_rule)rule) {
    case EE_RULE_CONFIDENCE:
        return 0;
    case EE_RULE_MARGIN:
        return 256;
    case EE_RULE_PATIENCE:
        return UINT32_MAX;
    case EE_RULE_CLASS_MEANS:
        return INT32_MAX;
    }
    return 0;
}

static uint32_t always(uint32_t rule) {
    switch ((ee_rule)rule) {
    case EE_RULE_CONFIDENCE:
        return UINT32_MAX;
    case EE_RULE_PATIENCE:
        return 1;
    case EE_RULE_MARGIN:
    case EE_RULE_CLASS_MEANS:
        return 0;
    }
    return 0;
}

static bool write_record(ee_status status, const ee_result *result, uint32_t stack_bytes) {
    const uint32_t numbers[7] = {(uint32_t)status,
                                 result->label,
                                 result->exit,
                                 result->score,
                                 result->cost,
                                 stack_bytes,
                                 ee_stack_available(ee_stack_pointer())};
    return ee_file_write(results, numbers, sizeof numbers) &&
           (status != EE_OK ||
            ee_file_write(results, result->logits, EE_PROFILE_MODEL.num_classes));
}

/* The two functions that call into the runtime are not inlined: their frames are then their own,
 * and the profiler finds the calls in them by their names. */

__attribute__((noinline)) static bool profile_run(ee_status *status) {
    ee_result result = {0};
    ee_stack_paint();
    *status = ee_run(&session, &result);
    const uint32_t stack_bytes = ee_stack_depth(ee_stack_pointer());
    return write_record(*status, &result, stack_bytes);
}

__attribute__((noinline)) static bool profile_all(ee_status *status) {
    bool answered = false;
    *status = ee_begin(&session);
    while (*status == EE_OK && !answered) {
        ee_result result = {0};
        ee_stack_paint();
        *status = ee_step(&session, &answered);
        const uint32_t stack_bytes = ee_stack_depth(ee_stack_pointer());
        if (*status == EE_OK)
            *status = ee_best(&session, &result);
        if (!write_record(*status, &result, stack_bytes))
            return false;
    }
    return true;
}

static int run(int inputs) {
    static uint32_t thresholds[MAX_EXITS];
    static ee_point point = {"all", thresholds};
    static ee_model model;
    uint32_t header[4];

    if (!ee_file_read(inputs, header, sizeof header) || header[0] != INPUTS_MAGIC)
        return EXIT_INPUTS;
    const uint32_t mode = header[1], selected = header[2], num_samples = header[3];

    model = EE_PROFILE_MODEL;
    if (model.num_exits > MAX_EXITS)
        return EXIT_INIT;
    if (mode == MODE_ALL) {
        for (uint32_t k = 0; k < model.num_exits; k++)
            thresholds[k] = k + 1u < model.num_exits ? never(model.rule) : always(model.rule);
        model.points = &point;
        model.num_points = 1;
        model.default_point = 0;
    }
    set_guards();
    ee_status status = ee_init(&session, &model, memory + GUARD_BYTES, EE_PROFILE_ARENA_BYTES);
    if (status == EE_OK && mode == MODE_RUN)
        status = ee_select(&session, selected);
    if (status != EE_OK)
        return EXIT_INIT;

    const uint32_t about[4] = {RESULTS_MAGIC, model.num_exits, model.num_classes, ee_version()};
    if (!ee_file_write(results, about, sizeof about))
        return EXIT_WRITING;
    for (uint32_t i = 0; i < num_samples && status == EE_OK; i++) {
        if (!ee_file_read(inputs, ee_input(&session), model.input_bytes))
            return EXIT_INPUTS;
        if (!(mode == MODE_ALL ? profile_all(&status) : profile_run(&status)))
            return EXIT_WRITING;
        if (!guards_hold())
            return EXIT_ARENA;
    }
    return 0;
}

int main(void) {
    const int inputs = ee_file_open("inputs.bin", false);
    results = ee_file_open("results.bin", true);
    if (inputs < 0 || results < 0)
        return EXIT_FILES;
    const int code = run(inputs);
    return ee_file_close(results) || code != 0 ? code : EXIT_WRITING;
}
