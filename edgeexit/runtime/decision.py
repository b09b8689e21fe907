"""When an exit answers: the one definition of the four rules, in integers.

Also known as the exit criterion or the gate. Everything that decides, in this package and in the
C runtime, computes what is written here, so that the same int8 logits always stop at the same exit.
With ``z[c]`` the int8 logits of one exit, ``m = max z`` (ties to the lowest index):

    rule         score                                    exits when    never    always
    confidence   S = sum_c E[m - z[c]], E of exp_table    S <= T        0        2^32 - 1
    margin       m - (second largest z)                   >= T          256      0
    patience     exits in a row with this label           >= T          2^32 - 1 1
    class_means  second smallest - smallest distance      >= T          2^31 - 1 0

The largest softmax probability is ``2^16 / S``, up to the rounding of the table, so a confidence of
``tau`` is the threshold ``floor(2^16 / tau)``. With at most 4,096 classes ``S`` fits 32 bits. The
last exit answers whatever its score is. Nothing here uses a float once a table is made.

There are two implementations of the first three rules, one for a sample at a time and one for
arrays, because a call into numpy costs more than ten classes are worth. Tests hold them equal.
Class means are computed on arrays only: a bundle of schema 1 has no place for the means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError
from edgeexit.types import DecisionSpec, Rule

MAX_CLASSES = 4096
TABLE_SIZE = 256
ONE = 1 << 16
"""What the table holds for a distance of zero: 1.0 in 16.16 fixed point."""

# Above this many classes counting bytes is faster than a loop over Python integers.
SCALAR_CLASSES = 96
_UINT32_MAX = (1 << 32) - 1
# With int8 features and means a squared distance is at most D * 255^2, which fits int32 up to here.
_MAX_FEATURES = ((1 << 31) - 1) // (255 * 255)


@dataclass(frozen=True)
class RuleLimits:
    """The range of a rule's thresholds.

    ``never`` is met by no score and ``always`` by each. ``exits_below`` says that an exit answers
    when ``score <= threshold``; otherwise it answers when ``score >= threshold``.
    """

    never: int
    always: int
    exits_below: bool

    @property
    def low(self) -> int:
        """The smallest threshold that a bundle may hold."""
        return min(self.never, self.always)

    @property
    def high(self) -> int:
        """The largest threshold that a bundle may hold."""
        return max(self.never, self.always)


RULES: dict[Rule, RuleLimits] = {
    "confidence": RuleLimits(never=0, always=_UINT32_MAX, exits_below=True),
    "margin": RuleLimits(never=256, always=0, exits_below=False),
    "patience": RuleLimits(never=_UINT32_MAX, always=1, exits_below=False),
    "class_means": RuleLimits(never=(1 << 31) - 1, always=0, exits_below=False),
}


def exp_table(scale: float) -> tuple[int, ...]:
    """``round(2^16 exp(-scale d))`` for the int8 distances d = 0..255.

    Args:
        scale: The scale of the int8 logits, finite and above zero.

    Raises:
        ArgumentError: If ``scale`` is not a finite number above zero.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ArgumentError(
            "a decision table needs the scale of the logits",
            wanted="a finite number above 0",
            given=f"scale={scale!r}",
        )
    return tuple(round(ONE * math.exp(-scale * distance)) for distance in range(TABLE_SIZE))


def confidence_threshold(confidence: float) -> int:
    """The threshold of the rule ``confidence`` that asks for this softmax probability.

    Args:
        confidence: Wanted largest softmax probability, above 0 and at most 1.

    Raises:
        ArgumentError: If ``confidence`` is outside of that range.
    """
    if not 0 < confidence <= 1:
        raise ArgumentError(
            "a confidence is a probability",
            wanted="above 0 and at most 1",
            given=f"confidence={confidence!r}",
        )
    return min(math.floor(ONE / confidence), _UINT32_MAX)


def check_thresholds(
    thresholds: Sequence[int], rule: Rule, num_exits: int, *, where: str | None = None
) -> tuple[int, ...]:
    """The thresholds as a tuple, one for each exit, the last of them ``always``.

    Raises:
        ArgumentError: If their number, type or range is wrong, or if the last is not ``always``.
    """
    limits = RULES[rule]
    if len(thresholds) != num_exits:
        raise ArgumentError(
            "each exit needs one threshold",
            wanted=f"{num_exits} integers",
            given=f"{len(thresholds)} of them",
            where=where,
        )
    for exit_index, threshold in enumerate(thresholds):
        if isinstance(threshold, bool) or not isinstance(threshold, (int, np.integer)):
            raise ArgumentError(
                f"a threshold of the rule {rule} is an integer",
                given=f"{threshold!r} for exit {exit_index}",
                where=where,
                hint="confidence_threshold(0.9) turns a probability into one",
            )
        if not limits.low <= threshold <= limits.high:
            raise ArgumentError(
                f"a threshold of the rule {rule} is out of range",
                wanted=f"{limits.low} to {limits.high}",
                given=f"{threshold} for exit {exit_index}",
                where=where,
            )
    if thresholds[-1] != limits.always:
        raise ArgumentError(
            "the last exit has to answer, whatever its score is",
            wanted=f"{limits.always} (always) as the last threshold",
            given=thresholds[-1],
            where=where,
        )
    return tuple(int(threshold) for threshold in thresholds)


# ------------------------------------------------------------------ one sample at a time


class ByteRows(dict[int, Callable[[int], int]]):
    """For each largest logit the table of ``E[m - z]``, indexed by the raw bytes of int8 logits.

    ``sum(map(rows[m], z))`` is the score of the rule ``confidence``, with ``z`` the logits as
    ``bytes`` and ``m`` the byte of the largest one. Rows are made when they are first asked for.

    Args:
        table: 256 integers of ``exp_table``.
    """

    def __init__(self, table: Sequence[int]) -> None:
        super().__init__()
        self._table = tuple(table)

    def __missing__(self, largest: int) -> Callable[[int], int]:
        top = _signed(largest)
        # A logit above the largest cannot occur; 0 only fills the row.
        row = [self._table[top - z] if (z := _signed(byte)) <= top else 0 for byte in range(256)]
        self[largest] = row.__getitem__
        return self[largest]


class CloseCalls(dict[int, bytes]):
    """For each largest logit the bytes of those that are too far below it to stop an exit.

    With ``near = z.translate(None, calls[m])``, more than one byte left means that a second class
    is so close to the largest that its term alone lifts ``S`` above the threshold: the sample
    stays, and ``S`` need not be added up. One byte or none left decides nothing. ``z`` and ``m``
    are as in ``ByteRows``.

    Args:
        table: 256 integers of ``exp_table``, which never rise.
        threshold: Of the rule ``confidence``.
    """

    def __init__(self, table: Sequence[int], threshold: int) -> None:
        super().__init__()
        self._num_close = sum(1 for entry in table if table[0] + entry > threshold)

    def __missing__(self, largest: int) -> bytes:
        top = _signed(largest)
        self[largest] = bytes(b for b in range(256) if top - _signed(b) >= self._num_close)
        return self[largest]


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


class SampleRule:
    """A rule for one sample: ``score`` is called for exit 0, 1, ... with that exit's logits.

    Args:
        decision: The rule and its tables; any rule but ``class_means``.
        num_exits: How many exits the chain has.

    Raises:
        ArgumentError: If the rule is ``class_means``, which needs more than logits.
    """

    def __init__(self, decision: DecisionSpec, num_exits: int) -> None:
        _needs_logits_only(decision.rule)
        self._rule = decision.rule
        self._rows = [ByteRows(table) for table in decision.tables] if decision.tables else []
        self._label = -1
        self._count = 0
        if self._rule == "confidence" and len(self._rows) != num_exits:
            raise ArgumentError(
                "the rule confidence needs a table for each exit",
                wanted=f"{num_exits} tables",
                given=f"{len(self._rows)} tables",
            )

    def score(self, exit_index: int, logits: bytes) -> tuple[int, int]:
        """Label and score of one exit.

        Args:
            exit_index: Which exit; 0 begins a new sample.
            logits: int8, as the bytes that an engine wrote.

        Returns:
            The label (ties to the lowest index) and the rule's score.
        """
        values = memoryview(logits).cast("b").tolist()
        largest = max(values)
        label = values.index(largest)
        if self._rule == "confidence":
            return label, row_sum(self._rows[exit_index], logits, largest & 255)
        if self._rule == "margin":
            del values[label]
            return label, largest - max(values)
        if exit_index == 0 or label != self._label:
            self._count = 0
        self._label = label
        self._count += 1
        return label, self._count


def row_sum(rows: ByteRows, logits: bytes, largest: int) -> int:
    """``S`` of the rule ``confidence``; ``largest`` is the byte of the largest logit."""
    if len(logits) <= SCALAR_CLASSES:
        return sum(map(rows[largest], logits))
    counts = np.bincount(np.frombuffer(logits, np.uint8), minlength=256).tolist()
    return sum(count * rows[largest](byte) for byte, count in enumerate(counts) if count)


# ------------------------------------------------------------------ many samples at once


class BatchRule:
    """A rule for many samples: ``score`` is called for exit 0, 1, ... with the samples left.

    Args:
        decision: The rule and its tables; any rule but ``class_means``.
        num_samples: How many samples there are before the first exit.

    Raises:
        ArgumentError: If the rule is ``class_means``, which needs more than logits.
    """

    def __init__(self, decision: DecisionSpec, num_samples: int) -> None:
        _needs_logits_only(decision.rule)
        self._rule = decision.rule
        self._tables = [np.asarray(table, np.int64) for table in decision.tables]
        self._labels = np.full(num_samples, -1, np.int64)
        self._counts = np.zeros(num_samples, np.int64)

    def score(
        self, exit_index: int, logits: NDArray[np.int8], samples: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Labels and scores of one exit.

        Args:
            exit_index: Which exit.
            logits: int8 [num_left, num_classes].
            samples: int64 [num_left], the numbers of these samples, 0 .. num_samples - 1.

        Returns:
            Labels and scores, int64 [num_left] each.
        """
        _check_logits(logits, 2)
        labels = logits.argmax(axis=1).astype(np.int64)
        if self._rule == "confidence":
            return labels, confidence_sums(logits, self._tables[exit_index])
        if self._rule == "margin":
            wide = np.sort(logits, axis=1).astype(np.int64)
            return labels, wide[:, -1] - wide[:, -2]
        same = labels == self._labels[samples]
        self._counts[samples] = np.where(same, self._counts[samples] + 1, 1)
        self._labels[samples] = labels
        return labels, self._counts[samples]


def confidence_sums(logits: NDArray[np.int8], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """``S`` of the rule ``confidence``.

    Args:
        logits: int8 [num_samples, num_classes].
        table: int64 [256], from ``exp_table``.

    Returns:
        int64 [num_samples].
    """
    wide = logits.astype(np.int16)
    sums: NDArray[np.int64] = table[wide.max(axis=1, keepdims=True) - wide].sum(axis=1)
    return sums


def batch_scores(logits: NDArray[np.int8], decision: DecisionSpec) -> NDArray[np.int64]:
    """The scores that samples have when they leave at no exit.

    Args:
        logits: int8 [num_samples, num_exits, num_classes].
        decision: The rule and its tables; any rule but ``class_means``.

    Returns:
        int64 [num_samples, num_exits].

    Raises:
        ArgumentError: If the logits have another shape or dtype, or more than 4,096 classes, or if
            there is not one table for each exit.
    """
    _check_logits(logits, 3)
    num_samples, num_exits, _ = logits.shape
    if decision.rule == "confidence" and len(decision.tables) != num_exits:
        raise ArgumentError(
            "the rule confidence needs a table for each exit",
            wanted=f"{num_exits} tables",
            given=f"{len(decision.tables)} tables",
        )
    rule = BatchRule(decision, num_samples)
    everyone = np.arange(num_samples, dtype=np.int64)
    scores = [rule.score(k, logits[:, k], everyone)[1] for k in range(num_exits)]
    return np.stack(scores, axis=1)


def batch_exits(
    scores: NDArray[np.int64], thresholds: Sequence[int], rule: Rule
) -> NDArray[np.int64]:
    """The exit at which each sample leaves.

    Args:
        scores: int64 [num_samples, num_exits].
        thresholds: One integer for each exit, the last of them ``always``.
        rule: Whose scores these are.

    Returns:
        int64 [num_samples], 0-based.
    """
    limits = np.asarray(check_thresholds(thresholds, rule, scores.shape[1]), np.int64)
    leaves = scores <= limits if RULES[rule].exits_below else scores >= limits
    first: NDArray[np.int64] = leaves.argmax(axis=1).astype(np.int64)
    return first


def class_distances(features: NDArray[np.int8], means: NDArray[np.int8]) -> NDArray[np.int32]:
    """Squared Euclidean distances between pooled features and class means, for ``class_means``.

    Args:
        features: int8 [num_samples, num_features].
        means: int8 [num_classes, num_features], on the same scale and zero point.

    Returns:
        int32 [num_samples, num_classes].

    Raises:
        ArgumentError: If a shape or dtype does not fit, or a distance could exceed int32.
    """
    fits = (
        features.ndim == 2
        and means.ndim == 2
        and features.dtype == means.dtype == np.int8
        and features.shape[1] == means.shape[1] <= _MAX_FEATURES
        and 2 <= means.shape[0] <= MAX_CLASSES
    )
    if not fits:
        raise ArgumentError(
            "features and class means do not fit together",
            wanted=f"int8 [N, D] and int8 [C, D], D up to {_MAX_FEATURES}, C 2 to {MAX_CLASSES}",
            given=f"{features.dtype} {features.shape} and {means.dtype} {means.shape}",
        )
    wide_means = means.astype(np.int32)
    distances = np.empty((len(features), len(means)), np.int32)
    for index, mean in enumerate(wide_means):
        distances[:, index] = ((features.astype(np.int32) - mean) ** 2).sum(axis=1, dtype=np.int32)
    return distances


def class_means_scores(
    distances: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and scores of the rule ``class_means``.

    Args:
        distances: int32 [num_samples, num_classes], from ``class_distances``.

    Returns:
        Labels (the nearest mean, ties to the lowest index) and by how much the nearest beats the
        second nearest, int64 [num_samples] each.
    """
    ordered = np.sort(distances, axis=1).astype(np.int64)
    return distances.argmin(axis=1).astype(np.int64), ordered[:, 1] - ordered[:, 0]


def _needs_logits_only(rule: Rule) -> None:
    if rule == "class_means":
        raise ArgumentError(
            "the rule class_means decides on features, not on logits",
            wanted="confidence, margin or patience",
            given=f"rule={rule!r}",
            hint="class_distances and class_means_scores compute it from features",
        )


def _check_logits(logits: NDArray[np.int8], num_dims: int) -> None:
    axes = "[samples, classes]" if num_dims == 2 else "[samples, exits, classes]"
    if logits.dtype != np.int8 or logits.ndim != num_dims:
        raise ArgumentError(
            "a decision reads int8 logits",
            wanted=f"int8 {axes}",
            given=f"{logits.dtype} {list(logits.shape)}",
        )
    if not 2 <= logits.shape[-1] <= MAX_CLASSES:
        raise ArgumentError(
            "the number of classes is out of range",
            wanted=f"2 to {MAX_CLASSES}",
            given=logits.shape[-1],
        )
