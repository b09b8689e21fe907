"""SDN: a weighted sum of the exits' losses, in which early exits count for what they cost.

With ``tau_k`` the relative depth of exit k, and ``p`` the share of the phase that is done:

    loss = sum_k w_k(p) L_k    w_k(p) = start + (tau_k - start) p,  1 for the final exit

Also known as deep supervision with a ramp. Early on the backbone hears its final exit almost alone,
so that heads which know nothing yet do not disturb it. On a frozen backbone there is nothing to
disturb: each head's own loss counts 1, which is the paper's training of internal classifiers only.

Source: Kaya et al. 2019, "Shallow-Deep Networks: Understanding and Mitigating Network
Overthinking", arXiv 1810.07052, section 3.
Deviations: ``tau_k`` is ``(k + 1) / K``, exit k of K from 0, unless ``weights`` says otherwise; the
paper takes an exit's share of the network's operations, which a method does not know. The weight
follows the steps instead of the epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step
from edgeexit.training.strategies import PhaseName


@dataclass(frozen=True)
class SDN(Method):
    """Sum of the exits' mean cross-entropies, each with a weight.

    Attributes:
        ramped: Whether weights grow over the phase; if not they are ``tau_k`` throughout.
        start: Weight of every early exit at the first step of a ramp.
        weights: The early exits' ``tau_k`` as numbers with commas between them, such as the costs
            of leaving there relative to the network's; relative depths, if empty.
    """

    ramped: bool = True
    start: float = 0.01
    weights: str = ""

    def __post_init__(self) -> None:
        """Checks the options."""
        if not 0 <= self.start <= 1:
            raise ArgumentError(
                "start is not a weight", wanted="0 to 1", given=f"start={self.start}"
            )
        self._given()

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:
        """Checks that there is a weight for each early exit; see `Method.start_phase`."""
        del phase
        given, num_early = self._given(), len(model.exit_names) - 1
        if given and len(given) != num_early:
            raise ArgumentError(
                "each early exit needs one weight",
                wanted=f"{num_early} numbers, for {', '.join(model.exit_names[:-1])}",
                given=f"weights={self.weights!r}",
            )

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        losses = [step.cross_entropy(z).mean() for z in logits]
        if step.phase == "everything":
            num_exits = len(step.model.exit_names)
            finals = self._given() or [(k + 1) / num_exits for k in range(num_exits - 1)]
            for k, final in enumerate(finals):
                ramp = self.start + (final - self.start) * step.progress
                losses[k] = losses[k] * (ramp if self.ramped else final)
        return sum(losses[1:], losses[0]), logits

    def _given(self) -> list[float]:
        try:
            weights = [float(part) for part in self.weights.split(",")] if self.weights else []
        except ValueError:
            weights = [-1.0]
        if any(not 0 <= weight <= 1 for weight in weights):
            raise ArgumentError(
                "weights are not costs relative to the network's",
                wanted="numbers from 0 to 1 with commas between them, such as 0.3,0.6",
                given=f"weights={self.weights!r}",
            )
        return weights
