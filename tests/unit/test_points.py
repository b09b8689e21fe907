"""Operating points on logits whose decisions are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.errors import ArgumentError
from edgeexit.exits.points import best_possible_macs_saved, evaluate, operating_points
from edgeexit.runtime.decision import batch_exits, batch_scores, exp_table
from edgeexit.types import DecisionSpec

ALWAYS = 2**32 - 1
CONFIDENCE = DecisionSpec("confidence", (exp_table(0.1),) * 3)
MARGIN = DecisionSpec("margin", ((),) * 3)
MACS, STATIC_MACS = (40, 30, 35), 100
DROPS = {"accurate": 0.0, "balanced": 0.1, "frugal": 1.0}


def ladder() -> tuple[np.ndarray, np.ndarray]:
    """Ten samples of class 1; exit 0 is surer the lower the number, and wrong on 6 and above."""
    logits = np.zeros((10, 3, 2), np.int8)
    logits[:, 0, 1] = np.arange(100, 0, -10)
    logits[6:, 0] = logits[6:, 0, ::-1]
    logits[:, 1, 1] = 1
    logits[:, 2, 1] = 100
    return logits, np.ones(10, np.int64)


@pytest.mark.parametrize(
    ("decision", "never", "always"), [(CONFIDENCE, 0, ALWAYS), (MARGIN, 256, 0)]
)
def test_points_by_hand(decision: DecisionSpec, never: int, always: int) -> None:
    logits, labels = ladder()
    static, accurate, _, frugal = operating_points(
        logits, labels, decision, MACS, STATIC_MACS, drops=DROPS, num_standard_errors=0,
        dataset="d", engine="e",
    )  # fmt: skip
    assert static.name == "static"
    assert static.thresholds == (never, never, always)
    assert static.exit_rates == (0.0, 0.0, 1.0)
    assert (static.macs, static.accuracy, static.num_samples) == (105.0, 1.0, 10)
    assert static.macs_saved == pytest.approx(-0.05)
    # Exit 0 is right on the six surest; exit 1 is always right and takes the other four.
    assert accurate.exit_rates == (0.6, 0.4, 0.0)
    assert accurate.macs == pytest.approx(0.6 * 40 + 0.4 * 70)
    assert accurate.macs_saved == pytest.approx(0.48)
    assert frugal.exit_rates == (1.0, 0.0, 0.0)
    assert frugal.accuracy == 0.6
    assert {(p.dataset, p.engine) for p in (static, accurate, frugal)} == {("d", "e")}


def test_few_samples_keep_no_promise_finer_than_one_of_them() -> None:
    logits, labels = ladder()
    drops = {"finer": 0.099, "one": 0.1, "nine": 0.9}
    _, finer, one, nine = operating_points(
        logits, labels, CONFIDENCE, MACS, STATIC_MACS, drops=drops, dataset="d", engine="e"
    )
    assert finer.exit_rates == (0.0, 0.0, 1.0)
    assert one.exit_rates == (0.6, 0.4, 0.0)  # none of ten is lost: one may be, of ten others
    assert nine.exit_rates == (1.0, 0.0, 0.0)


def close_exits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exits of nearly the same accuracy, which are right on other samples."""
    rng = np.random.default_rng(seed)
    labels, hard = rng.integers(0, 10, count), rng.random(count)
    logits = rng.normal(0, 1, (count, 3, 10))
    for exit_index, strength in enumerate((2.6, 3.4, 3.9)):
        logits[np.arange(count), exit_index, labels] += strength * (1 - hard) + 0.8
    return np.clip(np.round(20 * logits), -128, 127).astype(np.int8), labels


@pytest.mark.parametrize("count", [200, 2000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_and_its_standard_error_are_within_the_promise(count: int, seed: int) -> None:
    logits, labels = close_exits(count, seed)
    drops = {"tight": 0.005, "wide": 0.03}
    points = operating_points(
        logits, labels, CONFIDENCE, MACS, STATIC_MACS, drops=drops, dataset="d", engine="e"
    )
    answers = logits.argmax(2) == labels[:, None]
    for point in points[1:]:
        exits = batch_exits(batch_scores(logits, CONFIDENCE), point.thresholds, "confidence")
        lost = answers[:, -1].astype(float) - answers[np.arange(count), exits]
        assert lost.mean() + lost.std() / count**0.5 <= drops[point.name]
    assert points[2].macs_saved > points[0].macs_saved  # the wider one finds something


def test_thresholds_stop_where_the_point_says() -> None:
    rng = np.random.default_rng(5)
    logits = rng.integers(-60, 60, (400, 3, 4), dtype=np.int8)
    labels = rng.integers(0, 4, 400)
    logits[np.arange(400), :, labels] += np.int8(40)
    for decision in (CONFIDENCE, MARGIN, DecisionSpec("patience", ((),) * 3)):
        points = operating_points(
            logits, labels, decision, MACS, STATIC_MACS, dataset="d", engine="e"
        )
        assert [p.name for p in points] == ["static", "accurate", "balanced", "frugal"]
        for point, drop in zip(points, (0.0, 0.005, 0.01, 0.03), strict=True):
            exits = batch_exits(batch_scores(logits, decision), point.thresholds, decision.rule)
            right = logits[np.arange(400), exits].argmax(axis=1) == labels
            assert point.accuracy == pytest.approx(right.mean())
            assert point.accuracy >= points[0].accuracy - drop - 1e-9
            assert point.exit_rates == tuple((np.bincount(exits, minlength=3) / 400).tolist())
            assert point.macs == pytest.approx(np.cumsum(MACS)[exits].mean())
            seen = evaluate(logits, labels, decision, MACS, point.thresholds)
            assert (seen.thresholds, seen.accuracy) == (point.thresholds, point.accuracy)
            assert seen.cost == point.macs


def test_the_bound_is_the_search_on_the_samples_themselves() -> None:
    logits, labels = ladder()
    best = best_possible_macs_saved(logits, labels, CONFIDENCE, MACS, STATIC_MACS, max_drop=0.0)
    assert best == pytest.approx(0.48)


def test_wrong_arguments() -> None:
    logits, labels = ladder()
    with pytest.raises(ArgumentError, match=r"(?s)do not fit the logits.*labels \[9\]"):
        evaluate(logits, labels[:9], CONFIDENCE, MACS, (0, 0, ALWAYS))
    with pytest.raises(ArgumentError, match=r"(?s)do not fit the logits.*2 segments"):
        evaluate(logits, labels, CONFIDENCE, MACS[:2], (0, 0, ALWAYS))
    with pytest.raises(ArgumentError, match="last exit has to answer"):
        evaluate(logits, labels, CONFIDENCE, MACS, (0, 0, 0))
    with pytest.raises(ArgumentError, match="static is always there"):
        operating_points(
            logits, labels, CONFIDENCE, MACS, STATIC_MACS, drops={"static": 0.1}, dataset="d",
            engine="e",
        )  # fmt: skip
