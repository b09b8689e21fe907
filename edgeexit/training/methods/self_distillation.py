"""Self-distillation: early exits learn from labels and from a deeper exit of the same network.

With ``z_k`` an exit's logits, ``t_k`` its teacher's, T the temperature and KL summed over classes:

    loss = mean_k l_k    l_k = (1 - alpha) L_k + alpha T^2 KL(softmax(t_k / T) || softmax(z_k / T))
                         l_k = L_k for the final exit

Also known as "be your own teacher". The teacher is the final exit (``last``) or the exit after
(``next``), and no gradient flows into it through what it teaches. ``T^2`` keeps the size of the
gradients when T changes (Hinton et al. 2015, arXiv 1503.02531, section 2). With ``alpha=0`` this is
the method ``uniform``. In the phase ``heads`` the frozen final exit still teaches.

Source: Zhang et al. 2019, "Be Your Own Teacher: Improve the Performance of Convolutional Neural
Networks via Self Distillation", arXiv 1905.08094: the first two of its three terms.
Deviations: the third term, which draws early features towards the deepest ones through layers that
are thrown away later, is left out; exits are averaged instead of summed up; ``next`` is not in it.
The defaults are not the paper's, and were not tuned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.errors import ArgumentError, ModelError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step
from edgeexit.training.strategies import PhaseName


@dataclass(frozen=True)
class SelfDistillation(Method):
    """Mean over exits of cross-entropy mixed with the divergence from a deeper exit.

    Attributes:
        alpha: Share of the teacher in an early exit's loss, 0 to 1.
        temperature: What logits are divided by before teacher and exit are compared, above 0.
        teacher: ``last``, the final exit for all, or ``next``, for each exit the one after it.
    """

    alpha: float = 0.3
    temperature: float = 3.0
    teacher: str = "last"

    def __post_init__(self) -> None:
        """Checks the options."""
        if not 0 <= self.alpha <= 1:
            raise ArgumentError(
                "alpha is not a share", wanted="0 to 1", given=f"alpha={self.alpha}"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ArgumentError(
                "temperature is out of range",
                wanted="a finite number above 0",
                given=f"temperature={self.temperature}",
            )
        if self.teacher not in ("last", "next"):
            raise ArgumentError(
                "unknown teacher", wanted="last, next", given=f"teacher={self.teacher!r}"
            )

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:
        """Keeps the frozen exit's logits, which the phase ``heads`` does not return."""
        _forget_final(model)
        if phase == "heads":
            model.backbone.register_forward_hook(_KeptLogits())

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        known = (*logits, _kept_final(step.model)) if step.phase == "heads" else logits
        losses = []
        for k, z in enumerate(logits):
            loss = step.cross_entropy(z).mean()
            if k < len(known) - 1:
                taught = self._divergence(z, known[-1 if self.teacher == "last" else k + 1])
                loss = (1 - self.alpha) * loss + self.alpha * taught
            losses.append(loss)
        return torch.stack(losses).mean(), logits

    def take_off(self, model: MultiExitModel) -> None:
        """See `Method.take_off`."""
        _forget_final(model)

    def _divergence(self, z: Tensor, teacher: Tensor) -> Tensor:
        wanted = F.log_softmax(teacher.detach().float() / self.temperature, dim=1)
        given = F.log_softmax(z.float() / self.temperature, dim=1)
        nats = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
        return self.temperature**2 * nats


class _KeptLogits:
    """A forward hook that keeps the output of the last call."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        del module, args
        self.logits = output.detach()


def _kept_final(model: MultiExitModel) -> Tensor:
    for hook in model.backbone._forward_hooks.values():
        if isinstance(hook, _KeptLogits) and hook.logits is not None:
            return hook.logits
    raise ModelError(
        "the final exit's logits were not kept",
        wanted="start_phase before the first step of the phase heads",
    )


def _forget_final(model: MultiExitModel) -> None:
    hooks = model.backbone._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, _KeptLogits)]:
        del hooks[key]
