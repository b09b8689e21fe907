"""What every threshold of one exit, or of two, would cost and get right: the searches' inner loop.

Only the observed scores matter as thresholds: between two of them nobody's exit changes. Samples
are walked in the order of their scores, and running sums give cost and accuracy of all thresholds
in one pass of numpy. For two exits that is one pass for every threshold of the first, O(N^2)
additions in all, and bounds that hold whatever the second threshold is tell which passes may be
left out.

Costs are summed in float64, so ties between costs are exact where costs are whole numbers, such as
MACs. What a search settles on is counted anew by ``evaluate``, so that equal counts give equal
costs whatever order they were summed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError


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
class Problem:
    """Samples whose scores are known, checked by ``problem_of``.

    ``scores`` and ``correct`` are int64 [num_samples, num_exits], the latter 0 or 1; ``costs`` is
    float64 [num_exits]. ``never`` is below every score, and every score meets ``always``.
    """

    scores: NDArray[np.int64]
    correct: NDArray[np.int64]
    costs: NDArray[np.float64]
    never: int
    always: int

    @property
    def num_free(self) -> int:
        """How many exits have a threshold to choose: all but the last."""
        return len(self.costs) - 1


@dataclass(frozen=True)
class Candidate:
    """Free thresholds, and what they do: summed cost and wrong answers over all samples."""

    total_cost: float
    num_wrong: int
    thresholds: tuple[int, ...]


def problem_of(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: Sequence[float] | NDArray[np.float64],
    never: int | None = None,
    always: int | None = None,
) -> Problem:
    """Checks what a search was given; without ``never`` and ``always`` any scores will do.

    Raises:
        ArgumentError: If shapes or types do not fit, there is no sample, a cost is not finite, or a
            score is not between ``never`` and ``always``.
    """
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
    low, high = int(scores.min()), int(scores.max())
    if never is not None and always is not None and not never < low <= high <= always:
        raise ArgumentError(
            "a score is out of range",
            wanted=f"above {never} (never) and at most {always} (always)",
            given=f"{low} to {high}",
        )
    return Problem(
        scores.astype(np.int64),
        correct.astype(np.int64),
        prices,
        low - 1 if never is None else never,
        high if always is None else always,
    )


def exits_of(problem: Problem, thresholds: tuple[int, ...]) -> NDArray[np.int64]:
    """The exit at which each sample leaves, int64 [num_samples]."""
    leaves = np.ones(problem.scores.shape, bool)
    leaves[:, :-1] = problem.scores[:, :-1] <= np.asarray(thresholds, np.int64)
    first: NDArray[np.int64] = leaves.argmax(axis=1).astype(np.int64)
    return first


def evaluate(problem: Problem, thresholds: tuple[int, ...]) -> Candidate:
    """What thresholds do; one formula for the cost, so that ties compare equal."""
    exits = exits_of(problem, thresholds)
    counts = np.bincount(exits, minlength=len(problem.costs)).tolist()
    total = sum(n * price for n, price in zip(counts, problem.costs.tolist(), strict=True))
    num_correct = int(problem.correct[np.arange(len(exits)), exits].sum())
    return Candidate(float(total), len(exits) - num_correct, thresholds)


def chosen(problem: Problem, candidate: Candidate) -> Chosen:
    """A candidate in the caller's terms: shares and means, and a threshold for the last exit."""
    exits = exits_of(problem, candidate.thresholds)
    counts = np.bincount(exits, minlength=len(problem.costs))
    return Chosen(
        (*candidate.thresholds, problem.always),
        (len(exits) - candidate.num_wrong) / len(exits),
        tuple((counts / len(exits)).tolist()),
        candidate.total_cost / len(exits),
    )


def by_pairs(
    num_free: int,
    best: Candidate,
    best_pair: Callable[[Candidate, int, int], Candidate],
    preference: Callable[[Candidate], tuple[object, ...]],
) -> Candidate:
    """Coordinate descent: the best pair with the others fixed, until no pair improves.

    Args:
        num_free: Number of free thresholds, at least two.
        best: Where to start.
        best_pair: The best change of two thresholds of a candidate.
        preference: What is smaller is preferred.
    """
    pairs = list(combinations(range(num_free), 2))
    improved = True
    while improved:
        improved = False
        for first, second in pairs:
            found = best_pair(best, first, second)
            if preference(found) < preference(best):
                best, improved = found, len(pairs) > 1
    return best


def sweep_single(
    problem: Problem,
) -> tuple[list[int], NDArray[np.float64], NDArray[np.int64]]:
    """All thresholds of the first of two exits, from never up, with summed cost and correct ones.

    Returns:
        The thresholds, and float64 and int64 arrays as long as they are.
    """
    num_samples = len(problem.scores)
    order = np.argsort(problem.scores[:, 0], kind="stable")
    values = problem.scores[order, 0]
    ends = _run_ends(values)
    gained = np.cumsum((problem.correct[:, 0] - problem.correct[:, 1])[order])
    # Index 0 stands for never.
    num_left = np.concatenate(([0], ends + 1))
    num_correct = problem.correct[:, 1].sum() + np.concatenate(([0], gained[ends]))
    total = num_left * problem.costs[0] + (num_samples - num_left) * problem.costs[1]
    return [problem.never, *values[ends].tolist()], total, num_correct


class PairSweep:
    """All thresholds of two exits, the others fixed; a row for every threshold of the first.

    Samples fall into three groups: those that leave before ``first``; those that reach it and, if
    they pass it, leave before ``second``; and those that, if they pass it, reach ``second``. For
    every threshold of ``first`` the last group shrinks, and the running sums of a row are taken
    over what is left of it.

    Args:
        problem: The samples.
        fixed: All free thresholds; those of the two exits are not looked at.
        first: The earlier exit.
        second: The later one.

    Attributes:
        cost_bound: float64 [num_rows]: no second threshold gives a row a summed cost below this.
        correct_bound: int64 [num_rows]: none gives it more correct answers than this.
    """

    def __init__(self, problem: Problem, fixed: tuple[int, ...], first: int, second: int) -> None:
        self._fixed, self._first, self._second = fixed, first, second
        opened = [problem.never if k in (first, second) else t for k, t in enumerate(fixed)]
        later_exit = exits_of(problem, tuple(opened))
        later_correct = problem.correct[np.arange(len(later_exit)), later_exit]
        before = later_exit < first
        between = (later_exit > first) & (later_exit < second)
        reaches = ~before & ~between
        here_cost, there_cost = problem.costs[first], problem.costs[second]
        later_cost = problem.costs[later_exit]
        base_cost, base_correct = float(later_cost[before].sum()), int(later_correct[before].sum())

        # Every threshold of the first exit, from never up, and what leaves there at each.
        active = np.flatnonzero(~before)
        by_first = active[np.argsort(problem.scores[active, first], kind="stable")]
        values = problem.scores[by_first, first]
        ends = _run_ends(values)
        num_here = np.concatenate(([0], ends + 1))
        self._first_thresholds = [problem.never, *values[ends].tolist()]

        def running(amount: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
            sums = np.concatenate(([0.0], np.cumsum(amount[by_first], dtype=np.float64)))
            at_ends: NDArray[np.float64] = sums[num_here]
            return at_ends

        there_correct = problem.correct[:, second]
        least = np.where(reaches, np.minimum(there_cost, later_cost), later_cost)
        most = np.where(reaches, np.maximum(there_correct, later_correct), later_correct)
        here = base_cost + num_here * here_cost
        here_correct = base_correct + running(problem.correct[:, first])
        self.cost_bound: NDArray[np.float64] = here + least[active].sum() - running(least)
        self.correct_bound: NDArray[np.int64] = (
            here_correct + most[active].sum() - running(most)
        ).astype(np.int64)

        # What those that stay cost if the second exit is never taken: the start of each row.
        self._stay_cost = here + later_cost[active].sum() - running(later_cost)
        self._stay_correct = (
            here_correct + later_correct[active].sum() - running(later_correct)
        ).astype(np.int64)

        candidates = np.flatnonzero(reaches)
        by_second = candidates[np.argsort(problem.scores[candidates, second], kind="stable")]
        second_values = problem.scores[by_second, second]
        self._second_ends = _run_ends(second_values)
        self._second_thresholds = [problem.never, *second_values[self._second_ends].tolist()]
        self._first_of_second = problem.scores[by_second, first]
        self._cost_change = there_cost - later_cost[by_second]
        self._correct_change = there_correct[by_second] - later_correct[by_second]

    def row(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Summed cost and correct answers at every second threshold, from never up."""
        stays = self._first_of_second > self._first_thresholds[index]
        costs = np.cumsum(self._cost_change * stays)[self._second_ends]
        gains = np.cumsum(self._correct_change * stays)[self._second_ends]
        return (
            self._stay_cost[index] + np.concatenate(([0.0], costs)),
            self._stay_correct[index] + np.concatenate(([0], gains)),
        )

    def thresholds(self, index: int, picked: int) -> tuple[int, ...]:
        """All free thresholds, with those of the two exits from a row and a place in it."""
        thresholds = list(self._fixed)
        thresholds[self._first] = self._first_thresholds[index]
        thresholds[self._second] = self._second_thresholds[picked]
        return tuple(thresholds)


def _run_ends(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last index of each run of equal values."""
    if not len(ordered):
        return np.empty(0, np.int64)
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
