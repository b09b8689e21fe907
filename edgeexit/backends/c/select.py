"""Chooses a kernel for every step: the cheapest by counted instructions.

Each kernel set either offers an implementation of a step or does not; plain C offers all. Costs are
compared only where every offer has been counted on the core. Where one has not, the order of
``KERNEL_SETS`` decides, which goes from the most to the least specialised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeexit.backends.c.kernels import cmsis_nn, dsp, mve, portable
from edgeexit.backends.c.kernels.base import Core, Implementation, KernelSet
from edgeexit.backends.c.program import Program, Step
from edgeexit.errors import ArgumentError, LoweringError

KERNEL_SETS = ("packed", "cmsis_nn", "portable")
"""Names, in the order in which they are preferred where nothing was counted."""

# Several modules may share a name: they serve different cores.
_MODULES: tuple[KernelSet, ...] = (mve, dsp, cmsis_nn, portable)


@dataclass(frozen=True)
class Choice:
    """The implementation of one step, and what it was chosen from.

    ``offers`` has all that could have been taken, ``implementation`` among them, in the order of
    ``KERNEL_SETS``. ``reason`` is one clause for a report.
    """

    implementation: Implementation
    offers: tuple[Implementation, ...]
    reason: str


def select(
    program: Program,
    core: Core,
    *,
    kernel_sets: Sequence[str] = KERNEL_SETS,
    cmsis_nn: Path | None = None,
) -> tuple[Implementation, ...]:
    """How each step of ``program.steps`` runs; arguments and errors as in ``choose``."""
    choices = choose(program, core, kernel_sets=kernel_sets, cmsis_nn=cmsis_nn)
    return tuple(choice.implementation for choice in choices)


def choose(
    program: Program,
    core: Core,
    *,
    kernel_sets: Sequence[str] = KERNEL_SETS,
    cmsis_nn: Path | None = None,
) -> tuple[Choice, ...]:
    """Chooses for each step of ``program.steps``.

    Args:
        program: The chain.
        core: What it runs on.
        kernel_sets: The sets to choose from. Plain C is taken for what none of them offers, whether
            it is named or not.
        cmsis_nn: Where CMSIS-NN's sources are; without them its set offers nothing.

    Raises:
        ArgumentError: There is no kernel set of that name.
        LoweringError: A kernel set offers nothing that could run.
    """
    for name in kernel_sets:
        if name not in KERNEL_SETS:
            raise ArgumentError(
                "there is no such kernel set",
                wanted=", ".join(KERNEL_SETS),
                given=f"{name!r}",
            )
    usable = [name for name in KERNEL_SETS if name != "cmsis_nn" or cmsis_nn is not None]
    wanted = [name for name in usable if name in kernel_sets]
    return tuple(_choose(step, program, core, wanted) for step in program.steps)


def _choose(step: Step, program: Program, core: Core, wanted: Sequence[str]) -> Choice:
    offers = _offers(step, program, core, wanted)
    if not offers:
        fallback = _offers(step, program, core, (portable.NAME,))
        if not fallback:
            raise LoweringError(
                f"no kernel runs a step of kind {type(step).__name__}", where=step.name
            )
        reason = f"not offered by {', '.join(wanted)}" if wanted else "no other set is at hand"
        return Choice(fallback[0], fallback, reason)
    if len(offers) == 1:
        return Choice(offers[0], offers, "the only offer")
    counts = {index: offer.instructions for index, offer in enumerate(offers)}
    known = {index: count for index, count in counts.items() if count is not None}
    if len(known) < len(offers):
        return Choice(offers[0], offers, "the most specialised; not all offers have been counted")
    # Equal counts: the first, which is the most specialised.
    best = min(known, key=lambda index: (known[index], index))
    runner_up = min(count for index, count in known.items() if index != best)
    return Choice(
        offers[best], offers, f"{known[best]:.0f} instructions, the next one {runner_up:.0f}"
    )


def _offers(
    step: Step, program: Program, core: Core, names: Sequence[str]
) -> tuple[Implementation, ...]:
    made = (
        module.offer(step, program, core)
        for name in names
        for module in _MODULES
        if name == module.NAME
    )
    return tuple(offer for offer in made if offer is not None)
