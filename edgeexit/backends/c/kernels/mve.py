"""The packed kernel set for cores with Helium (Armv8.1-M MVE): Cortex-M55 and M85.

Sixteen int8 products an instruction; what remains is to load each vector as rarely as possible.
The kernels for tiles (convolutions) and strips (depthwise ones) are assembly, written around the
registers that multiply and accumulate. They take no positive shift and no dilation: such a layer is
left to other kernel sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.kernels import mve_packing as packing
from edgeexit.backends.c.kernels import portable
from edgeexit.backends.c.kernels.base import (
    Core,
    Fields,
    Implementation,
    Struct,
    window_fields,
)
from edgeexit.backends.c.kernels.costs import Work
from edgeexit.backends.c.kernels.dsp_packing import linear_addition
from edgeexit.backends.c.program import (
    Add,
    Addition,
    BatchMatMul,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Int32,
    Mean,
    Pool2D,
    Program,
    Step,
    Table,
    Window,
)

NAME = "packed"

_DIRECT_CHANNELS = (16, 32, 64)
_COLUMNS_AT_ONCE = 16
_MOST_BLOCKS = 2**16 - 1
"""Vectors in a window: the kernels for convolutions count them in 16 bits."""


def offer(step: Step, program: Program, core: Core) -> Implementation | None:
    """How this set runs ``step``; None if it does not."""
    if not core.mve:
        return None
    match step:
        case Conv2D():
            return _conv2d(step, program, core)
        case DepthwiseConv2D():
            return _depthwise(step, program, core)
        case FullyConnected():
            return _fully_connected(step, program, core)
        case BatchMatMul():
            return _batch_matmul(step, program, core)
        case Add():
            return _add(step, program, core)
        case Pool2D() | Mean() | Table():
            return _as_portable(step, program, core)
    return None


def _conv2d(step: Conv2D, program: Program, core: Core) -> Implementation | None:
    _, input_h, input_w, input_c = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, output_c = program.buffers[step.output].shape
    _, kernel_h, kernel_w, _ = step.weights.shape
    bias = _folded(step, step.weights.reshape(output_c, -1))
    residual = None if step.residual is None else _addition(step.residual)
    if bias is None or step.dilation != (1, 1) or (step.residual and residual is None):
        return None
    if -(-step.weights[0].size // 16) > _MOST_BLOCKS:
        return None
    variant = "_add" if residual is not None else _variant(step)
    if variant is None or (residual is not None and not _rounds(step)):
        return None
    stride = step.stride[0]
    padded_c = -(-output_c // 4) * 4
    direct = (
        (kernel_h, kernel_w) == (3, 3)
        and input_c in _DIRECT_CHANNELS
        and step.stride in ((1, 1), (2, 2))
        and output_w >= 4
        and output_c == padded_c
    )
    pixels = output_h * output_w
    fours = padded_c // 4
    if direct:
        elements = packing.by_blocks_of_channels(step.weights)
        patch = 3 * (3 * stride + 3) * input_c
        scratch = patch + (output_w * output_c if residual is not None else 0)
        key = "conv2d_3x3"
        function = f"ee_conv2d_mve_3x3_c{input_c}_s{stride}{variant}"
        tiles = output_h * -(-output_w // 4)
        outside = _tiles_outside(step, input_h, input_w, output_h, output_w)
        work = {
            "tile_products": tiles * fours * (input_c // 16) * (220 if stride == 1 else 238),
            "tile_fours": tiles * fours,
            "tiles": tiles,
            "patch_vectors": outside * patch // 16,
            "patches": outside,
        }
    else:
        elements = step.weights.reshape(output_c, -1)
        blocks = -(-elements.shape[1] // 16)
        staged = residual is not None or padded_c != output_c
        scratch = 64 * blocks + 16 + (4 * padded_c if staged else 0)
        pixelwise = (kernel_h, kernel_w) == (1, 1) and step.stride == (1, 1)
        pixelwise = pixelwise and (input_h, input_w) == (output_h, output_w)
        key = "conv2d_1x1" if pixelwise else "conv2d"
        function = f"ee_{key.replace('2d', '2d_mve')}{variant}"
        tiles = -(-pixels // 4)
        rows = 0 if kernel_h == 1 else kernel_h
        outside = 0 if pixelwise else _windows_outside(step, program)
        work = {
            "tile_products": tiles * fours * (30 * (blocks // 2 * 2) + 28 * (blocks % 2)),
            "tile_fours": tiles * fours,
            "tiles": tiles,
            "windows": 0 if pixelwise else pixels,
            "window_rows": pixels * rows,
            "window_vectors": pixels * rows * -(-kernel_w * input_c // 16),
            "long_rows": pixels * rows if kernel_w * input_c > 16 else 0,
            "outside": outside,
            "outside_rows": outside * kernel_h,
            "staged_tiles": tiles if staged else 0,
        }
    if variant != "_relu":
        work["exact_fours"] = tiles * fours
    if residual is not None:
        work["additions"] = output_h if direct else tiles
        work["added_fours"] = pixels * -(-output_c // 4)
    fields: Fields = {
        **window_fields(step, program, (kernel_h, kernel_w)),
        "k_blocks": -(-elements.shape[1] // 16),
        "pad_value": -step.input_offset,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "output_offset": step.output_offset,
        "weights": packing.pack_convolution(elements, bias, step.multipliers, step.shifts),
        "residual": residual,
    }
    files = ("conv_3x3", "tile_3x3") if direct else ("conv", "tile_matmul")
    return _implementation(
        core,
        function=function,
        parameters=Struct("ee_mve_conv2d", fields),
        scratch_bytes=scratch,
        # Where C stands in for the assembly of tiles, it calls the dot product of plain C.
        sources=(*_sources(*files, "add"), "kernels/portable_dot.c"),
        work=Work("mve", key, work),
    )


def _depthwise(step: DepthwiseConv2D, program: Program, core: Core) -> Implementation | None:
    _, input_h, input_w, channels = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    kernel_h, kernel_w, _ = step.weights.shape
    if step.depth_multiplier != 1 or step.dilation != (1, 1) or step.residual is not None:
        return None
    bias = _folded(step, step.weights.reshape(-1, channels).T)
    if bias is None:
        return None
    fits = {
        (1, 1): step.pad_left == 1 and output_w == input_w and output_w >= 2,
        (2, 2): step.pad_left in (0, 1) and input_w == 2 * output_w - step.pad_left,
    }
    variant = _variant(step)
    constants = (step.multipliers, step.shifts)
    pixels = output_h * output_w
    if (kernel_h, kernel_w) == (3, 3) and fits.get(step.stride) and variant is not None:
        stride = step.stride[0]
        function = f"ee_depthwise_mve_3x3_s{stride}{variant}"
        parameters = packing.pack_depthwise_3x3(step.weights, bias, *constants)
        scratch = -(-input_w * channels // 16) * 16
        sources = _sources("depthwise", "strip")
        strips = -(-output_h // 4)
        key = f"depthwise_3x3_s{stride}{variant}"
        work = {
            "columns": strips * channels * output_w,
            "channels": strips * channels,
            "strips": strips,
        }
    else:
        function = "ee_depthwise_mve"
        parameters = packing.pack_depthwise(step.weights, step.bias, *constants)
        scratch = 0
        sources = _sources("depthwise", "strip")
        fours = pixels * -(-channels // 4)
        key = "depthwise"
        work = {
            "taps": fours * kernel_h * kernel_w,
            "rows": fours * kernel_h,
            "fours": fours,
            "pixels": pixels,
        }
    fields: Fields = {
        "input_h": input_h,
        "input_w": input_w,
        "channels": channels,
        "output_h": output_h,
        "output_w": output_w,
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": step.stride[0],
        "stride_w": step.stride[1],
        "pad_top": step.pad_top,
        "pad_left": step.pad_left,
        "pad_value": -step.input_offset,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "output_offset": step.output_offset,
        "parameters": parameters,
    }
    return _implementation(
        core,
        function=function,
        parameters=Struct("ee_mve_depthwise", fields),
        scratch_bytes=scratch,
        sources=sources,
        work=Work("mve", key, work),
    )


def _fully_connected(step: FullyConnected, program: Program, core: Core) -> Implementation | None:
    out_features, in_features = step.weights.shape
    bias = _folded(step, step.weights)
    if bias is None:
        return None
    rows = program.buffers[step.output].num_bytes // out_features
    fours = rows * -(-out_features // 4)
    fields: Fields = {
        "num_rows": rows,
        "in_features": in_features,
        "out_features": out_features,
        "output_offset": step.output_offset,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "weights": packing.pack_fully_connected(step.weights, bias, step.multipliers, step.shifts),
    }
    return _implementation(
        core,
        function="ee_fully_connected_mve",
        parameters=Struct("ee_mve_fully_connected", fields),
        scratch_bytes=0,
        sources=_sources("fully_connected"),
        work=Work(
            "mve",
            "fully_connected",
            {
                "blocks": fours * (in_features // 16),
                "rests": fours if in_features % 16 else 0,
                "fours": fours,
                "rows": rows,
            },
        ),
    )


def _batch_matmul(step: BatchMatMul, program: Program, core: Core) -> Implementation | None:
    *batches, rows, columns = step.extents
    along, across = step.strides2[3] == 1, step.strides2[2] == 1
    if step.strides1[3] != 1 or step.output_strides[3] != 1 or not (along or across):
        return None
    if not -31 <= step.shift <= 0 or step.multiplier < 0:
        return None
    count, blocks = math.prod(batches), -(-step.depth // 16)
    fours, groups = -(-columns // 4), -(-columns // _COLUMNS_AT_ONCE)
    work = {
        "blocks": count * rows * fours * (step.depth // 16),
        "rests": count * rows * fours if step.depth % 16 else 0,
        "fours": count * rows * fours,
        "rows": count * rows * groups,
        "row_vectors": count * rows * groups * blocks if step.offset2 else 0,
        "along_vectors": 4 * count * fours * blocks if along else 0,
        "along_columns": 4 * count * fours if along else 0,
        "across_fours": 0 if along else 16 * count * fours * blocks,
        "groups": count * groups,
    }
    return _implementation(
        core,
        function="ee_batch_matmul_mve",
        parameters=portable.offer(step, program, core).parameters,
        scratch_bytes=_COLUMNS_AT_ONCE * (4 + 16 * blocks),
        sources=_sources("batch_matmul"),
        work=Work("mve", "batch_matmul", work),
    )


def _add(step: Add, program: Program, core: Core) -> Implementation | None:
    count_bytes = program.buffers[step.output].num_bytes
    if step.constant is not None or step.strides1 != step.strides2:
        return None
    if any(program.buffers[each].num_bytes != count_bytes for each in step.inputs):
        return None
    addition = _addition(step.addition)
    if addition is None:
        return None
    return _implementation(
        core,
        function="ee_add_mve",
        parameters=Struct("ee_mve_add", {"num_bytes": count_bytes, "addition": addition}),
        scratch_bytes=0,
        sources=_sources("add"),
        work=Work("mve", "add", {"added_fours": -(-count_bytes // 4)}),
    )


def _as_portable(
    step: Pool2D | Mean | Table, program: Program, core: Core
) -> Implementation | None:
    """The kernels whose parameters are those of plain C."""
    plain = portable.offer(step, program, core)
    work: Mapping[str, int]
    if isinstance(step, Table):
        count_bytes = program.buffers[step.output].num_bytes
        name, source, work = "table", "table", {"vectors": -(-count_bytes // 16)}
    elif isinstance(step, Mean):
        if step.shift > 0:
            return None
        fours = step.outer * -(-step.inner // 4)
        name, source = "mean", "pool"
        work = {"values": fours * step.reduced, "fours": fours}
    else:
        _, output_h, output_w, channels = program.buffers[step.output].shape
        lanes = 4 if step.kind == "average" else 16
        vectors = output_h * output_w * -(-channels // lanes)
        name, source = f"{step.kind}_pool", "pool"
        work = {
            "values": vectors * step.kernel[0] * step.kernel[1],
            "rows": vectors * step.kernel[0],
            "vectors": vectors,
            "pixels": output_h * output_w,
        }
    return _implementation(
        core,
        function=f"ee_{name}_mve",
        parameters=plain.parameters,
        scratch_bytes=0,
        sources=_sources(source),
        work=Work("mve", name, work),
    )


def _implementation(
    core: Core,
    *,
    function: str,
    parameters: Struct,
    scratch_bytes: int,
    sources: tuple[str, ...],
    work: Work,
) -> Implementation:
    return Implementation(
        kernel_set=NAME,
        function=function,
        parameters=parameters,
        scratch_bytes=scratch_bytes,
        headers=("ee_kernels_mve.h",),
        sources=sources,
        instructions=work.instructions(core),
        work=work,
    )


def _folded(step: Window | FullyConnected, weights: NDArray[np.integer[Any]]) -> Int32 | None:
    """The bias with the input offset folded in: int32 [out_channels].

    None if the kernels cannot take the step: a sum may leave int32, or a shift is positive.
    ``weights`` is [out_channels, elements].
    """
    wide = weights.astype(np.int64)
    bias = step.bias.astype(np.int64)
    folded = bias + step.input_offset * wide.sum(axis=1)
    if step.shifts.max() > 0 or step.shifts.min() < -31 or step.multipliers.min() < 0:
        return None
    largest = np.maximum(np.abs(bias), np.abs(folded)) + 255 * np.abs(wide).sum(axis=1)
    if largest.max() >= 1 << 31:
        return None
    result: Int32 = folded.astype(np.int32)
    return result


def _rounds(step: Window) -> bool:
    """Whether rounding every negative value as if it were shifted gives the right output."""
    return bool(step.shifts.max() < 0) or step.activation_min >= step.output_offset


def _variant(step: Window) -> str | None:
    """The suffix of the function that clamps as ``step`` does; None if there is none."""
    if (step.output_offset, step.activation_min, step.activation_max) == (-128, -128, 127):
        return "_relu"
    return "" if _rounds(step) else None


def _addition(addition: Addition) -> Struct | None:
    """The C struct ``ee_mve_addition``; None if the kernels cannot add so."""
    if min(addition.multiplier1, addition.multiplier2, addition.output_multiplier) < 0:
        return None
    if max(addition.shift1, addition.shift2, addition.output_shift) > 0:
        return None
    linear = linear_addition(addition)
    factor1, factor2, constant, shift = linear if linear is not None else (0, 0, 0, 0)
    return Struct(
        "ee_mve_addition",
        {
            "factor1": factor1,
            "factor2": factor2,
            "constant": constant,
            "shift": -shift,
            "activation_min": addition.activation_min,
            "activation_max": addition.activation_max,
            "exact": portable.addition(addition) if linear is None else None,
        },
    )


def _windows_outside(step: Conv2D, program: Program) -> int:
    """Windows that reach outside the image."""
    _, input_h, input_w, _ = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, _ = program.buffers[step.output].shape
    _, kernel_h, kernel_w, _ = step.weights.shape
    inside = 1
    for size, places, kernel, stride, before in (
        (input_h, output_h, kernel_h, step.stride[0], step.pad_top),
        (input_w, output_w, kernel_w, step.stride[1], step.pad_left),
    ):
        starts = [place * stride - before for place in range(places)]
        inside *= sum(start >= 0 and start + kernel <= size for start in starts)
    return output_h * output_w - inside


def _tiles_outside(step: Window, input_h: int, input_w: int, output_h: int, output_w: int) -> int:
    """Tiles of four output pixels whose windows reach outside the image."""
    stride, span = step.stride[0], 3 * step.stride[0] + 3
    last = output_w - 4
    lefts = [min(4 * i, last) * stride - step.pad_left for i in range(-(-output_w // 4))]
    columns = sum(left >= 0 and left + span <= input_w for left in lefts)
    tops = [y * stride - step.pad_top for y in range(output_h)]
    rows = sum(top >= 0 and top + 3 <= input_h for top in tops)
    return output_h * len(lefts) - rows * columns


def _sources(*names: str) -> tuple[str, ...]:
    return tuple(f"kernels/mve_{name}.c" for name in names)
