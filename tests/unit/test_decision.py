"""The rules against formulas in exact arithmetic, and each way against the other."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

import numpy as np
import pytest

from edgeexit.errors import ArgumentError
from edgeexit.runtime import decision as rules
from edgeexit.types import DecisionSpec, Rule

ALWAYS = 2**32 - 1
SCALES = (0.0024, 0.1, 0.37, 8.0)


def confidence(*scales: float) -> DecisionSpec:
    return DecisionSpec("confidence", tuple(rules.exp_table(scale) for scale in scales))


def without_tables(rule: Rule, num_exits: int) -> DecisionSpec:
    return DecisionSpec(rule, ((),) * num_exits)


def random_logits(num_samples: int, num_exits: int, num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    logits = rng.integers(-128, 128, (num_samples, num_exits, num_classes), dtype=np.int8)
    # A quarter with ties everywhere, and the corners of the range.
    logits[::4] = rng.integers(-2, 2, logits[::4].shape, dtype=np.int8)
    logits[0], logits[1] = -128, 127
    logits[2, :, 0], logits[2, :, 1:] = 127, -128
    return logits


def one_by_one(logits: np.ndarray, spec: DecisionSpec) -> tuple[list[list[int]], list[list[int]]]:
    labels, scores = [], []
    for sample in logits:
        rule = rules.SampleRule(spec, len(sample))
        pairs = [rule.score(k, row.tobytes()) for k, row in enumerate(sample)]
        labels.append([label for label, _ in pairs])
        scores.append([score for _, score in pairs])
    return labels, scores


@pytest.mark.parametrize("scale", SCALES)
def test_table_is_the_rounded_exponential(scale: float) -> None:
    table = rules.exp_table(scale)
    exact = [(Decimal(-scale) * distance).exp() * 65536 for distance in range(256)]
    assert len(table) == 256
    assert table[0] == 65536
    assert all(abs(Decimal(entry) - value) <= Decimal("0.5") for entry, value in
               zip(table, exact, strict=True))  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_table_needs_a_scale(scale: float) -> None:
    with pytest.raises(ArgumentError, match="scale of the logits"):
        rules.exp_table(scale)


def test_confidence_by_hand() -> None:
    # E[0] + E[1] + E[3] with scale ln 2: 65536 + 32768 + 8192.
    spec = confidence(float(np.log(2)))
    logits = np.array([[[5, 4, 2]]], np.int8)
    assert rules.batch_scores(logits, spec).tolist() == [[106496]]
    assert rules.SampleRule(spec, 1).score(0, logits.tobytes()) == (0, 106496)


def test_margin_by_hand() -> None:
    spec = without_tables("margin", 1)
    logits = np.array([[[-128, 127, 3]], [[9, 9, 1]]], np.int8)
    assert rules.batch_scores(logits, spec).tolist() == [[124], [0]]


def test_patience_by_hand() -> None:
    spec = without_tables("patience", 4)
    logits = np.array([[[0, 1], [0, 3], [2, 1], [2, 0]]], np.int8)
    assert rules.batch_scores(logits, spec).tolist() == [[1, 2, 1, 2]]
    assert rules.batch_exits(rules.batch_scores(logits, spec), (2, 2, 2, 1), "patience") == [1]


@pytest.mark.parametrize("num_classes", [2, 10, 96, 97, 1000])
@pytest.mark.parametrize("rule", ["confidence", "margin", "patience"])
def test_one_sample_and_many_agree(rule: Rule, num_classes: int) -> None:
    logits = random_logits(64, 3, num_classes)
    spec = confidence(*SCALES[:3]) if rule == "confidence" else without_tables(rule, 3)
    labels, scores = one_by_one(logits, spec)
    assert scores == rules.batch_scores(logits, spec).tolist()
    assert labels == [[row.tolist().index(row.max()) for row in sample] for sample in logits]


@pytest.mark.parametrize("scale", SCALES)
def test_a_close_call_never_changes_a_decision(scale: float) -> None:
    table = rules.exp_table(scale)
    logits = random_logits(200, 1, 10)[:, 0]
    scores = rules.confidence_sums(logits, np.asarray(table, np.int64)).tolist()
    num_stopped = 0
    for threshold in (
        0,
        65_535,
        65_536,
        65_537,
        70_000,
        100_000,
        131_071,
        131_072,
        500_000,
        ALWAYS,
    ):
        calls = rules.CloseCalls(table, threshold)
        for row, score in zip(logits, scores, strict=True):
            near = row.tobytes().translate(None, calls[int(row.max()) & 255])
            if len(near) > 1:
                assert score > threshold
                num_stopped += 1
            # Exactly those are left whose term alone is too much.
            distances = (int(row.max()) - row.astype(int)).tolist()
            assert len(near) == sum(65_536 + table[d] > threshold for d in distances)
    assert num_stopped > 0


def test_a_shrinking_batch_keeps_each_samples_patience() -> None:
    logits = random_logits(32, 3, 3)
    spec = without_tables("patience", 3)
    rule = rules.BatchRule(spec, 32)
    left = np.arange(32)
    expected = rules.batch_scores(logits, spec)
    for k in range(3):
        _, scores = rule.score(k, logits[left, k], left)
        assert scores.tolist() == expected[left, k].tolist()
        left = left[k::2]


def test_scores_fit_32_bits_at_most_classes() -> None:
    logits = np.zeros((1, 1, rules.MAX_CLASSES), np.int8)
    assert rules.batch_scores(logits, confidence(1.0)).tolist() == [[4096 * 65536]]
    with pytest.raises(ArgumentError, match="number of classes"):
        rules.batch_scores(np.zeros((1, 1, rules.MAX_CLASSES + 1), np.int8), confidence(1.0))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_never_and_always_are_what_they_say(rule: Rule) -> None:
    limits = rules.RULES[rule]
    largest = {
        "confidence": (65536, rules.MAX_CLASSES * 65536),
        "margin": (0, 255),
        "patience": (1, 64),
        "class_means": (0, 33_025 * 255**2),
    }[rule]
    scores = np.array([[score, 1] for score in largest], np.int64)
    assert rules.batch_exits(scores, (limits.never, limits.always), rule).tolist() == [1, 1]
    assert rules.batch_exits(scores, (limits.always, limits.always), rule).tolist() == [0, 0]


def test_a_score_equal_to_the_threshold_leaves() -> None:
    assert rules.batch_exits(np.array([[70_000, 0]]), (70_000, ALWAYS), "confidence") == [0]
    assert rules.batch_exits(np.array([[70_001, 0]]), (70_000, ALWAYS), "confidence") == [1]
    assert rules.batch_exits(np.array([[12, 0]]), (12, 0), "margin") == [0]
    assert rules.batch_exits(np.array([[11, 0]]), (12, 0), "margin") == [1]


def test_threshold_of_a_probability() -> None:
    assert rules.confidence_threshold(1.0) == 65536
    assert rules.confidence_threshold(0.9) == 72817
    assert rules.confidence_threshold(1e-12) == ALWAYS
    with pytest.raises(ArgumentError, match=r"(?s)probability.*confidence=1\.5"):
        rules.confidence_threshold(1.5)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ((1, ALWAYS), "one threshold"),
        ((1, -1, ALWAYS), "(?s)out of range.*-1 for exit 1"),
        ((1, 2**32, ALWAYS), "out of range"),
        ((1, 0.5, ALWAYS), "(?s)an integer.*0.5 for exit 1"),
        ((1, True, ALWAYS), "an integer"),
        ((1, 2, 3), "last exit has to answer"),
    ],
)
def test_thresholds_are_checked(thresholds: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rules.check_thresholds(thresholds, "confidence", 3)


def test_class_means_by_hand() -> None:
    features = np.array([[0, 0], [3, 4], [-128, 127]], np.int8)
    means = np.array([[3, 4], [0, 1], [127, -128]], np.int8)
    distances = rules.class_distances(features, means)
    assert distances.dtype == np.int32
    assert distances.tolist() == [[25, 1, 32513], [0, 18, 32800], [32290, 32260, 130050]]
    labels, scores = rules.class_means_scores(distances)
    assert labels.tolist() == [1, 0, 1]
    assert scores.tolist() == [24, 18, 30]


def test_class_means_refuse_what_could_overflow() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)do not fit.*33025"):
        rules.class_distances(np.zeros((1, 33_026), np.int8), np.zeros((2, 33_026), np.int8))


@pytest.mark.parametrize("make", [rules.SampleRule, rules.BatchRule])
def test_class_means_need_features(make: type) -> None:
    with pytest.raises(ArgumentError, match="on features, not on logits"):
        make(without_tables("class_means", 2), 2)


def test_wrong_logits_and_tables_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)int8 logits.*float32"):
        rules.batch_scores(np.zeros((1, 1, 3), np.float32), confidence(1.0))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"(?s)table for each exit.*1 tables"):
        rules.batch_scores(np.zeros((1, 2, 3), np.int8), confidence(1.0))
    with pytest.raises(ArgumentError, match="table for each exit"):
        rules.SampleRule(confidence(1.0), 2)
