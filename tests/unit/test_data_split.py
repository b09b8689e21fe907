"""Splits: every class in proportion, nothing twice, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.data.split import sizes_of, stratified_order, stratified_parts
from edgeexit.errors import ArgumentError

FIRST_ORDER = [10, 11, 8, 3, 2, 5, 0, 9, 6, 1, 4, 7]


def test_balanced_classes_are_divided_exactly() -> None:
    labels = np.repeat(np.arange(10), 50)
    train, calibration = stratified_parts(labels, (450, 50), seed=3)
    assert np.bincount(labels[train]).tolist() == [45] * 10
    assert np.bincount(labels[calibration]).tolist() == [5] * 10
    assert sorted([*train, *calibration]) == list(range(500))


@pytest.mark.parametrize("seed", range(5))
def test_each_class_gets_its_share_to_within_one(seed: int) -> None:
    counts = np.array([3, 50, 700, 11])
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(4), counts))
    sizes = (500, 164, 100)
    parts = stratified_parts(labels, sizes, seed)
    assert [len(part) for part in parts] == list(sizes)
    assert len(set(np.concatenate(parts).tolist())) == 764
    for part, size in zip(parts, sizes, strict=True):
        share = counts * size / 764
        # A stretch's two ends each round by less than one.
        assert np.all(np.abs(np.bincount(labels[part], minlength=4) - share) < 2)


def test_the_first_samples_of_a_part_are_divided_too() -> None:
    labels = np.repeat(np.arange(5), 20)
    order = stratified_order(labels, seed=0)
    assert np.bincount(labels[order[:10]]).tolist() == [2] * 5


def test_a_seed_gives_the_same_division_for_ever() -> None:
    labels = np.array([0, 1] * 6)
    # Written down once; a change here would move samples between training and calibration.
    assert stratified_order(labels, seed=20407).tolist() == FIRST_ORDER
    assert stratified_order(labels, seed=20408).tolist() != FIRST_ORDER


def test_no_samples_have_an_empty_order() -> None:
    assert stratified_order(np.empty(0, np.int64), seed=0).tolist() == []


@pytest.mark.parametrize("sizes", [(9, 2), (0, 5), (-1, 5), ()])
def test_sizes_that_do_not_fit_are_an_error(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)cannot be divided.*at most 10.*sizes ="):
        stratified_parts(np.zeros(10, np.int64), sizes, seed=0)


def test_sizes_follow_shares_and_the_first_takes_the_rest() -> None:
    assert sizes_of(100, (0.8, 0.1, 0.1)) == (80, 10, 10)
    assert sizes_of(13, (8, 1, 1)) == (11, 1, 1)


@pytest.mark.parametrize("shares", [(0.5, -0.5), (1.0, 0.0), (float("nan"), 1.0), ()])
def test_shares_that_are_not_positive_are_an_error(shares: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)shares do not divide.*positive numbers"):
        sizes_of(10, shares)
