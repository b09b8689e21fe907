"""Blending of samples, which a loss has to know of."""

from __future__ import annotations

from torch import Tensor


def mixed_up(images: Tensor, labels: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
    """Blends each image with its neighbour in the batch, ``share`` of itself.

    Returns:
        The blended images and the neighbours' labels; the loss is blended in the same way.

    Source: Zhang et al. 2018, "mixup", with one share for the whole batch.
    """
    return share * images + (1 - share) * images.roll(1, 0), labels.roll(1, 0)
