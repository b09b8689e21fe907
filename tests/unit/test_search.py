"""The search against every combination of observed thresholds, on small cases full of ties."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edgeexit.errors import ArgumentError
from edgeexit.exits.search import evaluate, optimal_thresholds
from edgeexit.exits.sweep import Chosen

ALWAYS = 2**32 - 1


def brute_force(
    scores: np.ndarray, correct: np.ndarray, costs: list[float], max_drop: float
) -> tuple[float, int, tuple[int, ...]]:
    """(summed cost, wrong answers, thresholds) of the best; ties as the module promises."""
    num_exits = scores.shape[1]
    choices = [[0, *sorted(set(scores[:, k].tolist()))] for k in range(num_exits - 1)]
    best = None
    for thresholds in product(*choices):
        total, num_wrong = 0.0, 0
        for row, answers in zip(scores.tolist(), correct.tolist(), strict=True):
            k = next((k for k, t in enumerate(thresholds) if row[k] <= t), num_exits - 1)
            total += costs[k]
            num_wrong += not answers[k]
        if num_wrong <= sum(~correct[:, -1]) + max_drop * len(scores) + 1e-9:
            key = (total, num_wrong, thresholds)
            best = key if best is None else min(best, key)
    assert best is not None
    return best


def random_case(seed: int, num_exits: int, distinct: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    num_samples = int(rng.integers(1, 13))
    scores = rng.integers(1, distinct + 1, (num_samples, num_exits))
    easy = rng.random((num_samples, 1))
    correct = rng.random((num_samples, num_exits)) < np.linspace(0.4, 0.9, num_exits) + easy - 0.5
    return scores, correct


@pytest.mark.parametrize("max_drop", [0.0, 0.1, 0.34, 1.0])
@pytest.mark.parametrize("distinct", [2, 5, 1000])
@pytest.mark.parametrize("num_exits", [1, 2, 3])
def test_optimal_up_to_three_exits(num_exits: int, distinct: int, max_drop: float) -> None:
    for seed in range(25):
        scores, correct = random_case(seed, num_exits, distinct)
        # Rising, equal and falling costs: nothing about their order is assumed.
        for costs in ([5, 8, 12], [4, 4, 4], [9, 3, 6]):
            chosen = optimal_thresholds(scores, correct, costs[:num_exits], max_drop)
            total, num_wrong, thresholds = brute_force(scores, correct, costs[:num_exits], max_drop)
            assert chosen.thresholds == (*thresholds, ALWAYS)
            assert chosen.cost == pytest.approx(total / len(scores), rel=1e-12)
            assert chosen.accuracy == pytest.approx(1 - num_wrong / len(scores))
            assert sum(chosen.exit_rates) == pytest.approx(1)


def test_costs_that_are_no_whole_numbers() -> None:
    for seed in range(40):
        scores, correct = random_case(seed, 3, 6)
        costs = [0.1, 0.7, 1.3]
        chosen = optimal_thresholds(scores, correct, costs, 0.2)
        total, _, _ = brute_force(scores, correct, costs, 0.2)
        assert chosen.cost == pytest.approx(total / len(scores), rel=1e-12)


def test_more_exits_keep_the_promise_and_no_pair_improves() -> None:
    equal = 0
    for seed in range(25):
        scores, correct = random_case(seed, 4, 4)
        costs = [3.0, 5.0, 8.0, 9.0]
        chosen = optimal_thresholds(scores, correct, costs, 0.15)
        total, _, _ = brute_force(scores, correct, costs, 0.15)
        assert chosen.accuracy >= correct[:, -1].mean() - 0.15 - 1e-9
        assert total / len(scores) - 1e-9 <= chosen.cost <= costs[-1]
        assert chosen == evaluate(scores, correct, costs, chosen.thresholds)
        equal += chosen.cost <= total / len(scores) + 1e-9
    # Not guaranteed, but it should be the rule.
    assert equal >= 20


def test_equal_cost_prefers_accuracy_then_lower_thresholds() -> None:
    scores = np.array([[1, 1], [2, 1]])
    # Both may leave at exit 0 or none; both cost the same; leaving is wrong once.
    chosen = optimal_thresholds(scores, np.array([[True, True], [False, True]]), [7.0, 7.0], 1.0)
    assert chosen == Chosen((0, ALWAYS), 1.0, (0.0, 1.0), 7.0)


def test_a_drop_of_a_whole_number_of_samples_is_met_exactly() -> None:
    # 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996.
    scores = np.arange(1, 101)[:, None].repeat(2, axis=1)
    correct = np.array([[False, True]] * 100)
    for percent in (7, 29, 57):
        chosen = optimal_thresholds(scores, correct, [1.0, 2.0], percent / 100)
        assert chosen.exit_rates[0] == percent / 100
        assert chosen.thresholds[0] == percent


def test_negated_scores() -> None:
    scores = -np.array([[30, 0], [20, 0], [10, 0]])
    correct = np.array([[True, True], [True, True], [False, True]])
    chosen = optimal_thresholds(scores, correct, [1.0, 2.0], 0.0, never=-256, always=0)
    assert chosen.thresholds == (-20, 0)


def test_evaluate_by_hand() -> None:
    scores = np.array([[1, 9, 1], [5, 2, 1], [5, 9, 1], [5, 9, 9]])
    correct = np.array([[True, False, False], [False, True, False], [True, True, False],
                        [False, False, True]])  # fmt: skip
    result = evaluate(scores, correct, [1.0, 2.0, 4.0], (1, 2, ALWAYS))
    assert result == Chosen((1, 2, ALWAYS), 0.75, (0.25, 0.25, 0.5), 2.75)


SCORES, CORRECT = np.full((3, 2), 5), np.ones((3, 2), bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": CORRECT[:2]}, r"(?s)do not fit together.*\[3, 2\], \[2, 2\]"),
        ({"costs": [1.0]}, "do not fit together"),
        ({"costs": [1.0, float("inf")]}, "cost is not a finite"),
        ({"scores": SCORES[:0], "correct": CORRECT[:0]}, "need samples"),
        ({"scores": SCORES.astype(float)}, r"(?s)wrong type.*float64"),
        ({"correct": CORRECT.astype(int)}, "wrong type"),
        ({"max_drop": 1.5}, r"(?s)drop is out of range.*max_drop=1.5"),
        ({"max_drop": -0.1}, "drop is out of range"),
        ({"max_drop": float("nan")}, "drop is out of range"),
        ({"scores": SCORES - 5}, r"(?s)score is out of range.*0 to 0"),
    ],
)
def test_wrong_arguments(change: dict[str, object], message: str) -> None:
    given = {"scores": SCORES, "correct": CORRECT, "costs": [1.0, 2.0], "max_drop": 0.1} | change
    with pytest.raises(ArgumentError, match=message):
        optimal_thresholds(**given)  # type: ignore[arg-type]
