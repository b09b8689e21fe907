"""Lowers ops on values: sums, products, pools, means, and functions of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgeexit.backends.c import tables
from edgeexit.backends.c.lower_products import check_shape, image_size, windows
from edgeexit.backends.c.lowering import Op, check_sum
from edgeexit.backends.c.multipliers import (
    addition,
    factor,
    mean_factor,
    softmax_factor,
    subtraction,
    swapped,
)
from edgeexit.backends.c.program import (
    Add,
    Int8,
    Mean,
    Multiply,
    Pool2D,
    Softmax,
    Table,
    dense_strides,
    to_rank_4,
)

_LOGISTIC_OUTPUT = (1 / 256, -128)
_MAX_SOFTMAX = 4095  # values of which the sum of exponentials, Q12.19, holds any
_POOL_TOLERANCE = 1e-6  # between scales, as in TFLite
Four = tuple[int, int, int, int]


def _operands(op: Op) -> tuple[list[int], list[Four], bool, Int8 | None]:
    """Positions of both inputs, a constant last, their strides, whether that exchanged them."""
    op.check_count(2)
    op.rank(op.tensor(0), op.tensor(1), op.output)
    order = [0, 1]
    if op.constant(0) is not None:
        if op.constant(1) is not None:
            op.refuse("it does not depend on the input", "a computed input", "two constants")
        order = [1, 0]
    shapes = [op.tensor(position).shape for position in order]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        op.refuse("its inputs do not fit each other", "sizes that are equal or 1", shapes)
    check_shape(op, shape)
    full = to_rank_4(shape)
    strides: list[Four] = []
    for each in shapes:
        sizes = to_rank_4(each)
        moves = [
            stride if size == whole else 0
            for size, whole, stride in zip(sizes, full, dense_strides(sizes), strict=True)
        ]
        strides.append((moves[0], moves[1], moves[2], moves[3]))
    constant = None
    if op.constant(order[1]) is not None:
        constant = op.known(order[1], "int8")
    return order, strides, order != [0, 1], constant


def add(op: Op) -> None:
    """ADD."""
    _sum(op, subtract=False)


def subtract(op: Op) -> None:
    """SUB."""
    _sum(op, subtract=True)


def _sum(op: Op, subtract: bool) -> None:
    order, strides, exchanged, constant = _operands(op)
    rule = subtraction if subtract else addition
    limits = op.limits()
    with op.checking():
        numbers = rule(op.quantization(0), op.quantization(1), op.parameters(op.output), limits)
    op.emit(
        Add(
            name=op.name,
            inputs=tuple(op.read(p) for p in order[: 2 if constant is None else 1]),
            output=op.write(fixed=True),
            addition=swapped(numbers) if exchanged else numbers,
            strides1=strides[0],
            strides2=strides[1],
            constant=constant,
        )
    )


def multiply(op: Op) -> None:
    """MUL."""
    order, strides, _, constant = _operands(op)
    first, second = (op.quantization(position) for position in order)
    output = op.parameters(op.output)
    low, high = op.limits()
    # In this order, whatever the operands' order became: products of doubles are rounded.
    scales = op.quantization(0)[0] * op.quantization(1)[0]
    with op.checking():
        multiplier, shift = factor(scales / output[0])
    check_sum(op, np.array([255 * 255]), [shift])
    op.emit(
        Multiply(
            name=op.name,
            inputs=tuple(op.read(p) for p in order[: 2 if constant is None else 1]),
            output=op.write(fixed=True),
            offset1=-first[1],
            offset2=-second[1],
            output_offset=output[1],
            multiplier=multiplier,
            shift=shift,
            activation_min=low,
            activation_max=high,
            strides1=strides[0],
            strides2=strides[1],
            constant=constant,
        )
    )


def average_pool(op: Op) -> None:
    """AVERAGE_POOL_2D."""
    _pool(op, "average")


def max_pool(op: Op) -> None:
    """MAX_POOL_2D."""
    _pool(op, "max")


def _pool(op: Op, kind: str) -> None:
    op.check_count(1)
    height, width, channels = image_size(op, op.tensor(0))
    op.same_parameters(0, tolerance=_POOL_TOLERANCE)
    kernel = (op.attribute("filter_height"), op.attribute("filter_width"))
    stride = (op.attribute("stride_h"), op.attribute("stride_w"))
    counts, before = windows(op, (height, width), kernel, stride)
    check_shape(op, (1, *counts, channels))
    check_sum(op, np.array([math.prod(kernel) * 129]), [0])
    low, high = op.limits()
    op.emit(
        Pool2D(
            name=op.name,
            inputs=(op.read(0, fixed=True),),
            output=op.write(fixed=True),
            kind=kind,
            kernel=kernel,
            stride=stride,
            pad_top=before[0],
            pad_left=before[1],
            activation_min=low,
            activation_max=high,
        )
    )


def mean(op: Op) -> None:
    """MEAN over dimensions that lie next to each other."""
    op.check_count(2)
    shape = op.tensor(0).shape
    op.rank(op.tensor(0))
    axes = op.numbers(1)
    if not all(-len(shape) <= axis < len(shape) for axis in axes):
        op.refuse("an axis is not there", f"{-len(shape)} to {len(shape) - 1}", axes)
    reduced = {axis % len(shape) for axis in axes}
    keep = bool(op.attribute("keep_dims"))
    check_shape(
        op,
        tuple(1 if d in reduced else n for d, n in enumerate(shape) if keep or d not in reduced),
    )
    places = [d in reduced for d, n in enumerate(shape) if n > 1]
    if sum(a != b for a, b in zip([False, *places], [*places, False], strict=True)) > 2:
        op.refuse("it reduces dimensions with others between", "neighbours", sorted(reduced))
    first = min((d for d in reduced if shape[d] > 1), default=0)
    last = max((d for d in reduced if shape[d] > 1), default=-1)
    count = math.prod(shape[first : last + 1])
    source, output = op.quantization(0), op.parameters(op.output)
    with op.checking():
        multiplier, shift = mean_factor(source[0], output[0], count)
    check_sum(op, np.array([255 * count]), [shift])
    op.emit(
        Mean(
            name=op.name,
            inputs=(op.read(0),),
            output=op.write(),
            outer=math.prod(shape[:first]),
            reduced=count,
            inner=math.prod(shape[last + 1 :]) if last >= 0 else math.prod(shape),
            input_zero_point=source[1],
            output_offset=output[1],
            multiplier=multiplier,
            shift=shift,
        )
    )


def softmax(op: Op) -> None:
    """SOFTMAX."""
    op.check_count(1)
    source, output = op.quantization(0), op.parameters(op.output)
    if output != _LOGISTIC_OUTPUT:
        op.refuse("its output has another scale", _LOGISTIC_OUTPUT, output, op.output)
    shape = op.tensor(0).shape
    check_shape(op, shape)
    if not shape:
        op.refuse("its input is a scalar", "1 dimension and more", shape)
    if shape[-1] > _MAX_SOFTMAX:
        op.refuse("it is over too many values", f"at most {_MAX_SOFTMAX}", shape[-1])
    with op.checking():
        multiplier, shift, diff_min = softmax_factor(float(op.op.attributes["beta"]), source[0])
    op.emit(
        Softmax(
            name=op.name,
            inputs=(op.read(0),),
            output=op.write(),
            num_rows=math.prod(shape[:-1]),
            depth=shape[-1],
            input_multiplier=multiplier,
            input_shift=shift,
            diff_min=diff_min,
        )
    )


def _function(op: Op, make: Callable[[tables.Quantization, tables.Quantization], Int8]) -> None:
    op.check_count(1)
    check_shape(op, op.tensor(0).shape)
    source, output = op.quantization(0), op.parameters(op.output)
    with op.checking():
        table = make(source, output)
    op.emit(Table(name=op.name, inputs=(op.read(0),), output=op.write(), table=table))


def relu(op: Op) -> None:
    """RELU."""
    _function(op, lambda source, output: tables.relu(source, output, None))


def relu6(op: Op) -> None:
    """RELU6."""
    _function(op, lambda source, output: tables.relu(source, output, 6.0))


def hard_swish(op: Op) -> None:
    """HARD_SWISH."""
    _function(op, tables.hard_swish)


def gelu(op: Op) -> None:
    """GELU."""
    by_tanh = bool(op.op.attributes["approximate"])
    _function(op, lambda source, output: tables.gelu(source, output, by_tanh))


def logistic(op: Op) -> None:
    """LOGISTIC."""
    op.check_count(1)
    if op.parameters(op.output) != _LOGISTIC_OUTPUT:
        op.refuse(
            "its output has another scale",
            _LOGISTIC_OUTPUT,
            op.parameters(op.output),
            op.output,
        )
    _function(op, lambda source, output: tables.sigmoid(source))


def requantize_buffer(
    op: Op, number: int, source: tables.Quantization, output: tables.Quantization
) -> None:
    """QUANTIZE of an int8 buffer; at a model's edge it stands for uint8."""
    with op.checking():
        table = tables.requantized(source, output)
    result = op.segment.chain.add(op.output.name, op.output, output)
    op.segment.buffers[op.output.index] = result
    op.emit(Table(name=op.name, inputs=(number,), output=result, table=table))
