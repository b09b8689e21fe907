"""Turns scales into the integer factors that TFLite's reference kernels apply.

Whether a product of scales is taken in single or in double precision decides the last bits of a
factor, and with them bytes of the output; each function here follows one kernel's preparation.
What those kernels leave undefined (factors out of range) is a ``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeexit.backends.c import tflite_schema as schema
from edgeexit.backends.c.program import Addition

INT8_MIN, INT8_MAX = -128, 127
_ADD_SHIFT = 20
_MAX_SHIFT = 30


def factor(real: float) -> tuple[int, int]:
    """``(multiplier, shift)`` with ``real = multiplier * 2^(shift - 31)``, to the nearest.

    What is too small for 32 bits is 0.

    Raises:
        ValueError: It is not finite, negative, or 2^30 and more.
    """
    if not math.isfinite(real) or real < 0:
        raise ValueError(f"the factor {real} is not a number that integers can hold")
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < -31:
        return 0, 0
    if shift > _MAX_SHIFT:
        raise ValueError(f"the factor {real:g} is 2^{_MAX_SHIFT} or more")
    return multiplier, shift


def small_factor(real: float) -> tuple[int, int]:
    """The same for a factor that must be below one.

    Raises:
        ValueError: It is not in (0, 1).
    """
    if not 0 < real < 1:
        raise ValueError(f"the factor {real:g} is not between 0 and 1")
    multiplier, shift = factor(real)
    if shift > 0:
        raise ValueError(f"the factor {real!r} is too close to 1")
    return multiplier, shift


def window_factors(source: float, weights: Sequence[float], output: float) -> list[tuple[int, int]]:
    """For a convolution or a dense layer: all in double, one for each of the weights' scales.

    TFLite's own dense layer with one scale multiplies in single precision; TFLite-Micro's does not.
    """
    return [factor(source * weight / output) for weight in weights]


def mean_factor(source: float, output: float, count: int) -> tuple[int, int]:
    """For a mean of ``count`` values; the division by it is done in integers, rounding down."""
    multiplier, shift = factor(source / output)
    more = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << more) // count, shift - more


def addition(
    first: tuple[float, int],
    second: tuple[float, int],
    output: tuple[float, int],
    limits: tuple[int, int],
) -> Addition:
    """For (scale, zero point) of both inputs and the output: in double."""
    twice = 2.0 * max(first[0], second[0])
    multiplier1, shift1 = small_factor(first[0] / twice)
    multiplier2, shift2 = small_factor(second[0] / twice)
    output_multiplier, output_shift = small_factor(twice / ((1 << _ADD_SHIFT) * output[0]))
    return Addition(
        left_shift=_ADD_SHIFT,
        offset1=-first[1],
        multiplier1=multiplier1,
        shift1=shift1,
        offset2=-second[1],
        multiplier2=multiplier2,
        shift2=shift2,
        output_offset=output[1],
        output_multiplier=output_multiplier,
        output_shift=output_shift,
        activation_min=limits[0],
        activation_max=limits[1],
    )


def subtraction(
    first: tuple[float, int],
    second: tuple[float, int],
    output: tuple[float, int],
    limits: tuple[int, int],
) -> Addition:
    """The same for ``first - second``: the second multiplier is negated."""
    sum_of = addition(first, second, output, limits)
    return replace(sum_of, multiplier2=-sum_of.multiplier2)


def swapped(addition: Addition) -> Addition:
    """The same sum with its operands exchanged."""
    return Addition(
        left_shift=addition.left_shift,
        offset1=addition.offset2,
        multiplier1=addition.multiplier2,
        shift1=addition.shift2,
        offset2=addition.offset1,
        multiplier2=addition.multiplier1,
        shift2=addition.shift1,
        output_offset=addition.output_offset,
        output_multiplier=addition.output_multiplier,
        output_shift=addition.output_shift,
        activation_min=addition.activation_min,
        activation_max=addition.activation_max,
    )


def softmax_factor(beta: float, scale: float) -> tuple[int, int, int]:
    """``(multiplier, shift, diff_min)``; differences below ``diff_min`` count as nothing.

    Raises:
        ValueError: ``beta * scale`` is too small for the kernel.
    """
    real = min(beta * scale * (1 << 26), 2.0**31 - 1)
    if not real > 1:
        raise ValueError(f"beta * scale = {beta * scale:g} is not above 2^-26")
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    diff_min = -math.floor(31 * 2**26 / 2**shift)
    # From 2^30 on only a difference of 0 is left, of which the shift makes nothing.
    return multiplier, min(shift, _MAX_SHIFT), diff_min


def limits_of(activation: int, scale: float, zero_point: int) -> tuple[int, int]:
    """Least and greatest output of a kernel that takes an activation along.

    Raises:
        ValueError: The activation is not a ReLU, or its bound is not an integer of 32 bits.
    """
    bounds = {
        schema.ACTIVATION_NONE: (None, None),
        schema.ACTIVATION_RELU: (0.0, None),
        schema.ACTIVATION_RELU_N1_TO_1: (-1.0, 1.0),
        schema.ACTIVATION_RELU6: (0.0, 6.0),
    }.get(activation)
    if bounds is None:
        raise ValueError(f"the activation {activation} is not NONE, RELU, RELU_N1_TO_1 or RELU6")
    low, high = (None if bound is None else to_int8(bound, scale, zero_point) for bound in bounds)
    return (
        INT8_MIN if low is None else max(INT8_MIN, low),
        INT8_MAX if high is None else min(INT8_MAX, high),
    )


def to_int8(value: float, scale: float, zero_point: int) -> int:
    """A real number in steps of ``scale``, not clamped: single precision, halves away from zero."""
    with np.errstate(all="ignore"):
        steps = float(np.float32(value) / np.float32(scale))
    if not abs(steps) < 2**31:
        raise ValueError(f"{value} is not an integer of 32 bits in steps of {scale:g}")
    return zero_point + int(math.copysign(math.floor(abs(steps) + 0.5), steps))
