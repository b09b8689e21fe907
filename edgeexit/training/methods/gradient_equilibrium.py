"""Gradient equilibrium: each block hears the mean of the exits behind it instead of their sum.

Also known as GE, the gradient rescaling of IMTA. With K exits, exit i from 1, and the losses summed
up, a block in front of exit i is reached by K - i + 1 gradients. Where they are alike in size and
independent, the variance of their sum grows with their number: blocks near the input take the most
uneven steps. Let m_i be the gradient at exit i's feature that comes out, g_i the part that head i
sends, and m_{i+1} what comes back from the blocks behind. Wanted is the mean over exits i to K:

    m_i = (g_i + (K - i) m_{i+1}) / (K - i + 1)

which is the factor 1 / (K - i + 1) on the branch to head i and (K - i) / (K - i + 1) on the trunk
that goes on; the last exit, i = K, keeps its whole gradient. By induction every block gets the mean
of its exits' gradients, whose variance never exceeds that of a single one. Heads' own gradients are
not scaled.

Implementation: the hook on the attach point runs before the head listens, so that the head hears
what the trunk carries on. Both gradients pass the trunk's factor, and the branch's own is what
remains, 1 / (K - i).

Not handled: a backbone in which later exits see earlier blocks past an attach point, as they do
through a long skip connection, gets those gradients unscaled. A backbone that changes the output of
an attach point in place is refused by autograd.

Source: Li et al. 2019, "Improved Techniques for Training Adaptive Deep Networks", arXiv 1908.06294:
its first technique of three; collaboration of subnetworks and distillation are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step
from edgeexit.training.methods.gradient_scaling import ScaledInput, ScaledOutput, remove_scaling
from edgeexit.training.strategies import PhaseName


@dataclass(frozen=True)
class GradientEquilibrium(Method):
    """Sum of the exits' losses; blocks get the mean of the gradients, heads their own."""

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:
        """See `Method.start_phase`."""
        remove_scaling(model)
        if phase != "everything":
            return
        for later, (name, head) in zip(
            range(len(model.attach_points), 0, -1),
            zip(model.attach_points, model.heads, strict=True),
            strict=True,
        ):
            attach_point = model.backbone.get_submodule(name)
            attach_point.register_forward_hook(ScaledOutput(later / (later + 1)))
            head.register_forward_pre_hook(ScaledInput(1 / later))

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        losses = [step.cross_entropy(z).mean() for z in logits]
        return sum(losses[1:], losses[0]), logits

    def take_off(self, model: MultiExitModel) -> None:
        """See `Method.take_off`."""
        remove_scaling(model)
