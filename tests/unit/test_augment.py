"""Random shifts and mirrored images, against slices of padded arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeexit.data.augment import Draws, crop_flip, draw
from edgeexit.data.types import Augmentation

PADDING, FILL = 2, 77


def expected(image: NDArray[Any], down: int, right: int, mirrored: bool) -> NDArray[Any]:
    """What ``[C, H, W]`` becomes."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (PADDING,) * 2, (PADDING,) * 2), constant_values=FILL)
    shifted = padded[:, down : down + height, right : right + width]
    return shifted[:, :, ::-1] if mirrored else shifted


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shifts", [[(0, 4), (3, 1)], [(4, 0), (2, 2)], [(1, 3), (4, 4)]])
def test_images_are_shifted_filled_and_mirrored(dtype: Any, shifts: list[tuple[int, int]]) -> None:
    # Every pixel of the two images has a value of its own, and none is the fill.
    images = np.arange(100, 100 + 2 * 3 * 4 * 6).reshape(2, 3, 4, 6).astype(dtype)
    mirrored = [False, True]
    draws = Draws(torch.tensor(shifts).T, torch.tensor(mirrored))
    given = crop_flip(torch.from_numpy(images), draws, padding=PADDING, fill=FILL).numpy()
    wanted = [
        expected(image, *shift, flip)
        for image, shift, flip in zip(images, shifts, mirrored, strict=True)
    ]
    assert given.dtype == dtype
    assert np.array_equal(given, wanted)
    # One image or the other reaches past its border.
    assert (given == FILL).any()


def test_draws_cover_every_shift_and_both_sides() -> None:
    draws = draw(Augmentation(PADDING, True), 1000, torch.Generator().manual_seed(0))
    for shifts in draws.shifts:
        assert shifts.unique().tolist() == [0, 1, 2, 3, 4]
    assert not torch.equal(draws.shifts[0], draws.shifts[1])
    assert 400 < draws.mirrored.sum() < 600


def test_draws_of_no_augmentation_leave_images_as_they_are() -> None:
    draws = draw(Augmentation(0, False), 1000, torch.Generator().manual_seed(0))
    assert not draws.mirrored.any()
    assert not draws.shifts.any()


def test_draws_can_be_picked() -> None:
    draws = draw(Augmentation(PADDING, True), 10, torch.Generator().manual_seed(0))
    some = draws[torch.tensor([7, 2])]
    assert some.shifts.tolist() == draws.shifts[:, [7, 2]].tolist()
    assert some.mirrored.tolist() == draws.mirrored[[7, 2]].tolist()
