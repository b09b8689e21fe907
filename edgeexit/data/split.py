"""Divides samples so that each part has every class in proportion, the same way every time."""

from __future__ import annotations

import math
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
    shuffled: NDArray[np.int64] = np.concatenate(positions)[order].astype(np.int64)
    return shuffled


def stratified_parts(
    labels: Labels, sizes: Sequence[int], seed: int
) -> tuple[NDArray[np.int64], ...]:
    """Divides samples into parts of given sizes.

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
            "the samples cannot be divided that way",
            wanted=f"positive sizes that sum to at most {len(labels)}",
            given=f"sizes = {tuple(sizes)}",
            hint="give more samples, or other fractions",
        )
    order = stratified_order(labels, seed)
    ends = np.cumsum(sizes)
    return tuple(order[end - size : end] for size, end in zip(sizes, ends, strict=True))


def sizes_of(num_samples: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How many samples each share gets; what rounding leaves over goes to the first.

    Args:
        num_samples: The number of samples to divide.
        shares: Positive numbers of any sum.

    Raises:
        ArgumentError: A share is not a positive number.
    """
    if not shares or not all(math.isfinite(share) and share > 0 for share in shares):
        raise ArgumentError(
            "the shares do not divide a dataset",
            wanted="positive numbers",
            given=f"shares = {tuple(shares)}",
        )
    rest = [int(num_samples * share / sum(shares) + 0.5) for share in shares[1:]]
    return (num_samples - sum(rest), *rest)
