"""What a ``.tflite`` file says, as plain data: no offset, no flatbuffer, nothing left to check.

``reader.read_model`` makes it from bytes that nobody vouches for; the passes after it may rely on
every index being in range, every constant having exactly the bytes of its shape, and every operator
coming after those whose results it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TfliteTensor:
    """One tensor.

    ``scales`` is empty (not quantized), has one number, or one for each index along ``axis``; each
    is a float32. ``zero_points`` has as many. Real value = ``scale * (q - zero_point)``.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0
    data: NDArray[Any] | None = None
    """Values of a constant, of ``shape``, read-only; None for what is computed or given."""

    @property
    def num_elements(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"tensor {self.name!r} ({self.dtype.name} {list(self.shape)})"


@dataclass(frozen=True, eq=False)
class TfliteOperator:
    """One operator; ``inputs`` and ``outputs`` are indices of tensors, -1 for an absent input.

    ``attributes`` has the fields of the op's options under the schema's names, for those kinds that
    ``tflite_schema.OPTIONS`` knows; fields that the file leaves out have the schema's defaults.
    """

    index: int
    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: Mapping[str, int | float]

    def __str__(self) -> str:
        return f"op {self.index} ({self.kind})"


@dataclass(frozen=True, eq=False)
class TfliteModel:
    """One subgraph. ``where`` names the file or segment, for errors."""

    where: str
    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
