"""What the kernels in plain C do, in the units of their loops.

So many turns of the inner loop, so many outputs, so many windows that leave the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.kernels.costs import Work
from edgeexit.backends.c.program import (
    Add,
    BatchMatMul,
    Conv2D,
    Copy,
    DepthwiseConv2D,
    FullyConnected,
    Mean,
    Multiply,
    Pool2D,
    Program,
    Softmax,
    Step,
    Table,
    Window,
)

Amounts = dict[str, int]


def work_of(step: Step, program: Program) -> Work:
    """What the kernel of ``step`` does, under the key of its costs."""
    return Work("portable", type(step).__name__, amounts(step, program))


def amounts(step: Step, program: Program) -> Amounts:
    """What the kernel of ``step`` does, and how often."""
    return _AMOUNTS[type(step)](step, program)


def _inside(
    start: int, size: int, kernel: int, stride: int, dilation: int, outputs: int
) -> NDArray[np.int64]:
    """For each window along an axis, its taps inside the image."""
    taps = np.arange(kernel) * dilation
    places = np.arange(outputs)[:, None] * stride - start + taps[None, :]
    inside: NDArray[np.int64] = ((places >= 0) & (places < size)).sum(axis=1, dtype=np.int64)
    return inside


def _window(step: Window, program: Program, kernel: tuple[int, int]) -> Amounts:
    _, input_h, input_w, _ = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, channels = program.buffers[step.output].shape
    rows = _inside(step.pad_top, input_h, kernel[0], step.stride[0], step.dilation[0], output_h)
    columns = _inside(step.pad_left, input_w, kernel[1], step.stride[1], step.dilation[1], output_w)
    pixels = output_h * output_w
    inside = int(rows.sum() * columns.sum())
    clipped = pixels - int((rows == kernel[0]).sum() * (columns == kernel[1]).sum())
    return {
        "pixels": pixels,
        "inside": inside,
        "outside": pixels * kernel[0] * kernel[1] - inside,
        "rows": int(rows.sum()) * output_w,
        "clipped": clipped,
        "outputs": pixels * channels,
        "additions": pixels * channels if step.residual is not None else 0,
    }


def _conv2d(step: Conv2D, program: Program) -> Amounts:
    channels, kernel_h, kernel_w, depth = step.weights.shape
    found = _window(step, program, (kernel_h, kernel_w))
    fours, ones = divmod(channels, 4)
    runs = found["rows"] if step.dilation[1] == 1 else found["inside"]
    return {
        "products_by_four": found["inside"] * depth * fours,
        "products": found["inside"] * depth * ones,
        "runs_by_four": runs * fours,
        "runs": runs * ones,
        "blocks": found["pixels"] * (fours + ones),
        "pixels": found["pixels"],
        "weights_outside": found["outside"] * depth * channels,
        "windows_outside": found["clipped"] * channels,
        "outputs": found["outputs"],
        "additions": found["additions"],
    }


def _depthwise(step: DepthwiseConv2D, program: Program) -> Amounts:
    kernel_h, kernel_w, channels = step.weights.shape
    found = _window(step, program, (kernel_h, kernel_w))
    fours, ones = divmod(channels, 4) if step.depth_multiplier == 1 else (0, channels)
    return {
        "products_by_four": found["inside"] * fours,
        "products": found["inside"] * ones,
        "rows_by_four": found["rows"] * fours,
        "rows": found["rows"] * ones,
        "blocks": found["pixels"] * (fours + ones),
        "pixels": found["pixels"],
        "taps_outside": found["outside"] * (fours + ones),
        "windows_outside": found["clipped"] * (fours + ones),
        "outputs": found["outputs"],
        "additions": found["additions"],
    }


def _fully_connected(step: FullyConnected, program: Program) -> Amounts:
    channels, depth = step.weights.shape
    rows = program.buffers[step.output].num_bytes // channels
    fours, ones = divmod(channels, 4)
    return {
        "products_by_four": rows * depth * fours,
        "products": rows * depth * ones,
        "blocks": rows * (fours + ones),
        "outputs": rows * channels,
    }


def _batch_matmul(step: BatchMatMul, program: Program) -> Amounts:
    *batches, rows, columns = step.extents
    count = math.prod(batches)
    fours, ones = divmod(columns, 4)
    dense = step.strides1[3] == 1 == step.strides2[3]
    products = count * rows * step.depth
    zeros = (columns if step.offset1 == 0 else 0) + (rows if step.offset2 == 0 else 0)
    return {
        "products_by_four": products * fours if dense else 0,
        "products": products * ones if dense else 0,
        "strided_by_four": 0 if dense else products * fours,
        "strided": 0 if dense else products * ones,
        "summed": count * (rows + columns - zeros) * step.depth,
        "sums": count * (rows + columns),
        "blocks": count * rows * (fours + ones),
        "outputs": count * rows * columns,
    }


def _elementwise(step: Add | Multiply | Table, program: Program) -> Amounts:
    return {"outputs": program.buffers[step.output].num_bytes}


def _pool(step: Pool2D, program: Program) -> Amounts:
    _, input_h, input_w, channels = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    rows = _inside(step.pad_top, input_h, step.kernel[0], step.stride[0], 1, output_h)
    columns = _inside(step.pad_left, input_w, step.kernel[1], step.stride[1], 1, output_w)
    return {
        "values": int(rows.sum() * columns.sum()) * channels,
        "rows": int(rows.sum()) * output_w * channels,
        "outputs": output_h * output_w * channels,
        "averages": output_h * output_w * channels if step.kind == "average" else 0,
    }


def _mean(step: Mean, program: Program) -> Amounts:
    outputs = step.outer * step.inner
    return {"values": outputs * step.reduced, "outputs": outputs}


def _softmax(step: Softmax, program: Program) -> Amounts:
    return {"rows": step.num_rows, "outputs": step.num_rows * step.depth}


def _copy(step: Copy, program: Program) -> Amounts:
    elements = math.prod(step.extents)
    runs = elements // step.extents[3]
    dense = step.input_strides[3] == 1 == step.output_strides[3]
    return {
        "bytes": elements if dense else 0,
        "elements": 0 if dense else elements,
        "runs": runs,
        "filled": 0 if step.fill is None else program.buffers[step.output].num_bytes,
    }


_AMOUNTS: Mapping[type[Step], Callable[[Any, Program], Amounts]] = {
    Conv2D: _conv2d,
    DepthwiseConv2D: _depthwise,
    FullyConnected: _fully_connected,
    BatchMatMul: _batch_matmul,
    Add: _elementwise,
    Multiply: _elementwise,
    Table: _elementwise,
    Softmax: _softmax,
    Pool2D: _pool,
    Mean: _mean,
    Copy: _copy,
}
