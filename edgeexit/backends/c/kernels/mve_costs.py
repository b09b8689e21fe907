"""Counted instructions of the packed MVE kernels: a weight for each thing they do.

``costs.json`` holds the weights, fitted to exact counts of an emulator; how much each kernel does
follows from the shapes of its layer. A core that was not counted has no costs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from edgeexit.backends.c.kernels.base import Core

_FILE = Path(__file__).parents[1] / "costs.json"


def count(core: Core, function: str, amounts: Mapping[str, int]) -> float | None:
    """Instructions of one run of a kernel.

    Args:
        core: Where it runs.
        function: A kernel, or what several have in common: a key of the costs.
        amounts: How often it does what. A run as such costs something, too: ``runs``.
    """
    weights = _weights().get(core.cost, {}).get(function)
    if weights is None:
        return None
    total = weights["runs"]
    for name, amount in amounts.items():
        if amount != 0:
            if name not in weights:
                return None
            total += weights[name] * amount
    return total


@cache
def _weights() -> dict[str, dict[str, dict[str, float]]]:
    content: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads(_FILE.read_text())
    return content.get("mve", {})
