"""How raw samples become what a network eats, in float for PyTorch and in int8 for a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgeexit.data.types import Preprocessing, Samples
from edgeexit.runtime.preprocess import byte_table
from edgeexit.types import InputSpec, TensorSpec

_BATCH = 50  # larger ones fall out of the cache


def spread(samples: Samples, count: int) -> Samples:
    """At most ``count`` samples, evenly spread over all, in their order."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64)
    return samples[chosen]


def real_batches(
    samples: Samples, preprocessing: Preprocessing, size: int = _BATCH
) -> Iterator[Tensor]:
    """Raw samples [N, H, W, C] as the network's input, float32 [size, C, H, W] at a time."""
    offset = np.asarray(preprocessing.offset, dtype=np.float32)
    multiplier = np.asarray(preprocessing.multiplier, dtype=np.float32)
    for start in range(0, len(samples), size):
        raw = samples.images[start : start + size].astype(np.float32)
        real = (raw - offset) * multiplier
        yield torch.from_numpy(np.ascontiguousarray(real.transpose(0, 3, 1, 2)))


def raw_input_parameters(
    samples: Samples, preprocessing: Preprocessing
) -> tuple[float, int] | None:
    """Scale and zero point with which int8 = uint8 - 128, or None where there are none.

    ``real = (raw - offset) * multiplier`` and ``raw = q + 128`` give ``scale = multiplier`` and
    ``zero_point = offset - 128``, if the offset is a whole number and the same for all channels.
    """
    if samples.images.dtype != np.uint8:
        return None
    offsets, multipliers = set(preprocessing.offset), set(preprocessing.multiplier)
    if len(offsets) != 1 or len(multipliers) != 1:
        return None
    (offset,), (multiplier,) = offsets, multipliers
    if offset != round(offset) or not 0 <= offset <= 255 or multiplier <= 0:
        return None
    return float(np.float32(multiplier)), round(offset) - 128


def input_spec(tensor: TensorSpec, samples: Samples, preprocessing: Preprocessing) -> InputSpec:
    """How a device turns raw samples like these into the int8 ``tensor``."""
    is_uint8 = samples.images.dtype == np.uint8
    spec = InputSpec(
        tensor=tensor,
        raw_dtype="uint8" if is_uint8 else "float32",
        offset=tuple(map(float, preprocessing.offset)),
        multiplier=tuple(map(float, preprocessing.multiplier)),
        raw_is_subtraction=False,
    )
    if not is_uint8 or raw_input_parameters(samples, preprocessing) is None:
        return spec
    subtracted = np.arange(-128, 128)[:, np.newaxis]
    return replace(spec, raw_is_subtraction=bool((byte_table(spec) == subtracted).all()))
