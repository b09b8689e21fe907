"""The packed kernel set for cores with the DSP extension: Cortex-M4, M7 and M33.

Two int16 products an instruction need inputs and weights as int16 pairs. Inputs are widened once
for all output channels; weights are widened once for a tile of pixels, or, where a layer has few,
here. What a kernel assumes about its constants is proved in ``dsp_packing`` and otherwise the
exact, slower form of a rescaling is taken.
"""

from __future__ import annotations

import math

import numpy as np

from edgeexit.backends.c.kernels import dsp_packing as packing
from edgeexit.backends.c.kernels.base import (
    Core,
    Fields,
    Implementation,
    Struct,
    array,
    window_fields,
)
from edgeexit.backends.c.kernels.costs import Work
from edgeexit.backends.c.kernels.portable import addition as exact_addition
from edgeexit.backends.c.program import (
    Add,
    Addition,
    BatchMatMul,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Program,
    Step,
)

NAME = "packed"

_WIDE_BYTES = 5120
"""Up to this size, weights are stored as int16: it saves widening them and allows short tiles."""
_WIDE_BYTES_WITHOUT_ROOM = 20480
"""The same where there is no scratch for a tile that is worth widening weights for."""
_SHORT_TILE = 6
_COLUMNS_AT_ONCE = 16
_LEAST_ROOM = 2048
_MOST_ROOM = 16384
_LONGEST_TILE = 32
_LARGEST_DEPTH = 2**16 - 1
"""Products of one output: the kernel counts them in 16 bits."""


def offer(step: Step, program: Program, core: Core) -> Implementation | None:
    """How this set runs ``step``; None if it does not."""
    if not core.dsp:
        return None
    match step:
        case Conv2D():
            return _conv2d(step, program, core)
        case DepthwiseConv2D():
            return _depthwise(step, program, core)
        case FullyConnected():
            return _fully_connected(step, program, core)
        case BatchMatMul():
            return _batch_matmul(step, core)
        case Add():
            return _add(step, program, core)
    return None


def _conv2d(step: Conv2D, program: Program, core: Core) -> Implementation | None:
    _, input_h, input_w, input_c = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, output_c = program.buffers[step.output].shape
    weights = step.weights.reshape(output_c, -1)
    depth = packing.round_up(weights.shape[1], 4)
    folded = packing.fold_bias(step.bias, weights, step.input_offset)
    rescaling = packing.rescaling(
        folded, weights, step.multipliers, step.shifts, step.output_offset
    )
    if rescaling is None or depth > _LARGEST_DEPTH:
        return None
    packed = packing.pack_int8(weights)
    pixels = output_h * output_w
    pixel_bytes = 2 * depth + (output_c if step.residual is not None else 0)
    room = _room(step, program)
    fitting = _tile(pixels, (room - 10 * depth) // pixel_bytes)
    most = _WIDE_BYTES if fitting >= _SHORT_TILE else _WIDE_BYTES_WITHOUT_ROOM
    wide = 2 * packed.size <= most
    tile = 2 if wide else fitting
    fixed_bytes = 2 * depth if wide else 10 * depth
    _, kernel_h, kernel_w, _ = step.weights.shape
    parameters = {
        **window_fields(step, program, (kernel_h, kernel_w)),
        "dilation_h": step.dilation[0],
        "dilation_w": step.dilation[1],
        "depth": depth,
        "tile": tile,
        "input_zero_point": -step.input_offset,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "rescale_exactly": int(rescaling.exact),
        "weights8": None if wide else packed,
        "weights16": packing.widen(packed) if wide else None,
        "channels": packing.pack_channels(rescaling),
        "residual": _addition(step.residual) if step.residual is not None else None,
    }
    blocks = -(-output_c // 4)
    pairs = -(-pixels // 2)
    edges = pixels - _num_inside(step, 0, input_h, output_h) * _num_inside(
        step, 1, input_w, output_w
    )
    return _implementation(
        core,
        "ee_conv2d_dsp" if step.residual is None else "ee_conv2d_dsp_add",
        "ee_conv2d_dsp_op",
        parameters,
        scratch_bytes=fixed_bytes + tile * pixel_bytes,
        sources=("conv2d", "tile", "add"),
        work=Work(
            "dsp",
            "conv2d",
            {
                "tile_products": blocks * pairs * depth,
                "tiles": blocks * pairs,
                "columns": pairs * depth,
                "column_rows": pairs * (1 if input_c % 4 else kernel_h),
                "byte_rows": pixels * kernel_h if input_c % 4 else 0,
                "edge_rows": edges * kernel_h,
                "edge_bytes": edges * depth,
                "widened": 0 if wide else -(-pixels // tile) * blocks * depth,
                "additions": pixels * output_c if step.residual is not None else 0,
            },
        ),
    )


def _depthwise(step: DepthwiseConv2D, program: Program, core: Core) -> Implementation | None:
    _, input_h, input_w, _ = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, channels = program.buffers[step.output].shape
    if (
        step.weights.shape[:2] != (3, 3)
        or step.depth_multiplier != 1
        or step.stride not in ((1, 1), (2, 2))
        or step.dilation != (1, 1)
        or step.residual is not None
        or channels < 4
        or max(step.pad_top, step.pad_left) > 1
    ):
        return None
    weights = step.weights.reshape(9, channels).T
    folded = packing.fold_bias(step.bias, weights, step.input_offset)
    rescaling = packing.rescaling(
        folded, weights, step.multipliers, step.shifts, step.output_offset
    )
    if rescaling is None or rescaling.exact:
        return None
    stride = step.stride[0]
    sizes = [(input_h, input_w), (output_h, output_w), (step.pad_top, step.pad_left)]
    steps = [
        (input_w * channels, channels),
        (output_w * channels, channels),
        (3 * channels, channels),
    ]
    if output_h > output_w:
        sizes = [(across, along) for along, across in sizes]
        steps = [(across, along) for along, across in steps]
    (lines_in, line_in), (lines_out, line_out), (lines_pad, line_pad) = sizes
    plane_words = line_out + 1 if stride == 2 else (line_out + 1) // 2 + 1
    rescale = (
        rescaling.multipliers,
        rescaling.rounding,
        rescaling.shifts,
        2 * rescaling.bias,
    )
    blocks = -(-channels // 4)
    lines_loaded = 3 + stride * (lines_out - 1)
    parameters = {
        "lines_in": lines_in,
        "line_in": line_in,
        "lines_out": lines_out,
        "line_out": line_out,
        "lines_pad": lines_pad,
        "line_pad": line_pad,
        "stride": stride,
        "num_channels": channels,
        "plane_words": plane_words,
        "input_step": steps[0][1],
        "input_line_step": steps[0][0],
        "output_step": steps[1][1],
        "output_line_step": steps[1][0],
        "weight_step": steps[2][1],
        "weight_line_step": steps[2][0],
        "input_zero_point": -step.input_offset,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "weights": step.weights.reshape(-1),
        "channels": np.stack(rescale, axis=1).reshape(-1).astype(np.int32),
    }
    turns = blocks * 4 * lines_out * (line_out if stride == 2 else -(-line_out // 2))
    return _implementation(
        core,
        "ee_depthwise_dsp_3x3",
        "ee_depthwise_dsp_op",
        parameters,
        scratch_bytes=48 * plane_words + 160,
        sources=("depthwise", "depthwise_line", "add"),
        work=Work(
            "dsp",
            "depthwise",
            {
                "turns_s1": turns if stride == 1 else 0,
                "turns_s2": turns if stride == 2 else 0,
                "lines": blocks * 4 * lines_out,
                "plane_words": blocks * lines_loaded * plane_words,
                "lines_loaded": blocks * lines_loaded,
                "blocks": blocks,
            },
        ),
    )


def _fully_connected(step: FullyConnected, program: Program, core: Core) -> Implementation | None:
    out_features, in_features = step.weights.shape
    num_rows = program.buffers[step.inputs[0]].num_bytes // in_features
    folded = packing.fold_bias(step.bias, step.weights, step.input_offset)
    rescaling = packing.rescaling(
        folded, step.weights, step.multipliers, step.shifts, step.output_offset
    )
    if rescaling is None:
        return None
    depth = packing.round_up(in_features, 4)
    blocks = -(-out_features // 4)
    parameters = {
        "num_rows": num_rows,
        "in_features": in_features,
        "out_features": out_features,
        "depth": depth,
        "activation_min": step.activation_min,
        "activation_max": step.activation_max,
        "rescale_exactly": int(rescaling.exact),
        "weights8": packing.pack_int8(step.weights),
        "channels": packing.pack_channels(rescaling),
    }
    return _implementation(
        core,
        "ee_fully_connected_dsp",
        "ee_fully_connected_dsp_op",
        parameters,
        scratch_bytes=2 * depth,
        sources=("fully_connected", "tile", "add"),
        work=Work(
            "dsp",
            "fully_connected",
            {
                "products": num_rows * blocks * depth,
                "blocks": num_rows * blocks,
                "elements": num_rows * depth,
                "rows": num_rows,
            },
        ),
    )


def _batch_matmul(step: BatchMatMul, core: Core) -> Implementation | None:
    *batches, rows, columns = step.extents
    if step.depth % 4 or step.strides1[3] != 1 or step.output_strides[3] != 1:
        return None
    rounding = packing.product_rounding(
        step.depth, step.offset1, step.multiplier, step.shift, step.output_offset
    )
    if rounding is None:
        return None
    count, pairs = math.prod(batches), -(-rows // 2)
    fours, groups = -(-columns // 4), -(-columns // _COLUMNS_AT_ONCE)
    return _implementation(
        core,
        "ee_batch_matmul_dsp",
        "ee_batch_matmul_dsp_op",
        {
            **array("extents", step.extents),
            "depth": step.depth,
            **array("strides1", step.strides1),
            **array("strides2", step.strides2),
            **array("output_strides", step.output_strides),
            "offset1": step.offset1,
            "offset2": step.offset2,
            "multiplier": step.multiplier,
            "rounding": rounding,
            "shift": -step.shift,
        },
        # Constants of the columns, results that nobody wants, rows, and columns.
        scratch_bytes=256 + 32 + 2 * 2 * step.depth + 2 * _COLUMNS_AT_ONCE * step.depth,
        sources=("batch_matmul", "tile"),
        work=Work(
            "dsp",
            "batch_matmul",
            {
                "tile_products": count * fours * pairs * step.depth,
                "tiles": count * fours * pairs,
                "rows": count * groups * pairs,
                "row_elements": count * groups * pairs * step.depth,
                "columns": count * fours * 4,
                "widened": count * fours * 4 * step.depth,
                "rests": count * pairs if columns % 4 else 0,
            },
        ),
    )


def _add(step: Add, program: Program, core: Core) -> Implementation | None:
    elements = program.buffers[step.output].num_bytes
    if step.constant is not None or any(
        program.buffers[i].num_bytes != elements for i in step.inputs
    ):
        return None
    return _implementation(
        core,
        "ee_add_dsp",
        "ee_add_dsp_op",
        {"count": elements, "addition": _addition(step.addition)},
        scratch_bytes=0,
        sources=("add",),
        work=Work("dsp", "add", {"additions": elements}),
    )


def _addition(addition: Addition) -> Struct:
    linear = packing.linear_addition(addition)
    factor1, factor2, constant, shift = linear if linear is not None else (0, 0, 0, 0)
    return Struct(
        "ee_dsp_addition",
        {
            "factor1": factor1,
            "factor2": factor2,
            "constant": constant,
            "shift": shift,
            "activation_min": addition.activation_min,
            "activation_max": addition.activation_max,
            "exact": None if linear is not None else exact_addition(addition),
        },
    )


def _implementation(
    core: Core,
    function: str,
    ctype: str,
    parameters: Fields,
    *,
    scratch_bytes: int,
    sources: tuple[str, ...],
    work: Work,
) -> Implementation:
    return Implementation(
        kernel_set=NAME,
        function=function,
        parameters=Struct(ctype, parameters),
        scratch_bytes=scratch_bytes,
        headers=("ee_kernels_dsp.h",),
        sources=tuple(f"kernels/dsp_{source}.c" for source in sources),
        instructions=work.instructions(core),
        work=work,
    )


def _tile(pixels: int, fitting: int) -> int:
    """How many pixels a tile has, of at most ``fitting``: even, and all tiles about as long."""
    longest = max(2, min(_LONGEST_TILE, fitting) // 2 * 2)
    tiles = -(-pixels // longest)
    return packing.round_up(-(-pixels // tiles), 2)


def _num_inside(step: Conv2D, axis: int, size: int, count: int) -> int:
    """At how many places along an axis of the input the window is inside of it."""
    before = (step.pad_top, step.pad_left)[axis]
    reach = (step.weights.shape[1 + axis] - 1) * step.dilation[axis] + 1
    starts = np.arange(count) * step.stride[axis] - before
    return int(((starts >= 0) & (starts + reach <= size)).sum())


def _room(step: Step, program: Program) -> int:
    """Bytes of scratch that make the arena no larger, or 2 KiB if there are fewer.

    The difference between the most that is alive at any step and what is alive at this one. A
    planner may need more than that, but seldom does.
    """
    steps = program.steps
    first = {program.input: 0}
    last: dict[int, int] = {}
    for index, other in enumerate(steps):
        first.setdefault(other.output, index)
        for buffer in (*other.inputs, other.output):
            last[buffer] = index
    alive = []
    for index, other in enumerate(steps):
        size = sum(
            program.buffers[buffer].num_bytes
            for buffer, start in first.items()
            if start <= index <= last.get(buffer, start)
        )
        taken_over = [b for p in other.in_place if last[b := other.inputs[p]] == index]
        shared = max((program.buffers[b].num_bytes for b in taken_over), default=0)
        alive.append(size - min(shared, program.buffers[other.output].num_bytes))
    return min(_MOST_ROOM, max(_LEAST_ROOM, max(alive) - alive[steps.index(step)]))
