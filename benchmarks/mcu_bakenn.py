"""bakenn's C for the same networks, counted as ours is: its call stands where a segment would.

bakenn's reader of ``.tflite`` is stricter than these files. They are changed for it where that
changes no arithmetic: the batch is fixed at one, RESHAPE names its shape, QUANTIZE and DEQUANTIZE
at the edges and all that follows the last fully connected layer (SOFTMAX, which it does not know)
are cut off. So its counts lack the softmax that ours have: at most 1 %.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import bakenn
import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from edgeexit.backends.c.cmsis_nn_sources import CmsisNn
from edgeexit.backends.c.emit import Emission

# After those of the build, which keep the functions of an emitted file apart; bakenn's kernels are
# in such a file, too.
FLAGS = ("-O3", "-finline", "-foptimize-sibling-calls", "-DBAKENN_CMSIS_NN_BUILTIN_MEMORY")
CORES = ("m4", "m7")
"""Its overlay of CMSIS-NN is for cores with DSP and without MVE."""


class CannotCompileError(Exception):
    """bakenn refuses a network; the message says why."""


def simplified(content: bytes) -> bytes:
    """The model as bakenn can read it."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    codes = [code.builtinCode for code in model.operatorCodes]
    known = schema.BuiltinOperator
    kept = []
    for op in graph.operators:
        kind = codes[op.opcodeIndex]
        if kind == known.QUANTIZE and op.inputs[0] in list(graph.inputs):
            graph.inputs = [op.outputs[0]]
            continue
        if kind == known.RESHAPE:
            op.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            op.builtinOptions = schema.ReshapeOptionsT()
            op.builtinOptions.newShape = list(graph.tensors[op.outputs[0]].shape)
        kept.append(op)
    ends = [i for i, op in enumerate(kept) if codes[op.opcodeIndex] == known.FULLY_CONNECTED]
    if ends:
        kept = kept[: ends[-1] + 1]
        graph.outputs = [kept[-1].outputs[0]]
    graph.operators = kept
    for tensor in graph.tensors:
        tensor.shapeSignature = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def emission(name: str, content: bytes, library: CmsisNn, *, overlay: bool) -> Emission:
    """bakenn's files and an ``ee_model`` around them, with CMSIS-NN or in plain C.

    Raises:
        CannotCompileError: bakenn refuses.
    """
    policy = bakenn.KernelPolicy.STATIC_PRIORITY if overlay else bakenn.KernelPolicy.PORTABLE
    options = bakenn.CBackendOptions(
        kernel_policy=policy, enable_cmsis_nn=overlay, target=bakenn.CORTEX_M4
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            bakenn.compile_tflite(content, folder, name=name, backend_options=options)
        except bakenn.CompileError as exc:
            raise CannotCompileError(str(exc)) from exc
        files = {
            path.name: path.read_text()
            for path in sorted(Path(folder).iterdir())
            if path.suffix in (".c", ".h")
        }
        sources = [path.name for path in sorted(Path(folder).rglob("third_party/**/*.c"))]
    files["ee_model.h"] = _HEADER.format(name=name, upper=name.upper())
    files["ee_model.c"] = _SOURCE.format(name=name, upper=name.upper())
    return Emission(
        symbol=f"ee_model_{name}",
        files=files,
        sources=_known(sources, library),
        headers=("edgeexit.h",),
    )


def _known(names: Sequence[str], library: CmsisNn) -> tuple[str, ...]:
    """Its copies of CMSIS-NN are those of the package that it comes in."""
    return tuple(f"cmsis_nn:{name}" for name in names if name in library.sources)


_HEADER = """#ifndef BAKENN_EE_MODEL_H
#define BAKENN_EE_MODEL_H
#include "edgeexit.h"
#include "bknn_{name}.h"
#define EE_OUTPUT_OFFSET ((BKNN_{upper}_ARENA_SIZE + 15u) / 16u * 16u)
#define EE_INPUT_OFFSET (EE_OUTPUT_OFFSET + (BKNN_{upper}_OUTPUT_BYTES + 15u) / 16u * 16u)
#define EE_MODEL_{upper}_ARENA_BYTES (EE_INPUT_OFFSET + BKNN_{upper}_INPUT_BYTES)
extern const ee_model ee_model_{name};
#endif
"""

_SOURCE = """#include "ee_model.h"
__attribute__((noinline)) static void segment_0(uint8_t *arena) {{
    bknn_{name}_infer(arena, (const int8_t *)arena + EE_INPUT_OFFSET,
                      (int8_t *)arena + EE_OUTPUT_OFFSET);
    __asm__ volatile("" ::: "memory"); /* a call, not a jump */
}}
static ee_status run_segment(void *context, uint32_t segment, uint8_t *arena) {{
    (void)context;
    (void)segment;
    segment_0(arena);
    return EE_OK;
}}
static const ee_exit exits[] = {{{{.logits_offset = EE_OUTPUT_OFFSET, .cost = 1}}}};
static const uint32_t thresholds[] = {{1}};
static const ee_point points[] = {{{{"static", thresholds}}}};
const ee_model ee_model_{name} = {{
    .magic = EE_MODEL_MAGIC,
    .abi_version = EE_ABI_VERSION,
    .name = "{name}",
    .arena_bytes = EE_MODEL_{upper}_ARENA_BYTES,
    .input_offset = EE_INPUT_OFFSET,
    .input_bytes = BKNN_{upper}_INPUT_BYTES,
    .num_exits = 1,
    .num_classes = BKNN_{upper}_OUTPUT_BYTES,
    .num_points = 1,
    .rule = EE_RULE_PATIENCE,
    .exits = exits,
    .points = points,
    .cost_unit = "calls",
    .engine = {{run_segment, NULL}},
}};
"""
