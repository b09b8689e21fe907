"""Batched augmentation of images on their device, with randomness that a generator fixes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop_flip(
    images: Tensor, generator: torch.Generator, *, padding: int, flip: bool, fill: float
) -> Tensor:
    """Shifts each image by up to ``padding`` pixels and mirrors every other one, on average.

    Args:
        images: ``[N, C, H, W]``, any dtype.
        generator: A CPU generator; it is advanced by the same amount whatever the device.
        padding: Largest shift in either direction, in pixels.
        flip: Whether images are mirrored left to right with probability one half.
        fill: Value of the pixels that come in from outside.

    Returns:
        The images, same shape and dtype, in channels-last memory.
    """
    count, _, height, width = images.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    rows = shifts[0, :, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + shifts[1, :, None]
    padded = F.pad(images, (padding,) * 4, value=fill).permute(0, 2, 3, 1)
    device = images.device
    picked = padded[
        torch.arange(count, device=device)[:, None, None],
        rows.to(device)[:, :, None],
        columns.to(device)[:, None, :],
    ]
    return picked.permute(0, 3, 1, 2)
