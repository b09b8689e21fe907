"""Writes a planned program as C: ``ee_model.h`` and ``ee_model.c``.

All weights and parameters become constants; a segment becomes one function that calls its kernels
in order, on places of the arena that are fixed. The same program gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from edgeexit.backends.c.chain import ChainInfo
from edgeexit.backends.c.constants import Constants, comment, identifier, integer, string
from edgeexit.backends.c.kernels.base import Implementation
from edgeexit.backends.c.plan import Plan
from edgeexit.backends.c.program import Buffer, Program, ProgramSegment
from edgeexit.errors import LoweringError
from edgeexit.runtime.decision import MAX_CLASSES, TABLE_SIZE, check_thresholds
from edgeexit.types import InputSpec

RUNTIME_SOURCES = ("ee_check.c", "ee_decide.c", "ee_runtime.c", "ee_status.c")
"""What runs every model, below ``runtime/src``; the energy guard is there for who calls it."""

_UINT32_MAX = (1 << 32) - 1
_WIDTH = 100
_RULES = {
    "confidence": "EE_RULE_CONFIDENCE",
    "margin": "EE_RULE_MARGIN",
    "patience": "EE_RULE_PATIENCE",
    "class_means": "EE_RULE_CLASS_MEANS",
}


@dataclass(frozen=True)
class Emission:
    """What the emitter wrote, and what has to be compiled with it.

    ``files`` are names and contents. ``sources`` define the kernels and lie below ``runtime/src``,
    those that begin with ``cmsis_nn:`` in CMSIS-NN; ``RUNTIME_SOURCES`` are needed beside them.
    ``headers`` lie in ``runtime/include``. ``symbol`` is the ``ee_model`` that ``ee_model.h``
    declares.
    """

    symbol: str
    files: dict[str, str]
    sources: tuple[str, ...]
    headers: tuple[str, ...]


def emit(
    program: Program, implementations: Sequence[Implementation], plan: Plan, chain: ChainInfo
) -> Emission:
    """Writes the program.

    Raises:
        LoweringError: ``chain`` does not fit the program: another number of exits, logits of
            different sizes, more than 4,096 classes, or costs beyond 32 bits.
        ArgumentError: Thresholds are not usable.
    """
    num_classes = _check(program, chain)
    costs = _costs(program, chain)
    symbol = f"ee_model_{identifier(chain.name)}"
    headers = sorted({header for each in implementations for header in each.headers})
    sources = {source for each in implementations for source in each.sources}
    return Emission(
        symbol=symbol,
        files={
            "ee_model.h": _header(program, plan, chain, costs, num_classes, symbol),
            "ee_model.c": _source(
                program, implementations, plan, chain, costs, num_classes, symbol, headers
            ),
        },
        sources=tuple(sorted(sources)),
        headers=("edgeexit.h", "ee_port.h", *headers),
    )


def _check(program: Program, chain: ChainInfo) -> int:
    """The number of classes, once everything fits together."""
    rule, num_exits = chain.decision.rule, len(program.segments)
    sizes = {program.buffers[segment.logits].num_bytes for segment in program.segments}
    num_classes = min(sizes)
    fewest = 2 if rule in ("margin", "class_means") else 1
    if len(sizes) > 1 or not fewest <= num_classes <= MAX_CLASSES:
        raise LoweringError(
            "the exits of a chain answer with the same number of classes",
            wanted=f"one number from {fewest} to {MAX_CLASSES}",
            given=", ".join(map(str, sorted(sizes))),
            where=chain.name,
        )
    tables = chain.decision.tables
    if rule == "confidence" and [len(table) for table in tables] != [TABLE_SIZE] * num_exits:
        raise LoweringError(
            "the rule confidence needs a table for each exit",
            wanted=f"{num_exits} tables of {TABLE_SIZE} entries",
            given=f"{[len(table) for table in tables]}",
            where=chain.name,
        )
    if rule == "class_means":
        shapes = [
            (program.buffers[_buffer(program, each.feature)].num_bytes, each.means.shape)
            for each in chain.class_means
        ]
        if len(shapes) != num_exits or any(s != (num_classes, n) for n, s in shapes):
            raise LoweringError(
                "the rule class_means needs the means of each exit",
                wanted=f"{num_exits} arrays, {num_classes} means each, as long as the feature",
                given=f"{[shape for _, shape in shapes]}",
                where=chain.name,
            )
    if not 0 <= chain.default_point < len(chain.points):
        raise LoweringError(
            "the operating point to begin with does not exist",
            wanted=f"0 to {len(chain.points) - 1}",
            given=chain.default_point,
            where=chain.name,
        )
    for point in chain.points:
        check_thresholds(point.thresholds, rule, num_exits, where=f"{chain.name}, {point.name}")
    return num_classes


def _costs(program: Program, chain: ChainInfo) -> tuple[int, ...]:
    costs = chain.costs
    if costs is None:
        costs = tuple(sum(step.macs for step in segment.steps) for segment in program.segments)
    if len(costs) != len(program.segments) or min(costs) < 0 or sum(costs) > _UINT32_MAX:
        raise LoweringError(
            "a cost per segment is needed, and their sum has to fit 32 bits",
            wanted=f"{len(program.segments)} costs that add up to at most {_UINT32_MAX}",
            given=f"{list(costs)} {chain.cost_unit}",
            where=chain.name,
            hint="count in a larger unit",
        )
    return costs


def _buffer(program: Program, name: str) -> int:
    found = [index for index, buffer in enumerate(program.buffers) if buffer.name == name]
    if len(found) != 1:
        raise LoweringError(
            "the feature of an exit is not one tensor of the chain",
            wanted=f"one tensor called {name!r}",
            given=f"{len(found)} of them",
        )
    return found[0]


def kept_features(program: Program, chain: ChainInfo) -> tuple[tuple[int, ...], ...]:
    """For each segment, the buffers that its decision reads beside the logits; for the planner."""
    return tuple((_buffer(program, each.feature),) for each in chain.class_means)


# ------------------------------------------------------------------ ee_model.h


def _header(
    program: Program,
    plan: Plan,
    chain: ChainInfo,
    costs: Sequence[int],
    num_classes: int,
    symbol: str,
) -> str:
    prefix = symbol.upper()
    names = Constants()
    points = [
        f"#define {names.name(f'{prefix}_POINT_{identifier(point.name).upper()}')} {index}u"
        for index, point in enumerate(chain.points)
    ]
    return "\n".join(
        [
            f"/* {_description(program, chain, costs, num_classes)}",
            " */",
            f"#ifndef {prefix}_H",
            f"#define {prefix}_H",
            "",
            '#include "edgeexit.h"',
            "",
            "/* Bytes; the arena has to be at a multiple of EE_ARENA_ALIGNMENT. */",
            f"#define {prefix}_ARENA_BYTES {plan.arena_bytes}u",
            f"#define {prefix}_INPUT_BYTES {program.buffers[program.input].num_bytes}u",
            f"#define {prefix}_NUM_EXITS {len(program.segments)}u",
            f"#define {prefix}_NUM_CLASSES {num_classes}u",
            "",
            "/* Operating points, for ee_select. */",
            *points,
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            f"extern const ee_model {symbol};",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "#endif",
            "",
        ]
    )


def _description(program: Program, chain: ChainInfo, costs: Sequence[int], num_classes: int) -> str:
    lines = [
        f"{comment(chain.name)}: {len(program.segments)} segments, {num_classes} classes, "
        f"rule {chain.decision.rule}. Written by edgeexit.",
        "",
        *_input_lines(program.buffers[program.input], chain.input),
    ]
    for index, (segment, cost) in enumerate(zip(program.segments, costs, strict=True)):
        macs = sum(step.macs for step in segment.steps)
        lines.append(
            f"  segment {index}: {len(segment.steps)} steps, {macs} MACs, cost {cost} "
            f"{comment(chain.cost_unit)}, exit {comment(program.buffers[segment.logits].name)}"
        )
    for index, point in enumerate(chain.points):
        default = " (default)" if index == chain.default_point else ""
        lines.append(
            f"  point {index}{default}: {comment(point.name)}, thresholds {list(point.thresholds)}"
        )
    return "\n * ".join(lines).replace(" * \n", " *\n")


def _input_lines(source: Buffer, given: InputSpec | None) -> list[str]:
    """The input, and how its bytes come from raw samples: what a project has instead of a manifest.

    The steps may see the buffer in another shape than the caller does.
    """
    shape = given.tensor.shape if given else source.shape
    lines = [
        f"  input int8 {list(shape)}, real value = {source.scale:.9g} * (q - ({source.zero_point}))"
    ]
    if given is None:
        return lines
    if given.raw_is_subtraction:
        return [*lines, "  from uint8: q = raw - 128"]
    # All digits: with fewer, a double may round to the other side.
    how = (
        f"from {given.raw_dtype}, in double: real value = (raw - offset) * multiplier, "
        f"q = clip(round_half_even(real value / {given.tensor.scale!r}) + "
        f"({given.tensor.zero_point}), -128, 127), offset = {list(given.offset)}, "
        f"multiplier = {list(given.multiplier)}"
    )
    # Hyphens stay where they are: they are the signs of numbers.
    rows = wrap(how, 96, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return lines + rows


# ------------------------------------------------------------------ ee_model.c


def _source(
    program: Program,
    implementations: Sequence[Implementation],
    plan: Plan,
    chain: ChainInfo,
    costs: Sequence[int],
    num_classes: int,
    symbol: str,
    headers: Sequence[str],
) -> str:
    constants = Constants()
    functions = []
    first = 0
    for index, segment in enumerate(program.segments):
        functions.append(_segment(index, first, segment, implementations, plan, constants))
        first += len(segment.steps)
    source = program.buffers[program.input]
    model = {
        "magic": "EE_MODEL_MAGIC",
        "abi_version": "EE_ABI_VERSION",
        "name": string(chain.name),
        "arena_bytes": integer(plan.arena_bytes),
        "input_offset": integer(plan.offsets[program.input]),
        "input_bytes": integer(source.num_bytes),
        "num_exits": str(len(program.segments)),
        "num_classes": str(num_classes),
        "num_points": str(len(chain.points)),
        "default_point": str(chain.default_point),
        "rule": _RULES[chain.decision.rule],
        "exits": "exits",
        "points": "points",
        "cost_unit": string(chain.cost_unit),
        "engine": "{.run_segment = run_segment, .context = NULL}",
    }
    exits = _exits(program, plan, chain, costs, constants)
    points = _points(chain, constants)
    includes = ['#include "ee_model.h"', "", *(f'#include "{header}"' for header in headers)]
    parts = [
        "/* Written by edgeexit; see ee_model.h. */",
        "\n".join(includes) + "\n",
        *constants.definitions,
        *functions,
        _dispatch(len(program.segments)),
        exits,
        points,
        f"const ee_model {symbol} = {{\n"
        + "".join(f"    .{field} = {value},\n" for field, value in model.items())
        + "};\n",
    ]
    return "\n".join(parts)


def _segment(
    index: int,
    first: int,
    segment: ProgramSegment,
    implementations: Sequence[Implementation],
    plan: Plan,
    constants: Constants,
) -> str:
    lines = [f"static void segment_{index}(uint8_t *arena) {{"]
    if segment.steps:
        lines.append("    int8_t *const at = (int8_t *)arena;")
    else:
        lines.append("    (void)arena;")
    for number, step in enumerate(segment.steps, first):
        implementation = implementations[number]
        parameters = constants.struct(f"op_{identifier(step.name)}", implementation.parameters)
        scratch = plan.scratch_offsets[number]
        arguments = [
            f"&{parameters}",
            *(f"at + {plan.offsets[buffer]}" for buffer in (*step.inputs, step.output)),
            "NULL" if scratch is None else f"arena + {scratch}",
        ]
        call = f"    {implementation.function}({', '.join(arguments)});"
        if len(call) > _WIDTH:
            rest = ", ".join(arguments[1:])
            call = f"    {implementation.function}({arguments[0]},\n        {rest});"
        lines.append(call)
    return "\n".join([*lines, "}", ""])


def _dispatch(num_segments: int) -> str:
    cases = "".join(
        f"    case {index}:\n        segment_{index}(arena);\n        return EE_OK;\n"
        for index in range(num_segments)
    )
    return (
        "static ee_status run_segment(void *context, uint32_t segment, uint8_t *arena) {\n"
        "    (void)context;\n"
        "    switch (segment) {\n"
        f"{cases}"
        "    default:\n"
        "        return EE_ERROR_ENGINE;\n"
        "    }\n"
        "}\n"
    )


def _exits(
    program: Program,
    plan: Plan,
    chain: ChainInfo,
    costs: Sequence[int],
    constants: Constants,
) -> str:
    rows = []
    for index, segment in enumerate(program.segments):
        fields = {
            "logits_offset": integer(plan.offsets[segment.logits]),
            "cost": integer(costs[index]),
        }
        if chain.decision.rule == "confidence":
            table = np.array(chain.decision.tables[index], np.uint32)
            fields["table"] = constants.array(f"table_{index}", table)
        if chain.decision.rule == "class_means":
            each = chain.class_means[index]
            buffer = _buffer(program, each.feature)
            fields["means"] = constants.array(f"means_{index}", each.means)
            fields["feature_offset"] = integer(plan.offsets[buffer])
            fields["feature_bytes"] = integer(program.buffers[buffer].num_bytes)
        rows.append("    {" + ", ".join(f".{k} = {v}" for k, v in fields.items()) + "},\n")
    return f"static const ee_exit exits[{len(rows)}] = {{\n{''.join(rows)}}};\n"


def _points(chain: ChainInfo, constants: Constants) -> str:
    rows = []
    for point in chain.points:
        values = np.array(point.thresholds, np.uint32)
        thresholds = constants.array(f"thresholds_{identifier(point.name)}", values)
        rows.append(f"    {{.name = {string(point.name)}, .thresholds = {thresholds}}},\n")
    return f"static const ee_point points[{len(rows)}] = {{\n{''.join(rows)}}};\n"
