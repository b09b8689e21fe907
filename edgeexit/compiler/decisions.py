"""Which rule a bundle decides by, and what its operating points promise."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.runtime.decision import exp_table
from edgeexit.types import DecisionSpec, Segment


def decision_for(segments: Sequence[Segment]) -> DecisionSpec:
    """The confidence rule, with the table that each exit's scale asks for."""
    return DecisionSpec(
        "confidence", tuple(exp_table(segment.spec.logits.scale) for segment in segments)
    )


def drops_for(max_accuracy_drop: float) -> dict[str, float]:
    """What each operating point may lose of the accuracy without early exits.

    ``balanced`` may lose ``max_accuracy_drop``, ``accurate`` half and ``frugal`` three times as
    much.
    """
    return {
        "accurate": max_accuracy_drop / 2,
        "balanced": max_accuracy_drop,
        "frugal": min(1.0, 3 * max_accuracy_drop),
    }
