"""The budgeted search against every combination of observed thresholds, on cases full of ties."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from test_search import random_case

from edgeexit.errors import ArgumentError
from edgeexit.exits.budget import best_within_budget
from edgeexit.exits.float_scores import ALWAYS, NEVER, confidence_scores, ordered_integers
from edgeexit.exits.search import evaluate
from edgeexit.exits.sweep import Chosen

LAST = 2**32 - 1


def brute_force(
    scores: np.ndarray, correct: np.ndarray, costs: list[float], budget: float | None
) -> tuple[int, float, tuple[int, ...]] | None:
    """(wrong answers, summed cost, thresholds) of the best; ties as the module promises."""
    num_exits = scores.shape[1]
    choices = [[0, *sorted(set(scores[:, k].tolist()))] for k in range(num_exits - 1)]
    best = None
    for thresholds in product(*choices):
        counts, num_wrong = [0] * num_exits, 0
        for row, answers in zip(scores.tolist(), correct.tolist(), strict=True):
            k = next((k for k, t in enumerate(thresholds) if row[k] <= t), num_exits - 1)
            counts[k] += 1
            num_wrong += not answers[k]
        total = sum(count * cost for count, cost in zip(counts, costs, strict=True))
        if budget is None or total / len(scores) <= budget * (1 + 1e-9):
            key = (num_wrong, total, thresholds)
            best = key if best is None else min(best, key)
    return best


@pytest.mark.parametrize("budget", [3.5, 4.0, 6.2, 8.0, 11.0, 13.0, None])
@pytest.mark.parametrize("distinct", [2, 5, 1000])
@pytest.mark.parametrize("num_exits", [1, 2, 3])
def test_optimal_up_to_three_exits(num_exits: int, distinct: int, budget: float | None) -> None:
    for seed in range(12):
        scores, correct = random_case(seed, num_exits, distinct)
        # Rising, equal and falling costs: nothing about their order is assumed.
        for costs in ([5, 8, 12], [4, 4, 4], [9, 3, 6]):
            chosen = best_within_budget(scores, correct, costs[:num_exits], budget)
            wanted = brute_force(scores, correct, costs[:num_exits], budget)
            if wanted is None:
                assert chosen is None
                continue
            num_wrong, total, thresholds = wanted
            assert chosen is not None
            assert chosen.thresholds == (*thresholds, LAST)
            assert chosen.accuracy == pytest.approx(1 - num_wrong / len(scores))
            assert chosen.cost == pytest.approx(total / len(scores), rel=1e-12)
            assert chosen == evaluate(scores, correct, costs[:num_exits], chosen.thresholds)


def test_costs_that_are_no_whole_numbers() -> None:
    for seed in range(40):
        scores, correct = random_case(seed, 3, 6)
        costs = [0.1, 0.7, 1.3]
        for budget in (0.1, 0.4, 0.7, 1.0):
            chosen = best_within_budget(scores, correct, costs, budget)
            wanted = brute_force(scores, correct, costs, budget)
            assert chosen is not None
            assert wanted is not None
            assert chosen.accuracy == pytest.approx(1 - wanted[0] / len(scores))
            assert chosen.cost == pytest.approx(wanted[1] / len(scores), rel=1e-12)


def test_more_exits_keep_the_budget_and_are_seldom_beaten() -> None:
    equal = tried = 0
    for seed in range(20):
        scores, correct = random_case(seed, 4, 4)
        costs = [3.0, 5.0, 8.0, 9.0]
        for budget in (3.0, 5.5, 7.0, None):
            chosen = best_within_budget(scores, correct, costs, budget)
            wanted = brute_force(scores, correct, costs, budget)
            assert chosen is not None
            assert wanted is not None
            best = 1 - wanted[0] / len(scores)
            assert budget is None or chosen.cost <= budget * (1 + 1e-9)
            # At least what one exit alone gives.
            for k, cost in enumerate(costs):
                if budget is None or cost <= budget:
                    assert chosen.accuracy >= correct[:, k].mean() - 1e-12
            assert chosen.accuracy <= best + 1e-12
            equal += chosen.accuracy >= best - 1e-12
            tried += 1
    # Not guaranteed, but it should be the rule.
    assert equal >= 0.9 * tried


def test_by_hand() -> None:
    """Four samples; leaving at 0 costs 1, at 1 costs 4.

    Samples 0 and 1 are right early; 2 is right late only; 3 early only. In the order of their
    scores (sample 0, 1, 2, 3) leaving k of them at exit 0 costs 16, 13, 10, 7, 4 in all and gets
    3, 3, 3, 2, 3 right.
    """
    scores = np.array([[1, 1], [2, 1], [3, 1], [4, 1]])
    correct = np.array([[True, True], [True, True], [False, True], [True, False]])
    costs = [1.0, 4.0]
    # Three right for 4 in all beats three right for more, and two for 7.
    assert best_within_budget(scores, correct, costs, None) == Chosen(
        (4, LAST), 0.75, (1.0, 0.0), 1.0
    )
    correct[3] = [False, True]  # now 4, 4, 4, 3, 2 right
    assert best_within_budget(scores, correct, costs, None) == Chosen(
        (2, LAST), 1.0, (0.5, 0.5), 2.5
    )
    assert best_within_budget(scores, correct, costs, 2.5) == Chosen(
        (2, LAST), 1.0, (0.5, 0.5), 2.5
    )
    assert best_within_budget(scores, correct, costs, 2.4) == Chosen(
        (3, LAST), 0.75, (0.75, 0.25), 1.75
    )
    assert best_within_budget(scores, correct, costs, 1.0) == Chosen(
        (4, LAST), 0.5, (1.0, 0.0), 1.0
    )
    assert best_within_budget(scores, correct, costs, 0.9) is None


def test_a_budget_that_a_sum_of_floats_just_misses_still_fits() -> None:
    # Three times 0.1 is 0.30000000000000004.
    scores, correct = np.ones((3, 2), np.int64), np.ones((3, 2), bool)
    chosen = best_within_budget(scores, correct, [0.1, 1.0], 0.1)
    assert chosen is not None
    assert chosen.exit_rates == (1.0, 0.0)


def test_one_exit_fits_or_not() -> None:
    scores, correct = np.array([[3], [4]]), np.array([[True], [False]])
    assert best_within_budget(scores, correct, [7], 7) == Chosen((LAST,), 0.5, (1.0,), 7.0)
    assert best_within_budget(scores, correct, [7], 6.99) is None


def test_scores_that_are_all_equal_leave_together() -> None:
    scores, correct = np.full((4, 3), 5), np.array([[True, False, True]] * 4)
    chosen = best_within_budget(scores, correct, [1, 2, 3], 2.9)
    assert chosen == Chosen((5, 0, LAST), 1.0, (1.0, 0.0, 0.0), 1.0)


def test_negated_scores() -> None:
    scores = -np.array([[30, 0], [20, 0], [10, 0]])
    correct = np.array([[True, True], [True, True], [False, True]])
    chosen = best_within_budget(scores, correct, [1.0, 2.0], None, never=-256, always=0)
    assert chosen is not None
    assert chosen.thresholds == (-20, 0)


SCORES, CORRECT = np.full((3, 2), 5), np.ones((3, 2), bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": float("nan")}, r"(?s)budget is not a finite.*budget=nan"),
        ({"budget": float("inf")}, r"(?s)budget is not a finite.*None"),
        ({"costs": [1.0]}, "do not fit together"),
        ({"scores": SCORES[:0], "correct": CORRECT[:0]}, "need samples"),
        ({"scores": SCORES.astype(float)}, r"(?s)wrong type.*float64"),
        ({"scores": SCORES - 5}, r"(?s)score is out of range.*0 to 0"),
    ],
)
def test_wrong_arguments(change: dict[str, object], message: str) -> None:
    given = {"scores": SCORES, "correct": CORRECT, "costs": [1.0, 2.0], "budget": 2.0} | change
    with pytest.raises(ArgumentError, match=message):
        best_within_budget(**given)  # type: ignore[arg-type]


# ------------------------------------------------------------------ float scores


def test_ordered_integers_keep_the_order_and_ties() -> None:
    values = np.random.default_rng(0).normal(size=500)
    values = np.concatenate([values, values[:50], [0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308]])
    integers = ordered_integers(values)
    for relation in (np.less, np.equal):
        assert np.array_equal(relation.outer(values, values), relation.outer(integers, integers))
    assert NEVER < integers.min() <= integers.max() < ALWAYS


def test_confidence_scores_follow_the_softmax() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (200, 2, 5)).astype(np.float32)
    softmax = np.exp(logits.astype(np.float64))
    confidence = (softmax / softmax.sum(axis=2, keepdims=True)).max(axis=2)
    scores = confidence_scores(logits)
    assert scores.shape == (200, 2)
    flat, sure = scores.ravel(), confidence.ravel()
    assert np.array_equal(np.argsort(flat), np.argsort(-sure))


def test_confidence_scores_tell_apart_what_rounds_to_one() -> None:
    logits = np.array([[[60.0, 0.0]], [[50.0, 0.0]], [[50.0, 50.0]]])
    sure, less, torn = confidence_scores(logits)[:, 0]
    assert sure < less < torn


@pytest.mark.parametrize("logits", [np.zeros((2, 3)), np.zeros((2, 3, 4), np.int8)])
def test_other_logits_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match="float logits"):
        confidence_scores(logits)


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ArgumentError, match="not a finite"):
        confidence_scores(np.full((1, 1, 2), np.nan))
    with pytest.raises(ArgumentError, match="finite float64"):
        ordered_integers(np.array([np.inf]))
