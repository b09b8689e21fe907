"""What can be known before the program runs: constants, dead ops, and padding of a convolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import tflite_schema as schema
from edgeexit.backends.c.tflite_model import TfliteModel, TfliteOperator

Constants = Mapping[int, NDArray[Any]]
# Arithmetic on shapes: what is longer is no shape.
_MAX_NUMBERS = 64
_INTEGERS = ("int32", "int64")


@dataclass(frozen=True)
class Padding:
    """Zeros before the rows and columns that a convolution reads from ``source``, a tensor."""

    source: int
    top: int
    left: int
    op: int


def constants(model: TfliteModel) -> dict[int, NDArray[Any]]:
    """Tensor -> its values: constants of the file, and what follows from them and from shapes."""
    known = {tensor.index: tensor.data for tensor in model.tensors if tensor.data is not None}
    for op in model.operators:
        value = _shape_arithmetic(model, op, known)
        if value is not None and len(op.outputs) == 1:
            tensor = model.tensors[op.outputs[0]]
            if value.size == tensor.num_elements <= _MAX_NUMBERS:
                known[tensor.index] = value.astype(tensor.dtype).reshape(tensor.shape)
    return known


def _shape_arithmetic(
    model: TfliteModel, op: TfliteOperator, known: Constants
) -> NDArray[Any] | None:
    """The result of an op on shapes, where all that it needs is known."""
    if op.kind == "SHAPE" and len(op.inputs) == 1 and op.inputs[0] >= 0:
        return np.array(model.tensors[op.inputs[0]].shape, np.int64)
    values = [known.get(index) for index in op.inputs]
    if any(value is None or value.dtype.name not in _INTEGERS for value in values) or not values:
        return None
    numbers = [value for value in values if value is not None]
    if any(value.size > _MAX_NUMBERS for value in numbers):
        return None
    if op.kind == "PACK":
        joined: NDArray[Any] = np.concatenate([value.ravel() for value in numbers])
        return joined
    if op.kind == "RESHAPE":
        return numbers[0]
    if op.kind == "STRIDED_SLICE" and len(numbers) == 4 and numbers[0].ndim == 1:
        where = slices(op, numbers[0].shape, *numbers[1:])
        return None if where is None else np.atleast_1d(numbers[0][where[0]])
    return None


def slices(
    op: TfliteOperator,
    shape: tuple[int, ...],
    begin: NDArray[Any],
    end: NDArray[Any],
    strides: NDArray[Any],
) -> tuple[slice, ...] | None:
    """What STRIDED_SLICE takes from each dimension; None where its arguments do not say it.

    Dimensions that it drops from the shape are slices of one element here.
    """
    masks = {name: int(op.attributes[name]) for name in op.attributes}
    unknown = ("ellipsis_mask", "new_axis_mask", "offset")
    if any(masks.get(name) for name in unknown) or not (
        begin.shape == end.shape == strides.shape and begin.ndim == 1 and begin.size <= len(shape)
    ):
        return None
    taken: list[slice] = []
    for d, size in enumerate(shape):
        if d >= begin.size:
            taken.append(slice(0, size, 1))
            continue
        first, last, step = int(begin[d]), int(end[d]), int(strides[d])
        if step == 0:
            return None
        if masks["shrink_axis_mask"] >> d & 1:
            if masks["begin_mask"] >> d & 1:
                first = 0 if step > 0 else size - 1
            first += size if first < 0 else 0
            if not 0 <= first < size:
                return None
            taken.append(slice(first, first + 1, 1))
            continue
        part = slice(
            None if masks["begin_mask"] >> d & 1 else first,
            None if masks["end_mask"] >> d & 1 else last,
            step,
        )
        taken.append(part)
    return tuple(taken)


def live_operators(
    model: TfliteModel, known: Constants, outputs: Iterable[int]
) -> tuple[TfliteOperator, ...]:
    """The ops that ``outputs`` depend on and that are not known before."""
    needed = set(outputs)
    live: list[TfliteOperator] = []
    for op in reversed(model.operators):
        if any(index in needed and index not in known for index in op.outputs):
            live.append(op)
            needed.update(op.inputs)
    return tuple(reversed(live))


def paddings(
    model: TfliteModel,
    operators: Iterable[TfliteOperator],
    known: Constants,
    outputs: Iterable[int],
) -> dict[int, Padding]:
    """Convolution (its index) -> the PAD before it that its own padding can stand for.

    The PAD adds rows and columns of the input's zero point, fewer than the kernel covers, and
    nobody else reads what it makes.
    """
    live = list(operators)
    readers: dict[int, int] = dict.fromkeys(outputs, 1)
    for op in live:
        for index in op.inputs:
            readers[index] = readers.get(index, 0) + 1
    pads = {op.outputs[0]: op for op in live if op.kind in ("PAD", "PADV2") and op.outputs}
    found = {}
    for op in live:
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D") or len(op.inputs) < 2:
            continue
        pad = pads.get(op.inputs[0])
        if pad is None or readers[op.inputs[0]] != 1:
            continue
        padding = _padding(model, op, pad, known)
        if padding is not None:
            found[op.index] = padding
    return found


def _padding(
    model: TfliteModel, conv: TfliteOperator, pad: TfliteOperator, known: Constants
) -> Padding | None:
    if len(pad.inputs) < 2 or min(pad.inputs) < 0 or conv.inputs[1] < 0:
        return None
    source, padded = model.tensors[pad.inputs[0]], model.tensors[conv.inputs[0]]
    kernel = model.tensors[conv.inputs[1]]
    amounts = known.get(pad.inputs[1])
    shapes = (source.shape, padded.shape, kernel.shape)
    if amounts is None or amounts.shape != (4, 2) or any(len(shape) != 4 for shape in shapes):
        return None
    if amounts.dtype.name not in _INTEGERS:
        return None
    if source.scales != padded.scales or source.zero_points != padded.zero_points:
        return None
    if pad.kind == "PADV2":
        value = known.get(pad.inputs[2]) if len(pad.inputs) > 2 else None
        if value is None or value.size != 1 or value.dtype.name != "int8":
            return None
        if [int(value.item())] != list(padded.zero_points):
            return None
    numbers = [(int(before), int(after)) for before, after in amounts]
    if numbers[0] != (0, 0) or numbers[3] != (0, 0):
        return None
    for d, name in ((1, "h"), (2, "w")):
        dilation = int(conv.attributes[f"dilation_{name}_factor"])
        stride = int(conv.attributes[f"stride_{name}"])
        span = dilation * (kernel.shape[d] - 1) + 1
        own = 0
        if conv.attributes["padding"] == schema.PADDING_SAME and stride > 0:
            own = same_padding(padded.shape[d], span, stride)
        before, after = numbers[d]
        if min(before, after) < 0 or max(before, after) + own >= span:
            return None
        if source.shape[d] + before + after != padded.shape[d]:
            return None
    return Padding(source.index, numbers[1][0], numbers[2][0], pad.index)


def same_padding(size: int, span: int, stride: int) -> int:
    """Rows before the input with TFLite's SAME padding; the odd one goes after it."""
    return max((math.ceil(size / stride) - 1) * stride + span - size, 0) // 2
