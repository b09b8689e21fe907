"""Divides samples so that every class is in each part in its own proportion, the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.types import Labels
from edgeexit.errors import ArgumentError


def stratified_order(labels: Labels, seed: int) -> NDArray[np.int64]:
    """An order of all samples in which every stretch has the classes in proportion.

    Each class is shuffled; its i-th of n samples gets the key (i + 1/2) / n, and the samples are
    sorted by key, equal keys by class. Hence a stretch holds of each class its share, rounded up or
    down by less than one, and so do the first samples of a part when only some are used.

    Args:
        labels: int64 ``[num_samples]``.
        seed: Decides the shuffle.

    Returns:
        Positions in ``labels``, int64 ``[num_samples]``.
    """
    # RandomState's stream is frozen for good; that of numpy's newer generators may change.
    random = np.random.RandomState(seed)
    positions, keys, classes = [], [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        positions.append(members[random.permutation(len(members))])
        keys.append((np.arange(len(members)) + 0.5) / len(members))
        classes.append(np.full(len(members), label))
    if not positions:
        return np.empty(0, np.int64)
    order = np.lexsort((np.concatenate(classes), np.concatenate(keys)))
    return np.concatenate(positions)[order].astype(np.int64)


def stratified_parts(
    labels: Labels, sizes: Sequence[int], seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Divide samples into parts of given sizes.

    Args:
        labels: int64 ``[num_samples]``.
        sizes: The number of samples in each part; together at most ``num_samples``.
        seed: Decides which samples go where.

    Returns:
        For each part the positions of its samples; no position is in two parts.

    Raises:
        ArgumentError: A size is not positive, or there are not enough samples.
    """
    if min(sizes, default=0) < 1 or sum(sizes) > len(labels):
        raise ArgumentError(
            "The samples cannot be divided that way",
            wanted=f"positive sizes that sum to at most {len(labels)}",
            given=f"sizes = {tuple(sizes)}",
            hint="give more samples, or other fractions",
        )
    order = stratified_order(labels, seed)
    ends = np.cumsum(sizes)
    return tuple(order[end - size : end] for size, end in zip(sizes, ends, strict=True))


def sizes_of(num_samples: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """How many samples each fraction gets; what rounding leaves over goes to the first part.

    Raises:
        ArgumentError: The fractions are not positive or do not sum to 1.
    """
    if min(fractions, default=0) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ArgumentError(
            "The fractions do not divide a dataset",
            wanted="positive numbers that sum to 1",
            given=f"fractions = {tuple(fractions)}",
        )
    rest = [int(num_samples * fraction + 0.5) for fraction in fractions[1:]]
    return (num_samples - sum(rest), *rest)
