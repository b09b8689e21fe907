"""Which kernel set runs a step, and what plain C makes of loops."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeexit.backends.c import select
from edgeexit.backends.c.kernels import dsp, mve, portable
from edgeexit.backends.c.kernels.base import Core, Implementation, KernelSet, Struct
from edgeexit.backends.c.program import Buffer, Conv2D, Program, ProgramSegment, Table
from edgeexit.errors import ArgumentError

CORE = Core("m4", dsp=True, mve=False, cost="m4")
STEP = Table(name="table", inputs=(0,), output=1, table=np.zeros(256, np.int8))
PROGRAM = Program(
    (Buffer("a", (4,), 1.0, 0), Buffer("b", (4,), 1.0, 0)), 0, (ProgramSegment((STEP,), 1),)
)
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Kernel sets that offer everything for this many instructions, or nothing (``no``)."""

    def put(**instructions: float | str | None) -> None:
        modules = []
        for name, count in instructions.items():

            def offer(
                step: object, program: Program, core: Core, name: str = name, count: object = count
            ) -> Implementation | None:
                if count == "no":
                    return None
                assert count is None or isinstance(count, float)
                return Implementation(name, f"f_{name}", Struct("s", {}), 0, (), (), count)

            modules.append(types.SimpleNamespace(NAME=name, offer=offer))
        monkeypatch.setattr(select, "_MODULES", tuple(modules))

    return put


def chosen(**options: object) -> tuple[str, str]:
    (choice,) = select.choose(PROGRAM, CORE, **options)  # type: ignore[arg-type]
    return choice.implementation.kernel_set, choice.reason


def test_the_cheapest_is_taken_and_says_by_how_much(install: Install) -> None:
    install(portable=90.0, cmsis_nn=30.0, packed=40.0)
    assert chosen(cmsis_nn=Path(".")) == ("cmsis_nn", "30 instructions, the next one 40")
    assert chosen() == ("packed", "40 instructions, the next one 90")
    assert chosen(kernel_sets=("portable",)) == ("portable", "the only offer")


def test_the_more_special_one_is_taken_where_counts_are_equal(install: Install) -> None:
    install(portable=40.0, packed=40.0)
    assert chosen()[0] == "packed"


def test_counts_are_not_compared_with_guesses(install: Install) -> None:
    install(portable=10.0, packed=None)
    assert chosen() == ("packed", "the most specialised; not all offers have been counted")


def test_plain_c_stands_in_and_says_so(install: Install) -> None:
    install(portable=None, packed="no")
    assert chosen(kernel_sets=("packed",)) == ("portable", "not offered by packed")
    assert chosen(kernel_sets=("cmsis_nn",)) == ("portable", "no other set is at hand")


def test_a_set_that_does_not_exist() -> None:
    with pytest.raises(ArgumentError, match=r"no such kernel set[\s\S]*'fast'"):
        select.choose(PROGRAM, CORE, kernel_sets=("fast",))


def window_of(height: int, channels: int) -> Program:
    """A convolution with a single window, which is the image."""
    step = Conv2D(
        name="conv",
        inputs=(0,),
        output=1,
        weights=np.zeros((1, height, 1, channels), np.int8),
        bias=np.zeros(1, np.int32),
        multipliers=np.full(1, 1 << 30, np.int32),
        shifts=np.full(1, -1, np.int32),
        input_offset=0,
        output_offset=0,
        activation_min=-128,
        activation_max=127,
    )
    buffers = (Buffer("x", (1, height, 1, channels), 1.0, 0), Buffer("y", (1, 1, 1, 1), 1.0, 0))
    return Program(buffers, 0, (ProgramSegment((step,), 1),))


@pytest.mark.parametrize(
    ("kernel_set", "largest", "too_large"),
    [(dsp, (1, 65532), (1, 65533)), (mve, (16, 65535), (17, 65535))],
)
def test_a_window_that_16_bits_cannot_count_is_left_to_others(
    kernel_set: KernelSet, largest: tuple[int, int], too_large: tuple[int, int]
) -> None:
    core = Core("m55", dsp=True, mve=True, cost="m55")
    for size, is_offered in ((largest, True), (too_large, False)):
        program = window_of(*size)
        offer = kernel_set.offer(program.steps[0], program, core)
        assert (offer is not None) == is_offered
        assert portable.offer(program.steps[0], program, core) is not None


@pytest.mark.parametrize(
    ("extents", "strides", "merged"),
    [
        ((2, 3, 4, 5), ((60, 20, 5, 1), (60, 20, 5, 1)), (1, 1, 1, 120)),
        ((2, 3, 4, 5), ((60, 20, 5, 1), (0, 0, 0, 1)), (1, 1, 24, 5)),
        ((2, 3, 4, 5), ((60, 20, 5, 1), (0, 0, 0, 0)), (1, 1, 1, 120)),
        ((2, 3, 4, 5), ((60, 20, 5, 1), (3, 1, 0, 0)), (1, 1, 6, 20)),
        ((1, 1, 1, 1), ((7, 7, 7, 7), (0, 0, 0, 0)), (1, 1, 1, 1)),
        ((2, 3, 4, 5), ((1, 2, 6, 24), (60, 20, 5, 1)), (2, 3, 4, 5)),
        ((4, 1, 5, 1), ((-5, 9, -1, 3), (5, 0, 1, 0)), (1, 1, 1, 20)),
    ],
)
def test_loops_are_merged_without_another_order(
    extents: tuple[int, ...], strides: tuple[tuple[int, ...], ...], merged: tuple[int, ...]
) -> None:
    def places(extents: list[int], strides: list[list[int]]) -> list[tuple[int, ...]]:
        turns = itertools.product(*map(range, extents))
        return [
            tuple(sum(i * s for i, s in zip(turn, row, strict=True)) for row in strides)
            for turn in turns
        ]

    loops, steps = portable.merge_dimensions(extents, *strides)
    assert tuple(loops) == merged
    assert places(loops, steps) == places(list(extents), [list(row) for row in strides])


def test_the_bias_takes_up_the_zero_point_modulo_2_to_the_32() -> None:
    bias = np.array([5, (1 << 31) - 1, -(1 << 31)], np.int32)
    sums = np.array([10, 1, -1], np.int64)
    folded = portable.fold_input_offset(bias, 3, sums)
    assert folded.tolist() == [35, -(1 << 31) + 2, (1 << 31) - 3]
