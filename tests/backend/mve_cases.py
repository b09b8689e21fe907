"""Programs of one step with random constants, for the tests of the packed MVE kernels."""

from __future__ import annotations

from dataclasses import replace

import c_host
import dsp_cases
import numpy as np
from dsp_cases import conv, depthwise, fully_connected, with_residual

from edgeexit.backends.c.chain import single_exit
from edgeexit.backends.c.emit import emit
from edgeexit.backends.c.kernels import mve, portable
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.plan import plan
from edgeexit.backends.c.program import (
    Buffer,
    DepthwiseConv2D,
    Mean,
    Pool2D,
    Program,
    ProgramSegment,
    Table,
    Window,
)

CORTEX_M55 = Core("cortex-m55", dsp=True, mve=True, cost="m55")
LEFT_TO_OTHERS = {"conv_dilated", "conv_dilated_bytes", "conv_left_shift", "fc_exact", "subtract"}
"""What the kernels do not take: dilation, a shift to the left, a subtraction."""


def programs() -> dict[str, Program]:
    """Odd shapes, and every way through the kernels."""
    cases = {key: case for key, case in dsp_cases.programs().items() if "exact" not in key}
    for size, stride in (((5, 7, 16), 1), ((4, 4, 32), 1), ((6, 9, 64), 1), ((9, 8, 16), 2),
                         ((8, 8, 32), 2), ((7, 9, 64), 2)):  # fmt: skip
        key = f"direct_c{size[2]}_s{stride}"
        out = conv(key, size, 12, (3, 3), (stride, stride))
        cases[key] = out
        cases[f"{key}_relu"] = relu(conv(f"{key}_relu", size, 8, (3, 3), (stride, stride)))
        if stride == 1:
            square = conv(f"{key}_add", size, size[2], (3, 3), (1, 1))
            cases[f"{key}_add"] = with_residual(square, f"{key}_add")
    cases["direct_valid"] = conv("direct_valid", (6, 6, 16), 4, (3, 3), (1, 1), padding=False)
    cases["direct_narrow"] = conv("direct_narrow", (5, 5, 16), 4, (3, 3), (1, 1), limits=(-9, 60))
    for width in range(1, 6):
        key = f"conv_width_{width}"
        cases[key] = conv(key, (3, width, 16), 4, (3, 3), (1, 1))
        key = f"dw_width_{width}"
        cases[key] = depthwise(key, (5, width, 3), 1)
        cases[f"{key}_s2"] = relu(depthwise(f"{key}_s2", (6, width, 12), 2))
    for depth in (1, 3, 5, 8, 12, 24, 48):
        key = f"conv_relu_c{depth}"
        cases[key] = relu(conv(key, (4, 5, depth), depth + 1, (3, 3), (1, 1)))
        key = f"pointwise_c{depth}"
        cases[key] = relu(conv(key, (3, 3, depth), 2 * depth, (1, 1), (1, 1), padding=False))
    cases["first_10x4"] = relu(conv("first_10x4", (49, 10, 1), 32, (10, 4), (2, 2)))
    cases["dw_relu"] = relu(depthwise("dw_relu", (9, 7, 5), 1))
    cases["dw_zero_shift"] = shifted(depthwise("dw_zero_shift", (4, 4, 6), 1), 0)
    cases["dw_5x5"] = larger(depthwise("dw_5x5", (6, 7, 6), 1))
    cases["fc_zero_shift"] = fully_connected("fc_zero_shift", 1, 16, 6, shift=0)
    for key, kind, size, kernel in (
        ("average", "average", (8, 8, 64), (8, 8)),
        ("average_odd", "average", (5, 3, 7), (5, 3)),
        ("average_2x2", "average", (5, 5, 6), (2, 2)),
        ("max_2x2", "max", (5, 5, 18), (2, 2)),
        ("max_3x3", "max", (6, 6, 16), (3, 3)),
    ):
        cases[key] = pool(key, kind, size, kernel)
    cases["product_odd_depth"] = dsp_cases.product("product_odd_depth", 2, 5, 6, 19)
    cases["product_odd_depth_across"] = dsp_cases.product("product", 2, 5, 6, 19, along=False)
    cases["product_symmetric"] = dsp_cases.product("product", 2, 5, 6, 32, offsets=(128, 0))
    cases["mean"] = mean("mean", 2, 25, 10)
    cases["table"] = table("table", 100)
    cases["table_16"] = table("table_16", 32)
    return cases


def relu(program: Program) -> Program:
    """With the output offset and limits of a fused ReLU."""
    step = program.steps[0]
    assert isinstance(step, Window)
    changed = replace(step, output_offset=-128, activation_min=-128, activation_max=127)
    return replace(program, segments=(ProgramSegment((changed,), step.output),))


def shifted(program: Program, shift: int) -> Program:
    """With one shift for all channels."""
    step = program.steps[0]
    assert isinstance(step, Window)
    changed = replace(step, shifts=np.full_like(step.shifts, shift))
    return replace(program, segments=(ProgramSegment((changed,), step.output),))


def larger(program: Program) -> Program:
    """A depthwise convolution 3x3 with one more ring of weights."""
    step = program.steps[0]
    assert isinstance(step, DepthwiseConv2D)
    rng = np.random.default_rng(5)
    weights = rng.integers(-127, 128, (5, 5, step.weights.shape[2])).astype(np.int8)
    changed = replace(step, weights=weights, pad_top=2, pad_left=2)
    return replace(program, segments=(ProgramSegment((changed,), step.output),))


def pool(key: str, kind: str, size: tuple[int, int, int], kernel: tuple[int, int]) -> Program:
    """Windows that do not overlap, the last of them cut off."""
    places = [-(-n // k) for n, k in zip(size[:2], kernel, strict=True)]
    step = Pool2D(
        name=key,
        inputs=(0,),
        output=1,
        kind=kind,
        kernel=kernel,
        stride=kernel,
        pad_top=0,
        pad_left=0,
        activation_min=-100,
        activation_max=100,
    )
    buffers = (Buffer("x", (1, *size), 0.05, 3), Buffer(key, (1, *places, size[2]), 0.05, 3))
    return Program(buffers, 0, (ProgramSegment((step,), 1),))


def mean(key: str, outer: int, reduced: int, inner: int) -> Program:
    """The mean over the middle axis."""
    multiplier, shift = dsp_cases.quantized(1 / reduced)
    step = Mean(
        name=key,
        inputs=(0,),
        output=1,
        outer=outer,
        reduced=reduced,
        inner=inner,
        input_zero_point=3,
        output_offset=-5,
        multiplier=multiplier,
        shift=shift,
    )
    buffers = (
        Buffer("x", (outer, reduced, inner), 0.05, 3),
        Buffer(key, (outer, inner), 0.05, -5),
    )
    return Program(buffers, 0, (ProgramSegment((step,), 1),))


def table(key: str, size: int) -> Program:
    """A table of random values."""
    values = np.random.default_rng(9).integers(-128, 128, 256).astype(np.int8)
    step = Table(name=key, inputs=(0,), output=1, table=values)
    buffers = (Buffer("x", (1, size), 0.05, 3), Buffer(key, (1, size), 0.05, 3))
    return Program(buffers, 0, (ProgramSegment((step,), 1),))


def make(program: Program, key: str) -> c_host.Model:
    """Packed kernels where they are offered, plain C elsewhere."""
    outputs = tuple(segment.logits for segment in program.segments)
    program = c_host._with_answer(program)
    offers = [
        mve.offer(step, program, CORTEX_M55) or portable.offer(step, program, CORTEX_M55)
        for step in program.steps
    ]
    implementations = tuple(each for each in offers if each is not None)
    planned = plan(program, implementations)
    emission = emit(program, implementations, planned, single_exit(key))
    return c_host.Model(program, implementations, planned, emission, outputs)
