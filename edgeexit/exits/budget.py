"""The most accurate thresholds whose mean cost fits a budget, on samples whose scores are known.

Also known as budgeted batch classification (Huang et al. 2018, "Multi-Scale Dense Networks for
Resource Efficient Image Classification", section 1; there thresholds follow from one assumed exit
rate, here they are searched for). A sample leaves at the first exit whose score is at most its
threshold, and at the last exit otherwise. Wanted:

    maximise    accuracy
    subject to  mean cost of the exits that samples leave at <= budget

It is ``exits/search.py`` with the two turned around, over the same sweeps. With one or two
thresholds (two or three exits) all are compared, in O(N^2) additions for two, and the result is the
exact optimum. With more it is not guaranteed to be: starting from the single exit that is most
accurate of those that fit the budget, the best pair of thresholds is found exactly with the others
fixed, for one pair after another, until no pair improves.

Equal accuracy: the lower cost wins; equal again: the lower (more conservative) thresholds, the
first exit's before the second's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError
from edgeexit.exits import sweep
from edgeexit.exits.sweep import Candidate, Chosen, PairSweep, Problem, problem_of

# 3 * 0.1 is 0.30000000000000004, and is meant to fit a budget of 0.3.
_SLACK = 1e-9


def best_within_budget(
    scores: NDArray[np.int64],
    correct: NDArray[np.bool_],
    costs: Sequence[float] | NDArray[np.float64],
    budget: float | None,
    *,
    never: int = 0,
    always: int = (1 << 32) - 1,
) -> Chosen | None:
    """Finds the most accurate thresholds whose mean cost is at most ``budget``.

    Args:
        scores: int64 [num_samples, num_exits]; a sample leaves where its score is at most the
            threshold. A rule that leaves above its threshold passes negated scores, and float
            logits go through ``exits/float_scores.py``.
        correct: bool [num_samples, num_exits]: whether the exit's label is the right one.
        costs: float [num_exits]: what leaving at an exit costs, all segments up to it included.
        budget: The most that a sample may cost on average; None where cost is no concern.
        never: A threshold below every score.
        always: The threshold that every score meets; given to the last exit.

    Returns:
        The thresholds and what they do on these samples, or None where even the cheapest exit
        costs more than the budget.

    Raises:
        ArgumentError: If shapes do not fit, there is no sample, a score is not between ``never``
            and ``always``, or a cost or the budget is not a finite number.
    """
    if budget is not None and not math.isfinite(budget):
        raise ArgumentError(
            "a budget is not a finite number",
            wanted="a mean cost, or None for any",
            given=f"budget={budget!r}",
        )
    problem = problem_of(scores, correct, costs, never, always)
    limit = math.inf
    if budget is not None:
        limit = len(scores) * (budget + _SLACK * abs(budget))
    starts = [
        candidate
        for exit_index in range(len(problem.costs))
        if (candidate := _everyone_at(problem, exit_index)).total_cost <= limit
    ]
    if not starts:
        return None
    best = min(starts, key=_preference)
    if problem.num_free == 1:
        best = min(best, _best_single(problem, limit) or best, key=_preference)
    elif problem.num_free >= 2:
        best = sweep.by_pairs(
            problem.num_free,
            best,
            lambda found, first, second: _best_pair(problem, limit, found, first, second),
            _preference,
        )
    return sweep.chosen(problem, best)


def _preference(candidate: Candidate) -> tuple[int, float, tuple[int, ...]]:
    """What is smaller is preferred."""
    return candidate.num_wrong, candidate.total_cost, candidate.thresholds


def _everyone_at(problem: Problem, exit_index: int) -> Candidate:
    thresholds = [problem.never] * problem.num_free
    if exit_index < problem.num_free:
        thresholds[exit_index] = int(problem.scores[:, exit_index].max())
    return sweep.evaluate(problem, tuple(thresholds))


def _pick(
    total_cost: NDArray[np.float64], num_correct: NDArray[np.int64], limit: float
) -> int | None:
    """The index that is most accurate among those that fit, then cheapest, then first."""
    fitting = np.flatnonzero(total_cost <= limit)
    if not len(fitting):
        return None
    right = num_correct[fitting]
    accurate = fitting[right == right.max()]
    return int(accurate[total_cost[accurate].argmin()])


def _best_single(problem: Problem, limit: float) -> Candidate | None:
    thresholds, total_cost, num_correct = sweep.sweep_single(problem)
    picked = _pick(total_cost, num_correct, limit)
    return None if picked is None else sweep.evaluate(problem, (thresholds[picked],))


def _best_pair(
    problem: Problem, limit: float, best: Candidate, first: int, second: int
) -> Candidate:
    """The best candidate in which only the thresholds of two exits differ from ``best``."""
    pair = PairSweep(problem, best.thresholds, first, second)
    found = best
    num_samples = len(problem.scores)
    for index in np.argsort(-pair.correct_bound, kind="stable").tolist():
        if pair.correct_bound[index] < num_samples - found.num_wrong:
            break
        if pair.cost_bound[index] > limit:
            continue
        total_cost, num_correct = pair.row(index)
        picked = _pick(total_cost, num_correct, limit)
        if picked is not None and num_correct[picked] >= num_samples - found.num_wrong:
            candidate = sweep.evaluate(problem, pair.thresholds(index, picked))
            found = min(found, candidate, key=_preference)
    return found
