"""Overthinking and underthinking: where a later exit changes a right answer, and a wrong one.

For exits i < j, the overthinking rate is the share of all samples that exit i has right and exit j
has wrong; the underthinking rate is the reverse. The one is what leaving early wins, the other what
it loses, and their difference is the difference of the two accuracies.

Source: Kaya et al. 2019, "Shallow-Deep Networks: Understanding and Mitigating Network
Overthinking", section 4 (their destructive effect is ``destructive`` here). Deviation: rates are
given for every pair of exits, not against the last exit alone; underthinking is our name for the
reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeexit.training.diagnostics.sample import Counts, Floats, right


@dataclass(frozen=True, eq=False)
class Overthinking:
    """Rates over all samples of the split, each in [0, 1].

    Attributes:
        exits: Names of the exits.
        accuracy: float64 ``[num_exits]``.
        overthinking: float64 ``[num_exits, num_exits]``: ``[i, j]`` is the rate at which i is right
            and j is wrong, for i < j; NaN elsewhere.
        underthinking: float64 ``[num_exits, num_exits]``: i wrong and j right, for i < j; NaN
            elsewhere.
        first_right: float64 ``[num_exits]``: the rate at which an exit is the first that is right.
        destructive: The rate at which some earlier exit is right and the last one wrong.
        oracle_accuracy: The rate at which any exit is right.
        split: Where the sample came from.
        num_samples: Its size.
    """

    exits: tuple[str, ...]
    accuracy: Floats
    overthinking: Floats
    underthinking: Floats
    first_right: Floats
    destructive: float
    oracle_accuracy: float
    split: str
    num_samples: int


def overthinking(
    exits: tuple[str, ...], logits: Floats, labels: Counts, *, split: str
) -> Overthinking:
    """Counts answers that become wrong, or right, with depth.

    Args:
        exits: Names of the exits.
        logits: float64 ``[num_exits, N, num_classes]``.
        labels: int64 ``[N]``.
        split: Where the sample came from.
    """
    correct = right(logits, labels).astype(np.float64)
    count, num_exits = len(labels), len(exits)
    later = np.triu(np.ones((num_exits, num_exits), bool), 1)
    some_before = np.maximum.accumulate(correct, axis=0)
    new = np.diff(some_before, axis=0, prepend=0.0)
    return Overthinking(
        exits=exits,
        accuracy=correct.mean(1),
        overthinking=np.where(later, correct @ (1 - correct).T / count, np.nan),
        underthinking=np.where(later, (1 - correct) @ correct.T / count, np.nan),
        first_right=new.mean(1),
        destructive=float((some_before[-1] * (1 - correct[-1])).mean()),
        oracle_accuracy=float(some_before[-1].mean()),
        split=split,
        num_samples=count,
    )
