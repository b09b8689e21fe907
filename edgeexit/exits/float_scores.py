"""Scores of float logits, as integers that the searches take.

On a device scores are integers already (``runtime/decision.py``). The float network that it was
made of is judged by the same searches: a finite float64 and the int64 with its bits stand in the
same order, once the bits of negative numbers are turned over. So thresholds found on one split mean
the same on another, and nothing is rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError

NEVER = int(np.iinfo(np.int64).min)
"""A threshold below every score."""
ALWAYS = int(np.iinfo(np.int64).max)
"""A threshold that every score meets."""


def confidence_scores(logits: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.int64]:
    """The rule ``confidence`` on float logits: lower is surer.

    The score stands for ``-log(largest softmax probability)``, which keeps apart what rounds to a
    probability of 1.

    Args:
        logits: float [num_samples, num_exits, num_classes].

    Returns:
        int64 [num_samples, num_exits], between ``NEVER`` and ``ALWAYS``.

    Raises:
        ArgumentError: If the logits have another shape or dtype, or are not finite.
    """
    if logits.ndim != 3 or not np.issubdtype(logits.dtype, np.floating):
        raise ArgumentError(
            "scores are computed from float logits",
            wanted="float [num_samples, num_exits, num_classes]",
            given=f"{logits.dtype} {list(logits.shape)}",
        )
    if not np.isfinite(logits).all():
        raise ArgumentError("a logit is not a finite number", hint="did training diverge?")
    wide = logits.astype(np.float64)
    label = wide.argmax(axis=2)[:, :, np.newaxis]
    terms = np.exp(wide - np.take_along_axis(wide, label, axis=2))
    # The label's own term is 1; log1p of the others keeps the digits that 1 + others would lose.
    np.put_along_axis(terms, label, 0.0, axis=2)
    return ordered_integers(np.log1p(terms.sum(axis=2)))


def ordered_integers(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers in the order of ``scores``, equal where those are equal.

    Args:
        scores: float64 of any shape, finite.

    Returns:
        int64 of the same shape, between ``NEVER`` and ``ALWAYS``.

    Raises:
        ArgumentError: If a score is not finite or not float64.
    """
    if scores.dtype != np.float64 or not np.isfinite(scores).all():
        raise ArgumentError(
            "scores cannot be put in order", wanted="finite float64", given=str(scores.dtype)
        )
    bits = (scores + 0.0).view(np.int64)  # -0.0 + 0.0 is 0.0
    return np.where(bits < 0, bits ^ ALWAYS, bits)
