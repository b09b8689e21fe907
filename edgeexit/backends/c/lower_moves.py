"""Lowers ops that move elements and leave them as they are."""

from __future__ import annotations

import math

from edgeexit.backends.c import fold
from edgeexit.backends.c.lower_products import check_shape
from edgeexit.backends.c.lowering import Op
from edgeexit.backends.c.program import dense_strides


def reshape(op: Op) -> None:
    """RESHAPE: the same buffer. The output's shape is in the file, whatever computed it."""
    op.check_count(1, 2)
    op.same_parameters(0)
    if op.output.num_elements != op.tensor(0).num_elements:
        op.refuse(
            "the output has another size",
            op.tensor(0).num_elements,
            op.output.num_elements,
            op.output,
        )
    if op.has(1) and op.constant(1) is None:
        op.refuse("its shape is computed from data", "a constant", "a result", op.tensor(1))
    op.read(0)
    op.alias(op.tensor(0))


def pad(op: Op) -> None:
    """PAD and PADV2 that no convolution takes along."""
    op.check_count(2, 3)
    op.same_parameters(0)
    source = op.tensor(0)
    amounts = op.numbers(1)
    if op.tensor(1).shape != (len(source.shape), 2) or min(amounts, default=0) < 0:
        op.refuse("its padding has another form", f"[{len(source.shape)}, 2], >= 0", amounts)
    before = amounts[::2]
    check_shape(
        op,
        tuple(sum(sizes) for sizes in zip(source.shape, before, amounts[1::2], strict=True)),
    )
    fill = op.parameters(op.output)[1]
    if op.kind == "PADV2":
        value = op.known(2, "int8")
        if value.size != 1 or op.quantization(2) != op.quantization(0):
            op.refuse("its value has another form", "1 element in the input's scale", value.shape)
        fill = int(value.item())
    strides = dense_strides(op.output.shape)
    op.copy(
        op.read(0),
        op.write(),
        source.shape,
        0,
        dense_strides(source.shape),
        sum(n * stride for n, stride in zip(before, strides, strict=True)),
        strides,
        fill=fill,
    )


def transpose(op: Op) -> None:
    """TRANSPOSE; without a copy where no two dimensions of more than one element change places."""
    op.check_count(2)
    op.same_parameters(0)
    shape = op.tensor(0).shape
    given = op.numbers(1)
    order = [d % len(shape) if shape else d for d in given]
    if sorted(order) != list(range(len(shape))):
        op.refuse("its order is no permutation", f"of 0 to {len(shape) - 1}", given)
    check_shape(op, tuple(shape[d] for d in order))
    moved = [d for d in order if shape[d] > 1]
    source = op.read(0)
    if moved == sorted(moved):
        op.alias(op.tensor(0))
        return
    strides = dense_strides(shape)
    op.copy(
        source,
        op.write(),
        op.output.shape,
        0,
        [strides[d] for d in order],
        0,
        dense_strides(op.output.shape),
    )


def concatenation(op: Op) -> None:
    """CONCATENATION: a copy of each input."""
    op.check_count(1, len(op.op.inputs))
    op.same_parameters(*range(len(op.op.inputs)))
    if op.attribute("fused_activation_function"):
        op.refuse("it has an activation", "none", op.attribute("fused_activation_function"))
    shape = op.output.shape
    axis = op.attribute("axis")
    if not -len(shape) <= axis < len(shape):
        op.refuse("its axis is not there", f"{-len(shape)} to {len(shape) - 1}", axis)
    axis %= len(shape)
    tensors = [op.tensor(position) for position in range(len(op.op.inputs))]
    for tensor in tensors:
        if len(tensor.shape) != len(shape):
            op.refuse("an input has another rank", len(shape), tensor.shape, tensor)
        for d, (n, whole) in enumerate(zip(tensor.shape, shape, strict=True)):
            if d != axis and n != whole:
                op.refuse("an input does not fit the output", shape, tensor.shape, tensor)
    if sum(tensor.shape[axis] for tensor in tensors) != shape[axis]:
        op.refuse("its inputs do not fill the output", shape[axis], [t.shape for t in tensors])
    sources = [op.read(position) for position in range(len(tensors))]
    output = op.write()
    strides = dense_strides(shape)
    start = 0
    for number, (tensor, source) in enumerate(zip(tensors, sources, strict=True)):
        op.copy(
            source,
            output,
            tensor.shape,
            0,
            dense_strides(tensor.shape),
            start,
            strides,
            suffix=f"_{number}",
        )
        start += tensor.shape[axis] * math.prod(shape[axis + 1 :])


def strided_slice(op: Op) -> None:
    """STRIDED_SLICE with constant bounds."""
    op.check_count(4)
    op.same_parameters(0)
    shape = op.tensor(0).shape
    bounds = [op.known(position, "int32", "int64") for position in (1, 2, 3)]
    taken = fold.slices(op.op, shape, bounds[0], bounds[1], bounds[2])
    if taken is None:
        op.refuse(
            "its bounds have another form",
            "begin, end and strides for leading dimensions, no ellipsis, no new axis",
            [bound.tolist() for bound in bounds],
        )
    ranges = [range(*part.indices(n)) for part, n in zip(taken, shape, strict=True)]
    extents = [len(each) for each in ranges]
    dropped = op.attribute("shrink_axis_mask")
    check_shape(op, tuple(n for d, n in enumerate(extents) if not dropped >> d & 1))
    op.parameters(op.output)
    strides = dense_strides(shape)
    op.copy(
        op.read(0),
        op.write(),
        extents,
        sum(each.start * stride for each, stride in zip(ranges, strides, strict=True)),
        [each.step * stride for each, stride in zip(ranges, strides, strict=True)],
        0,
        dense_strides(extents),
    )
