"""PBEE: exits weighted by their depth, for leaving once several exits in a row agree.

    loss = sum_j j L_j / sum_j j    j = 1, 2, ... over the exits that the phase trains

Also known as PABEE. Deeper exits weigh more because they cost more to reach, and because patience
asks them to agree with what came before, not to be sure by themselves.

Source: Zhou et al. 2020, "BERT Loses Patience: Fast and Robust Inference with Early Exit", arXiv
2006.04152, section 3: rule and loss.
Deviations: the paper's patience is one number for all exits; here operating points choose one for
each. In the phase ``heads`` the weights are shared out between the early exits alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from edgeexit.training.methods.base import Method, Step


@dataclass(frozen=True)
class PBEE(Method):
    """Mean over exits of the mean cross-entropy, the j-th with weight j; leaves by patience."""

    rule: ClassVar[str] = "patience"

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        losses = [step.cross_entropy(z).mean() for z in logits]
        total = sum(range(1, len(losses) + 1))
        weighted = [j / total * loss for j, loss in enumerate(losses, 1)]
        return sum(weighted[1:], weighted[0]), logits
