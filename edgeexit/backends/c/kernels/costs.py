"""What kernels cost, in instructions: a weight for each thing they do.

A kernel set says how often a kernel does what, which follows from the shapes of the layer.
``costs.json`` holds what each of that takes on each core, fitted by ``benchmarks/kernel_costs.py``
to exact counts of an emulator:

    set -> core -> function -> {"calls": for a call as such, NAME: for one of the amount NAME}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeexit.backends.c.kernels.base import Core

COSTS_PATH = Path(__file__).parents[1] / "costs.json"
CALLS = "calls"

Costs = dict[str, dict[str, dict[str, dict[str, float]]]]


@dataclass(frozen=True)
class Work:
    """How often one run of a kernel does what.

    ``costs`` and ``function`` are keys of the costs: a set (``portable``, ``cmsis_nn``, ``dsp``,
    ``mve``), and a kernel or what several have in common. ``amounts`` leave out the call as such.
    """

    costs: str
    function: str
    amounts: Mapping[str, int]

    def instructions(self, core: Core) -> float | None:
        """What it takes on ``core``; None where something of it was not counted there."""
        weights = load_costs().get(self.costs, {}).get(core.cost, {}).get(self.function)
        if weights is None:
            return None
        total = weights[CALLS]
        for name, amount in self.amounts.items():
            if amount != 0:
                if name not in weights:
                    return None
                total += weights[name] * amount
        return total


@cache
def load_costs() -> Costs:
    """The content of ``costs.json``; not to be changed."""
    costs: Costs = json.loads(COSTS_PATH.read_text(encoding="utf-8"))
    return costs
