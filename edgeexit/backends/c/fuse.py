"""Passes over the steps of a chain that leave fewer of them, and every byte the same.

A buffer is ``kept`` where somebody beside the steps reads it: the caller, or a later segment. All
steps that read a buffer count, of whatever segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from edgeexit.backends.c.lowering import Value
from edgeexit.backends.c.multipliers import swapped
from edgeexit.backends.c.program import (
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Multiply,
    Pool2D,
    Step,
    Table,
    Window,
    to_rank_4,
)
from edgeexit.backends.c.tables import clamp_of

Segments = list[list[Step]]


def join_functions(segments: Segments, kept: Collection[int], values: Sequence[Value]) -> Segments:
    """A table after a table becomes one; a table that only clamps goes into the step before it."""
    readers = _readers(segments)
    return [_joined(steps, readers, kept, values) for steps in segments]


def _joined(
    steps: Sequence[Step], readers: Counter[int], kept: Collection[int], values: Sequence[Value]
) -> list[Step]:
    result: list[Step] = []
    made: dict[int, int] = {}
    for step in steps:
        place = made.get(step.inputs[0])
        alone = step.inputs[0] not in kept and readers[step.inputs[0]] == 1
        merged = None
        if isinstance(step, Table) and alone and place is not None:
            merged = _with_function(result[place], step)
            ends = values[step.inputs[0]], values[step.output]
            if merged is not None and not _reshape(merged, *ends):
                merged = None
        if merged is None or place is None:
            made[step.output] = len(result)
            result.append(step)
        else:
            result[place] = merged
            made[step.output] = place
    return result


def _with_function(before: Step, step: Table) -> Step | None:
    if isinstance(before, Table):
        indices = before.table.astype(int) + 128
        return replace(before, table=step.table[indices], output=step.output)
    limits = clamp_of(step.table)
    if limits is None:
        return None

    def within(value: int) -> int:
        return min(max(value, limits[0]), limits[1])

    if isinstance(before, Conv2D | DepthwiseConv2D | FullyConnected | Multiply | Pool2D):
        return replace(
            before,
            activation_min=within(before.activation_min),
            activation_max=within(before.activation_max),
            output=step.output,
        )
    if isinstance(before, Add):
        addition = replace(
            before.addition,
            activation_min=within(before.addition.activation_min),
            activation_max=within(before.addition.activation_max),
        )
        return replace(before, addition=addition, output=step.output)
    return None


def _reshape(step: Step, source: Value, output: Value) -> bool:
    """Gives ``output`` the shape of ``source``, which ``step`` wrote so far; False if it may not.

    Steps on images look at the shape, and so may whoever reads the output: both have to see the
    same one, but for dimensions of one element in front.
    """
    if isinstance(step, Table | FullyConnected):
        return True
    if output.fixed and to_rank_4(source.shape) != to_rank_4(output.shape):
        return False
    longer = output.fixed and len(output.shape) > len(source.shape)
    output.shape, output.fixed = output.shape if longer else source.shape, True
    return True


def fuse_additions(segments: Segments, kept: Collection[int], values: Sequence[Value]) -> Segments:
    """An addition becomes part of the convolution whose result only it reads.

    Of two such convolutions it is the later one, and a convolution moves behind whatever computes
    the tensor that is added.
    """
    readers = _readers(segments)
    return [_fused(steps, readers, kept, values) for steps in segments]


def _fused(
    steps: Sequence[Step],
    readers: Counter[int],
    kept: Collection[int],
    values: Sequence[Value],
) -> list[Step]:
    result = list(steps)
    for add in steps:
        if not isinstance(add, Add) or len(add.inputs) != 2 or add.inputs[0] == add.inputs[1]:
            continue
        if not all((*add.strides1, *add.strides2)):
            continue
        made = {step.output: place for place, step in enumerate(result)}
        candidates = []
        for position, number in enumerate(add.inputs):
            place = made.get(number)
            if place is None or number in kept or readers[number] != 1:
                continue
            window = result[place]
            if isinstance(window, Window) and window.residual is None:
                candidates.append((place, position, window))
        if not candidates:
            continue
        place, position, window = max(candidates, key=lambda candidate: candidate[0])
        if not _reshape(window, values[window.output], values[add.output]):
            continue
        other = add.inputs[1 - position]
        fused = replace(
            window,
            inputs=(window.inputs[0], other),
            output=add.output,
            residual=add.addition if position == 0 else swapped(add.addition),
        )
        behind = max(place, made.get(other, -1))
        result.insert(behind + 1, fused)
        result.remove(add)
        del result[place]
    return result


def _readers(segments: Segments) -> Counter[int]:
    return Counter(number for steps in segments for step in steps for number in step.inputs)
