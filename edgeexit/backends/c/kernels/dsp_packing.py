"""Layouts and constants of the packed DSP kernels; ``ee_kernels_dsp.h`` says what they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.program import Addition, Int8, Int32

_CHANNELS = 4
"""Output channels in a block."""


def pack_int8(weights: Int8) -> Int8:
    """Weights as ``weights8``.

    Args:
        weights: int8 [out_channels, elements].

    Returns:
        int8 [blocks * depth / 4 * 4 * 4], zeros where channels or elements are missing.
    """
    channels, elements = weights.shape
    padded = np.zeros((round_up(channels, _CHANNELS), round_up(elements, 4)), np.int8)
    padded[:channels, :elements] = weights
    blocks = padded.reshape(-1, _CHANNELS, padded.shape[1] // 4, 4)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(-1)


def widen(packed: Int8) -> NDArray[np.int16]:
    """``weights16`` from ``weights8``: of four elements, 0 and 2 come first, then 1 and 3."""
    fours = packed.reshape(-1, _CHANNELS, 2, 2).astype(np.int16)
    return np.ascontiguousarray(fours.transpose(0, 3, 1, 2)).reshape(-1)


def fold_bias(
    bias: Int32, weights: NDArray[np.integer[Any]], input_offset: int
) -> NDArray[np.int64]:
    """The bias of a layer that multiplies bare inputs.

    Args:
        bias: int32 [out_channels].
        weights: int [out_channels, elements].
        input_offset: The negated zero point of the input.
    """
    return np.asarray(bias.astype(np.int64) + input_offset * weights.sum(axis=1, dtype=np.int64))


@dataclass(frozen=True)
class Rescaling:
    """How sums become outputs: int64 [out_channels] each.

    ``exact``: TFLite's multiplier, shift and output offset. Otherwise what ``ee_kernels_dsp.h``
    describes; ``rounding`` has the output offset in it.
    """

    bias: NDArray[np.int64]
    multipliers: NDArray[np.int64]
    rounding: NDArray[np.int64]
    shifts: NDArray[np.int64]
    exact: bool


def rescaling(
    folded: NDArray[np.int64],
    weights: NDArray[np.integer[Any]],
    multipliers: Int32,
    shifts: Int32,
    output_offset: int,
) -> Rescaling | None:
    """The short rescaling where it is TFLite's to the bit, else the exact one.

    Doubling a sum and taking the rounded high word of its product is TFLite's doubling high
    multiplication as long as twice the sum is an int32. What is added before the last shift is half
    of its unit and the output's zero point in that unit, which the shift carries over unchanged. At
    shift 0 nothing is rounded, so there is no short form.

    A channel whose output is the same for all inputs, as those are that training has left without
    weights, gets the multiplier 0, because its scale may be anything.

    Args:
        folded: From ``fold_bias``.
        weights: int8 [out_channels, elements].
        multipliers: int32 [out_channels], as in ``program.py``.
        shifts: int32 [out_channels], as in ``program.py``.
        output_offset: The output's zero point.

    Returns:
        None where a sum may not be an int32.
    """
    wide = weights.astype(np.int64)
    least = folded + np.minimum(-128 * wide, 127 * wide).sum(axis=1)
    most = folded + np.maximum(-128 * wide, 127 * wide).sum(axis=1)
    largest = np.abs(folded) + 128 * np.abs(wide).sum(axis=1)
    factors, signed = multipliers.astype(np.int64), shifts.astype(np.int64)
    lowest = _output(least, factors, signed, output_offset)
    is_constant = lowest == _output(most, factors, signed, output_offset)
    is_constant &= (factors >= 0) & (largest << np.maximum(signed, 0) < 1 << 31)
    right = np.where(is_constant, 1, -signed)
    rounding = np.where(
        is_constant, 1 + 2 * lowest, (1 << np.maximum(right - 1, 0)) + (output_offset << abs(right))
    )
    is_short = is_constant | (
        (right >= 1) & (factors >= 0) & (largest < 1 << 30) & (abs(rounding) + largest < 1 << 31)
    )
    if is_short.all():
        return Rescaling(
            bias=np.where(is_constant & (largest >= 1 << 30), 0, folded),
            multipliers=np.where(is_constant, 0, factors),
            rounding=rounding,
            shifts=right,
            exact=False,
        )
    if largest.max() >= 1 << 31:
        return None
    return Rescaling(folded, factors, np.full_like(folded, output_offset), signed, exact=True)


def product_rounding(
    depth: int, offset1: int, multiplier: int, shift: int, output_offset: int
) -> int | None:
    """What the short rescaling adds before its shift, for a product of two computed matrices.

    Its second operand is widened with its offset in it; the first one's goes into the bias.

    Returns:
        None where the short rescaling could differ from TFLite's.
    """
    largest = depth * 255 * (128 + abs(offset1))
    if shift > -1 or multiplier < 0 or largest >= 1 << 30:
        return None
    rounding = (1 << (-shift - 1)) + (output_offset << -shift)
    return rounding if abs(rounding) + largest < 1 << 31 else None


def _output(
    sums: NDArray[np.int64],
    multipliers: NDArray[np.int64],
    shifts: NDArray[np.int64],
    output_offset: int,
) -> NDArray[np.int64]:
    """What sums become, kept within int8: the more, the larger, if nothing overflows."""
    high = ((sums << np.maximum(shifts, 0)) * multipliers + (1 << 30)) >> 31
    right = np.maximum(-shifts, 0)
    half = np.where(right > 0, 1 << np.maximum(right - 1, 0), 0)
    rounded = (high - ((high < 0) & (right > 0)) + half) >> right
    return np.asarray(np.clip(rounded + output_offset, -128, 127))


def pack_channels(values: Rescaling) -> Int32:
    """``channels`` of a convolution: int32 [blocks * 16], zeros where channels are missing."""
    channels = values.bias.shape[0]
    count = round_up(channels, _CHANNELS)
    bias = np.zeros(count, np.int64)
    bias[:channels] = values.bias
    rescale = np.zeros((count, 3), np.int64)
    rescale[:channels] = np.stack((values.multipliers, values.rounding, values.shifts), axis=1)
    blocks = np.concatenate((bias.reshape(-1, 4), rescale.reshape(-1, 12)), axis=1)
    return np.asarray(blocks.reshape(-1).astype(np.int32))


def add_exactly(addition: Addition) -> NDArray[np.int64]:
    """All results of an addition: int64 [256, 256], for inputs -128 to 127 each."""
    values = np.arange(-128, 128, dtype=np.int64)
    a = (values + addition.offset1) << addition.left_shift
    b = (values + addition.offset2) << addition.left_shift
    a = _rescale(a, addition.multiplier1, addition.shift1)
    b = _rescale(b, addition.multiplier2, addition.shift2)
    total = _rescale(a[:, None] + b[None, :], addition.output_multiplier, addition.output_shift)
    return np.clip(total + addition.output_offset, addition.activation_min, addition.activation_max)


def linear_addition(addition: Addition) -> tuple[int, int, int, int] | None:
    """Constants with which one rounding gives what TFLite's three do, for all pairs of inputs.

    Every pair bounds the constant term from one side or both; factors near the real ones are tried
    until some constant satisfies all 65,536 pairs.

    Returns:
        ``(factor1, factor2, constant, shift)`` such that ``(a * factor1 + b * factor2 + constant)
        >> shift``, clamped, is the addition and never leaves int32; None if none was found.
    """
    exact = add_exactly(addition)
    scale = math.ldexp(addition.output_multiplier, addition.output_shift - 62 + addition.left_shift)
    real1 = math.ldexp(addition.multiplier1, addition.shift1) * scale
    real2 = math.ldexp(addition.multiplier2, addition.shift2) * scale
    start = real1 * addition.offset1 + real2 * addition.offset2 + addition.output_offset
    largest = 129 * (abs(real1) + abs(real2)) + abs(start) + 2
    shift = min(30, math.floor(31 - math.log2(largest)))
    if shift < 8:
        return None
    values = np.arange(-128, 128, dtype=np.int64)
    # What is clamped may lie anywhere beyond the limit.
    far = 1 << 40
    low = np.where(exact > addition.activation_min, exact << shift, -far)
    high = np.where(exact < addition.activation_max, ((exact + 1) << shift) - 1, far)
    factor1 = round(math.ldexp(real1, shift))
    factor2 = round(math.ldexp(real2, shift))
    for change1, change2 in _NEAR:
        line = (factor1 + change1) * values[:, None] + (factor2 + change2) * values[None, :]
        least = int((low - line).max())
        most = int((high - line).min())
        if least > most:
            continue
        constant = (least + most) // 2 if most < far // 2 and least > -far // 2 else None
        if constant is None or int(np.abs(line + constant).max()) >= 1 << 31:
            continue
        return factor1 + change1, factor2 + change2, constant, shift
    return None


def round_up(value: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-value // unit) * unit


def _rescale(values: NDArray[np.int64], multiplier: int, shift: int) -> NDArray[np.int64]:
    # A negative factor (of a subtraction) is the positive one, negated when all is rounded.
    high = ((values << max(shift, 0)) * abs(multiplier) + (1 << 30)) >> 31
    if shift < 0:
        high = (high - (high < 0) + (1 << (-shift - 1))) >> -shift
    return -high if multiplier < 0 else high


_NEAR = sorted(
    ((i, j) for i in range(-24, 25) for j in range(-24, 25)), key=lambda c: abs(c[0]) + abs(c[1])
)
"""Changes of the two factors, the smallest first."""
