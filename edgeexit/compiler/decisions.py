"""Which rule a bundle decides by, and what its operating points promise."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.errors import ArgumentError
from edgeexit.runtime.decision import exp_table
from edgeexit.types import DecisionSpec, Rule, Segment

_RULES: dict[str, Rule] = {
    "confidence": "confidence",
    "margin": "margin",
    "patience": "patience",
}


def rule_named(name: str) -> Rule:
    """The rule of that name, if a bundle can hold it.

    Raises:
        ArgumentError: No such rule, or ``class_means``, for whose means a bundle has no place.
    """
    if name not in _RULES:
        raise ArgumentError(
            "a bundle cannot decide by this rule", wanted=", ".join(_RULES), given=f"rule={name!r}"
        )
    return _RULES[name]


def decision_for(segments: Sequence[Segment], rule: Rule = "confidence") -> DecisionSpec:
    """The rule, with the table that each exit's scale asks for where the rule reads one."""
    if rule != "confidence":
        return DecisionSpec(rule, ((),) * len(segments))
    return DecisionSpec(rule, tuple(exp_table(segment.spec.logits.scale) for segment in segments))


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
