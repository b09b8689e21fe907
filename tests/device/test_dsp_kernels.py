"""Packed DSP kernels in assembly, on emulated cores: bit for bit what numpy computes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "backend"))

import dsp_cases
import program_reference

from edgeexit.backends.c.kernels import dsp
from edgeexit.backends.c.kernels.base import Core
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import count_segments
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.run import run_firmware

pytestmark = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is missing")
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm")
]


@pytest.mark.parametrize("core", ["m4", "m7", "m33"])
def test_packed_kernels_on_a_core(core: str, tmp_path: Path) -> None:
    cases = dsp_cases.programs()
    program, chain = dsp_cases.merged(cases)
    model = dsp_cases.make(program, "merged", chain)
    firmware = build_firmware(model.emission, machine(core), tmp_path)
    inputs = dsp_cases.samples(program, 2)
    outputs = run_firmware(firmware, inputs)
    for sample, answers in zip(inputs, outputs.logits, strict=True):
        expected = program_reference.logits(program, sample)
        for key, one, answer in zip(cases, expected, answers, strict=True):
            np.testing.assert_array_equal(answer, one, err_msg=key)


@pytest.mark.parametrize("optimize", ["-O0", "-Os", "-O2"])
def test_any_optimization_will_do(optimize: str, tmp_path: Path) -> None:
    cases = {
        key: program
        for key, program in dsp_cases.programs().items()
        if key in ("conv_int8_weights", "conv_odd_channels", "add_conv_16", "dw_8_odd", "dw_s2")
    }
    program, chain = dsp_cases.merged(cases)
    model = dsp_cases.make(program, "merged", chain)
    firmware = build_firmware(model.emission, machine("m4"), tmp_path, flags=(optimize,))
    inputs = dsp_cases.samples(program, 2)
    answers = run_firmware(firmware, inputs).logits
    expected = [program_reference.logits(program, sample) for sample in inputs]
    np.testing.assert_array_equal(answers, expected)


@pytest.mark.parametrize(
    ("size", "out", "most"),
    [((16, 16, 16), 16, 1.0), ((8, 8, 64), 64, 1.2), ((8, 8, 32), 32, 0.95)],
)
def test_costs_are_what_is_counted(
    size: tuple[int, int, int], out: int, most: float, tmp_path: Path
) -> None:
    program = dsp_cases.conv("conv", size, out, (3, 3), (1, 1))
    model = dsp_cases.make(program, "conv")
    firmware = build_firmware(model.emission, machine("m4"), tmp_path)
    counts, _ = count_segments(firmware, dsp_cases.samples(program, 1))
    counted = int(counts.layers[0][0][0])
    assert counted < most * size[0] * size[1] * size[2] * out * 9
    step = program.steps[0]
    offer = dsp.offer(step, model.program, Core("cortex-m4", dsp=True, mve=False, cost="m4"))
    assert offer is not None
    assert offer.instructions == pytest.approx(counted, rel=0.05)
