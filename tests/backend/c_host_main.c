/* Runs a model on samples from the standard input.
 *
 *     host MODEL outputs OFFSET:BYTES ...   one range for each segment, written after it has run
 *     host MODEL decisions POINT            label, exit, score and cost of ee_run, uint32 each
 *
 * Before each sample the arena is filled with a pattern, another one each time, so that a kernel
 * which reads what nobody has written gives itself away.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgeexit.h"

typedef struct {
    const char *key;
    const ee_model *model;
} named;

extern const named models[];

static const ee_model *find(const char *key) {
    const named *each = models;
    while (each->key != NULL && strcmp(each->key, key) != 0) {
        each++;
    }
    return each->model;
}

static int write_outputs(const ee_model *model, uint8_t *arena, int count, char **ranges) {
    if (count != model->num_exits) {
        return 3;
    }
    for (uint32_t k = 0; k < model->num_exits; k++) {
        char *rest = NULL;
        const unsigned long offset = strtoul(ranges[k], &rest, 10);
        const unsigned long size = strtoul(rest + 1, NULL, 10);
        if (model->engine.run_segment(model->engine.context, k, arena) != EE_OK) {
            return 4;
        }
        fwrite(arena + offset, 1, size, stdout);
    }
    return 0;
}

static int write_decision(ee_session *session) {
    ee_result result;
    const ee_status status = ee_run(session, &result);
    if (status != EE_OK) {
        fprintf(stderr, "ee_run: %s\n", ee_status_name(status));
        return 5;
    }
    const uint32_t numbers[4] = {result.label, result.exit, result.score, result.cost};
    fwrite(numbers, sizeof numbers, 1, stdout);
    return 0;
}

static int run(const ee_model *model, uint8_t *arena, int argc, char **argv) {
    const int decides = strcmp(argv[2], "decisions") == 0;
    ee_session session;
    if (decides) {
        ee_status status = ee_init(&session, model, arena, model->arena_bytes);
        if (status == EE_OK) {
            status = ee_select(&session, (uint32_t)strtoul(argv[3], NULL, 10));
        }
        if (status != EE_OK) {
            fprintf(stderr, "ee_init or ee_select: %s\n", ee_status_name(status));
            return 5;
        }
    }
    int pattern = 0x5a;
    int failed = 0;
    while (failed == 0) {
        memset(arena, pattern & 0xff, model->arena_bytes);
        pattern += 0x35;
        if (fread(arena + model->input_offset, 1, model->input_bytes, stdin) !=
            model->input_bytes) {
            break;
        }
        failed =
            decides ? write_decision(&session) : write_outputs(model, arena, argc - 3, argv + 3);
    }
    return failed;
}

int main(int argc, char **argv) {
    const ee_model *model = argc > 3 ? find(argv[1]) : NULL;
    if (model == NULL) {
        fprintf(stderr, "no such model\n");
        return 2;
    }
    uint8_t *arena = aligned_alloc(EE_ARENA_ALIGNMENT, model->arena_bytes);
    if (arena == NULL) {
        return 2;
    }
    const int failed = run(model, arena, argc, argv);
    free(arena);
    return failed;
}
