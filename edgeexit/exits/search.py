"""The cheapest thresholds that keep a promised accuracy, on samples whose scores are known.

Also known as threshold tuning or exit-policy optimisation. A sample leaves at the first exit whose
score is at most its threshold, and at the last exit otherwise. Wanted:

    minimise    mean cost of the exits that samples leave at
    subject to  accuracy >= accuracy of the last exit - max_drop

For two thresholds all pairs are compared, by the sweeps of ``exits/sweep.py``; first thresholds
whose best possible cost is worse than what was found already, or that cannot reach the accuracy,
are skipped by bounds that hold for every second threshold, so the result is the exact optimum.

With one or two thresholds (two or three exits) the result is optimal. With more it is not
guaranteed to be: starting from "no exit is taken", the best pair of thresholds is found exactly
with the others fixed, for one pair after another, until no pair improves (coordinate descent to a
fixed point). Of 60 random cases of twelve samples and four exits, 57 came out optimal. A pair takes
O(N^2), and K exits have (K - 1)(K - 2) / 2 pairs: on one core of a PC, 5,000 samples took 1 s at
three exits, 4 s at four and 9 s at six.

Equal cost: the higher accuracy wins; equal again: the lower (more conservative) thresholds, the
first exit's before the second's. ``exits/budget.py`` has the reverse: the most accurate thresholds
for a promised cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError
from edgeexit.exits import sweep
from edgeexit.exits.sweep import Candidate, Chosen, PairSweep, Problem, problem_of

# Bounds are compared with what was found; a bound this little above is still looked at.
_SLACK = 1e-12


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
    if not 0 <= max_drop <= 1:
        raise ArgumentError(
            "an accuracy drop is out of range",
            wanted="0 to 1, 0.01 being one percentage point",
            given=f"max_drop={max_drop!r}",
        )
    problem = problem_of(scores, correct, costs, never, always)
    # 0.01 * 300 is 3.0000000000000004 or 2.9999999999999996, and means 3.
    allowed = int(np.floor(max_drop * len(scores) + 1e-9))
    required = int(problem.correct[:, -1].sum()) - allowed
    best = sweep.evaluate(problem, (never,) * problem.num_free)
    if problem.num_free == 1:
        best = min(best, _best_single(problem, required), key=_preference)
    elif problem.num_free >= 2:
        best = sweep.by_pairs(
            problem.num_free,
            best,
            lambda found, first, second: _best_pair(problem, required, found, first, second),
            _preference,
        )
    return sweep.chosen(problem, best)


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
    problem = problem_of(scores, correct, costs)
    if len(thresholds) != scores.shape[1]:
        raise ArgumentError(
            "each exit needs one threshold", wanted=scores.shape[1], given=len(thresholds)
        )
    *free, always = (int(threshold) for threshold in thresholds)
    result = sweep.chosen(problem, sweep.evaluate(problem, tuple(free)))
    return Chosen((*free, always), result.accuracy, result.exit_rates, result.cost)


def _preference(candidate: Candidate) -> tuple[float, int, tuple[int, ...]]:
    """What is smaller is preferred."""
    return candidate.total_cost, candidate.num_wrong, candidate.thresholds


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


def _best_single(problem: Problem, required: int) -> Candidate:
    thresholds, total_cost, num_correct = sweep.sweep_single(problem)
    picked = _pick(total_cost, num_correct, required) or 0  # which is never, and always accurate
    return sweep.evaluate(problem, (thresholds[picked],))


def _best_pair(
    problem: Problem, required: int, best: Candidate, first: int, second: int
) -> Candidate:
    """The best candidate in which only the thresholds of two exits differ from ``best``."""
    pair = PairSweep(problem, best.thresholds, first, second)
    found = best
    tolerance = _SLACK * (abs(best.total_cost) + float(np.abs(problem.costs).max()))
    for index in np.argsort(pair.cost_bound, kind="stable").tolist():
        if pair.cost_bound[index] > found.total_cost + tolerance:
            break
        if pair.correct_bound[index] < required:
            continue
        total_cost, num_correct = pair.row(index)
        picked = _pick(total_cost, num_correct, required)
        if picked is not None and total_cost[picked] <= found.total_cost + tolerance:
            candidate = sweep.evaluate(problem, pair.thresholds(index, picked))
            found = min(found, candidate, key=_preference)
    return found
