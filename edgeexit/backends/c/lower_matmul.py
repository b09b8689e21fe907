"""Lowers the product of two computed tensors."""

from __future__ import annotations

import math

import numpy as np

from edgeexit.backends.c.lower_products import check_shape
from edgeexit.backends.c.lowering import Op, check_sum
from edgeexit.backends.c.multipliers import factor
from edgeexit.backends.c.program import BatchMatMul, dense_strides, to_rank_4
from edgeexit.backends.c.tflite_model import TfliteTensor
from edgeexit.backends.c.turns import View


def batch_matmul(op: Op) -> None:
    """BATCH_MATMUL, with the TRANSPOSEs around it."""
    op.check_count(2)
    tensors = [op.tensor(position) for position in (0, 1)]
    op.rank(*tensors, op.output)
    turned = [op.attribute("adj_x"), not op.attribute("adj_y")]
    for tensor in tensors:
        if len(tensor.shape) < 2:
            op.refuse("an input is no matrix", "2 to 4 dimensions", tensor.shape, tensor)
    views = [_view(op, tensor) for tensor in tensors]
    # Sizes and strides of [i, j, row or column, d].
    sides = []
    for tensor, view, last in zip(tensors, views, turned, strict=True):
        order = (0, 1, 3, 2) if last else (0, 1, 2, 3)
        sizes, moves = to_rank_4(tensor.shape), to_rank_4(view.strides, 0)
        # One matrix for several of the other input: the step to the next one is none.
        sides.append([(sizes[d], 0 if d < 2 and sizes[d] == 1 else moves[d]) for d in order])
    left, right = sides
    fits = all(a[0] == b[0] or 1 in (a[0], b[0]) for a, b in zip(left[:2], right[:2], strict=True))
    if left[3][0] != right[3][0] or not fits:
        op.refuse(
            "its inputs do not fit each other",
            "[..., rows, depth] and [..., depth, columns] of equal batches, or of 1",
            [tensor.shape for tensor in tensors],
        )
    batches = [max(a[0], b[0]) for a, b in zip(left[:2], right[:2], strict=True)]
    extents = to_rank_4([*batches, left[2][0], right[2][0]])
    depth = left[3][0]
    check_shape(op, extents[-max(len(tensor.shape) for tensor in tensors) :])
    first, second = (op.quantization(position) for position in (0, 1))
    output = op.parameters(op.output)
    with op.checking():
        multiplier, shift = factor(first[0] * second[0] / output[0])
    check_sum(op, np.array([depth * 255 * 255]), [shift])
    target = op.segment.turns.targets.get(op.output.index)
    if target is None:
        target = View(op.output.index, tuple(dense_strides(op.output.shape)))
    op.emit(
        BatchMatMul(
            name=op.name,
            inputs=tuple(op.read_tensor(op.segment.model.tensors[view.tensor]) for view in views),
            output=op.write_tensor(op.segment.model.tensors[target.tensor]),
            macs=math.prod(extents) * depth,
            extents=extents,
            depth=depth,
            strides1=to_rank_4([move for _, move in left]),
            strides2=to_rank_4([move for _, move in right]),
            output_strides=to_rank_4(target.strides, 0),
            offset1=-first[1],
            offset2=-second[1],
            output_offset=output[1],
            multiplier=multiplier,
            shift=shift,
        )
    )


def _view(op: Op, tensor: TfliteTensor) -> View:
    """Where the elements of an input lie."""
    view = op.segment.turns.sources.get(tensor.index)
    return View(tensor.index, tuple(dense_strides(tensor.shape))) if view is None else view
