"""Operating points: thresholds for a promised accuracy, with what they did and where.

A promise is kept by one standard error: the accuracy lost on the samples at hand, plus the standard
error of that loss, is at most what was promised. Without it the search, which takes whatever these
samples allow, would on average lose more on new samples than on those it saw. Source: the
one-standard-error rule of Breiman et al. 1984, "Classification and Regression Trees", section
3.4.3, used here for a constraint. The standard error counts as one sample at least: that none of n
was lost does not say that of n new ones none will be. So a promise below 1 / n cannot be kept on n
samples, and there no exit is taken.

The cost of leaving at exit k is the MACs of segments 0 to k, heads included. Thresholds are chosen
on the split that is given here, on the logits of the engine that is named: give the calibration
split, never the test split. ``best_possible_macs_saved`` runs the same search on any split, to be
reported beside and used for nothing. With up to three exits that is the bound which no choice of
thresholds can beat there; with more it is what the search found, and others may save more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError
from edgeexit.exits.search import evaluate as evaluate_scores
from edgeexit.exits.search import optimal_thresholds
from edgeexit.exits.sweep import Chosen, exits_of, problem_of
from edgeexit.runtime.decision import RULES, batch_scores, check_thresholds
from edgeexit.types import DecisionSpec, OperatingPoint

DROPS: Mapping[str, float] = MappingProxyType({"accurate": 0.005, "balanced": 0.01, "frugal": 0.03})
"""Accuracy that each point may lose against the last exit."""


def operating_points(
    logits: NDArray[np.int8],
    labels: NDArray[np.int64],
    decision: DecisionSpec,
    segment_macs: Sequence[int],
    static_macs: int,
    *,
    drops: Mapping[str, float] = DROPS,
    num_standard_errors: float = 1.0,
    dataset: str,
    engine: str,
    say: Callable[[str], None] | None = None,
) -> tuple[OperatingPoint, ...]:
    """Chooses thresholds for each promised accuracy.

    Args:
        logits: int8 [num_samples, num_exits, num_classes], of the artifacts themselves.
        labels: int64 [num_samples].
        decision: The rule and its tables.
        segment_macs: MACs of each segment, its head included.
        static_macs: MACs of the backbone with the last exit alone.
        drops: Name of a point -> accuracy that it may lose against the last exit.
        num_standard_errors: Of the loss, which a point stays below its promise; 0 takes the samples
            for all there are. With 1, ``n`` samples keep no promise below ``1 / n``.
        dataset: Where the samples come from, split included.
        engine: Whose logits they are.
        say: Told the name of each point before it is searched for; with many exits and samples one
            takes a minute.

    Returns:
        ``static`` (no exit is taken: the accuracy that the others are measured against), then one
        for each of ``drops``, in that order.

    Raises:
        ArgumentError: If shapes do not fit, a name is taken twice, or a drop is out of range.
    """
    if "static" in drops:
        raise ArgumentError("the point static is always there", wanted="another name in drops")
    scores, correct, costs = _costed(logits, labels, decision, segment_macs)
    sign = _sign(decision)
    limits = RULES[decision.rule]
    never, always = sign * limits.never, sign * limits.always
    num_exits = scores.shape[1]
    chosen = {
        "static": evaluate_scores(scores, correct, costs, [never] * (num_exits - 1) + [always])
    }
    limits_of = {"never": never, "always": always}
    for name, drop in drops.items():
        if say is not None:
            say(name)
        chosen[name] = _kept(scores, correct, costs, drop, num_standard_errors, limits_of)
    return tuple(
        OperatingPoint(
            name=name,
            thresholds=tuple(sign * threshold for threshold in point.thresholds),
            accuracy=point.accuracy,
            exit_rates=point.exit_rates,
            macs=point.cost,
            macs_saved=1 - point.cost / static_macs,
            dataset=dataset,
            num_samples=len(logits),
            engine=engine,
        )
        for name, point in chosen.items()
    )


def evaluate(
    logits: NDArray[np.int8],
    labels: NDArray[np.int64],
    decision: DecisionSpec,
    segment_macs: Sequence[int],
    thresholds: Sequence[int],
) -> Chosen:
    """What thresholds, in the unit of the rule, do on samples that they were not chosen on.

    Args:
        logits: int8 [num_samples, num_exits, num_classes].
        labels: int64 [num_samples].
        decision: The rule and its tables.
        segment_macs: MACs of each segment, its head included.
        thresholds: One for each exit, as an operating point holds them.

    Returns:
        The same thresholds with accuracy, exit rates and mean MACs (``cost``) on these samples.

    Raises:
        ArgumentError: If shapes do not fit or a threshold is out of range.
    """
    scores, correct, costs = _costed(logits, labels, decision, segment_macs)
    sign = _sign(decision)
    checked = check_thresholds(thresholds, decision.rule, scores.shape[1])
    result = evaluate_scores(scores, correct, costs, [sign * limit for limit in checked])
    return Chosen(checked, result.accuracy, result.exit_rates, result.cost)


def best_possible_macs_saved(
    logits: NDArray[np.int8],
    labels: NDArray[np.int64],
    decision: DecisionSpec,
    segment_macs: Sequence[int],
    static_macs: int,
    *,
    max_drop: float,
) -> float:
    """The share of MACs that the best thresholds for these very samples would save.

    To be reported beside what thresholds from the calibration split save on the test split. A bound
    with up to three exits; with more, what the search of ``exits/search.py`` found.

    Args:
        logits: int8 [num_samples, num_exits, num_classes], for instance of the test split.
        labels: int64 [num_samples].
        decision: The rule and its tables.
        segment_macs: MACs of each segment, its head included.
        static_macs: MACs of the backbone with the last exit alone.
        max_drop: Accuracy that may be lost against the last exit on these samples.

    Raises:
        ArgumentError: If shapes do not fit or ``max_drop`` is out of range.
    """
    (_, point) = operating_points(
        logits, labels, decision, segment_macs, static_macs, drops={"best": max_drop},
        num_standard_errors=0, dataset="the samples themselves", engine="any",
    )  # fmt: skip
    return point.macs_saved


def _kept(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: NDArray[np.float64],
    drop: float,
    num_standard_errors: float,
    limits: Mapping[str, int],
) -> Chosen:
    """Cheap thresholds whose loss, with its standard errors, is within ``drop``.

    The optimum for ``drop`` says how large the standard error is; the search is then repeated with
    what that leaves. Where early exits are right about as often as they are wrong, the loss is
    small and its standard error is not: then the answers that are lost are bounded alone, more and
    more tightly, and if nothing keeps the promise no exit is taken.
    """
    first = optimal_thresholds(scores, correct, costs, drop, **limits)
    lost, error = _loss(scores, correct, costs, first.thresholds)
    if lost + num_standard_errors * error <= drop or num_standard_errors == 0:
        return first
    left = max(0.0, drop - num_standard_errors * error)
    forgiving = correct | ~correct[:, -1:]  # an answer that is won does not make up for a lost one
    searches = [(correct, left), *((forgiving, drop * 0.5**k) for k in range(1, 6)), (forgiving, 0)]
    for counted, allowed in searches:
        found = optimal_thresholds(scores, counted, costs, allowed, **limits)
        lost, error = _loss(scores, correct, costs, found.thresholds)
        if lost + num_standard_errors * error <= drop:
            return evaluate_scores(scores, correct, costs, found.thresholds)
    never = [limits["never"]] * (scores.shape[1] - 1)
    return evaluate_scores(scores, correct, costs, [*never, limits["always"]])


def _loss(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: NDArray[np.float64],
    thresholds: Sequence[int],
) -> tuple[float, float]:
    """Accuracy that thresholds lose against the last exit, and its standard error."""
    problem = problem_of(scores, correct, costs)
    taken = exits_of(problem, tuple(thresholds[:-1]))
    lost = problem.correct[:, -1] - problem.correct[np.arange(len(taken)), taken]
    return float(lost.mean()), max(float(lost.std() / math.sqrt(len(lost))), 1 / len(lost))


def _sign(decision: DecisionSpec) -> int:
    """The search leaves at or below a threshold; rules that leave above one are turned over."""
    return 1 if RULES[decision.rule].exits_below else -1


def _costed(
    logits: NDArray[np.int8],
    labels: NDArray[np.int64],
    decision: DecisionSpec,
    segment_macs: Sequence[int],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    scores = batch_scores(logits, decision)
    if labels.shape != (len(logits),) or len(segment_macs) != logits.shape[1]:
        raise ArgumentError(
            "labels or MACs do not fit the logits",
            wanted=f"{len(logits)} labels and {logits.shape[1]} segments",
            given=f"labels {list(labels.shape)} and {len(segment_macs)} segments",
        )
    correct = logits.argmax(axis=2) == labels[:, None]
    return _sign(decision) * scores, correct, np.cumsum(np.asarray(segment_macs, np.float64))
