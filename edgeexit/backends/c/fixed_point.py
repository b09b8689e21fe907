"""The integer arithmetic of TFLite's reference kernels, on Python's integers.

``rescale`` is what ``(multiplier, shift)`` stand for everywhere in a ``Program``. Where Q is
mentioned, numbers are 32-bit fixed point: Q5.26 has 5 integer and 26 fractional bits.

Source: exponential and reciprocal as in gemmlowp's fixedpoint (Jacob and Warden 2015), on which the
reference kernels build: a Taylor series around -1/8, a factor for each bit of the rest; Newton's
division from 48/17 - 32/17 x.
"""

from __future__ import annotations

_INT32_MAX = 2**31 - 1
_EXP_MINUS_ONE_EIGHTH = 1895147668  # Q0.31
_ONE_THIRD = 715827883  # Q0.31
_EXP_OF_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)  # exp(-2^k) in Q0.31
_48_OVER_17, _32_OVER_17 = 1515870810, 1010580540  # Q2.29


def wrapped(value: int) -> int:
    """To 32 bits, as a machine does."""
    return (value + 2**31) % 2**32 - 2**31


def high_product(a: int, b: int) -> int:
    """``a * b / 2^31``, halves up, saturated: two Q0.31 numbers multiplied."""
    return min((a * b + (1 << 30)) >> 31, _INT32_MAX)


def shifted_right(value: int, amount: int) -> int:
    """``value / 2^amount``, halves away from zero."""
    if amount == 0:
        return value
    half = 1 << (amount - 1)
    return (value + half) >> amount if value >= 0 else -((-value + half) >> amount)


def rescale(value: int, multiplier: int, shift: int) -> int:
    """``value * multiplier * 2^(shift - 31)``, rounded twice.

    A negative multiplier, of a subtraction, negates the result and not the factor: halves of the
    first rounding then go down.
    """
    product = high_product(wrapped(value << max(shift, 0)), abs(multiplier))
    result = shifted_right(product, max(-shift, 0))
    return -result if multiplier < 0 else result


def exponential(value: int, integer_bits: int) -> int:
    """The exponential of a number that is not positive, with so many integer bits, in Q0.31."""
    if value == 0:
        return _INT32_MAX
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    in_quarter = (value & (quarter - 1)) - quarter
    x = (in_quarter << integer_bits) + (1 << 28)
    x2 = high_product(x, x)
    x3, x4 = high_product(x2, x), high_product(x2, x2)
    series = shifted_right(high_product(shifted_right(x4, 2) + x3, _ONE_THIRD) + x2, 1)
    result = _EXP_MINUS_ONE_EIGHTH + high_product(_EXP_MINUS_ONE_EIGHTH, x + series)
    rest = in_quarter - value
    for exponent, power in _EXP_OF_POWERS:
        if integer_bits > exponent and rest & (1 << (fractional_bits + exponent)):
            result = high_product(result, power)
    return result


def reciprocal_of_one_plus(value: int) -> int:
    """``1 / (1 + value)`` for 0 to 1, both in Q0.31."""
    total = value + _INT32_MAX
    half_denominator = (total + 1) // 2
    x = _48_OVER_17 + high_product(half_denominator, -_32_OVER_17)
    for _ in range(3):
        error = (1 << 29) - high_product(half_denominator, x)
        # Q2.29 times Q2.29 is Q4.27.
        x += saturated(high_product(x, error) << 2)
    return saturated(x << 1)


def saturated(value: int) -> int:
    """Into 32 bits."""
    return max(-(2**31), min(value, _INT32_MAX))


def logistic(value: int, integer_bits: int) -> int:
    """``1 / (1 + exp(-value))`` in Q0.31."""
    if value == 0:
        return 1 << 30
    result = reciprocal_of_one_plus(exponential(-abs(value), integer_bits))
    return result if value > 0 else _INT32_MAX - result
