"""Convolutions with a single window become dense layers.

A linear layer comes as a convolution of one position wherever its file has no dense layer with a
scale for each channel. Sums and roundings are the same; the kernels of dense layers need less
scratch and fewer instructions, since they make no windows and no tiles of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.backends.c.lowering import Value
from edgeexit.backends.c.program import Conv2D, FullyConnected, Step, to_rank_4


def windows_to_dense(
    segments: Sequence[Sequence[Step]], values: Sequence[Value]
) -> list[list[Step]]:
    """The steps of a chain, with dense layers for convolutions whose only window is the input."""
    return [
        [
            _dense(step) if isinstance(step, Conv2D) and _is_whole(step, values) else step
            for step in steps
        ]
        for steps in segments
    ]


def _is_whole(step: Conv2D, values: Sequence[Value]) -> bool:
    _, *size, _ = to_rank_4(values[step.inputs[0]].shape)
    _, *places, _ = to_rank_4(values[step.output].shape)
    return (
        places == [1, 1]
        and size == list(step.weights.shape[1:3])
        and (step.pad_top, step.pad_left) == (0, 0)
        and step.dilation == (1, 1)
        and step.residual is None
    )


def _dense(step: Conv2D) -> FullyConnected:
    factors = set(zip(step.multipliers.tolist(), step.shifts.tolist(), strict=True))
    return FullyConnected(
        name=step.name,
        inputs=step.inputs,
        output=step.output,
        macs=step.macs,
        weights=step.weights.reshape(step.weights.shape[0], -1),
        bias=step.bias,
        multipliers=step.multipliers,
        shifts=step.shifts,
        per_tensor=len(factors) == 1,
        input_offset=step.input_offset,
        output_offset=step.output_offset,
        activation_min=step.activation_min,
        activation_max=step.activation_max,
    )
