"""ZTW: an exit hears the exit before it, and answers with an ensemble of all exits so far.

Source: Wolczyk et al. 2021, "Zero Time Waste: Recycling Predictions in Early Exit Neural Networks",
arXiv 2106.05409, section 3: cascade connections, and the weighted geometric mean
``q_k = exp(b_k) prod_j p_j^w_kj / Z``. A log-probability is a logit less a number that all classes
share, which the softmax drops: the ensemble is ``sum_j w_kj z_j + b_k`` over logits.

As in the paper, no gradient runs from an exit to the one before, nor from an ensemble to its exits.

Deviations: the previous exit's logits enter through a linear layer of their own whose result is
added to the head's; that equals concatenation in front of a linear head, without the paper's layer
normalization, which has no integer form. The backbone's own classifier hears no other exit; its
ensemble does. Weights are kept positive by projection rather than as exponentials, begin with the
exit's own alone rather than with the mean, and are trained along with the exits rather than after
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeexit.errors import ArgumentError
from edgeexit.nn.ensembles import CascadedEnsemble
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Batches, Method, Step


@dataclass(frozen=True)
class ZTW(Method):
    """Mean cross-entropy of all exits, plus that of all ensembles.

    In phase "backbone" the final exit's cross-entropy; in "heads" the final ensemble is trained as
    well.

    Attributes:
        ensemble_rate: Factor on the loss of the ensembles. Nothing but their weights and biases
            has a gradient from it, so it is a factor on their learning rate.
    """

    ensemble_rate: float = 0.1

    def __post_init__(self) -> None:
        """Checks the option."""
        if not 0 < self.ensemble_rate < float("inf"):
            raise ArgumentError(
                "ensemble_rate must be positive", given=f"ensemble_rate={self.ensemble_rate}"
            )

    def rebuild(self, model: MultiExitModel) -> None:
        """See `Method.rebuild`."""
        model.combine = CascadedEnsemble(len(model.exit_names), model.num_classes)

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        _ensemble(step.model).keep_weights_positive()
        outputs = step.module(step.images)
        losses = [step.cross_entropy(z).mean() for z in outputs]
        if step.phase == "backbone":
            return losses[0], outputs
        num_exits = len(step.exits)
        ensembles = torch.stack(losses[:num_exits]).mean()
        cascade = torch.stack(losses[num_exits:]).mean()
        return cascade + self.ensemble_rate * ensembles, outputs[:num_exits]

    def finish(self, model: MultiExitModel, batches: Batches) -> None:
        """See `Method.finish`."""
        _ensemble(model).keep_weights_positive()


def _ensemble(model: MultiExitModel) -> CascadedEnsemble:
    assert isinstance(model.combine, CascadedEnsemble)  # `rebuild` made it
    return model.combine
