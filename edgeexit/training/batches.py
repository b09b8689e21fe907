"""Training batches: the data on its device once, order and augmentation fixed by numbers.

The order and the augmentation of an epoch are functions of (seed, phase, epoch) alone. A resumed
run therefore needs no generator state, and every process of a distributed run sees the same order
and takes its own share of each batch. Of a split that is streamed, one batch is on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.data.augment import Draws, crop_flip, draw
from edgeexit.data.streaming import StreamedSplit
from edgeexit.data.types import Augmentation, Preprocessing, Samples
from edgeexit.errors import DataError
from edgeexit.nn.model import evaluating


@dataclass(frozen=True)
class DeviceSamples:
    """A split as tensors: images ``[N, C, H, W]`` in their raw dtype, labels int64 ``[N]``.

    ``fill`` is the raw value of pixels that a shift brings in: what the network sees as zero.
    ``memory_format`` is how the network's images lie in memory.
    """

    images: Tensor
    labels: Tensor
    offset: Tensor
    multiplier: Tensor
    fill: float
    memory_format: torch.memory_format

    def __len__(self) -> int:
        return len(self.labels)

    def real(self, raw: Tensor) -> Tensor:
        """float32 images as the network eats them, in ``memory_format``."""
        scaled = (raw.to(torch.float32) - self.offset) * self.multiplier
        return scaled.contiguous(memory_format=self.memory_format)

    def order(self, count: int, generator: torch.Generator) -> Tensor:
        """Where in the tensors the samples of an epoch are: int64 ``[count]`` on the CPU."""
        return torch.randperm(len(self), generator=generator)[:count]

    def filled(self, seed: tuple[int, ...], first: int) -> Iterator[None]:
        """Each step says with ``next`` that it needs the next batch; here all are there."""
        return repeat(None)

    def unaugmented(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples once, at most ``size`` at a time: float32 images and labels."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.real(self.images[part]), self.labels[part]


@dataclass(frozen=True)
class StreamedSamples(DeviceSamples):
    """A split that is streamed: the tensors hold this process's share of one batch.

    The tensors stay where they are, so that a captured step finds the next batch in them.
    """

    split: StreamedSplit
    batch_size: int
    rank: int
    world: int

    def __len__(self) -> int:
        return len(self.split)

    def order(self, count: int, generator: torch.Generator) -> Tensor:
        """See `DeviceSamples.order`; of the samples of other processes it means nothing."""
        return torch.arange(count) % self.batch_size // self.world

    def filled(self, seed: tuple[int, ...], first: int) -> Iterator[None]:
        """Puts this process's share of the next batch, beginning with ``first``, into the tensors.

        Args:
            seed: Numbers that fix the order.
            first: Batches of the epoch that are passed over.
        """
        share = {"batch_size": self.batch_size, "rank": self.rank, "world": self.world}
        for images, labels in self.split.batches(seed, **share, first=first):
            self.images.copy_(self._moved(images).permute(0, 3, 1, 2))
            self.labels.copy_(self._moved(labels))
            yield

    def unaugmented(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DeviceSamples.unaugmented`; every process reads all of them."""
        for images, labels in self.split.as_stored(size):
            yield self.real(self._moved(images).permute(0, 3, 1, 2)), self._moved(labels)

    def _moved(self, array: NDArray[np.uint8] | NDArray[np.int64]) -> Tensor:
        """An array on the device; the host does not wait for a GPU to have copied it."""
        tensor, device = torch.from_numpy(array), self.labels.device
        if device.type == "cuda":
            return tensor.pin_memory().to(device, non_blocking=True)
        return tensor.to(device)


def settle_memory_format(
    model: nn.Module, image_shape: tuple[int, int, int], device: torch.device
) -> torch.memory_format:
    """Moves a model to a device and its weights into the memory format in which it trains.

    That is channels-last, in which convolutions are fastest. A network that calls ``view`` on a
    feature map, as many do before their first linear layer, takes contiguous memory only.

    Args:
        model: Changed in place.
        image_shape: Height, width and channels of what it eats.
        device: Where it goes.
    """
    image = torch.zeros((1, *image_shape), device=device).permute(0, 3, 1, 2)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with evaluating(model), torch.no_grad():
        try:
            model(image)
        except RuntimeError:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            return torch.contiguous_format
    return torch.channels_last


def to_device(
    samples: Samples,
    preprocessing: Preprocessing,
    device: torch.device,
    memory_format: torch.memory_format,
) -> DeviceSamples:
    """Moves a split to a device, once."""
    images = torch.from_numpy(np.ascontiguousarray(samples.images)).permute(0, 3, 1, 2)
    return DeviceSamples(
        images.contiguous(memory_format=memory_format).to(device),
        torch.from_numpy(samples.labels).to(device),
        *_channels(preprocessing, device),
        memory_format,
    )


def training_samples(
    split: Samples | StreamedSplit,
    preprocessing: Preprocessing,
    device: torch.device,
    memory_format: torch.memory_format,
    *,
    batch_size: int,
    rank: int,
    world: int,
) -> DeviceSamples:
    """The training split on a device: all of it, or of a stream the place for a batch.

    Args:
        split: The training split.
        preprocessing: How a raw image turns into numbers.
        device: Where it goes.
        memory_format: How images lie in memory, there and where the network gets them.
        batch_size: Samples of a batch over all processes; a multiple of ``world``.
        rank: This process.
        world: Number of processes.
    """
    if isinstance(split, Samples):
        return to_device(split, preprocessing, device, memory_format)
    height, width, channels = split.image_shape
    share = batch_size // world
    images = torch.zeros((share, channels, height, width), dtype=torch.uint8, device=device)
    return StreamedSamples(
        images.contiguous(memory_format=memory_format),
        torch.zeros(share, dtype=torch.int64, device=device),
        *_channels(preprocessing, device),
        memory_format,
        split=split,
        batch_size=batch_size,
        rank=rank,
        world=world,
    )


def _channels(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor, float]:
    """Offset, multiplier and fill of `DeviceSamples`."""

    def channels(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)

    offset, multiplier = channels(preprocessing.offset), channels(preprocessing.multiplier)
    return offset, multiplier, float(np.mean(preprocessing.offset))


def num_batches(samples: DeviceSamples, batch_size: int) -> int:
    """Whole batches in an epoch; the samples left over differ from epoch to epoch.

    Raises:
        DataError: Not even one batch.
    """
    count = len(samples) // batch_size
    if count == 0:
        raise DataError(
            "the training split is smaller than one batch",
            wanted=f"at least batch_size={batch_size} samples",
            given=f"{len(samples)} samples",
            hint="lower batch_size",
        )
    return count


@dataclass(frozen=True)
class EpochOrder:
    """One epoch laid out: which sample comes when, and what happens to it.

    ``order`` is int64 ``[num_batches * batch_size]``; ``draws`` and ``mixup`` (float32, one share
    for each batch; 1 where mixup is off) go with it.
    """

    order: Tensor
    draws: Draws
    mixup: Tensor

    def copy_(self, other: EpochOrder) -> None:
        """Takes over another epoch in place, where a captured step reads."""
        self.order.copy_(other.order)
        self.draws.shifts.copy_(other.draws.shifts)
        self.draws.mirrored.copy_(other.draws.mirrored)
        self.mixup.copy_(other.mixup)


def epoch_order(
    samples: DeviceSamples,
    augmentation: Augmentation,
    *,
    batch_size: int,
    mixup: float,
    seed: tuple[int, ...],
) -> EpochOrder:
    """The epoch that ``seed`` names, the same on every device and in every process.

    Args:
        samples: The training split.
        augmentation: What is done to each image.
        batch_size: Samples of a batch over all processes.
        mixup: Parameter of the Beta distribution of the shares; 0 turns mixup off.
        seed: Numbers that fix everything.
    """
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(state)
    steps = num_batches(samples, batch_size)
    order = samples.order(steps * batch_size, generator)
    draws = draw(augmentation, len(order), generator)
    shares = np.ones(steps)
    if mixup:
        shares = np.random.default_rng((*seed, 1)).beta(mixup, mixup, steps)
    device = samples.labels.device
    return EpochOrder(
        order.to(device), draws.to(device), torch.from_numpy(shares).to(device, torch.float32)
    )


def augmented(
    samples: DeviceSamples, augmentation: Augmentation, epoch: EpochOrder, index: Tensor | slice
) -> tuple[Tensor, Tensor]:
    """Some samples of an epoch, as the network trains on them.

    Args:
        samples: The training split.
        augmentation: What is done to each image.
        epoch: Of `epoch_order`.
        index: Positions in the epoch.

    Returns:
        Images float32 ``[N, C, H, W]`` and labels int64 ``[N]``.
    """
    picked = epoch.order[index]
    images = samples.images[picked]
    if augmentation.crop_padding or augmentation.horizontal_flip:
        images = crop_flip(
            images, epoch.draws[index], padding=augmentation.crop_padding, fill=samples.fill
        )
    return samples.real(images), samples.labels[picked]
