"""GPF: an exit adds what earlier exits saw, and a guess of what later ones would see.

Source: Liao et al. 2021, "A Global Past-Future Early Exit Method for Accelerating Inference of
Pre-trained Language Models", NAACL 2021, section 3: past states are merged, future ones are imputed
by small layers that imitate the real ones (cosine similarity), and the guesses serve in training as
at inference.

Deviations, for networks of convolutions: an exit's state is the ReLU of a linear layer over its
pooled feature, in place of the first token; its head stays and adds to the merged states, which
are summed without a learned gate. The last layer's state is the backbone's logits, so that its
classifier is left as it is, and adds the past alone. Exits are weighted alike. Gradients run
through past states.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeexit.errors import ArgumentError
from edgeexit.nn.ensembles import PastAndFuture
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step


@dataclass(frozen=True)
class GPF(Method):
    """Mean cross-entropy of all exits, plus the imitation loss.

    In phase "backbone" the final exit's cross-entropy, without its past; in "heads" the final exit
    is trained as well: what it adds to the frozen backbone.

    Attributes:
        width: The length of a state.
        imitation: Weight of the imitation loss, which is in [0, 2].
    """

    width: int = 32
    imitation: float = 1.0

    def __post_init__(self) -> None:
        """Checks every option."""
        if self.width < 1:
            raise ArgumentError("width must be at least 1", given=f"width={self.width}")
        if not 0 <= self.imitation < float("inf"):
            raise ArgumentError(
                "imitation must not be negative", given=f"imitation={self.imitation}"
            )

    def rebuild(self, model: MultiExitModel) -> None:
        """See `Method.rebuild`.

        Raises:
            ModelError: The model does not know the shapes of its features.
        """
        model.combine = PastAndFuture(model.feature_shapes, model.num_classes, self.width)

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        outputs = step.module(step.images)
        logits = outputs[: len(step.exits)]
        loss = torch.stack([step.cross_entropy(z).mean() for z in logits]).mean()
        if step.phase != "backbone":
            loss = loss + self.imitation * outputs[-1].mean()
        return loss, logits
