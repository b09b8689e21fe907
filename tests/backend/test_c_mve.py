"""Packed MVE kernels on the host, under sanitizers: bit for bit what `program_reference` computes.

The host runs C in place of intrinsics and assembly; tests/device runs these.
"""

from __future__ import annotations

from pathlib import Path

import c_host
import dsp_cases
import mve_cases
import numpy as np
import program_reference
import pytest

from edgeexit.backends.c.kernels import mve


@pytest.mark.parametrize("compiler", c_host.COMPILERS)
def test_packed_kernels_on_the_host(compiler: str, tmp_path: Path) -> None:
    programs = mve_cases.programs()
    models = {key: mve_cases.make(program, key) for key, program in programs.items()}
    host = c_host.Host(models, tmp_path, compiler=compiler)
    for key, program in programs.items():
        inputs = dsp_cases.samples(program, 3)
        expected = [program_reference.logits(program, sample)[-1] for sample in inputs]
        np.testing.assert_array_equal(host.outputs(key, inputs)[-1], expected, err_msg=key)


def test_what_runs_on_packed_kernels() -> None:
    declined = {
        key
        for key, program in mve_cases.programs().items()
        if mve.offer(program.steps[-1], program, mve_cases.CORTEX_M55) is None
    }
    assert declined == mve_cases.LEFT_TO_OTHERS & set(mve_cases.programs())


def test_nothing_is_offered_to_a_core_without_mve() -> None:
    program = mve_cases.programs()["direct_c16_s1"]
    assert mve.offer(program.steps[0], program, dsp_cases.CORTEX_M4) is None
