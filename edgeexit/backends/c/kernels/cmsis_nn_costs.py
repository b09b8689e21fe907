"""Instructions that CMSIS-NN takes, from counts under QEMU.

As in ``portable_costs``: what a kernel does is counted in the units of its loops, and each core has
weights for them. CMSIS-NN is three libraries in one, so what is counted depends on the core.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeexit.backends.c.kernels import portable_costs
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.program import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Pool2D,
    Program,
    Step,
    Window,
)

Amounts = dict[str, int]


def count(step: Step, program: Program, core: Core) -> float | None:
    """Instructions of ``step``; None where nothing was counted on ``core``."""
    if core.cost not in CORES:
        return None
    column = CORES.index(core.cost)
    work = amounts(step, program, core)
    if any(name not in WEIGHTS for name, amount in work.items() if amount):
        return None
    return sum(WEIGHTS[name][column] * amount for name, amount in work.items() if amount)


def amounts(step: Step, program: Program, core: Core) -> Amounts:
    """What CMSIS-NN does for ``step``, and how often; names begin with the kernel's."""
    match step:
        case Conv2D():
            kind, work = _conv2d(step, program, core)
        case DepthwiseConv2D():
            kind, work = _depthwise(step, program, core)
        case FullyConnected():
            channels, depth = step.weights.shape
            rows = program.buffers[step.output].num_bytes // channels
            kind = "fully_connected"
            work = {"vectors": rows * channels * _units(depth, core), "outputs": rows * channels}
        case Pool2D():
            kind, work = f"{step.kind}_pool", _pool(step, program, core)
        case _:
            raise TypeError(type(step))
    if isinstance(step, Window) and step.residual is not None:
        work["additions"] = program.buffers[step.output].num_bytes
    return {f"{kind}.{name}": amount for name, amount in (work | {"calls": 1}).items()}


def _units(depth: int, core: Core) -> int:
    """Products that are summed at once, in numbers of them."""
    return -(-depth // 16) if core.mve else depth


def _conv2d(step: Conv2D, program: Program, core: Core) -> tuple[str, Amounts]:
    channels, kernel_h, kernel_w, depth = step.weights.shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    pixels, taps = output_h * output_w, kernel_h * kernel_w
    outputs = pixels * channels
    if taps == 1 and (step.pad_top, step.pad_left) == (0, 0) and step.dilation == (1, 1):
        vectors = _units(depth, core)
        alone = pixels % (4 if core.mve else 2)
        work = {
            "vectors": (pixels - alone) * channels * vectors,
            "vectors_alone": alone * channels * vectors,
            "outputs": outputs,
            "pixels": pixels,
        }
        return "point", work
    if not core.mve:
        odd = pixels % 2
        work = {
            "products": (pixels - odd) * channels * taps * depth,
            "products_alone": odd * channels * taps * depth,
            "outputs": outputs,
            "pixels": pixels,
            "taps": pixels * taps,
            "elements": pixels * taps * depth,
        }
        return "conv", work
    clipped = _clipped(step, program)
    whole = clipped[: pixels // 4 * 4].reshape(-1, 4)
    padded = int(4 * whole.any(axis=1).sum())
    inside = 4 * len(whole) - padded
    work = {
        "vectors": inside * channels * _units(taps * depth, core),
        "outputs": inside * channels,
        "padded_vectors": (padded + pixels % 4) * channels * -(-taps * depth // 8),
        "padded_outputs": (padded + pixels % 4) * channels,
        "pixels": pixels,
        "taps": pixels * taps,
        "copies": pixels * taps * -(-depth // 16),
    }
    return "conv", work


def _depthwise(step: DepthwiseConv2D, program: Program, core: Core) -> tuple[str, Amounts]:
    kernel_h, kernel_w, channels = step.weights.shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    pixels, taps = output_h * output_w, kernel_h * kernel_w
    work = {"pixels": pixels, "outputs": pixels * channels}
    if step.depth_multiplier != 1 or step.dilation != (1, 1):
        fours = step.depth_multiplier % 4 == 0 and step.dilation == (1, 1)
        kind = "depthwise_fours" if fours else "depthwise_any"
        return kind, work | {"products": pixels * taps * channels}
    if core.mve:
        fours = -(-channels // 4)
        blocks = -(-channels // 124)
        work = {
            "pixels": pixels * blocks,
            "fours": pixels * fours,
            "products": pixels * taps * fours,
            "taps": pixels * taps * blocks,
            "copies": pixels * taps * -(-channels // 16),
            "clipped": int(_clipped(step, program).sum()) * fours,
        }
        return "depthwise", work
    if (kernel_h, kernel_w) == (3, 3) and max(step.pad_top, step.pad_left) <= 1:
        plain = portable_costs.amounts(step, program)
        names = ("products_by_four", "products", "rows_by_four", "rows", "blocks", "pixels")
        return "depthwise_3x3", {name: plain[name] for name in names}
    return "depthwise", work | {"products": pixels * taps * channels, "taps": pixels * taps}


def _pool(step: Pool2D, program: Program, core: Core) -> Amounts:
    work = portable_costs.amounts(step, program)
    channels = program.buffers[step.output].shape[-1]
    names = ("values", "rows", "outputs")
    if not core.mve:
        return {name: work[name] for name in names}
    return {name: work[name] // channels * -(-channels // 16) for name in names}


def _clipped(step: Window, program: Program) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """For each pixel of the output, in order: whether its window leaves the image."""
    _, input_h, input_w, _ = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    kernel = step.weights.shape[1:3] if isinstance(step, Conv2D) else step.weights.shape[:2]
    sides = []
    for axis, (pad, size, count) in enumerate(
        ((step.pad_top, input_h, output_h), (step.pad_left, input_w, output_w))
    ):
        first = np.arange(count) * step.stride[axis] - pad
        last = first + (kernel[axis] - 1) * step.dilation[axis]
        sides.append((first < 0) | (last >= size))
    return np.asarray((sides[0][:, None] | sides[1][None, :]).reshape(-1))


CORES = ("m0plus", "m4", "m7", "m33", "m55")

# Instructions for one of each amount; a column for each of CORES. Fitted by
# benchmarks/cmsis_nn_costs.py to counts with arm-none-eabi-gcc 12.2 at -O3: the steps of
# tests/tflite_ops.py, of the MLPerf Tiny models and of ResNet-8. Layers of these models are off by
# 1.4 % on average; what is off by more (up to 24 %) is pooling and tiny layers. A multiplier of
# channels that is a multiple of four has no weights.
WEIGHTS: Mapping[str, tuple[float, ...]] = {
    "average_pool.calls": (0.0, 715.73, 742.66, 748.29, 208.77),
    "average_pool.outputs": (111.34, 22.39, 22.68, 22.69, 210.53),
    "average_pool.rows": (25.43, 3.81, 3.81, 3.8, 12.9),
    "average_pool.values": (15.29, 5.35, 5.34, 5.34, 13.96),
    "conv.additions": (252.31, 89.7, 87.61, 88.59, 90.99),
    "conv.calls": (527.58, 427.55, 408.63, 402.3, 632.34),
    "conv.copies": (0.0, 0.0, 0.0, 0.0, 0.0),
    "conv.elements": (8.18, 2.66, 2.67, 2.67, 0.0),
    "conv.outputs": (102.65, 48.46, 48.09, 48.33, 10.88),
    "conv.padded_outputs": (0.0, 0.0, 0.0, 0.0, 12.89),
    "conv.padded_vectors": (0.0, 0.0, 0.0, 0.0, 8.57),
    "conv.pixels": (92.24, 67.43, 72.43, 69.11, 68.22),
    "conv.products": (6.23, 1.79, 1.79, 1.79, 0.0),
    "conv.products_alone": (10.11, 1.45, 1.32, 1.38, 0.0),
    "conv.taps": (34.39, 38.9, 41.86, 36.57, 28.8),
    "conv.vectors": (0.0, 0.0, 0.0, 0.0, 2.93),
    "depthwise.additions": (0.0, 0.0, 0.0, 0.0, 93.21),
    "depthwise.calls": (25690.51, 5402.53, 5335.1, 4844.07, 388.66),
    "depthwise.clipped": (0.0, 0.0, 0.0, 0.0, 10.0),
    "depthwise.copies": (0.0, 0.0, 0.0, 0.0, 3.15),
    "depthwise.fours": (0.0, 0.0, 0.0, 0.0, 24.79),
    "depthwise.outputs": (258.24, 44.18, 43.36, 44.17, 0.0),
    "depthwise.pixels": (0.0, 49.6, 52.37, 52.87, 100.69),
    "depthwise.products": (23.91, 6.91, 6.66, 6.91, 4.38),
    "depthwise.taps": (0.0, 25.49, 25.53, 23.36, 13.58),
    "depthwise_3x3.additions": (247.15, 87.27, 85.28, 86.1, 0.0),
    "depthwise_3x3.blocks": (214.61, 133.61, 133.66, 136.16, 0.0),
    "depthwise_3x3.calls": (1295.14, 774.29, 762.67, 753.95, 0.0),
    "depthwise_3x3.pixels": (64.35, 98.44, 102.31, 101.14, 0.0),
    "depthwise_3x3.products": (0.0, 0.0, 0.0, 0.0, 0.0),
    "depthwise_3x3.products_by_four": (91.21, 10.73, 7.96, 7.97, 0.0),
    "depthwise_3x3.rows": (0.0, 0.0, 0.0, 0.0, 0.0),
    "depthwise_3x3.rows_by_four": (133.06, 27.96, 34.11, 33.18, 0.0),
    "depthwise_any.calls": (1763.98, 1340.69, 1345.66, 1346.11, 1163.49),
    "depthwise_any.outputs": (206.97, 102.32, 99.37, 91.92, 102.04),
    "depthwise_any.pixels": (0.0, 106.87, 113.06, 109.21, 96.88),
    "depthwise_any.products": (33.32, 14.18, 14.46, 14.16, 13.43),
    "fully_connected.calls": (245.76, 131.89, 138.11, 137.0, 214.15),
    "fully_connected.outputs": (104.5, 51.35, 50.47, 50.84, 32.55),
    "fully_connected.vectors": (6.03, 1.86, 1.86, 1.86, 12.25),
    "max_pool.calls": (291.37, 0.0, 0.0, 0.0, 0.0),
    "max_pool.outputs": (14.94, 5.19, 5.58, 5.79, 44.14),
    "max_pool.rows": (2.66, 22.55, 21.45, 22.08, 51.4),
    "max_pool.values": (40.53, 3.66, 3.85, 3.73, 11.65),
    "point.additions": (265.47, 98.93, 96.92, 97.92, 89.25),
    "point.calls": (2580.52, 2227.83, 2143.09, 2220.96, 977.06),
    "point.outputs": (95.36, 37.62, 36.87, 36.96, 13.2),
    "point.pixels": (0.0, 37.41, 57.93, 43.44, 0.0),
    "point.vectors": (6.1, 1.51, 1.48, 1.51, 2.67),
    "point.vectors_alone": (9.86, 4.37, 4.37, 4.37, 6.52),
}
