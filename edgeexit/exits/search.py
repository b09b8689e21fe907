"""The cheapest thresholds that keep a promised accuracy, on samples whose scores are known.

Also known as threshold tuning or exit-policy optimisation. A sample leaves at the first exit whose
score is at most its threshold, and at the last exit otherwise. Wanted:

    minimise    mean cost of the exits that samples leave at
    subject to  accuracy >= accuracy of the last exit - max_drop

Only the observed scores matter as thresholds: between two of them nobody's exit changes. For two
thresholds all pairs are compared: for each value of the first, samples that pass it are walked in
the order of their second score, and running sums give cost and accuracy of every second threshold
in one pass of numpy. That is O(N^2) additions; first thresholds whose best possible cost is worse
than what was found already, or that cannot reach the accuracy, are skipped by bounds that hold for
every second threshold, so the result is the exact optimum.

With one or two thresholds (two or three exits) the result is optimal. With more it is not
guaranteed to be: starting from "no exit is taken", the best pair of thresholds is found exactly
with the others fixed, for one pair after another, until no pair improves (coordinate descent to a
fixed point).

Equal cost: the higher accuracy wins; equal again: the lower (more conservative) thresholds, the
first exit's before the second's. Costs are summed in float64, so ties between costs are exact where
costs are whole numbers, such as MACs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError

# Bounds are compared with what was found; a bound this little above is still looked at.
_SLACK = 1e-12


@dataclass(frozen=True)
class Chosen:
    """Thresholds and what they do on the samples that they were searched on.

    ``cost`` is the mean per sample, in the unit of the costs that were given.
    """

    thresholds: tuple[int, ...]
    accuracy: float
    exit_rates: tuple[float, ...]
    cost: float


@dataclass(frozen=True)
class _Problem:
    scores: NDArray[np.int64]
    correct: NDArray[np.int64]
    costs: NDArray[np.float64]
    required: int
    never: int
    always: int


@dataclass(frozen=True, order=True)
class _Candidate:
    """Ordered as the search prefers: cost, then wrong answers, then thresholds."""

    total_cost: float
    num_wrong: int
    thresholds: tuple[int, ...]


def optimal_thresholds(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: Sequence[float] | NDArray[np.float64],
    max_drop: float,
    *,
    never: int = 0,
    always: int = (1 << 32) - 1,
) -> Chosen:
    """Finds the cheapest thresholds whose accuracy is at most ``max_drop`` below the last exit's.

    Args:
        scores: int64 [num_samples, num_exits]; a sample leaves where its score is at most the
            threshold. A rule that leaves above its threshold passes negated scores.
        correct: bool [num_samples, num_exits]: whether the exit's label is the right one.
        costs: float [num_exits]: what leaving at an exit costs, all segments up to it included.
        max_drop: Accuracy that may be lost, 0 to 1 (0.01 is one percentage point).
        never: A threshold below every score.
        always: The threshold that every score meets; given to the last exit.

    Returns:
        The thresholds and what they do on these samples; see the module for what is guaranteed.

    Raises:
        ArgumentError: If shapes do not fit, there is no sample, a score is not between ``never``
            and ``always``, a cost is not finite, or ``max_drop`` is out of range.
    """
    problem = _problem(scores, correct, costs, max_drop, never, always)
    num_free = problem.scores.shape[1] - 1
    best = _evaluate(problem, (never,) * num_free)
    if num_free == 1:
        best = min(best, _best_single(problem))
    elif num_free >= 2:
        pairs = list(combinations(range(num_free), 2))
        improved = True
        while improved:
            improved = False
            for first, second in pairs:
                found = _best_pair(problem, best, first, second)
                if found < best:
                    best, improved = found, len(pairs) > 1
    return _chosen(problem, best)


def evaluate(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: Sequence[float] | NDArray[np.float64],
    thresholds: Sequence[int],
) -> Chosen:
    """What given thresholds do on given samples, for instance on a split they were not chosen on.

    Args:
        scores: int64 [num_samples, num_exits], as in ``optimal_thresholds``.
        correct: bool [num_samples, num_exits].
        costs: float [num_exits].
        thresholds: One for each exit; the last exit answers whatever its threshold is.

    Raises:
        ArgumentError: If shapes do not fit or there is no sample.
    """
    always = int(thresholds[-1])
    problem = _problem(scores, correct, costs, 1.0, None, None)
    if len(thresholds) != scores.shape[1]:
        raise ArgumentError(
            "each exit needs one threshold", wanted=scores.shape[1], given=len(thresholds)
        )
    candidate = _evaluate(problem, tuple(int(threshold) for threshold in thresholds[:-1]))
    chosen = _chosen(problem, candidate)
    return Chosen((*candidate.thresholds, always), chosen.accuracy, chosen.exit_rates, chosen.cost)


def _problem(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: Sequence[float] | NDArray[np.float64],
    max_drop: float,
    never: int | None,
    always: int | None,
) -> _Problem:
    prices = np.asarray(costs, np.float64)
    if scores.ndim != 2 or scores.shape != correct.shape or prices.shape != scores.shape[1:]:
        raise ArgumentError(
            "scores, answers and costs do not fit together",
            wanted="[num_samples, num_exits], the same, and [num_exits]",
            given=f"{list(scores.shape)}, {list(correct.shape)} and {list(prices.shape)}",
        )
    if scores.size == 0:
        raise ArgumentError(
            "thresholds need samples to be chosen on", wanted="at least 1", given="none"
        )
    if not np.issubdtype(scores.dtype, np.integer) or correct.dtype != np.bool_:
        raise ArgumentError(
            "scores or answers are of the wrong type",
            wanted="integer scores and bool answers",
            given=f"{scores.dtype} and {correct.dtype}",
        )
    if not np.isfinite(prices).all():
        raise ArgumentError("a cost is not a finite number", given=prices.tolist())
    if not 0 <= max_drop <= 1:
        raise ArgumentError(
            "an accuracy drop is out of range",
            wanted="0 to 1, 0.01 being one percentage point",
            given=f"max_drop={max_drop!r}",
        )
    low, high = int(scores.min()), int(scores.max())
    if never is not None and always is not None and not never < low <= high <= always:
        raise ArgumentError(
            "a score is out of range",
            wanted=f"above {never} (never) and at most {always} (always)",
            given=f"{low} to {high}",
        )
    answers = correct.astype(np.int64)
    # 0.01 * 300 is 3.0000000000000004 or 2.9999999999999996, and means 3.
    allowed = int(np.floor(max_drop * len(scores) + 1e-9))
    return _Problem(
        scores.astype(np.int64),
        answers,
        prices,
        int(answers[:, -1].sum()) - allowed,
        low - 1 if never is None else never,
        high if always is None else always,
    )


def _exits(problem: _Problem, thresholds: tuple[int, ...]) -> NDArray[np.int64]:
    leaves = np.ones(problem.scores.shape, bool)
    leaves[:, :-1] = problem.scores[:, :-1] <= np.asarray(thresholds, np.int64)
    first: NDArray[np.int64] = leaves.argmax(axis=1).astype(np.int64)
    return first


def _total(problem: _Problem, counts: NDArray[np.int64]) -> float:
    """The summed cost of so many samples at each exit; one formula, so that ties compare equal."""
    return float(sum(int(count) * price for count, price in zip(counts, problem.costs.tolist(),
                                                                strict=True)))  # fmt: skip


def _evaluate(problem: _Problem, thresholds: tuple[int, ...]) -> _Candidate:
    exits = _exits(problem, thresholds)
    counts = np.bincount(exits, minlength=len(problem.costs))
    num_correct = int(problem.correct[np.arange(len(exits)), exits].sum())
    return _Candidate(_total(problem, counts), len(exits) - num_correct, thresholds)


def _chosen(problem: _Problem, candidate: _Candidate) -> Chosen:
    exits = _exits(problem, candidate.thresholds)
    counts = np.bincount(exits, minlength=len(problem.costs))
    return Chosen(
        (*candidate.thresholds, problem.always),
        (len(exits) - candidate.num_wrong) / len(exits),
        tuple((counts / len(exits)).tolist()),
        candidate.total_cost / len(exits),
    )


def _run_ends(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last index of each run of equal values."""
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


def _pick(
    total_cost: NDArray[np.float64], num_correct: NDArray[np.int64], required: int
) -> int | None:
    """The index that is cheapest among the accurate ones, then most accurate, then first."""
    accurate = np.flatnonzero(num_correct >= required)
    if not len(accurate):
        return None
    cost = total_cost[accurate]
    cheapest = accurate[cost == cost.min()]
    return int(cheapest[num_correct[cheapest].argmax()])


def _best_single(problem: _Problem) -> _Candidate:
    num_samples = len(problem.scores)
    order = np.argsort(problem.scores[:, 0], kind="stable")
    values = problem.scores[order, 0]
    ends = _run_ends(values)
    gained = np.cumsum((problem.correct[:, 0] - problem.correct[:, 1])[order])
    # Index 0 stands for never.
    num_left = np.concatenate(([0], ends + 1))
    num_correct = problem.correct[:, 1].sum() + np.concatenate(([0], gained[ends]))
    total = num_left * problem.costs[0] + (num_samples - num_left) * problem.costs[1]
    index = _pick(total, num_correct, problem.required)
    threshold = problem.never if not index else int(values[ends[index - 1]])
    return _evaluate(problem, (threshold,))


def _best_pair(problem: _Problem, best: _Candidate, first: int, second: int) -> _Candidate:
    """The best candidate in which only the thresholds of two exits differ from ``best``.

    Samples fall into three groups: those that leave before ``first``; those that reach it and, if
    they pass it, leave before ``second``; and those that, if they pass it, reach ``second``. For
    every threshold of ``first`` the last group shrinks, and the running sums are taken over what
    is left of it.
    """
    everyone = np.arange(len(problem.scores))
    fixed = list(best.thresholds)

    def outcome(open_exits: set[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        limits = [problem.never if k in open_exits else t for k, t in enumerate(fixed)]
        exits = _exits(problem, tuple(limits))
        return exits, problem.correct[everyone, exits]

    later_exit, later_correct = outcome({first, second})
    before = later_exit < first
    between = (later_exit > first) & (later_exit < second)
    reaches = ~before & ~between
    here_cost, there_cost = problem.costs[first], problem.costs[second]
    later_cost = problem.costs[later_exit]
    base_cost, base_correct = float(later_cost[before].sum()), int(later_correct[before].sum())

    # Every threshold of the first exit, from never up, and what leaves there at each.
    active = np.flatnonzero(~before)
    if not len(active):
        return best
    by_first = active[np.argsort(problem.scores[active, first], kind="stable")]
    values = problem.scores[by_first, first]
    ends = _run_ends(values)
    num_here = np.concatenate(([0], ends + 1))

    def running(amount: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
        sums = np.concatenate(([0.0], np.cumsum(amount[by_first], dtype=np.float64)))
        at_ends: NDArray[np.float64] = sums[num_here]
        return at_ends

    correct_here = running(problem.correct[:, first])
    least = np.where(reaches, np.minimum(there_cost, later_cost), later_cost)
    most = np.where(reaches, np.maximum(problem.correct[:, second], later_correct), later_correct)
    rest_least, rest_most = least[active].sum(), int(most[active].sum())
    cost_bound = base_cost + num_here * here_cost + rest_least - running(least)
    correct_bound = base_correct + correct_here + rest_most - running(most)

    # What those that stay cost if the second exit is never taken; they are the start of each sweep.
    stay_cost = base_cost + num_here * here_cost + later_cost[active].sum() - running(later_cost)
    stay_correct = (
        base_correct + correct_here + later_correct[active].sum() - running(later_correct)
    )

    candidates = np.flatnonzero(reaches)
    by_second = candidates[np.argsort(problem.scores[candidates, second], kind="stable")]
    second_values = problem.scores[by_second, second]
    second_ends = _run_ends(second_values) if len(second_values) else np.empty(0, np.int64)
    first_of_second = problem.scores[by_second, first]
    cost_change = there_cost - later_cost[by_second]
    correct_change = problem.correct[by_second, second] - later_correct[by_second]

    found = best
    tolerance = _SLACK * (abs(best.total_cost) + float(np.abs(problem.costs).max()))
    for index in np.argsort(cost_bound, kind="stable"):
        if cost_bound[index] > found.total_cost + tolerance:
            break
        if correct_bound[index] < problem.required:
            continue
        limit = problem.never if index == 0 else int(values[ends[index - 1]])
        stays = first_of_second > limit
        costs = np.concatenate(([0.0], np.cumsum(cost_change * stays)[second_ends]))
        gains = np.concatenate(([0], np.cumsum(correct_change * stays)[second_ends]))
        picked = _pick(
            stay_cost[index] + costs, (stay_correct[index] + gains).astype(np.int64),
            problem.required,
        )  # fmt: skip
        if picked is None:
            continue
        fixed[first] = limit
        fixed[second] = (
            problem.never if picked == 0 else int(second_values[second_ends[picked - 1]])
        )
        # Counted anew, so that equal counts give equal costs whatever order they were summed in.
        found = min(found, _evaluate(problem, tuple(fixed)))
    return found
