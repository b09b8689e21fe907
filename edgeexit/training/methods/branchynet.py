"""BranchyNet: a weighted sum of the exits' losses, early exits heavier than the final one.

    loss = sum_k w_k L_k    w_k = early, or final for the last exit

A large weight on the first branches makes their features discriminate early, and works as a
regularizer on the rest. In the phase ``heads`` every exit is an early one; in ``backbone`` the
final exit is alone, and its loss counts 1 whatever ``final`` is.

Source: Teerapittayanon et al. 2016, "BranchyNet: Fast Inference via Early Exiting from Deep Neural
Networks", arXiv 1709.01686: the joint loss, and the weights of its B-LeNet and B-AlexNet; its
B-ResNet has the opposite, ``early=0.3`` and ``final=1``.
Deviations: one weight for all early exits, and the paper's exits leave by the entropy of their
softmax, where a bundle looks at its largest probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from edgeexit.errors import ArgumentError
from edgeexit.training.methods.base import Method, Step


@dataclass(frozen=True)
class BranchyNet(Method):
    """Sum of the exits' mean cross-entropies: ``early`` for early exits, ``final`` for the last.

    Attributes:
        early: Weight of each early exit, above 0.
        final: Weight of the final exit, above 0.
    """

    early: float = 1.0
    final: float = 0.3

    def __post_init__(self) -> None:
        """Checks the options."""
        for name in ("early", "final"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight > 0):
                raise ArgumentError(
                    f"{name} is not a weight",
                    wanted="a finite number above 0",
                    given=f"{name}={weight}",
                )

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        losses = [step.cross_entropy(z).mean() for z in logits]
        if step.phase != "backbone":
            last = len(step.model.exit_names) - 1
            losses = [
                (self.final if k == last else self.early) * loss
                for k, loss in zip(step.exits, losses, strict=True)
            ]
        return sum(losses[1:], losses[0]), logits
