"""Strategies as lists of phases, and how a budget is shared out between them.

Source: Kubaty et al. 2025, "How to Train Your Multi-Exit Model?", arXiv 2407.14320v2, section 3.
Phase 1 trains the backbone with its final exit only, phase 2 everything together, phase 3 the heads
on a frozen backbone. Deviation: the paper lets early stopping end each phase; here the budget is
fixed and shared out, so that strategies are compared at equal cost (early stopping is an option and
can only spend less).

A strategy is a name, ``disjoint``, ``joint`` or ``mixed``, or a list of phases with their shares of
the budget and, after an ``@``, factors on the peak learning rate:

    backbone=0.3,everything=0.5,heads=0.2@0.5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from edgeexit.errors import ArgumentError

PhaseName = Literal["backbone", "everything", "heads"]
BudgetUnit = Literal["epochs", "macs"]

STRATEGIES: dict[str, tuple[PhaseName, ...]] = {
    "disjoint": ("backbone", "heads"),
    "joint": ("everything",),
    "mixed": ("backbone", "everything"),
}


@dataclass(frozen=True)
class PhaseShare:
    """A phase, its share of the budget, and the factor on its peak learning rate."""

    name: PhaseName
    share: float
    rate: float


@dataclass(frozen=True)
class Phase:
    """One phase with its number of optimizer steps and its peak learning rate."""

    name: PhaseName
    num_steps: int
    learning_rate: float


def shares(strategy: str, backbone_share: float, second_rate: float) -> tuple[PhaseShare, ...]:
    """The phases of a strategy, before a budget is known.

    Args:
        strategy: A key of ``STRATEGIES``, or a list of phases as the module describes it.
        backbone_share: Share of the first of two phases of a named strategy.
        second_rate: Factor on the peak rate in the last phase of a named strategy with two.

    Raises:
        ArgumentError: The text is neither, or its shares do not sum to one.
    """
    if strategy in STRATEGIES:
        names = STRATEGIES[strategy]
        if len(names) == 1:
            return (PhaseShare(names[0], 1.0, 1.0),)
        return (
            PhaseShare(names[0], backbone_share, 1.0),
            PhaseShare(names[1], 1.0 - backbone_share, second_rate),
        )
    listed = tuple(_phase(text, strategy) for text in strategy.split(","))
    if abs(sum(phase.share for phase in listed) - 1) > 1e-6:
        raise ArgumentError(
            "the shares of a strategy's phases must sum to 1",
            wanted="for instance backbone=0.3,everything=0.7",
            given=strategy,
        )
    return listed


def has_two_phases(strategy: str) -> bool:
    """Whether a strategy is a name for two phases, which then share the budget by two numbers."""
    return len(STRATEGIES.get(strategy, ())) == 2


def _phase(text: str, strategy: str) -> PhaseShare:
    name, _, numbers = text.strip().partition("=")
    share, _, rate = numbers.partition("@")
    try:
        phase = PhaseShare(name, float(share), float(rate or 1.0))  # type: ignore[arg-type]
    except ValueError:
        phase = None
    if (
        phase is None
        or name not in get_args(PhaseName)
        or not 0 < phase.share <= 1
        or not (phase.rate > 0)
    ):
        raise ArgumentError(
            "unknown strategy",
            wanted=f"{', '.join(STRATEGIES)}, or phases such as backbone=0.3,everything=0.7@0.5",
            given=repr(strategy),
            where=repr(text),
        )
    return phase


def phases(
    listed: tuple[PhaseShare, ...],
    *,
    epochs: int,
    unit: BudgetUnit,
    learning_rate: float,
    steps_per_epoch: int,
    macs: Mapping[PhaseName, int],
) -> tuple[Phase, ...]:
    """Shares a budget out.

    Args:
        listed: Of `shares`.
        epochs: The budget. In the unit ``epochs`` they are shared out whole, and the last phase
            gets what rounding leaves; in the unit ``macs`` the budget is what so many epochs of
            phase 2 compute, and each phase gets as many steps as its share pays for.
        unit: Of the budget.
        learning_rate: The peak rate, before each phase's factor.
        steps_per_epoch: Batches in an epoch.
        macs: What a sample costs in a step of each phase, forward and backward.

    Raises:
        ArgumentError: The budget leaves a phase without a step.
    """
    if unit == "epochs":
        counts = [round(epochs * phase.share) for phase in listed[:-1]]
        steps = [count * steps_per_epoch for count in (*counts, epochs - sum(counts))]
    else:
        total = epochs * steps_per_epoch * macs["everything"]
        steps = [int(total * phase.share / macs[phase.name] + 1e-9) for phase in listed]
    if min(steps) < 1:
        raise ArgumentError(
            "the strategy needs an epoch for each of its phases",
            wanted=", ".join(f"{phase.name}={phase.share:g}" for phase in listed),
            given=f"epochs={epochs}",
            hint="raise epochs, or move the shares away from 0 and 1",
        )
    return tuple(
        Phase(phase.name, num_steps, learning_rate * phase.rate)
        for phase, num_steps in zip(listed, steps, strict=True)
    )
