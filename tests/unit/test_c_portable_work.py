"""What plain C kernels do is counted as they do it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeexit.backends.c.kernels import portable
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.kernels.costs import Work, load_costs
from edgeexit.backends.c.kernels.portable_work import amounts
from edgeexit.backends.c.program import Buffer, Conv2D, Program, ProgramSegment

Pair = tuple[int, int]


def program(kernel: Pair, stride: Pair, dilation: Pair, pad: Pair, output: Pair) -> Program:
    step = Conv2D(
        name="conv",
        inputs=(0,),
        output=1,
        weights=np.zeros((6, *kernel, 3), np.int8),
        bias=np.zeros(6, np.int32),
        multipliers=np.full(6, 1 << 30, np.int32),
        shifts=np.zeros(6, np.int32),
        input_offset=0,
        output_offset=0,
        activation_min=-128,
        activation_max=127,
        stride=stride,
        dilation=dilation,
        pad_top=pad[0],
        pad_left=pad[1],
    )
    buffers = (Buffer("in", (1, 7, 6, 3), 1.0, 0), Buffer("out", (1, *output, 6), 1.0, 0))
    return Program(buffers, 0, (ProgramSegment((step,), 1),))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "pad", "output"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), (7, 6)),
        ((2, 5), (2, 3), (1, 1), (0, 2), (4, 2)),
        ((3, 2), (1, 2), (3, 2), (3, 1), (7, 3)),
    ],
)
def test_a_convolution(kernel: Pair, stride: Pair, dilation: Pair, pad: Pair, output: Pair) -> None:
    inside = clipped = row_calls = 0
    for y, x in itertools.product(*map(range, output)):
        taps = [
            (i, j)
            for i, j in itertools.product(*map(range, kernel))
            if 0 <= y * stride[0] - pad[0] + i * dilation[0] < 7
            and 0 <= x * stride[1] - pad[1] + j * dilation[1] < 6
        ]
        inside += len(taps)
        clipped += len(taps) < kernel[0] * kernel[1]
        row_calls += len(taps) if dilation[1] > 1 else len({i for i, _ in taps})
    pixels = output[0] * output[1]
    chain = program(kernel, stride, dilation, pad, output)
    assert amounts(chain.steps[0], chain) == {
        "products_by_four": inside * 3,
        "products": inside * 3 * 2,
        "runs_by_four": row_calls,
        "runs": row_calls * 2,
        "blocks": pixels * 3,
        "pixels": pixels,
        "weights_outside": (pixels * kernel[0] * kernel[1] - inside) * 3 * 6,
        "windows_outside": clipped * 6,
        "outputs": pixels * 6,
        "additions": 0,
    }


def test_only_cores_that_were_counted_have_a_cost() -> None:
    chain = program((3, 3), (1, 1), (1, 1), (1, 1), (7, 6))
    for cost in (*load_costs()["portable"], "generic"):
        core = Core(cost, dsp=False, mve=False, cost=cost)
        given = portable.offer(chain.steps[0], chain, core).instructions
        assert (given is None) == (cost == "generic")


def test_work_that_was_not_counted_has_no_cost() -> None:
    core = Core("cortex-m4", dsp=True, mve=False, cost="m4")
    weights = load_costs()["portable"]["m4"]["Mean"]
    known = {"values": 7, "outputs": 2}
    expected = weights["calls"] + 7 * weights["values"] + 2 * weights["outputs"]
    assert Work("portable", "Mean", known).instructions(core) == pytest.approx(expected)
    assert Work("portable", "Mean", known | {"other": 0}).instructions(core) is not None
    assert Work("portable", "Mean", known | {"other": 1}).instructions(core) is None
    assert Work("portable", "Median", known).instructions(core) is None
    assert Work("other", "Mean", known).instructions(core) is None


def test_every_cost_is_a_number_that_is_not_negative() -> None:
    costs = load_costs()
    assert costs.keys() == {"portable", "cmsis_nn", "dsp", "mve"}
    for cores in costs.values():
        for functions in cores.values():
            for weights in functions.values():
                assert min(weights.values()) >= 0
                assert max(weights.values()) > 0
