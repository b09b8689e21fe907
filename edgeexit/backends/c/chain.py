"""What the emitter writes beside the program: how exits decide, and what segments cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeexit.backends.c.program import Int8
from edgeexit.runtime.session import default_point
from edgeexit.types import DecisionSpec, InputSpec, OperatingPoint


@dataclass(frozen=True)
class ChainPoint:
    """An operating point: one threshold for each exit, in the unit of the rule; last ``always``."""

    name: str
    thresholds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """What the rule ``class_means`` compares at one exit.

    ``means`` is int8 [num_classes, num_features], on the scale and zero point of the buffer called
    ``feature``, which has ``num_features`` elements.
    """

    means: Int8
    feature: str


@dataclass(frozen=True)
class ChainInfo:
    """A chain as its user sees it.

    ``points`` run from the costliest to the cheapest. ``costs`` has one number for each segment,
    in ``cost_unit``; without it, the multiplications of the program are counted. ``class_means``
    has one entry for each exit with that rule and is empty otherwise. ``input`` is what the caller
    writes and how it is made of raw samples; None where that is not known.
    """

    name: str
    decision: DecisionSpec
    points: tuple[ChainPoint, ...]
    default_point: int = 0
    costs: tuple[int, ...] | None = None
    cost_unit: str = "macs"
    class_means: tuple[ClassMeans, ...] = ()
    input: InputSpec | None = None


def chain_of(
    name: str, decision: DecisionSpec, points: Sequence[OperatingPoint], given: InputSpec
) -> ChainInfo:
    """A chain with these operating points, which begins with the one that a session begins with."""
    names = [point.name for point in points]
    return ChainInfo(
        name=name,
        decision=decision,
        points=tuple(ChainPoint(point.name, point.thresholds) for point in points),
        default_point=names.index(default_point(names)),
        input=given,
    )


def single_exit(name: str) -> ChainInfo:
    """A chain of one exit, which always answers; for networks that were not trained to stop early.

    The rule is ``patience`` because that one needs nothing: no table, and no second class.
    """
    return ChainInfo(name, DecisionSpec("patience", ()), (ChainPoint("static", (1,)),))
