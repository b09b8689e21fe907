"""Uniform: the mean of all exits' losses, each weighted alike.

Source: Kubaty et al. 2025, "How to Train Your Multi-Exit Model?", arXiv 2407.14320v2, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeexit.training.methods.base import Method, Step


@dataclass(frozen=True)
class Uniform(Method):
    """Unweighted mean over exits of the mean cross-entropy over samples."""

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        return torch.stack([step.cross_entropy(z).mean() for z in logits]).mean(), logits
