"""The loss of a phase."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_cross_entropy(
    logits: Sequence[Tensor], labels: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Unweighted mean over exits of the mean cross-entropy over samples.

    Args:
        logits: For each exit, float ``[N, num_classes]``.
        labels: int64 ``[N]``.
        label_smoothing: In [0, 1).

    Returns:
        A scalar, in nats.

    Source: Kubaty et al. 2025, section 3 (phase 2).
    """
    losses = [F.cross_entropy(z, labels, label_smoothing=label_smoothing) for z in logits]
    return torch.stack(losses).mean()


def mixed_up(images: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blends each image with its neighbour in the batch, ``share`` of itself.

    Returns:
        The blended images and the neighbours' labels; the loss is blended in the same way.

    Source: Zhang et al. 2018, "mixup", equation 1, with one share for the whole batch.
    """
    return share * images + (1 - share) * images.roll(1, 0), labels.roll(1, 0)
