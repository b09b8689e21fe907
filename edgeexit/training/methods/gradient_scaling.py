"""Gradient scaling: how much of what early exits ask for reaches the backbone.

The loss is the mean over exits. What a head learns itself is untouched; the gradient that it sends
on into the backbone is multiplied by ``factor``. With 1 this is the method ``uniform``; with 0 the
backbone learns from its final exit alone, while heads train beside it on what it computes.

Nothing changes in the forward pass: the scaling is an identity whose derivative is called
``factor``, on the input of each head. It is in place during the phase ``everything`` only; in the
others no gradient passes from a head into the backbone.

Source: the identity with a scaled derivative is the rescaling of Li et al. 2019, "Improved
Techniques for Training Adaptive Deep Networks", arXiv 1908.06294, with one factor of
one's own choice in place of their schedule, which is the method ``gradient_equilibrium``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step
from edgeexit.training.strategies import PhaseName


@dataclass(frozen=True)
class GradientScaling(Method):
    """Mean of the exits' losses; early heads' gradients into the backbone are scaled.

    Attributes:
        factor: On the gradient from each early head into the backbone, 0 to 1.
    """

    factor: float = 0.5

    def __post_init__(self) -> None:
        """Checks the options."""
        if not 0 <= self.factor <= 1:
            raise ArgumentError(
                "factor is out of range", wanted="0 to 1", given=f"factor={self.factor}"
            )

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:
        """See `Method.start_phase`."""
        remove_scaling(model)
        if phase == "everything":
            for head in model.heads:
                head.register_forward_pre_hook(ScaledInput(self.factor))

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        return torch.stack([step.cross_entropy(z).mean() for z in logits]).mean(), logits

    def take_off(self, model: MultiExitModel) -> None:
        """See `Method.take_off`."""
        remove_scaling(model)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself, a view of it; the gradient that comes back through it is ``factor`` times."""
    scaled: Tensor = _Scale.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


class ScaledInput:
    """A forward pre-hook: the module's own gradients stay, those that it sends on are scaled."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Scales behind the first argument."""
        del module
        return (scale_gradient(args[0], self.factor), *args[1:])


class ScaledOutput:
    """A forward hook: all gradients that come back into the module are scaled."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Scales behind the output."""
        del module, args
        return scale_gradient(output, self.factor)


def remove_scaling(model: nn.Module) -> None:
    """Takes the hooks of both kinds off every submodule, whoever registered them."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            mine = [key for key, hook in hooks.items() if isinstance(hook, _HOOKS)]
            for key in mine:
                del hooks[key]


_HOOKS = (ScaledInput, ScaledOutput)
