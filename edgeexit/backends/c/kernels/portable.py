"""The kernel set in plain C: runs every step on every core.

It is what other sets are compared with and what runs where none of them does. Convolutions and
fully connected layers read bare inputs; that the input has a zero point is made up for in the bias,
once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.fixed_point import exponential, high_product, wrapped
from edgeexit.backends.c.kernels.base import (
    Core,
    Fields,
    Implementation,
    Struct,
    array,
    window_fields,
)
from edgeexit.backends.c.kernels.portable_work import work_of
from edgeexit.backends.c.program import (
    Add,
    Addition,
    BatchMatMul,
    Conv2D,
    Copy,
    DepthwiseConv2D,
    FullyConnected,
    Int32,
    Mean,
    Multiply,
    Pool2D,
    Program,
    Softmax,
    Step,
    Table,
    Window,
    to_rank_4,
)

NAME = "portable"

_SUM_BYTES = 4
_MAX_DIFFERENCE = 255
_SOFTMAX_BITS = 5  # of the integer part of an exponent


def offer(step: Step, program: Program, core: Core) -> Implementation:
    """How plain C runs ``step``; every kind of step has an offer."""
    function, files, parameters = _KERNELS[type(step)](step, program)
    work = work_of(step, program)
    return Implementation(
        kernel_set=NAME,
        function=function,
        parameters=parameters,
        scratch_bytes=_SUM_BYTES * step.extents[3] if isinstance(step, BatchMatMul) else 0,
        headers=("ee_kernels.h",),
        sources=tuple(f"kernels/portable_{file}.c" for file in files.split()),
        instructions=work.instructions(core),
        work=work,
    )


def fold_input_offset(bias: Int32, input_offset: int, sums: NDArray[np.int64]) -> Int32:
    """The bias of a layer that multiplies bare inputs, modulo 2^32.

    Args:
        bias: int32 [out_channels].
        input_offset: The negated zero point of the input.
        sums: int64 [out_channels], the sum of each channel's weights.
    """
    return (bias.astype(np.int64) + input_offset * sums).astype(np.uint32).view(np.int32)


def merge_dimensions(
    extents: Sequence[int], *strides: Sequence[int]
) -> tuple[list[int], list[list[int]]]:
    """Loops of the same order that are as few and as long as possible, the innermost last.

    Two neighbouring loops become one where, in every tensor, the outer one moves as far as the
    inner one does in all its turns.

    Returns:
        Extents and one list of strides for each given, of the length given, with loops of one turn
        in front.
    """
    loops = [loop for loop in zip(extents, *strides, strict=True) if loop[0] != 1]
    merged: list[tuple[int, ...]] = []
    for loop in loops:
        if merged and all(
            outer == loop[0] * inner for outer, inner in zip(merged[-1][1:], loop[1:], strict=True)
        ):
            merged[-1] = (merged[-1][0] * loop[0], *loop[1:])
        else:
            merged.append(loop)
    missing = len(extents) - len(merged)
    merged = [(1, *(0 for _ in strides))] * missing + merged
    columns = [list(column) for column in zip(*merged, strict=True)]
    return columns[0], columns[1:]


def addition(values: Addition | None) -> Struct | None:
    """The C struct ``ee_addition``."""
    return None if values is None else Struct("ee_addition", dict(vars(values)))


def _window(step: Window, program: Program, sums: NDArray[np.int64]) -> Struct:
    kernel = step.weights.shape[1:3] if isinstance(step, Conv2D) else step.weights.shape[:2]
    depth_multiplier = step.depth_multiplier if isinstance(step, DepthwiseConv2D) else 1
    return Struct(
        "ee_conv2d",
        {
            **window_fields(step, program, (kernel[0], kernel[1])),
            "dilation_h": step.dilation[0],
            "dilation_w": step.dilation[1],
            "depth_multiplier": depth_multiplier,
            "input_offset": step.input_offset,
            "output_offset": step.output_offset,
            "activation_min": step.activation_min,
            "activation_max": step.activation_max,
            "weights": step.weights,
            "bias": fold_input_offset(step.bias, step.input_offset, sums),
            "multiplier": step.multipliers,
            "shift": step.shifts,
            "residual": addition(step.residual),
        },
    )


def _conv2d(step: Conv2D, program: Program) -> tuple[str, str, Struct]:
    sums = step.weights.sum(axis=(1, 2, 3), dtype=np.int64)
    suffix = "_add" if step.residual is not None else ""
    return f"ee_conv2d_portable{suffix}", "conv dot", _window(step, program, sums)


def _depthwise(step: DepthwiseConv2D, program: Program) -> tuple[str, str, Struct]:
    sums = step.weights.sum(axis=(0, 1), dtype=np.int64)
    suffix = "_add" if step.residual is not None else ""
    return f"ee_depthwise_portable{suffix}", "depthwise dot", _window(step, program, sums)


def _fully_connected(step: FullyConnected, program: Program) -> tuple[str, str, Struct]:
    out_features, in_features = step.weights.shape
    sums = step.weights.sum(axis=1, dtype=np.int64)
    fields: Fields = {
        "num_rows": program.buffers[step.output].num_bytes // out_features,
        "in_features": in_features,
        "out_features": out_features,
        "input_offset": step.input_offset,
        "output_offset": step.output_offset,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "weights": step.weights,
        "bias": fold_input_offset(step.bias, step.input_offset, sums),
        "multiplier": step.multipliers,
        "shift": step.shifts,
    }
    struct = Struct("ee_fully_connected", fields)
    return "ee_fully_connected_portable", "fully_connected dot", struct


def _batch_matmul(step: BatchMatMul, program: Program) -> tuple[str, str, Struct]:
    fields: Fields = {
        **array("extents", step.extents),
        "depth": step.depth,
        **array("strides1", step.strides1),
        **array("strides2", step.strides2),
        **array("output_strides", step.output_strides),
        "offset1": step.offset1,
        "offset2": step.offset2,
        "output_offset": step.output_offset,
        "multiplier": step.multiplier,
        "shift": step.shift,
    }
    struct = Struct("ee_batch_matmul", fields)
    return "ee_batch_matmul_portable", "batch_matmul dot", struct


def _broadcast(step: Add | Multiply, program: Program) -> Fields:
    # Dimensions before the last four are ones.
    extents = to_rank_4(program.buffers[step.output].shape)
    merged, (strides1, strides2) = merge_dimensions(extents, step.strides1, step.strides2)
    return {
        **array("extents", merged),
        **array("strides1", strides1),
        **array("strides2", strides2),
        "constant": step.constant,
    }


def _add(step: Add, program: Program) -> tuple[str, str, Struct]:
    fields = _broadcast(step, program) | {"addition": addition(step.addition)}
    suffix = "" if step.constant is None else "_constant"
    return f"ee_add{suffix}_portable", "elementwise", Struct("ee_add", fields)


def _multiply(step: Multiply, program: Program) -> tuple[str, str, Struct]:
    fields = _broadcast(step, program) | {
        "offset1": step.offset1,
        "offset2": step.offset2,
        "output_offset": step.output_offset,
        "multiplier": step.multiplier,
        "shift": step.shift,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
    }
    suffix = "" if step.constant is None else "_constant"
    return f"ee_multiply{suffix}_portable", "elementwise", Struct("ee_multiply", fields)


def _pool(step: Pool2D, program: Program) -> tuple[str, str, Struct]:
    _, input_h, input_w, channels = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    fields: Fields = {
        "input_h": input_h,
        "input_w": input_w,
        "channels": channels,
        "output_h": output_h,
        "output_w": output_w,
        "kernel_h": step.kernel[0],
        "kernel_w": step.kernel[1],
        "stride_h": step.stride[0],
        "stride_w": step.stride[1],
        "pad_top": step.pad_top,
        "pad_left": step.pad_left,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
    }
    return f"ee_{step.kind}_pool_portable", "pool", Struct("ee_pool2d", fields)


def _mean(step: Mean, program: Program) -> tuple[str, str, Struct]:
    fields: Fields = {
        "outer": step.outer,
        "reduced": step.reduced,
        "inner": step.inner,
        "sum_offset": -step.reduced * step.input_zero_point,
        "output_offset": step.output_offset,
        "multiplier": step.multiplier,
        "shift": step.shift,
    }
    return "ee_mean_portable", "pool", Struct("ee_mean", fields)


def _table(step: Table, program: Program) -> tuple[str, str, Struct]:
    fields: Fields = {
        "num_bytes": program.buffers[step.output].num_bytes,
        "table": step.table,
    }
    return "ee_table_portable", "copy", Struct("ee_table", fields)


def _softmax(step: Softmax, program: Program) -> tuple[str, str, Struct]:
    table = _exponentials(step)
    fields: Fields = {
        "num_rows": step.num_rows,
        "depth": step.depth,
        "num_exponentials": len(table),
        "exponentials": table,
    }
    return "ee_softmax_portable", "softmax", Struct("ee_softmax", fields)


def _exponentials(step: Softmax) -> Int32:
    """For each difference of two bytes that counts, from 0 on: its exponential in Q0.31."""
    count = min(-step.diff_min, _MAX_DIFFERENCE) + 1
    scaled = (
        high_product(wrapped(-d << step.input_shift), step.input_multiplier) for d in range(count)
    )
    return np.array([exponential(value, _SOFTMAX_BITS) for value in scaled], np.int32)


def _copy(step: Copy, program: Program) -> tuple[str, str, Struct]:
    extents, (input_strides, output_strides) = merge_dimensions(
        step.extents, step.input_strides, step.output_strides
    )
    fields: Fields = {
        **array("extents", extents),
        "input_start": step.input_start,
        "output_start": step.output_start,
        **array("input_strides", input_strides),
        **array("output_strides", output_strides),
        "fill_bytes": 0 if step.fill is None else program.buffers[step.output].num_bytes,
        "fill": step.fill or 0,
    }
    return "ee_copy_portable", "copy", Struct("ee_copy", fields)


# Each gives the function, the files that it needs, and its parameters.
_KERNELS: Mapping[type[Step], Callable[[Any, Program], tuple[str, str, Struct]]] = {
    Conv2D: _conv2d,
    DepthwiseConv2D: _depthwise,
    FullyConnected: _fully_connected,
    BatchMatMul: _batch_matmul,
    Add: _add,
    Multiply: _multiply,
    Pool2D: _pool,
    Mean: _mean,
    Table: _table,
    Softmax: _softmax,
    Copy: _copy,
}
