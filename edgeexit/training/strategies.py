"""The three strategies as lists of phases, and how a budget of epochs is shared between them.

Source: Kubaty et al. 2025, "How to Train Your Multi-Exit Model?", arXiv 2407.14320v2, section 3.
Phase 1 trains the backbone with its final exit only, phase 2 everything together, phase 3 the heads
on a frozen backbone. Deviation: the paper lets early stopping end each phase; here the budget is
fixed and shared out, so that strategies are compared at equal cost (early stopping is an option).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeexit.errors import ArgumentError
from edgeexit.training.config import Strategy, TrainConfig

PhaseName = Literal["backbone", "everything", "heads"]

STRATEGIES: dict[Strategy, tuple[PhaseName, ...]] = {
    "disjoint": ("backbone", "heads"),
    "joint": ("everything",),
    "mixed": ("backbone", "everything"),
}


@dataclass(frozen=True)
class Phase:
    """One phase with its budget and its peak learning rate."""

    name: PhaseName
    epochs: int
    learning_rate: float


def phases(config: TrainConfig) -> tuple[Phase, ...]:
    """The phases of a strategy; their epochs add up to ``config.epochs``.

    Raises:
        ArgumentError: The budget leaves a phase without an epoch.
    """
    names = STRATEGIES[config.strategy]
    if len(names) == 1:
        return (Phase(names[0], config.epochs, config.learning_rate),)
    first = round(config.epochs * config.backbone_share)
    if not 0 < first < config.epochs:
        raise ArgumentError(
            f"strategy {config.strategy!r} needs an epoch for each of its two phases",
            given=f"epochs={config.epochs}, backbone_share={config.backbone_share}",
            hint="raise epochs, or move backbone_share away from 0 and 1",
        )
    return (
        Phase(names[0], first, config.learning_rate),
        Phase(names[1], config.epochs - first, config.learning_rate * config.second_phase_rate),
    )
