"""Instructions that the kernels in plain C take, from counts under QEMU.

What a kernel does is counted here exactly, in the units of its loops: so many turns of the inner
loop, so many outputs, so many windows that leave the image. Each core has weights for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.program import (
    Add,
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


def count(step: Step, program: Program, core: Core) -> float | None:
    """Instructions of ``step``; None where nothing was counted on ``core``."""
    if core.cost not in CORES:
        return None
    column = CORES.index(core.cost)
    kind = type(step).__name__
    return WEIGHTS["call"][column] + sum(
        WEIGHTS[f"{kind}.{name}"][column] * amount
        for name, amount in amounts(step, program).items()
    )


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


def _elementwise(step: Add | Multiply | Table | Softmax, program: Program) -> Amounts:
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
    Add: _elementwise,
    Multiply: _elementwise,
    Table: _elementwise,
    Softmax: _elementwise,
    Pool2D: _pool,
    Mean: _mean,
    Copy: _copy,
}

CORES = ("m0plus", "m4", "m7", "m33", "m55")

# Instructions for one of each amount of a kind of step, and for a call; a column for each of CORES.
# Fitted by benchmarks/portable_costs.py to counts with arm-none-eabi-gcc 12.2 at -O3: 900 steps of
# tests/tflite_ops.py, of the MLPerf Tiny models and of ResNet-8. Layers of these models are off by
# 0.6 % on average and by 3.5 % at most; tiny steps by more, and softmax, whose work depends on its
# values, by up to twice.
WEIGHTS: Mapping[str, tuple[float, ...]] = {
    "call": (40.52, 28.27, 27.95, 28.47, 27.11),
    "Add.outputs": (255.12, 92.35, 90.32, 91.31, 92.06),
    "Conv2D.additions": (238.66, 76.18, 78.16, 76.18, 81.75),
    "Conv2D.blocks": (166.37, 136.22, 138.82, 138.12, 158.87),
    "Conv2D.outputs": (88.1, 33.39, 32.17, 32.28, 30.74),
    "Conv2D.pixels": (0.0, 0.0, 2.72, 0.0, 0.0),
    "Conv2D.products": (6.7, 4.78, 4.81, 4.83, 3.7),
    "Conv2D.products_by_four": (19.73, 10.78, 10.77, 10.78, 14.8),
    "Conv2D.runs": (44.52, 39.38, 39.29, 39.21, 41.18),
    "Conv2D.runs_by_four": (95.43, 52.24, 52.16, 51.96, 58.38),
    "Conv2D.weights_outside": (6.19, 4.17, 4.17, 4.16, 3.14),
    "Conv2D.windows_outside": (114.09, 79.58, 81.58, 82.63, 90.15),
    "Copy.bytes": (0.89, 0.56, 0.56, 0.59, 0.59),
    "Copy.elements": (0.0, 3.13, 2.93, 3.05, 2.73),
    "Copy.filled": (0.47, 0.47, 0.47, 0.46, 0.47),
    "Copy.runs": (90.22, 60.62, 60.6, 62.15, 63.02),
    "DepthwiseConv2D.additions": (246.5, 81.93, 84.54, 81.93, 87.56),
    "DepthwiseConv2D.blocks": (119.24, 97.49, 93.83, 97.5, 99.03),
    "DepthwiseConv2D.outputs": (100.48, 41.82, 42.65, 41.82, 48.14),
    "DepthwiseConv2D.pixels": (159.66, 122.41, 132.75, 125.39, 144.52),
    "DepthwiseConv2D.products": (12.8, 8.9, 8.87, 8.9, 6.75),
    "DepthwiseConv2D.products_by_four": (41.73, 17.14, 17.16, 17.13, 21.4),
    "DepthwiseConv2D.rows": (15.27, 8.97, 9.43, 8.97, 9.98),
    "DepthwiseConv2D.rows_by_four": (26.24, 16.18, 16.46, 16.18, 20.22),
    "DepthwiseConv2D.taps_outside": (38.71, 22.82, 23.99, 22.83, 22.15),
    "DepthwiseConv2D.windows_outside": (26.52, 17.81, 31.75, 17.8, 19.42),
    "FullyConnected.blocks": (84.18, 77.21, 87.01, 85.86, 81.44),
    "FullyConnected.outputs": (102.53, 41.18, 38.87, 38.41, 46.43),
    "FullyConnected.products": (6.93, 4.99, 4.97, 4.97, 3.99),
    "FullyConnected.products_by_four": (20.0, 11.01, 11.01, 11.01, 15.01),
    "Mean.outputs": (97.09, 37.65, 37.74, 37.64, 43.2),
    "Mean.values": (7.0, 5.0, 5.0, 5.0, 3.97),
    "Multiply.outputs": (103.66, 59.28, 47.29, 46.26, 48.49),
    "Pool2D.averages": (41.44, 9.2, 12.08, 7.84, 0.72),
    "Pool2D.outputs": (38.31, 26.5, 25.73, 26.86, 29.26),
    "Pool2D.rows": (21.51, 8.57, 8.98, 8.6, 14.17),
    "Pool2D.values": (12.49, 7.65, 7.69, 7.64, 5.96),
    "Softmax.outputs": (871.17, 206.07, 204.9, 203.99, 227.37),
    "Table.outputs": (9.83, 6.89, 6.9, 6.89, 5.9),
}
