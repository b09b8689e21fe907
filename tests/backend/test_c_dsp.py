"""Packed DSP kernels on the host, under sanitizers: bit for bit what `program_reference` computes.

The host runs C in place of the assembly; tests/device runs the assembly.
"""

from __future__ import annotations

from pathlib import Path

import c_host
import dsp_cases
import numpy as np
import program_reference
import pytest

from edgeexit.backends.c.kernels import dsp, dsp_packing
from edgeexit.backends.c.program import Addition


@pytest.mark.parametrize("compiler", c_host.COMPILERS)
def test_packed_kernels_on_the_host(compiler: str, tmp_path: Path) -> None:
    programs = dsp_cases.programs()
    models = {key: dsp_cases.make(program, key) for key, program in programs.items()}
    host = c_host.Host(models, tmp_path, compiler=compiler)
    for key, program in programs.items():
        inputs = dsp_cases.samples(program, 3)
        expected = [program_reference.logits(program, sample)[-1] for sample in inputs]
        np.testing.assert_array_equal(host.outputs(key, inputs)[-1], expected, err_msg=key)


def test_every_case_runs_on_a_packed_kernel() -> None:
    for key, program in dsp_cases.programs().items():
        step = program.steps[-1]
        assert dsp.offer(step, program, dsp_cases.CORTEX_M4) is not None, key


def test_linear_addition_is_the_exact_one() -> None:
    values = np.arange(-128, 128)
    rng = np.random.default_rng(7)
    for _ in range(20):
        addition = dsp_cases.addition(rng)
        exact = dsp_packing.add_exactly(addition)
        one_by_one = program_reference._sum(addition, values[:, None], values[None, :])
        np.testing.assert_array_equal(exact, one_by_one)
        linear = dsp_packing.linear_addition(addition)
        assert linear is not None
        factor1, factor2, constant, shift = linear
        total = values[:, None] * factor1 + values[None, :] * factor2 + constant
        assert np.abs(total).max() < 1 << 31
        limits = addition.activation_min, addition.activation_max
        np.testing.assert_array_equal(np.clip(total >> shift, *limits), exact)


def test_linear_addition_of_ties() -> None:
    # Both ratios are 1/2: every odd sum is a tie, which the exact form rounds away from zero. A
    # factor that is a little too large does so, too.
    halves = Addition(20, 0, 1 << 30, 0, 0, 1 << 30, 0, 0, 1 << 30, -19, -128, 127)
    exact = dsp_packing.add_exactly(halves)
    assert {int(exact[128 + 1, 128]), int(exact[128 - 1, 128])} == {1, -1}
    assert dsp_packing.linear_addition(halves) is not None


def test_no_linear_addition_beyond_int32() -> None:
    steep = Addition(20, 0, 1 << 30, 0, 0, 1 << 30, 0, 0, 1 << 30, -1, -128, 127)
    assert dsp_packing.linear_addition(steep) is None


def test_short_rescaling_is_taken_only_where_it_is_exact() -> None:
    multipliers = np.array([1 << 30, (1 << 31) - 1], np.int32)
    weights = np.full((2, 4), 127, np.int8)
    for shift, bias, is_short in (
        (-1, 0, True),
        (-11, 0, True),
        (0, 0, False),
        (1, 0, False),
    ):
        shifts = np.array([-8, shift], np.int32)
        folded = np.array([0, bias])
        values = dsp_packing.rescaling(folded, weights, multipliers, shifts, -7)
        assert values is not None
        assert values.exact != is_short, (shift, bias)
        if values.exact:
            continue
        for c in range(2):
            sums = folded[c] + np.arange(-65024, 64517, 3)
            high = (2 * sums * values.multipliers[c] + (1 << 31)) >> 32
            total = high - (high < 0) + values.rounding[c]
            assert np.abs(total).max() < 1 << 31
            expected = program_reference.rescale(sums, multipliers[c], shifts[c]) - 7
            np.testing.assert_array_equal(
                np.clip(total >> values.shifts[c], -128, 127), np.clip(expected, -128, 127)
            )


def test_channels_without_weights_are_constants() -> None:
    # As training leaves them: no weights, a bias and a scale out of all proportion.
    weights = np.zeros((3, 4), np.int8)
    weights[0] = 5
    folded = np.array([100, -1073741952, 1073741824])
    multipliers = np.array([1 << 30] * 3, np.int32)
    shifts = np.array([-5, -29, -30], np.int32)
    values = dsp_packing.rescaling(folded, weights, multipliers, shifts, 3)
    assert values is not None
    assert not values.exact
    assert values.multipliers.tolist() == [1 << 30, 0, 0]
    expected = program_reference.rescale(folded[1:], multipliers[1:], shifts[1:]) + 3
    np.testing.assert_array_equal(values.rounding[1:] >> values.shifts[1:], expected)


def test_a_sum_beyond_int32_is_refused() -> None:
    weights = np.full((1, 4), 127, np.int8)
    one = np.array([1 << 30], np.int32)
    shifts = np.array([-8], np.int32)
    assert dsp_packing.rescaling(np.array([(1 << 31) - 100]), weights, one, shifts, 0) is None
