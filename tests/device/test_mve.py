"""Packed MVE kernels on an emulated Cortex-M55: bit for bit what numpy computes, at counted costs.

The cases are those that tests/backend runs on the host, where C stands in for the assembly.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeexit.backends.c.chain import single_exit
from edgeexit.backends.c.emit import emit
from edgeexit.backends.c.kernels import mve, portable
from edgeexit.backends.c.plan import plan
from edgeexit.backends.c.program import Program
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import count_segments
from edgeexit.profiling.qemu.machines import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "backend"))
import dsp_cases
import mve_cases
import program_reference

pytestmark = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm", "gcc")
]


def test_packed_kernels_are_exact(tmp_path: Path) -> None:
    for key, program in mve_cases.programs().items():
        outputs, _, _ = _run(program, key, tmp_path)
        expected = [
            program_reference.logits(program, sample)[-1]
            for sample in dsp_cases.samples(program, 2)
        ]
        np.testing.assert_array_equal(outputs, expected, err_msg=key)


@pytest.mark.parametrize(
    ("key", "size", "out", "kernel", "bound"),
    [
        # Instructions for a product, of which sixteen would be one.
        ("direct", (16, 16, 32), 32, (3, 3), 0.125),
        ("first", (32, 32, 3), 16, (3, 3), 0.50),
        ("pointwise", (8, 8, 64), 64, (1, 1), 0.18),
    ],
)
def test_instructions_for_a_product(
    key: str,
    size: tuple[int, int, int],
    out: int,
    kernel: tuple[int, int],
    bound: float,
    tmp_path: Path,
) -> None:
    padding = kernel != (1, 1)
    program = mve_cases.relu(dsp_cases.conv(key, size, out, kernel, (1, 1), padding=padding))
    answering = mve_cases.c_host._with_answer(program)
    _, counted, estimate = _run(answering, key, tmp_path)
    height, width, channels = size
    macs = height * width * channels * out * kernel[0] * kernel[1]
    assert counted < bound * macs
    assert estimate == pytest.approx(counted, rel=0.1)


def _run(program: Program, key: str, folder: Path) -> tuple[np.ndarray, int, float | None]:
    """Outputs, the first layer's instructions, and what it should take."""
    core = mve_cases.CORTEX_M55
    offers = [
        mve.offer(step, program, core) or portable.offer(step, program, core)
        for step in program.steps
    ]
    implementations = tuple(each for each in offers if each is not None)
    emission = emit(program, implementations, plan(program, implementations), single_exit(key))
    (folder / key).mkdir()
    firmware = build_firmware(emission, machine("m55"), folder / key, cache=folder / "cache")
    counts, outputs = count_segments(firmware, dsp_cases.samples(program, 2))
    return outputs.logits[:, 0], int(counts.layers[0][0, 0]), implementations[0].instructions
