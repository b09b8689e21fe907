"""Raw samples to the int8 tensor that the first segment takes.

    real = (raw - offset) * multiplier          offset, multiplier: one number, or one per channel
    int8 = clip(round(real / scale) + zero_point, -128, 127)       round half to even, float64

Where the scale allows it (``InputSpec.raw_is_subtraction``) all of this is ``uint8 - 128``, which
is the same byte with its top bit turned over: no float is touched. Other uint8 input goes through
a table of 256 bytes for each channel, made by the formula above, so that every uint8 model is
integer arithmetic when it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.types import InputSpec

# An array, for numpy takes a microsecond to turn an int or a numpy scalar into one.
_TOP_BIT = np.array(128, np.uint8)


class Preprocessor:
    """Turns raw samples of one model into its int8 input; made once, used for each sample.

    Args:
        spec: The input as the manifest describes it.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self.sample_shape = spec.tensor.shape[1:]
        self.dtype = np.dtype(spec.raw_dtype)
        self._one = spec.tensor.shape
        self._table = byte_table(spec) if spec.raw_dtype == "uint8" else None
        self._channels = np.arange(0 if self._table is None else self._table.shape[1])
        # One table for all channels is what bytes.translate does, ten times as fast as an index.
        self._translation: bytes | None = None
        if self._table is not None and (self._table == self._table[:, :1]).all():
            self._translation = self._table[:, 0].tobytes()

    def into(self, raw: Any, out: NDArray[np.int8], out_bytes: NDArray[np.uint8]) -> None:
        """Writes one quantized sample.

        Args:
            raw: [H, W, C] or [1, H, W, C], of the raw dtype.
            out: int8 [H, W, C], any strides.
            out_bytes: The same memory as uint8.

        Raises:
            DataError: If ``raw`` has another type, dtype or shape, or has a value that is not
                finite.
        """
        if type(raw) is not np.ndarray or raw.dtype != self.dtype:
            raw = self._checked_dtype(raw)
        if raw.shape != self.sample_shape:
            if raw.shape != self._one:
                raise self._wrong_shape(raw, "")
            raw = raw[0]
        if self.spec.raw_is_subtraction:
            np.bitwise_xor(raw, _TOP_BIT, out_bytes)
        else:
            out[...] = self._affine(raw)

    def batch(self, raw: Any) -> NDArray[np.int8]:
        """Quantizes samples.

        Args:
            raw: [N, H, W, C], of the raw dtype.

        Returns:
            int8 [N, H, W, C].

        Raises:
            DataError: As ``into``.
        """
        raw = self._checked_dtype(raw)
        if raw.shape[1:] != self.sample_shape or raw.ndim != len(self._one):
            raise self._wrong_shape(raw, "N, ")
        if self.spec.raw_is_subtraction:
            turned: NDArray[np.uint8] = np.bitwise_xor(raw, _TOP_BIT)
            return turned.view(np.int8)
        return self._affine(raw)

    def _affine(self, raw: NDArray[Any]) -> NDArray[np.int8]:
        if self._translation is not None:
            translated = raw.tobytes().translate(self._translation)
            return np.frombuffer(translated, np.int8).reshape(raw.shape)
        if self._table is not None:
            looked_up: NDArray[np.int8] = self._table[raw, self._channels]
            return looked_up
        if not np.isfinite(raw).all():
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(raw))[0])
            raise DataError(
                "a sample has a value that is not a finite number",
                wanted="finite values",
                given=f"{raw[bad]} at {list(bad)}",
                where=f"input {self.spec.tensor.name}",
            )
        return _quantize(raw.astype(np.float64), self.spec)

    def _checked_dtype(self, raw: Any) -> NDArray[Any]:
        given = f"{raw.dtype} array" if isinstance(raw, np.ndarray) else type(raw).__name__
        if not isinstance(raw, np.ndarray) or raw.dtype != self.dtype:
            raise DataError(
                "a sample is not of the model's raw type",
                wanted=f"a numpy array of {self.dtype}",
                given=given,
                where=f"input {self.spec.tensor.name}",
                hint=f"pass the raw values, numpy.asarray(x, numpy.{self.dtype}); "
                "the bundle holds the preprocessing",
            )
        return np.asarray(raw)

    def _wrong_shape(self, raw: NDArray[Any], batch: str) -> DataError:
        shape = ", ".join(str(size) for size in self.sample_shape)
        return DataError(
            "a sample has another shape than the model's input",
            wanted=f"[{batch}{shape}]",
            given=list(raw.shape),
            where=f"input {self.spec.tensor.name}",
            hint="images are height, width, channels; run_batch takes several of them"
            if not batch
            else "images are number, height, width, channels",
        )


def quantize_input(raw: Any, spec: InputSpec) -> NDArray[np.int8]:
    """Quantizes one sample or several.

    Args:
        raw: uint8 or float32 (as ``spec.raw_dtype`` says), [H, W, C] or [N, H, W, C].
        spec: The input as the manifest describes it.

    Returns:
        int8 of the same shape.

    Raises:
        DataError: If ``raw`` has another type, dtype or shape, or a value that is not finite.
    """
    preprocessor = Preprocessor(spec)
    if isinstance(raw, np.ndarray) and raw.shape == preprocessor.sample_shape:
        one: NDArray[np.int8] = preprocessor.batch(raw[None])[0]
        return one
    return preprocessor.batch(raw)


def byte_table(spec: InputSpec) -> NDArray[np.int8]:
    """What each uint8 value becomes: int8 [256, C], or [256, 1] where one number is for all."""
    return _quantize(np.arange(256.0)[:, np.newaxis], spec)


def _quantize(raw: NDArray[np.float64], spec: InputSpec) -> NDArray[np.int8]:
    real = (raw - np.asarray(spec.offset)) * np.asarray(spec.multiplier)
    steps = np.rint(real / spec.tensor.scale) + spec.tensor.zero_point
    values: NDArray[np.int8] = np.clip(steps, -128, 127).astype(np.int8)
    return values
