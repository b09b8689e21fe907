"""Raw values to int8, against the definition in exact fractions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.runtime.preprocess import Preprocessor, byte_table, quantize_input
from edgeexit.types import InputSpec, TensorSpec

RGB = TensorSpec("image", (1, 2, 3, 3), 1 / 128, 0, "NHWC")
PLAIN = InputSpec(RGB, "uint8", (128.0,), (1 / 128,), True)
PER_CHANNEL = InputSpec(
    replace(RGB, scale=0.01873, zero_point=-14), "uint8",
    (123.675, 116.28, 103.53), (0.0171, 0.0175, 0.0174), False,
)  # fmt: skip
FLOAT = InputSpec(replace(RGB, scale=0.5, zero_point=3), "float32", (1.0,), (2.0,), False)


def images(num: int = 5) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (num, 2, 3, 3), dtype=np.uint8)


def by_definition(raw: float, channel: int, spec: InputSpec) -> int:
    offset = Fraction(spec.offset[channel % len(spec.offset)])
    multiplier = Fraction(spec.multiplier[channel % len(spec.multiplier)])
    steps = round((Fraction(raw) - offset) * multiplier / Fraction(spec.tensor.scale))
    return max(-128, min(127, steps + spec.tensor.zero_point))


def test_subtraction_is_exact_for_all_values() -> None:
    raw = np.arange(256, dtype=np.uint8).repeat(18)[: 256 * 18].reshape(256, 2, 3, 3)
    assert np.array_equal(quantize_input(raw, PLAIN), (raw.astype(int) - 128).astype(np.int8))


def test_subtraction_and_the_table_agree() -> None:
    assert np.array_equal(
        quantize_input(images(), PLAIN),
        quantize_input(images(), replace(PLAIN, raw_is_subtraction=False)),
    )


@pytest.mark.parametrize("spec", [PER_CHANNEL, replace(PER_CHANNEL, offset=(7.5,))])
def test_bytes_by_definition(spec: InputSpec) -> None:
    wanted = [[by_definition(v, c, spec) for c in range(3)] for v in range(256)]
    assert byte_table(spec).tolist() == wanted
    raw = images()
    expected = np.asarray(wanted, np.int8)[raw, np.arange(3)]
    assert np.array_equal(quantize_input(raw, spec), expected)


def test_one_table_for_all_channels() -> None:
    spec = replace(PER_CHANNEL, offset=(100.0,), multiplier=(0.02,))
    expected = [by_definition(v, 0, spec) for v in images().ravel().tolist()]
    assert quantize_input(images(), spec).ravel().tolist() == expected


def test_one_table_for_all_channels_is_as_small_as_one() -> None:
    # A manifest of a few bytes may state this shape, and no artifact has been looked at.
    wide = replace(PLAIN, tensor=replace(RGB, shape=(1, 1, 1, 1 << 28)))
    assert byte_table(wide).shape == (256, 1)
    assert Preprocessor(wide).sample_shape == (1, 1, 1 << 28)


def test_floats_round_half_to_even_and_saturate() -> None:
    # real = (raw - 1) * 2, int8 = real / 0.5 + 3: a raw step of 1/8 is half an int8 step.
    raw = np.full((2, 3, 3), 1.0, np.float32)
    raw[0, 0] = [1.125, 1.375, -1e30]
    raw[0, 1] = [1e30, 0.0, 1.25]
    quantized = quantize_input(raw, FLOAT)
    assert quantized[0, :2].tolist() == [[3, 5, -128], [127, -1, 4]]
    assert quantized.dtype == np.int8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    raw = np.zeros((2, 3, 3), np.float32)
    raw[1, 2, 0] = value
    with pytest.raises(DataError, match=r"(?s)not a finite number.*image.*at \[0, 1, 2, 0\]"):
        quantize_input(raw, FLOAT)


@pytest.mark.parametrize("spec", [PLAIN, PER_CHANNEL, FLOAT])
def test_one_sample_is_the_same_as_one_of_a_batch(spec: InputSpec) -> None:
    raw = images().astype(spec.raw_dtype)
    batch = quantize_input(raw, spec)
    preprocessor = Preprocessor(spec)
    for given in (raw[2], raw[2:3], np.asfortranarray(raw[2])):
        out = np.empty((2, 3, 3), np.int8)
        preprocessor.into(given, out, out.view(np.uint8))
        assert np.array_equal(out, batch[2])
        assert np.array_equal(quantize_input(raw[2], spec), batch[2])
    # ExecuTorch's buffer: NHWC presented over NCHW memory.
    strided = np.empty((3, 2, 3), np.int8).transpose(1, 2, 0)
    preprocessor.into(raw[2], strided, strided.view(np.uint8))
    assert np.array_equal(strided, batch[2])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((2, 3, 3), np.float32), r"(?s)raw type.*array of uint8.*float32 array"),
        (np.zeros((2, 3, 3), np.int8), r"(?s)raw type.*int8 array"),
        ([[1, 2, 3]], r"(?s)raw type.*list.*numpy.asarray"),
        (np.zeros((3, 2, 3), np.uint8), r"(?s)another shape.*\[2, 3, 3\].*\[3, 2, 3\]"),
        (np.zeros((2, 2, 3, 3), np.uint8), r"(?s)another shape.*run_batch"),
        (np.zeros((), np.uint8), "another shape"),
    ],
)
def test_wrong_samples(raw: object, message: str) -> None:
    out = np.zeros((2, 3, 3), np.int8)
    with pytest.raises(DataError, match=message):
        Preprocessor(PLAIN).into(raw, out, out.view(np.uint8))


@pytest.mark.parametrize("shape", [(4, 3, 2, 3), (2, 3), (4, 2, 3, 1)])
def test_wrong_batches(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"(?s)another shape.*\[N, 2, 3, 3\]"):
        quantize_input(np.zeros(shape, np.uint8), PLAIN)


def test_an_empty_batch() -> None:
    assert quantize_input(np.zeros((0, 2, 3, 3), np.uint8), PLAIN).shape == (0, 2, 3, 3)
