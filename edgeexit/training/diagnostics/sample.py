"""The fixed samples that all diagnostics look at, and how a network is run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.data.types import Preprocessing, Samples
from edgeexit.errors import DataError
from edgeexit.nn.model import MultiExitModel

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Tick: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


def no_tick(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Preprocessed images with their labels.

    Attributes:
        split: Which split they come from.
        images: float32 ``[N, channels, height, width]``.
        labels: int64 ``[N]``.
    """

    split: str
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def draw_sample(
    samples: Samples, preprocessing: Preprocessing, *, split: str, num_samples: int, seed: int
) -> Sample:
    """Draws images without replacement, not augmented; the same seed draws the same ones.

    Args:
        samples: Where from.
        preprocessing: How a raw image becomes what the network eats.
        split: What ``samples`` are called.
        num_samples: How many at most.
        seed: Of the draw.

    Raises:
        DataError: There are no samples.
    """
    if len(samples) == 0:
        raise DataError("the split is empty", wanted="at least one sample", where=split)
    order = np.random.default_rng(seed).permutation(len(samples))[:num_samples]
    picked = samples[np.sort(order)]
    raw = torch.from_numpy(np.ascontiguousarray(picked.images)).permute(0, 3, 1, 2)

    def channels(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)

    real = (raw.float() - channels(preprocessing.offset)) * channels(preprocessing.multiplier)
    return Sample(split, real.contiguous(), torch.from_numpy(picked.labels))


def batches(sample: Sample, batch_size: int, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """The sample in its order, the last batch perhaps smaller, on the network's device."""
    device = device_of(model)
    for start in range(0, len(sample), batch_size):
        part = slice(start, start + batch_size)
        yield sample.images[part].to(device), sample.labels[part].to(device)


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter lives; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while the block runs; each module then gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def logits_of(model: MultiExitModel, sample: Sample, *, batch_size: int = 250) -> Floats:
    """Logits of all exits in evaluation mode.

    Returns:
        float64 ``[num_exits, N, num_classes]``.
    """
    with evaluating(model), torch.no_grad():
        parts = [torch.stack(model(images)) for images, _ in batches(sample, batch_size, model)]
    found: Floats = torch.cat(parts, 1).double().cpu().numpy()
    return found


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities in nats over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def right(logits: Floats, labels: Counts) -> NDArray[np.bool_]:
    """Which answers are the label; ties go to the lowest class.

    Args:
        logits: float64 ``[..., N, num_classes]``.
        labels: int64 ``[N]``.

    Returns:
        bool ``[..., N]``.
    """
    answers: NDArray[np.bool_] = logits.argmax(-1) == labels
    return answers
