"""Training batches: the data on its device once, order and augmentation fixed by numbers.

The order and the augmentation of an epoch are functions of (seed, phase, epoch) alone. A resumed
run therefore needs no generator state, and every process of a distributed run sees the same order
and takes its own share of each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeexit.data.augment import random_crop_flip
from edgeexit.data.types import Augmentation, Preprocessing, Samples
from edgeexit.errors import DataError


@dataclass(frozen=True)
class DeviceSamples:
    """A split as tensors: images ``[N, C, H, W]`` in their raw dtype, labels int64 ``[N]``."""

    images: Tensor
    labels: Tensor
    offset: Tensor
    multiplier: Tensor

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


def training_batches(
    samples: DeviceSamples,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: tuple[int, ...],
    rank: int,
    world: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch, this process's share of each.

    Args:
        samples: The training split.
        augmentation: What is done to each image.
        batch_size: Samples of a batch over all processes; must be a multiple of ``world``.
        seed: Numbers that fix order and augmentation.
        rank: This process.
        world: Number of processes.

    Yields:
        Images float32 ``[batch_size / world, C, H, W]`` and labels int64.
    """
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(state)
    order = torch.randperm(len(samples.labels), generator=generator)
    fill = float(samples.offset.mean())
    for batch in range(num_batches(samples, batch_size)):
        picked = order[batch * batch_size : (batch + 1) * batch_size].to(samples.labels.device)
        images = samples.images[picked]
        if augmentation.crop_padding or augmentation.horizontal_flip:
            images = random_crop_flip(
                images,
                generator,
                padding=augmentation.crop_padding,
                flip=augmentation.horizontal_flip,
                fill=fill,
            )
        share = slice(rank, None, world)
        yield samples.real(images[share]), samples.labels[picked][share]
