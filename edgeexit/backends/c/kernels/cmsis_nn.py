"""The kernel set that calls CMSIS-NN 4.0.0: convolutions, fully connected layers and pooling.

CMSIS-NN is one source for all cores, which decides by the compiler's flags whether it uses MVE, DSP
instructions or neither. How much scratch a kernel takes depends on that, so it is computed here by
the formulas of its ``*_get_buffer_size`` functions.

CMSIS-NN's release has an addition that not all trees of it carry, and none that follows a
convolution. A residual is therefore added by plain C, to a convolution whose output lies in
scratch: correct, and as large as the output that the fusion was meant to save. The packed kernels
do better wherever there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.kernels import portable
from edgeexit.backends.c.kernels.base import Core, Implementation, Struct
from edgeexit.backends.c.kernels.cmsis_nn_work import work_of
from edgeexit.backends.c.program import (
    Buffer,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Pool2D,
    Program,
    ProgramSegment,
    Step,
    Window,
)

NAME = "cmsis_nn"

_CHANNELS_IN_BLOCK = 124
"""Channels that a depthwise convolution takes at once with MVE."""
_LARGEST_COLUMN = 65535
"""Products of one output: CMSIS-NN counts them in 16 bits. Sizes of images are no larger either."""

# With all that they call; a linker drops what a core does not.
_FILES = {
    "conv": (
        "arm_convolve_wrapper_s8",
        "arm_convolve_s8",
        "arm_convolve_1_x_n_s8",
        "arm_convolve_1x1_s8",
        "arm_convolve_1x1_s8_fast",
        "arm_nn_mat_mult_kernel_s8_s16",
        "arm_q7_to_q15_with_offset",
        "arm_nn_mat_mult_nt_t_s8",
        "arm_nn_mat_mult_s8",
        "arm_nn_mat_mul_core_1x_s8",
        "arm_nn_mat_mul_core_4x_s8",
    ),
    "depthwise": (
        "arm_depthwise_conv_wrapper_s8",
        "arm_depthwise_conv_s8",
        "arm_depthwise_conv_s8_opt",
        "arm_depthwise_conv_3x3_s8",
        "arm_nn_depthwise_conv_nt_t_s8",
        "arm_nn_depthwise_conv_nt_t_padded_s8",
        "arm_q7_to_q15_with_offset",
    ),
    "fully_connected": ("arm_fully_connected_s8", "arm_nn_vec_mat_mult_t_s8"),
    "pool": ("arm_avgpool_s8", "arm_max_pool_s8"),
}


def offer(step: Step, program: Program, core: Core) -> Implementation | None:
    """How CMSIS-NN runs ``step``; None where it does not, or not to the bit."""
    match step:
        case Conv2D() if step.weights[0].size <= _LARGEST_COLUMN:
            return _conv2d(step, program, core)
        case DepthwiseConv2D():
            return _depthwise(step, program, core)
        case FullyConnected():
            return _fully_connected(step, program, core)
        case Pool2D():
            return _pool(step, program, core)
    return None


def _conv2d(step: Conv2D, program: Program, core: Core) -> Implementation:
    _, kernel_h, kernel_w, input_c = step.weights.shape
    is_point = (kernel_h, kernel_w) == (1, 1) and step.dilation == (1, 1)
    is_point = is_point and (step.pad_top, step.pad_left) == (0, 0)
    input_h = program.buffers[step.inputs[0]].shape[1]
    output_w = program.buffers[step.output].shape[2]
    is_line = input_h == 1 and kernel_h == 1 and output_w % 4 == 0 and step.dilation[1] == 1
    column = kernel_h * kernel_w * input_c
    if is_point or (is_line and core.mve):
        scratch_bytes = 0
    elif core.mve:
        scratch_bytes = 4 * _round_up(column, 8)
    else:
        scratch_bytes = 4 * column
    return _window("conv", "ee_conv2d_cmsis_nn", step, program, core, scratch_bytes, {})


def _depthwise(step: DepthwiseConv2D, program: Program, core: Core) -> Implementation | None:
    if not core.mve and _reads_beyond(step, program):
        return None
    kernel_h, kernel_w, channels = step.weights.shape
    scratch_bytes = 0
    changed: dict[str, NDArray[np.integer[Any]]] = {}
    if step.depth_multiplier == 1 and step.dilation == (1, 1):
        if core.mve:
            scratch_bytes = 4 * _CHANNELS_IN_BLOCK * kernel_h * kernel_w
            missing = -channels % 4
            changed = {
                "weights": np.pad(step.weights.reshape(-1), (0, missing)),
                "bias": np.pad(step.bias, (0, missing)),
                "multiplier": np.pad(step.multipliers, (0, missing)),
                "shift": np.pad(step.shifts, (0, missing)),
            }
        elif core.dsp:
            scratch_bytes = 2 * channels * kernel_h * kernel_w
    return _window(
        "depthwise", "ee_depthwise_cmsis_nn", step, program, core, scratch_bytes, changed
    )


def _reads_beyond(step: DepthwiseConv2D, program: Program) -> bool:
    """Whether ``arm_depthwise_conv_3x3_s8`` reads past the end of a row.

    It takes the middle column of a window to be inside the image. After a PAD on the right, the
    last window of a row may have only its first column there.
    """
    input_w = program.buffers[step.inputs[0]].shape[2]
    output_w = program.buffers[step.output].shape[2]
    return (
        step.weights.shape[:2] == (3, 3)
        and step.depth_multiplier == 1
        and step.dilation == (1, 1)
        and max(step.pad_top, step.pad_left) <= 1
        and (output_w - 1) * step.stride[1] - step.pad_left + 1 >= input_w
    )


def _window(
    kind: str,
    function: str,
    step: Window,
    program: Program,
    core: Core,
    scratch_bytes: int,
    changed: Mapping[str, NDArray[np.integer[Any]]],
) -> Implementation:
    if step.residual is not None:
        function = f"{function}_add"
        scratch_bytes += _round_up(program.buffers[step.output].num_bytes, 16)
    made = _implementation(kind, function, step, program, core, {"bias": step.bias, **changed})
    # Referred to, even where no residual is added.
    sources = (*made.sources, "kernels/portable_elementwise.c")
    return replace(made, scratch_bytes=scratch_bytes, sources=sources)


def _fully_connected(step: FullyConnected, program: Program, core: Core) -> Implementation | None:
    """As a convolution of 1 x 1 where each feature has a factor, and, as it is faster, with MVE."""
    rows = program.buffers[step.output].num_bytes // step.weights.shape[0]
    fits = max(rows, *step.weights.shape) <= _LARGEST_COLUMN
    if fits and (core.mve or not step.per_tensor):
        return _points(step, rows, core)
    if not step.per_tensor:
        return None
    changed = {
        "bias": step.bias,
        "multiplier": step.multipliers[:1],
        "shift": step.shifts[:1],
    }
    return _implementation(
        "fully_connected", "ee_fully_connected_cmsis_nn", step, program, core, changed
    )


def _points(step: FullyConnected, rows: int, core: Core) -> Implementation:
    features, depth = step.weights.shape
    conv = Conv2D(
        name=step.name,
        inputs=(0,),
        output=1,
        weights=step.weights.reshape(features, 1, 1, depth),
        bias=step.bias,
        multipliers=step.multipliers,
        shifts=step.shifts,
        input_offset=step.input_offset,
        output_offset=step.output_offset,
        activation_min=step.activation_min,
        activation_max=step.activation_max,
    )
    buffers = (
        Buffer("input", (1, 1, rows, depth), 1.0, 0),
        Buffer("output", (1, 1, rows, features), 1.0, 0),
    )
    return _conv2d(conv, Program(buffers, 0, (ProgramSegment((conv,), 1),)), core)


def _pool(step: Pool2D, program: Program, core: Core) -> Implementation:
    made = _implementation("pool", f"ee_{step.kind}_pool_cmsis_nn", step, program, core, {})
    if step.kind == "average" and core.dsp and not core.mve:
        channels = program.buffers[step.output].shape[-1]
        return replace(made, scratch_bytes=4 * channels)
    return made


def _implementation(
    kind: str,
    function: str,
    step: Step,
    program: Program,
    core: Core,
    changed: Mapping[str, NDArray[np.integer[Any]]],
) -> Implementation:
    """The parameters of plain C, but for the arrays in ``changed``."""
    plain = portable.offer(step, program, core).parameters
    work = work_of(step, program, core)
    return Implementation(
        kernel_set=NAME,
        function=function,
        parameters=Struct(plain.ctype, {**plain.fields, **changed}),
        scratch_bytes=0,
        headers=("ee_kernels_cmsis_nn.h",),
        sources=(
            f"kernels/cmsis_nn_{kind}.c",
            *(f"cmsis_nn:{file}.c" for file in _FILES[kind]),
        ),
        instructions=work.instructions(core),
        work=work,
    )


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
