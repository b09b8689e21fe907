"""Batched augmentation of images on their device, with randomness that a generator fixes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeexit.data.types import Augmentation


@dataclass(frozen=True)
class Draws:
    """What happens to each of N images: shifts int64 ``[2, N]`` (down, right), mirrored bool."""

    shifts: Tensor
    mirrored: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same on another device."""
        return Draws(self.shifts.to(device), self.mirrored.to(device))

    def __getitem__(self, index: slice | Tensor) -> Draws:
        """The draws of some of the images."""
        return Draws(self.shifts[:, index], self.mirrored[index])


def draw(augmentation: Augmentation, count: int, generator: torch.Generator) -> Draws:
    """Draws for ``count`` images, on the CPU, so that every device gets the same ones."""
    largest = 2 * augmentation.crop_padding + 1
    shifts = torch.randint(0, largest, (2, count), generator=generator)
    probability = 0.5 if augmentation.horizontal_flip else 0.0
    return Draws(shifts, torch.rand(count, generator=generator) < probability)


def crop_flip(images: Tensor, draws: Draws, *, padding: int, fill: float) -> Tensor:
    """Shifts each image by up to ``padding`` pixels, and mirrors those that were drawn.

    Args:
        images: ``[N, C, H, W]``, any dtype.
        draws: For each image, on the same device.
        padding: Largest shift in either direction, in pixels.
        fill: Value of the pixels that come in from outside.

    Returns:
        The images, same shape and dtype, in channels-last memory.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = draws.shifts[0, :, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(draws.mirrored[:, None], width - 1 - columns, columns)
    columns = columns + draws.shifts[1, :, None]
    padded = F.pad(images, (padding,) * 4, value=fill).permute(0, 2, 3, 1)
    sample = torch.arange(count, device=device)
    picked = padded[sample[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
