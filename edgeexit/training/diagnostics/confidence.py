"""Confidence histograms: how sure each exit is where it is right, and where it is wrong.

Confidence is the largest softmax probability of the logits as they are, before any temperature. An
exit whose two histograms lie apart can be trusted to decide; one that is sure of its errors cannot.
The expected calibration error is the mean distance between accuracy and confidence over the bins.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equations 2 and 3, and
figure 1 for the histograms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeexit.training.diagnostics.sample import Counts, Floats, log_softmax, right


@dataclass(frozen=True, eq=False)
class Confidence:
    """Histograms of confidence.

    Attributes:
        exits: Names of the exits.
        edges: float64 ``[num_bins + 1]``, from 0 to 1; a bin holds its lower edge, the last bin
            both.
        num_right: int64 ``[num_exits, num_bins]``.
        num_wrong: int64 ``[num_exits, num_bins]``.
        accuracy: float64 ``[num_exits]``.
        mean_confidence: float64 ``[num_exits]``.
        calibration_error: float64 ``[num_exits]``, the expected one.
        split: Where the sample came from.
        num_samples: Its size.
    """

    exits: tuple[str, ...]
    edges: Floats
    num_right: Counts
    num_wrong: Counts
    accuracy: Floats
    mean_confidence: Floats
    calibration_error: Floats
    split: str
    num_samples: int


def confidence(
    exits: tuple[str, ...], logits: Floats, labels: Counts, *, split: str, num_bins: int = 20
) -> Confidence:
    """Counts right and wrong answers by confidence.

    Args:
        exits: Names of the exits.
        logits: float64 ``[num_exits, N, num_classes]``.
        labels: int64 ``[N]``.
        split: Where the sample came from.
        num_bins: Bins between 0 and 1, all of one width.
    """
    sure = np.exp(log_softmax(logits).max(-1))
    correct = right(logits, labels)
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.clip((sure * num_bins).astype(np.int64), 0, num_bins - 1)

    def by_bin(values: Floats) -> Floats:
        rows = zip(place, values, strict=True)
        return np.array([np.bincount(p, v, minlength=num_bins) for p, v in rows], np.float64)

    num_right = by_bin(correct.astype(np.float64))
    num_wrong = by_bin((~correct).astype(np.float64))
    gaps = np.abs(num_right - by_bin(sure))
    return Confidence(
        exits=exits,
        edges=edges,
        num_right=num_right.astype(np.int64),
        num_wrong=num_wrong.astype(np.int64),
        accuracy=correct.mean(1),
        mean_confidence=sure.mean(1),
        calibration_error=gaps.sum(1) / len(labels),
        split=split,
        num_samples=len(labels),
    )
