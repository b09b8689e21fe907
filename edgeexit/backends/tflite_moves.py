"""Leaves out ops of a ``.tflite`` file that only move what need not be moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeexit.backends.tflite_file import FileOp, FileTensor


def without_idle_moves(
    tensors: Sequence[FileTensor],
    ops: Sequence[FileOp],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> tuple[list[FileTensor], list[FileOp], list[int], list[int]]:
    """Joins a TRANSPOSE that follows another, and drops what nobody reads.

    Two in a row become one, or a RESHAPE to the shape that is there already where they cancel out;
    a RESHAPE reads past another one, goes where it changes nothing, and a MEAN keeps the dimensions
    that a RESHAPE after it would bring back. Tensors are numbered anew, in the order of the ops.

    Args:
        tensors: Those of the file.
        ops: In the order in which they run.
        inputs: Numbers of the tensors that the file takes.
        outputs: Numbers of the tensors that it gives.

    Returns:
        The same four, without what was idle.
    """
    readers = Counter(number for op in ops for number in op.inputs) + Counter(outputs)
    made = {op.outputs[0]: op for op in ops}
    joined: list[FileOp] = []
    same: dict[int, int] = {}
    for op in ops:
        op = replace(op, inputs=tuple(same.get(number, number) for number in op.inputs))
        before = made.get(op.inputs[0])
        if op.code == "TRANSPOSE" and before is not None and before.code == "TRANSPOSE":
            first, second = (_numbers(tensors, each) for each in (before, op))
            order = [first[dim] for dim in second]
            op = replace(op, inputs=(before.inputs[0], op.inputs[1]))
            if order == list(range(len(order))):
                shape = tensors[op.outputs[0]].shape
                op = replace(op, code="RESHAPE", options_table="ReshapeOptions")
            tensors = _with_numbers(tensors, op, shape if op.code == "RESHAPE" else order)
        if op.code == "RESHAPE":
            before = made.get(op.inputs[0])
            if before is not None and before.code == "RESHAPE":
                op = replace(op, inputs=(before.inputs[0], op.inputs[1]))
            elif before is not None and _keeps_by_reshape(tensors, before, op, readers):
                op = replace(before, outputs=op.outputs, options={"keepDims": True})
            source, result = op.inputs[0], op.outputs[0]
            moves_nothing = tensors[source].shape == tensors[result].shape
            if op.code == "RESHAPE" and moves_nothing and result not in outputs:
                same[result] = source
                continue
        made[op.outputs[0]] = op
        joined.append(op)
    needed = set(outputs)
    for op in reversed(joined):
        if needed & set(op.outputs):
            needed |= set(op.inputs)
    kept = [op for op in joined if needed & set(op.outputs)]
    numbers = {old: new for new, old in enumerate(sorted(needed | set(inputs)))}
    return (
        [tensors[old] for old in numbers],
        [
            replace(
                op,
                inputs=tuple(numbers[k] for k in op.inputs),
                outputs=tuple(numbers[k] for k in op.outputs),
            )
            for op in kept
        ],
        [numbers[k] for k in inputs],
        [numbers[k] for k in outputs],
    )


def _keeps_by_reshape(
    tensors: Sequence[FileTensor], mean: FileOp, reshape: FileOp, readers: Counter[int]
) -> bool:
    """Whether the two together are the mean that keeps its dimensions."""
    if mean.code != "MEAN" or readers[mean.outputs[0]] != 1:
        return False
    data = tensors[mean.inputs[1]].data
    assert data is not None
    axes = {int(axis) for axis in data}
    shape = tensors[mean.inputs[0]].shape
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return kept == tensors[reshape.outputs[0]].shape


def _numbers(tensors: Sequence[FileTensor], op: FileOp) -> list[int]:
    data = tensors[op.inputs[1]].data
    assert data is not None
    return [int(number) for number in data]


def _with_numbers(
    tensors: Sequence[FileTensor], op: FileOp, numbers: Sequence[int]
) -> list[FileTensor]:
    """The tensors, the second input of ``op`` with other values."""
    changed = list(tensors)
    old = changed[op.inputs[1]]
    changed[op.inputs[1]] = replace(old, data=np.array(numbers, np.int32), shape=(len(numbers),))
    return changed
