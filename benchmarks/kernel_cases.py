"""The layers whose kernels are counted: many shapes of each kind that a kernel set runs.

``ops`` are the small layers of the tests and those of known models, for the sets that take any
shape. The packed sets go through their loops in ways of their own, each with weights of its own:
``dsp_layers`` and ``mve_layers`` have the shapes that tell these apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from mlperf_tiny import mlperf_tiny

from edgeexit.backends.c.legalize import program_from_file
from edgeexit.backends.c.program import Buffer, Copy, Program, ProgramSegment, Step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "backend"))
import dsp_cases
import mve_cases
from test_c_portable import residual_programs
from tflite_ops import VALID, cases, conv

INPUT_BYTES = 1024
MODEL = "model_"
"""Names of layers of known models begin so."""

# Height, width, input and output channels, kernel and stride.
_CONVOLUTIONS = (
    (32, 32, 3, 16, 3, 1), (32, 32, 16, 16, 3, 1), (32, 32, 16, 32, 3, 2), (16, 16, 32, 32, 3, 1),
    (16, 16, 32, 64, 3, 2), (8, 8, 64, 64, 3, 1), (32, 32, 16, 32, 1, 2), (16, 16, 32, 64, 1, 2),
    (25, 5, 64, 64, 1, 1), (48, 48, 8, 16, 1, 1), (24, 24, 16, 32, 1, 1), (24, 24, 32, 32, 1, 1),
    (12, 12, 64, 64, 1, 1), (6, 6, 128, 128, 1, 1), (3, 3, 256, 256, 1, 1), (96, 96, 3, 8, 3, 2),
    (50, 10, 1, 64, (10, 4), 2), (10, 10, 12, 20, 3, 1), (12, 12, 4, 8, 5, 1), (4, 4, 64, 32, 1, 1),
)  # fmt: skip
_WITH_RESIDUAL = (1, 3, 5, 17, 6, 7)
_DEPTHWISE = (
    (25, 5, 64, 1), (48, 48, 8, 1), (48, 48, 16, 2), (24, 24, 32, 1), (24, 24, 32, 2),
    (12, 12, 64, 1), (12, 12, 64, 2), (6, 6, 128, 1), (6, 6, 128, 2), (3, 3, 256, 1),
    (5, 20, 16, 1), (9, 31, 8, 2),
)  # fmt: skip
_FULLY_CONNECTED = (
    (1, 64, 10), (1, 640, 128), (1, 128, 128), (1, 128, 8), (1, 8, 128), (1, 128, 640),
    (4, 64, 12), (1, 256, 2),
)  # fmt: skip

# Heads, rows, columns, depth, and whether the values of a row or a column lie beside each other.
_PRODUCTS = (
    (1, 8, 8, 16, True), (3, 16, 16, 8, True), (3, 64, 64, 32, True), (2, 40, 13, 20, True),
    (4, 20, 20, 64, True), (1, 5, 33, 100, True), (8, 10, 3, 12, True), (2, 30, 2, 30, True),
    (1, 8, 8, 16, False), (3, 16, 8, 16, False), (3, 64, 32, 64, False), (2, 40, 13, 20, False),
    (4, 20, 64, 20, False), (1, 5, 33, 100, False), (8, 10, 3, 12, False), (2, 30, 2, 30, False),
)  # fmt: skip

# With kernel and stride, whether it ends with a ReLU, and whether a residual is added.
_MVE_CONVOLUTIONS = (
    (16, 16, 16, 16, 3, 1, 1, 0), (32, 32, 16, 8, 3, 1, 1, 0), (8, 8, 16, 32, 3, 1, 0, 1),
    (12, 16, 16, 16, 3, 1, 0, 1), (16, 16, 32, 16, 3, 1, 1, 0), (8, 8, 32, 32, 3, 1, 0, 1),
    (8, 8, 64, 32, 3, 1, 1, 0), (6, 7, 64, 64, 3, 1, 0, 1), (16, 16, 16, 32, 3, 2, 1, 0),
    (24, 20, 16, 16, 3, 2, 0, 0), (16, 16, 32, 64, 3, 2, 1, 0), (10, 8, 64, 32, 3, 2, 1, 0),
    (5, 5, 16, 64, 3, 1, 0, 0), (20, 9, 32, 8, 3, 1, 0, 0),
    # What follows has no kernel of its own.
    (32, 32, 3, 16, 3, 1, 1, 0), (24, 24, 3, 8, 3, 2, 1, 0), (49, 10, 1, 32, (10, 4), 2, 1, 0),
    (16, 16, 3, 12, 3, 1, 0, 0), (8, 8, 24, 8, 3, 1, 1, 0), (10, 10, 8, 16, 3, 1, 0, 0),
    (9, 9, 8, 7, 3, 1, 1, 0), (16, 16, 16, 32, 1, 2, 1, 0), (12, 12, 32, 32, 1, 2, 0, 0),
    (12, 12, 4, 16, 5, 1, 1, 0), (8, 8, 12, 12, 3, 1, 0, 1), (6, 6, 24, 24, 3, 1, 0, 1),
    (16, 8, 4, 4, 3, 2, 1, 0), (20, 20, 1, 8, 5, 2, 1, 0), (5, 5, 48, 16, 3, 1, 1, 0),
    (12, 12, 5, 5, 3, 1, 0, 0), (6, 6, 3, 4, 3, 1, 1, 0), (20, 12, 3, 32, 3, 1, 1, 0),
    (14, 14, 4, 8, 3, 1, 1, 0), (16, 16, 16, 4, 1, 2, 1, 0), (8, 8, 64, 16, 1, 2, 1, 0),
    (10, 10, 20, 4, 3, 1, 1, 0), (7, 7, 40, 8, 3, 2, 1, 0), (12, 12, 1, 4, 7, 1, 1, 0),
    (30, 4, 2, 24, (5, 1), 1, 1, 0), (4, 30, 2, 24, (1, 5), 1, 1, 0), (9, 9, 6, 5, 3, 1, 0, 0),
    (9, 9, 16, 16, 5, 1, 1, 0), (6, 6, 10, 10, 3, 1, 0, 1), (8, 8, 3, 20, 5, 2, 0, 0),
    (13, 13, 24, 4, 3, 2, 1, 0), (40, 8, 3, 8, 3, 1, 1, 0),
    (25, 5, 64, 64, 1, 1, 1, 0), (16, 16, 8, 16, 1, 1, 1, 0), (12, 12, 16, 32, 1, 1, 1, 0),
    (12, 12, 32, 32, 1, 1, 1, 0), (6, 6, 128, 64, 1, 1, 1, 0), (3, 3, 256, 64, 1, 1, 1, 0),
    (8, 8, 24, 24, 1, 1, 0, 1), (8, 8, 32, 32, 1, 1, 0, 1), (7, 7, 20, 7, 1, 1, 0, 0),
    (6, 6, 48, 96, 1, 1, 0, 0), (5, 5, 16, 10, 1, 1, 1, 0), (10, 10, 40, 8, 1, 1, 1, 0),
)  # fmt: skip
_MVE_DEPTHWISE = (
    (25, 5, 8), (16, 16, 4), (12, 12, 16), (6, 6, 32), (24, 24, 2), (3, 3, 32), (10, 20, 3),
)  # fmt: skip
_MVE_DEPTHWISE_5X5 = ((8, 8, 8), (5, 9, 6), (12, 6, 16), (6, 6, 12), (10, 4, 4))
_MVE_DEPTHWISE_VALID = ((9, 9, 4), (6, 8, 16), (5, 5, 12))
_MVE_FULLY_CONNECTED = (
    (1, 64, 10), (1, 640, 128), (2, 32, 16), (1, 33, 9), (4, 12, 5), (1, 128, 8), (3, 100, 30),
    (1, 16, 64),
)  # fmt: skip
_MVE_POOLS = (
    (8, 8, 64, 8, 8), (25, 5, 64, 25, 5), (6, 6, 32, 2, 2), (9, 9, 16, 3, 3), (4, 4, 128, 4, 4),
    (8, 8, 8, 2, 2),
)  # fmt: skip


def ops() -> Iterator[tuple[str, Program]]:
    for name, content in cases():
        yield name, program_from_file(content, name)
    rng = np.random.default_rng(1)
    for kernel in ((5, 5), (1, 3), (3, 1), (7, 7), (2, 2)):
        for channels in (8, 32):
            name = f"depthwise_{kernel[0]}{kernel[1]}_{channels}"
            pair = (channels, channels)
            same = conv(rng, (9, 9), pair, kernel, depthwise=True)
            yield name, program_from_file(same, name)
            valid = conv(rng, (9, 9), pair, kernel, padding=VALID, depthwise=True)
            yield f"{name}_valid", program_from_file(valid, name)
    yield from residual_programs().items()
    yield from _products()
    for name, content in mlperf_tiny().items():
        yield f"{MODEL}{name}", program_from_file(content, name)


def _products() -> Iterator[tuple[str, Program]]:
    for number, shape in enumerate(_PRODUCTS):
        yield f"product{number}", dsp_cases.product(f"product{number}", *shape)


def _convolution(
    key: str, shape: tuple[int, ...], kernel: int | tuple[int, int], stride: int
) -> Program:
    height, width, input_c, output_c = shape
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    return dsp_cases.conv(key, (height, width, input_c), output_c, sides, (stride, stride))


def dsp_layers() -> Iterator[tuple[str, Program]]:
    for number, (*shape, kernel, stride) in enumerate(_CONVOLUTIONS):
        key = f"conv{number}"
        program = _convolution(key, tuple(shape), kernel, stride)
        yield key, program
        if number in _WITH_RESIDUAL:
            yield f"{key}_add", _with_skip(program, number)
    for number, (*size, stride) in enumerate(_DEPTHWISE):
        yield f"depthwise{number}", dsp_cases.depthwise(f"depthwise{number}", tuple(size), stride)
    for number, shape in enumerate(_FULLY_CONNECTED):
        yield f"dense{number}", dsp_cases.fully_connected(f"dense{number}", *shape)
    yield from _products()
    for number, size in enumerate([(8, 8, 8), (16, 16, 16), (3, 3, 5)]):
        yield f"add{number}", dsp_cases.add(f"add{number}", size)


def _with_skip(program: Program, seed: int) -> Program:
    """The convolution twice: its second run adds what the first made."""
    step, (image, output) = program.steps[0], program.buffers
    addition = dsp_cases.addition(np.random.default_rng(seed))
    first = replace(step, name="skip", output=2)
    second = replace(step, inputs=(0, 2), residual=addition)
    skip = replace(output, name="skip")
    return Program((image, output, skip), 0, (ProgramSegment((first, second), 1),))


def mve_layers() -> Iterator[tuple[str, Program]]:
    for number, (*shape, kernel, stride, relu, residual) in enumerate(_MVE_CONVOLUTIONS):
        key = f"conv{number}"
        program = _convolution(key, tuple(shape), kernel, stride)
        if residual:
            program = dsp_cases.with_residual(program, key)
        yield key, mve_cases.relu(program) if relu else program
    yield from _mve_depthwise()
    for number, shape in enumerate(_MVE_FULLY_CONNECTED):
        yield f"dense{number}", dsp_cases.fully_connected(f"dense{number}", *shape)
    yield from _products()
    for number, size in enumerate([(8, 8, 8), (16, 16, 16), (3, 3, 3), (5, 5, 64)]):
        yield f"add{number}", dsp_cases.add(f"add{number}", size)
    for kind in ("average", "max"):
        for number, (*size, height, width) in enumerate(_MVE_POOLS):
            key = f"{kind}{number}"
            yield key, mve_cases.pool(key, kind, tuple(size), (height, width))
    for number, extents in enumerate(
        [(1, 25, 16), (2, 64, 64), (4, 10, 32), (1, 100, 8), (3, 7, 12)]
    ):
        yield f"mean{number}", mve_cases.mean(f"mean{number}", *extents)
    for number, count in enumerate([64, 1000, 4096, 333]):
        yield f"table{number}", mve_cases.table(f"table{number}", count)


def _mve_depthwise() -> Iterator[tuple[str, Program]]:
    for stride in (1, 2):
        for number, size in enumerate(_MVE_DEPTHWISE):
            key = f"depthwise_s{stride}_{number}"
            program = dsp_cases.depthwise(key, size, stride)
            yield key, program
            yield f"{key}_relu", mve_cases.relu(program)
    for number, size in enumerate(_MVE_DEPTHWISE_5X5):
        key = f"depthwise_5x5_{number}"
        yield key, mve_cases.larger(dsp_cases.depthwise(key, size, 1))
    for number, size in enumerate(_MVE_DEPTHWISE_VALID):
        key = f"depthwise_valid_{number}"
        yield key, dsp_cases.depthwise(key, size, 1, padding=False)


def joined(parts: Iterator[tuple[str, Program]]) -> Program:
    """All programs after each other; what each reads is copied from the one input."""
    buffers = [Buffer("input", (1, INPUT_BYTES), 1.0, 0)]
    steps: list[Step] = []

    def copy(name: str, output: int, count: int) -> Copy:
        return Copy(
            name=name,
            inputs=(0,),
            output=output,
            extents=(1, 1, 1, count),
            input_start=0,
            input_strides=(0, 0, 0, 1),
            output_start=0,
            output_strides=(0, 0, 0, 1),
            fill=3,
        )

    for name, program in parts:
        base = len(buffers)
        buffers.extend(program.buffers)
        count = min(INPUT_BYTES, program.buffers[program.input].num_bytes)
        steps.append(copy(f"{name}_feed", base + program.input, count))
        steps.extend(
            replace(
                step,
                name=f"{name}_{step.name}",
                inputs=tuple(base + buffer for buffer in step.inputs),
                output=base + step.output,
            )
            for step in program.steps
        )
    buffers.append(Buffer("answer", (1,), 1.0, 0))
    steps.append(copy("answer", len(buffers) - 1, 1))
    segment = ProgramSegment(tuple(steps), len(buffers) - 1)
    return Program(tuple(buffers), 0, (segment,))
