"""What CMSIS-NN does, in the units of its loops.

It is three libraries in one, so what is counted depends on the core.
"""

from __future__ import annotations

import numpy as np

from edgeexit.backends.c.kernels import portable_work
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.kernels.costs import Work
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


def work_of(step: Step, program: Program, core: Core) -> Work:
    """What CMSIS-NN does for ``step``, under the key of its costs."""
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
    return Work("cmsis_nn", kind, work)


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
        plain = portable_work.amounts(step, program)
        names = ("products_by_four", "products", "rows_by_four", "rows", "blocks", "pixels")
        return "depthwise_3x3", {name: plain[name] for name in names}
    return "depthwise", work | {"products": pixels * taps * channels, "taps": pixels * taps}


def _pool(step: Pool2D, program: Program, core: Core) -> Amounts:
    work = portable_work.amounts(step, program)
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
