"""Programs of one step with random constants, for the tests of the packed DSP kernels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import c_host
import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.chain import ChainInfo, ChainPoint, single_exit
from edgeexit.backends.c.emit import emit
from edgeexit.backends.c.kernels import dsp, portable
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.plan import plan
from edgeexit.backends.c.program import (
    Add,
    Addition,
    BatchMatMul,
    Buffer,
    Conv2D,
    Copy,
    DepthwiseConv2D,
    FullyConnected,
    Program,
    ProgramSegment,
    Step,
)
from edgeexit.types import DecisionSpec

Int8 = NDArray[np.int8]
PADDING = 77
CORTEX_M4 = Core("cortex-m4", dsp=True, mve=False, cost="m4")


def programs() -> dict[str, Program]:
    """Odd shapes, and every way through the kernels."""
    cases: dict[str, Program] = {}
    for key, size, out, kernel, stride, more in (
        # key, input (h, w, c), output channels, kernel, stride, more
        ("conv_16", (6, 7, 16), 16, (3, 3), (1, 1), {}),
        ("conv_3", (7, 5, 3), 8, (3, 3), (1, 1), {}),
        ("conv_1_10x4", (21, 10, 1), 12, (10, 4), (2, 2), {}),
        ("conv_wide_depth", (5, 4, 64), 8, (3, 3), (1, 1), {}),
        ("conv_int8_weights", (6, 5, 32), 32, (3, 3), (2, 2), {}),
        ("conv_1x1", (5, 5, 8), 12, (1, 1), (1, 1), {"padding": False}),
        ("conv_1x1_long", (3, 3, 128), 64, (1, 1), (1, 1), {"padding": False}),
        ("conv_1x1_s2", (6, 6, 16), 32, (1, 1), (2, 2), {"padding": False}),
        ("conv_odd_channels", (5, 5, 5), 7, (3, 3), (1, 1), {}),
        ("conv_one_channel", (5, 4, 4), 1, (3, 2), (1, 2), {}),
        ("conv_5x5", (6, 6, 4), 6, (5, 5), (1, 1), {}),
        ("conv_dilated", (8, 9, 4), 8, (3, 3), (1, 1), {"dilation": (2, 2)}),
        ("conv_dilated_bytes", (8, 9, 3), 8, (3, 3), (1, 1), {"dilation": (1, 3)}),
        ("conv_one_pixel", (1, 1, 12), 5, (3, 3), (1, 1), {}),
        ("conv_exact", (5, 5, 8), 8, (3, 3), (1, 1), {"shift": 0}),
        ("conv_exact_odd", (3, 3, 8), 6, (3, 3), (1, 1), {"shift": 0}),
        ("conv_left_shift", (3, 3, 4), 4, (1, 1), (1, 1), {"shift": 2, "padding": False}),
        ("conv_narrow", (5, 5, 8), 7, (3, 3), (1, 1), {"limits": (-20, 60)}),
    ):
        cases[key] = conv(key, size, out, kernel, stride, **more)
    for key, size, out, more in (
        ("add_conv_16", (6, 6, 16), 16, {}),
        ("add_conv_32", (5, 5, 32), 32, {}),
        ("add_conv_narrow", (5, 5, 8), 7, {"limits": (-20, 60)}),
    ):
        cases[key] = with_residual(conv(key, size, out, (3, 3), (1, 1), **more), key)
    for key, size, stride, more in (
        ("dw_8", (6, 6, 8), 1, {}),
        ("dw_8_odd", (7, 7, 8), 1, {}),
        ("dw_s2", (8, 8, 8), 2, {}),
        ("dw_s2_odd", (7, 9, 8), 2, {}),
        ("dw_long", (25, 5, 8), 1, {}),
        ("dw_long_s2", (25, 6, 8), 2, {}),
        ("dw_5_channels", (5, 6, 5), 1, {}),
        ("dw_7_channels_s2", (5, 6, 7), 2, {}),
        ("dw_1x1", (1, 1, 4), 1, {}),
        ("dw_2x1", (2, 1, 4), 1, {}),
        ("dw_1x5", (1, 5, 4), 1, {}),
        ("dw_1x1_s2", (1, 1, 4), 2, {}),
        ("dw_3x3_valid", (3, 3, 4), 1, {"padding": False}),
        ("dw_valid", (7, 8, 4), 1, {"padding": False}),
        ("dw_valid_s2", (8, 8, 4), 2, {"padding": False}),
        ("dw_narrow", (5, 5, 4), 1, {"limits": (-20, 60)}),
    ):
        cases[key] = depthwise(key, size, stride, **more)
    for key, rows, depth, out, more in (
        ("fc_64", 1, 64, 10, {}),
        ("fc_odd", 3, 27, 5, {}),
        ("fc_4", 1, 4, 4, {}),
        ("fc_2", 1, 2, 1, {}),
        ("fc_exact", 2, 33, 9, {"shift": 1}),
        ("fc_narrow", 1, 40, 8, {"limits": (-50, 100)}),
    ):
        cases[key] = fully_connected(key, rows, depth, out, **more)
    for key, *shape in (
        ("product_along", 3, 6, 10, 8, True),
        ("product_across", 3, 6, 10, 8, False),
        ("product_one_row", 2, 1, 7, 12, True),
        ("product_one_column", 2, 5, 1, 16, False),
        ("product_groups", 1, 7, 37, 20, True),
        ("product_groups_across", 1, 7, 37, 20, False),
        ("product_long", 2, 3, 16, 132, True),
    ):
        cases[key] = product(key, *shape)
    for key, size, more in (
        ("add", (5, 5, 8), {}),
        ("add_odd", (3, 3, 3), {"activation_min": -100, "activation_max": 3}),
        # Too steep for a linear form in int32.
        (
            "add_exact",
            (4, 4, 4),
            {
                "offset1": 0,
                "multiplier1": 1 << 30,
                "shift1": 0,
                "offset2": 0,
                "multiplier2": 1 << 30,
                "shift2": 0,
                "output_offset": 0,
                "output_multiplier": 1 << 30,
                "output_shift": -1,
            },
        ),
    ):
        cases[key] = add(key, size, **more)
    cases["subtract"] = add("subtract", (4, 4, 4), negate=True)
    return cases


def merged(cases: Mapping[str, Program]) -> tuple[Program, ChainInfo]:
    """All cases as one chain: a segment each, of the same input, padded to one size of output."""
    sizes = [(p.buffers[p.input].num_bytes, _output(p).num_bytes) for p in cases.values()]
    num_inputs, num_outputs = (max(column) for column in zip(*sizes, strict=True))
    buffers = [Buffer("input", (1, num_inputs), 0.05, 3)]
    segments = []
    for key, program in cases.items():
        start = len(buffers)
        buffers += [replace(each, name=f"{key}_{each.name}") for each in program.buffers]
        steps: list[Step] = [
            _copy(f"take_{key}", 0, start + program.input, sizes[len(segments)][0])
        ]
        for step in program.steps:
            inputs = tuple(start + number for number in step.inputs)
            steps.append(
                replace(step, name=f"{key}_{step.name}", inputs=inputs, output=start + step.output)
            )
        output = start + program.segments[-1].logits
        steps.append(
            replace(
                _copy(f"give_{key}", output, len(buffers), sizes[len(segments)][1]), fill=PADDING
            )
        )
        segments.append(ProgramSegment(tuple(steps), len(buffers)))
        buffers.append(Buffer(f"answer_{key}", (1, num_outputs), 0.05, 3))
    point = ChainPoint("static", (1,) * len(cases))
    chain = ChainInfo("merged", DecisionSpec("patience", ()), (point,))
    return Program(tuple(buffers), 0, tuple(segments)), chain


def _output(program: Program) -> Buffer:
    return program.buffers[program.segments[-1].logits]


def _copy(name: str, source: int, target: int, count: int) -> Copy:
    return Copy(
        name=name,
        inputs=(source,),
        output=target,
        extents=(1, 1, 1, count),
        input_start=0,
        input_strides=(0, 0, 0, 1),
        output_start=0,
        output_strides=(0, 0, 0, 1),
    )


def make(program: Program, key: str, chain: ChainInfo | None = None) -> c_host.Model:
    """Packed kernels where they are offered, plain C elsewhere."""
    outputs = tuple(segment.logits for segment in program.segments)
    if chain is None:
        program = c_host._with_answer(program)
    offers = [
        dsp.offer(step, program, CORTEX_M4) or portable.offer(step, program, CORTEX_M4)
        for step in program.steps
    ]
    implementations = tuple(each for each in offers if each is not None)
    planned = plan(program, implementations)
    emission = emit(program, implementations, planned, chain or single_exit(key))
    return c_host.Model(program, implementations, planned, emission, outputs)


def samples(program: Program, count: int) -> Int8:
    """Random inputs, the first of them all at one limit."""
    shape = (count, program.buffers[program.input].num_bytes)
    values = np.random.default_rng(3).integers(-128, 128, shape).astype(np.int8)
    values[0] = -128
    return values


def addition(rng: np.random.Generator, **changes: int) -> Addition:
    """An addition of two tensors with scales as they are in networks."""
    scale1, scale2 = (float(x) for x in rng.uniform(0.01, 0.1, 2))
    twice = 2 * max(scale1, scale2)
    output = max(scale1, scale2) * float(rng.uniform(0.6, 1.5))
    values: dict[str, Any] = {"left_shift": 20, "activation_min": -128, "activation_max": 127}
    for name, offset in (("offset1", 1), ("offset2", 1), ("output_offset", 1)):
        values[name] = offset * int(rng.integers(-127, 128))
    for suffix, factor in (("1", scale1 / twice), ("2", scale2 / twice)):
        values[f"multiplier{suffix}"], values[f"shift{suffix}"] = quantized(factor)
    multiplier, shift = quantized(twice / (output * (1 << 20)))
    return Addition(**values | {"output_multiplier": multiplier, "output_shift": shift} | changes)


def quantized(factor: float) -> tuple[int, int]:
    """A real factor as multiplier and shift."""
    fraction, exponent = math.frexp(factor)
    multiplier = round(fraction * (1 << 31))
    return (multiplier // 2, exponent + 1) if multiplier == 1 << 31 else (multiplier, exponent)


def _rescaling(
    rng: np.random.Generator, channels: int, depth: int, shift: int | None
) -> dict[str, Any]:
    """Factors that spread sums of ``depth`` products over int8, or all with one shift."""
    usual = -round(math.log2(128 * math.sqrt(depth))) + 1
    shifts = usual + rng.integers(-2, 1, channels) if shift is None else [shift] * channels
    return {
        "multipliers": rng.integers(1 << 30, 1 << 31, channels).astype(np.int32),
        "shifts": np.minimum(-1, shifts).astype(np.int32)
        if shift is None
        else np.array(shifts, np.int32),
        "input_offset": int(rng.integers(-127, 129)),
        "output_offset": int(rng.integers(-128, 128)),
        "bias": rng.integers(-3000, 3000, channels).astype(np.int32),
    }


def _window(
    key: str,
    size: tuple[int, int, int],
    out: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: bool,
) -> tuple[tuple[Buffer, Buffer], dict[str, int]]:
    places, before = [], []
    for n, k, s, d in zip(size[:2], kernel, stride, dilation, strict=True):
        reach = (k - 1) * d + 1
        count = -(-n // s) if padding else (n - reach) // s + 1
        places.append(count)
        before.append(max(0, (count - 1) * s + reach - n) // 2 if padding else 0)
    buffers = (
        Buffer("x", (1, *size), 0.05, 3),
        Buffer(key, (1, places[0], places[1], out), 0.05, 3),
    )
    return buffers, {"pad_top": before[0], "pad_left": before[1]}


def _rng(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def _single(step: Step, buffers: tuple[Buffer, ...]) -> Program:
    return Program(buffers, 0, (ProgramSegment((step,), step.output),))


def conv(
    key: str,
    size: tuple[int, int, int],
    out: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    *,
    dilation: tuple[int, int] = (1, 1),
    padding: bool = True,
    shift: int | None = None,
    limits: tuple[int, int] = (-128, 127),
) -> Program:
    """A convolution."""
    rng = _rng(key)
    buffers, pads = _window(key, size, out, kernel, stride, dilation, padding)
    step = Conv2D(
        name=key,
        inputs=(0,),
        output=1,
        weights=rng.integers(-127, 128, (out, *kernel, size[2])).astype(np.int8),
        activation_min=limits[0],
        activation_max=limits[1],
        stride=stride,
        dilation=dilation,
        **pads,
        **_rescaling(rng, out, kernel[0] * kernel[1] * size[2], shift),
    )
    return _single(step, buffers)


def with_residual(program: Program, key: str) -> Program:
    """Adds the convolution's result to a part of its input, copied before."""
    step, (x, y) = program.steps[0], program.buffers
    assert isinstance(step, Conv2D)
    skip = replace(y, name="skip")
    extents = (1, y.shape[1], y.shape[2], y.shape[3])
    copy = Copy(
        name="copy",
        inputs=(0,),
        output=2,
        extents=extents,
        input_start=0,
        input_strides=(0, x.shape[2] * x.shape[3], x.shape[3], 1),
        output_start=0,
        output_strides=(0, y.shape[2] * y.shape[3], y.shape[3], 1),
    )
    fused = replace(step, inputs=(0, 2), residual=addition(_rng(key + "+")))
    return Program((x, y, skip), 0, (ProgramSegment((copy, fused), 1),))


def depthwise(
    key: str,
    size: tuple[int, int, int],
    stride: int,
    *,
    padding: bool = True,
    limits: tuple[int, int] = (-128, 127),
) -> Program:
    """A depthwise convolution 3x3."""
    rng = _rng(key)
    strides = (stride, stride)
    buffers, pads = _window(key, size, size[2], (3, 3), strides, (1, 1), padding)
    step = DepthwiseConv2D(
        name=key,
        inputs=(0,),
        output=1,
        weights=rng.integers(-127, 128, (3, 3, size[2])).astype(np.int8),
        activation_min=limits[0],
        activation_max=limits[1],
        stride=strides,
        **pads,
        **_rescaling(rng, size[2], 9, None),
    )
    return _single(step, buffers)


def product(
    key: str,
    heads: int,
    rows: int,
    columns: int,
    depth: int,
    along: bool = True,
    offsets: tuple[int, int] = (3, -5),
) -> Program:
    """Attention's product of one tensor with itself, in which heads lie within tokens.

    ``along``: values of a column lie beside each other, as those of a row do; else columns do.
    """
    width, size = heads * depth, heads * depth * max(rows, columns)
    if not along:
        width = heads * columns
        size = max(heads * rows * depth, depth * width)
    step = BatchMatMul(
        name="product",
        inputs=(0, 0),
        output=1,
        macs=heads * rows * columns * depth,
        extents=(1, heads, rows, columns),
        depth=depth,
        strides1=(0, depth, width, 1) if along else (0, rows * depth, depth, 1),
        strides2=(0, depth, width, 1) if along else (0, columns, 1, width),
        output_strides=(0, rows * columns, columns, 1),
        offset1=offsets[0],
        offset2=offsets[1],
        output_offset=1,
        multiplier=1518500250,
        shift=-9,
    )
    buffers = (
        Buffer(f"{key}_in", (1, size), 1.0, 0),
        Buffer(f"{key}_out", (1, heads, rows, columns), 1.0, 0),
    )
    return Program(buffers, 0, (ProgramSegment((step,), 1),))


def fully_connected(
    key: str,
    rows: int,
    depth: int,
    out: int,
    *,
    shift: int | None = None,
    limits: tuple[int, int] = (-128, 127),
) -> Program:
    """A fully connected layer."""
    rng = _rng(key)
    step = FullyConnected(
        name=key,
        inputs=(0,),
        output=1,
        weights=rng.integers(-127, 128, (out, depth)).astype(np.int8),
        per_tensor=False,
        activation_min=limits[0],
        activation_max=limits[1],
        **_rescaling(rng, out, depth, shift),
    )
    return _single(step, (Buffer("x", (rows, depth), 0.05, 3), Buffer(key, (rows, out), 0.05, 3)))


def add(key: str, size: tuple[int, int, int], *, negate: bool = False, **changes: int) -> Program:
    """The sum of a tensor and its mirror image."""
    height, width, channels = size
    numbers = addition(_rng(key), **changes)
    if negate:
        numbers = replace(numbers, multiplier2=-numbers.multiplier2)
    strides = (height * width * channels, width * channels, channels, 1)
    count = strides[0]
    mirror = Copy(
        name="mirror",
        inputs=(0,),
        output=1,
        extents=(1, 1, 1, count),
        input_start=count - 1,
        input_strides=(0, 0, 0, -1),
        output_start=0,
        output_strides=(0, 0, 0, 1),
    )
    step = Add(
        name=key, inputs=(0, 1), output=2, addition=numbers, strides1=strides, strides2=strides
    )
    buffers = tuple(Buffer(name, (1, *size), 0.05, 3) for name in ("x", "mirrored", key))
    return Program(buffers, 0, (ProgramSegment((mirror, step), 2),))
