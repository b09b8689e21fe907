"""A model whose emitted files are written by hand: loops of known lengths, and faults on demand.

Two segments, four classes, rule margin. ``spin`` runs a loop of four instructions a round on a
core; ``mix`` makes logits of the eight input bytes; ``trouble`` does what ``TROUBLE`` says.
"""

from __future__ import annotations

import numpy as np

from edgeexit.backends.c import Emission

THRESHOLD = 60
ROUNDS = (1000, 3000)

_HEADER = """
#include <edgeexit.h>
#define EE_MODEL_HAND_ARENA_BYTES 64u
extern const ee_model ee_model_hand;
"""

_KERNEL = """
#include <stdint.h>
typedef struct { uint32_t rounds; } spin;
void spin_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch);
void mix_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch);
void trouble_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch);

void spin_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)input; (void)output; (void)scratch;
    uint32_t n = op->rounds;
#ifdef __arm__
    __asm__ volatile(".syntax unified\\n1: nop\\n nop\\n subs %0, #1\\n bne 1b" : "+l"(n) : : "cc");
#endif
    (void)n;
}

void mix_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    for (uint32_t c = 0; c < 4; c++) {
        uint32_t sum = op->rounds + c;
        for (uint32_t i = 0; i < 8; i++)
            sum = sum * 31u + (uint8_t)input[i];
        output[c] = (int8_t)(sum >> 5);
    }
}

void trouble_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)op; (void)input; (void)output; (void)scratch;
    TROUBLE
}
"""

_MODEL = """
#include "ee_model.h"
typedef struct {{ uint32_t rounds; }} spin;
void spin_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch);
void mix_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch);
void trouble_kernel(const spin *op, const int8_t *input, int8_t *output, void *scratch);
static const spin op_0 = {{{0}}}, op_1 = {{{1}}}, op_2 = {{7}}, op_3 = {{99}};
static void segment_0(uint8_t *arena) {{
    int8_t *a = (int8_t *)arena;
    spin_kernel(&op_0, a, a, NULL);
    spin_kernel(&op_1, a, a, NULL);
    mix_kernel(&op_2, a, a + 16, NULL);
}}
static void segment_1(uint8_t *arena) {{
    int8_t *a = (int8_t *)arena;
    trouble_kernel(&op_0, a, a, NULL);
    mix_kernel(&op_3, a, a + 32, NULL);
}}
static ee_status run_segment(void *context, uint32_t segment, uint8_t *arena) {{
    (void)context;
    switch (segment) {{
    case 0: segment_0(arena); return EE_OK;
    case 1: segment_1(arena); return EE_OK;
    default: return EE_ERROR_ENGINE;
    }}
}}
static const ee_exit exits[2] = {{{{.logits_offset = 16, .cost = 10}},
                                  {{.logits_offset = 32, .cost = 5}}}};
static const uint32_t never[2] = {{256, 0}}, sure[2] = {{{threshold}, 0}};
static const ee_point points[2] = {{{{"static", never}}, {{"balanced", sure}}}};
const ee_model ee_model_hand = {{
    .magic = EE_MODEL_MAGIC, .abi_version = EE_ABI_VERSION, .name = "hand", .arena_bytes = 64,
    .input_offset = 0, .input_bytes = 8, .num_exits = 2, .num_classes = 4, .num_points = 2,
    .default_point = 1, .rule = EE_RULE_MARGIN, .exits = exits, .points = points,
    .cost_unit = "units", .engine = {{run_segment, NULL}}}};
"""


def emission(trouble: str = "") -> Emission:
    files = {
        "ee_model.h": _HEADER,
        "ee_model.c": _MODEL.format(*ROUNDS, threshold=THRESHOLD),
        "kernels.c": _KERNEL.replace("TROUBLE", trouble),
    }
    return Emission("ee_model_hand", files, (), ())


def inputs(num: int) -> np.ndarray:
    """int8 [num, 8]."""
    return np.random.default_rng(3).integers(-128, 128, (num, 8)).astype(np.int8)


def expected_logits(samples: np.ndarray) -> np.ndarray:
    """int8 [num, 2, 4], by numpy."""
    logits = np.zeros((len(samples), 2, 4), np.int8)
    for index, rounds in enumerate((7, 99)):
        for c in range(4):
            total = np.full(len(samples), rounds + c, np.uint32)
            for byte in samples.view(np.uint8).T:
                total = total * np.uint32(31) + byte
            logits[:, index, c] = (total >> np.uint32(5)).astype(np.uint8).view(np.int8)
    return logits
