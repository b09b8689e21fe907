"""Elementwise functions of one int8 tensor, as tables of all 256 answers.

Entry ``q + 128`` is what TFLite's reference kernel returns for ``q``. Real values are
``scale * (q - zero_point)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgeexit.backends.c.fixed_point import (
    logistic,
    rescale,
    shifted_right,
)
from edgeexit.backends.c.multipliers import INT8_MAX, INT8_MIN, factor, to_int8
from edgeexit.backends.c.program import Int8

Quantization = tuple[float, int]
"""Scale and zero point."""

_INT16_MIN, _INT16_MAX = -(2**15), 2**15 - 1
_LOGISTIC_BITS = 4


def requantized(
    source: Quantization, output: Quantization, limits: tuple[int, int] = (INT8_MIN, INT8_MAX)
) -> Int8:
    """The same real values in another scale; also RELU and RELU6, through ``limits``.

    TFLite-Micro's RELU6 does not rescale and is only right where both scales are the same; this is
    TFLite's answer.
    """
    multiplier, shift = factor(source[0] / output[0])
    _check_product(255, shift)
    return _table(
        lambda q: rescale(q - source[1], multiplier, shift) + output[1],
        limits,
    )


def relu(source: Quantization, output: Quantization, bound: float | None) -> Int8:
    """``max(0, x)``, or ``min(max(0, x), bound)``."""
    low = max(INT8_MIN, to_int8(0.0, *output))
    high = INT8_MAX if bound is None else min(INT8_MAX, to_int8(bound, *output))
    return requantized(source, output, (low, high))


def sigmoid(source: Quantization) -> Int8:
    """``1 / (1 + exp(-x))``; the output's scale is 1/256 and its zero point -128."""
    fraction, shift = math.frexp(source[0] * 2.0 ** (31 - _LOGISTIC_BITS))
    if not 0 <= shift <= 30:
        raise ValueError(f"the scale {source[0]:g} is not between 2^-27 and 8")
    multiplier = math.floor(fraction * 2**31 + 0.5)
    # Beyond it the answer is 0 or 1.
    radius = math.floor((2**_LOGISTIC_BITS - 1) * 2.0 ** (31 - _LOGISTIC_BITS) / 2**shift)

    def answer(q: int) -> int:
        value = q - source[1]
        if abs(value) >= radius:
            return INT8_MIN if value < 0 else INT8_MAX
        real = logistic(rescale(value, multiplier, shift), _LOGISTIC_BITS)
        return shifted_right(real, 31 - 8) + INT8_MIN

    return _table(answer)


def gelu(source: Quantization, output: Quantization, by_tanh: bool) -> Int8:
    """``x * P(X <= x)`` of a normal X, or its approximation by tanh; of real values, rounded once.

    TFLite-Micro has no such kernel.
    """
    inverse = np.float32(1) / np.float32(output[0])

    def answer(q: int) -> int:
        x = float(np.float32(source[0]) * np.float32(q - source[1]))
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        share = math.tanh(inner) if by_tanh else math.erf(x * math.sqrt(0.5))
        scaled = float(np.float32(0.5 * x * (1 + share)) * inverse)
        return int(math.copysign(math.floor(abs(scaled) + 0.5), scaled)) + output[1]

    return _table(answer)


def hard_swish(source: Quantization, output: Quantization) -> Int8:
    """``x * min(max(x + 3, 0), 6) / 6``, in 16 bits as the reference kernel does it."""
    with np.errstate(all="ignore"):
        fine_scale = np.float32(1 / 128) * np.float32(source[0])
        to_output = float(fine_scale / np.float32(output[0]))
        to_gate = float(fine_scale / np.float32(3 / 32768))
    output_multiplier, output_shift = factor(to_output)
    gate_multiplier, gate_shift = factor(to_gate)
    output_multiplier, gate_multiplier = _halved(output_multiplier), _halved(gate_multiplier)
    if output_shift > 0:
        raise ValueError("the output's scale is below 1/128 of the input's")

    def answer(q: int) -> int:
        fine = (q - source[1]) * 128
        result = _high_product16(fine, output_multiplier)
        gate = fine
        if gate_shift > 0:
            gate = _saturated16(gate << (gate_shift - 1))
        gate = _high_product16(gate, gate_multiplier)
        gate = _saturated16(gate << 1) if gate_shift > 0 else shifted_right(gate, -gate_shift)
        gate = (gate + 2**15) >> 1
        # This product alone rounds towards zero.
        product = gate * result
        product = -(-product >> 15) if product < 0 else product >> 15
        return shifted_right(product, -output_shift) + output[1]

    return _table(answer)


def clamp_of(table: Int8) -> tuple[int, int] | None:
    """The limits, where a table does nothing but keep values within them."""
    low, high = int(table.min()), int(table.max())
    same = np.array_equal(table, np.clip(np.arange(INT8_MIN, INT8_MAX + 1), low, high))
    return (low, high) if same else None


def _table(answer: Callable[[int], int], limits: tuple[int, int] = (INT8_MIN, INT8_MAX)) -> Int8:
    values = [answer(q) for q in range(INT8_MIN, INT8_MAX + 1)]
    return np.array([min(max(value, limits[0]), limits[1]) for value in values], np.int8)


def _check_product(bound: int, shift: int) -> None:
    if shift > 0 and bound << shift >= 2**31:
        raise ValueError("the output's scale is so much smaller that 32 bits do not suffice")


def _halved(multiplier: int) -> int:
    """A factor of 32 bits in 16."""
    if multiplier >= 2**31 - 2**15:
        return _INT16_MAX
    return (multiplier + 2**15) >> 16


def _high_product16(a: int, b: int) -> int:
    return min((a * b + (1 << 14)) >> 15, _INT16_MAX)


def _saturated16(value: int) -> int:
    return max(_INT16_MIN, min(value, _INT16_MAX))
