"""What a phase trains: which module runs, which parameters move, and what stays frozen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeexit.nn.model import MultiExitModel, listening
from edgeexit.training.strategies import PhaseName


class BackbonePhase(nn.Module):
    """Phase 1: the final exit alone; the heads are neither run nor moved."""

    def __init__(self, model: MultiExitModel) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """float32 images -> a tuple of one: the final logits ``[N, num_classes]``."""
        return (self.backbone(x),)


class HeadsPhase(nn.Module):
    """Phase 3: the early heads on a frozen backbone, batch-norm statistics included.

    What combines the exits is trained with them, and then all exits are, the final one too.
    """

    def __init__(self, model: MultiExitModel) -> None:
        super().__init__()
        self.frozen = [model]
        self.heads = model.heads
        self.combine = model.combine

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """float32 images -> the logits of `trained_exits`, each ``[N, num_classes]``."""
        model = self.frozen[0]
        with torch.no_grad(), listening(model.backbone, model.attach_points) as features:
            final = model.backbone(x)
        exits = model.exits_of(features, final)
        return exits if self.combine is not None else exits[:-1]


def phase_module(model: MultiExitModel, phase: PhaseName) -> nn.Module:
    """The module that a phase runs; its parameters are those that the phase moves."""
    match phase:
        case "backbone":
            return BackbonePhase(model)
        case "heads":
            return HeadsPhase(model)
        case "everything":
            return model


def set_modes(model: MultiExitModel, phase: PhaseName) -> None:
    """Training mode for what moves, evaluation mode and no gradients for what is frozen."""
    model.train()
    model.requires_grad_(True)
    if phase == "heads":
        model.backbone.eval().requires_grad_(False)
    if phase == "backbone":
        model.heads.eval().requires_grad_(False)
        if model.combine is not None:
            model.combine.eval().requires_grad_(False)


def trained_exits(model: MultiExitModel, phase: PhaseName) -> range:
    """Indices of the exits whose logits the phase's module returns."""
    num_exits = len(model.exit_names)
    match phase:
        case "backbone":
            return range(num_exits - 1, num_exits)
        case "heads":
            return range(num_exits - 1 if model.combine is None else num_exits)
        case "everything":
            return range(num_exits)


def decayed_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: matrices and kernels with weight decay, all else without."""
    moving = [p for p in module.parameters() if p.requires_grad]
    kernels: Sequence[nn.Parameter] = [p for p in moving if p.ndim > 1]
    others: Sequence[nn.Parameter] = [p for p in moving if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
