"""Training batches: the data on its device once, order and augmentation fixed by numbers.

The order and the augmentation of an epoch are functions of (seed, phase, epoch) alone. A resumed
run therefore needs no generator state, and every process of a distributed run sees the same order
and takes its own share of each batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeexit.data.augment import Draws, crop_flip, draw
from edgeexit.data.types import Augmentation, Preprocessing, Samples
from edgeexit.errors import DataError


@dataclass(frozen=True)
class DeviceSamples:
    """A split as tensors: images ``[N, C, H, W]`` in their raw dtype, labels int64 ``[N]``.

    ``fill`` is the raw value of pixels that a shift brings in: what the network sees as zero.
    """

    images: Tensor
    labels: Tensor
    offset: Tensor
    multiplier: Tensor
    fill: float

    def real(self, raw: Tensor) -> Tensor:
        """float32 images as the network eats them, in channels-last memory."""
        scaled = (raw.to(torch.float32) - self.offset) * self.multiplier
        return scaled.contiguous(memory_format=torch.channels_last)


def to_device(
    samples: Samples, preprocessing: Preprocessing, device: torch.device
) -> DeviceSamples:
    """Moves a split to a device, once."""
    images = torch.from_numpy(np.ascontiguousarray(samples.images)).permute(0, 3, 1, 2)

    def channels(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)

    return DeviceSamples(
        images.contiguous(memory_format=torch.channels_last).to(device),
        torch.from_numpy(samples.labels).to(device),
        channels(preprocessing.offset),
        channels(preprocessing.multiplier),
        float(np.mean(preprocessing.offset)),
    )


def num_batches(samples: DeviceSamples, batch_size: int) -> int:
    """Whole batches in an epoch; the samples left over differ from epoch to epoch.

    Raises:
        DataError: Not even one batch.
    """
    count = len(samples.labels) // batch_size
    if count == 0:
        raise DataError(
            "the training split is smaller than one batch",
            wanted=f"at least batch_size={batch_size} samples",
            given=f"{len(samples.labels)} samples",
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
    order = torch.randperm(len(samples.labels), generator=generator)[: steps * batch_size]
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
