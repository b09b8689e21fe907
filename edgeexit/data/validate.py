"""The checks that every dataset passes before anything trains, calibrates or measures on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.types import Labels, Samples
from edgeexit.errors import DataError

MAX_DATASET_BYTES = 16 << 30
"""The most that one dataset may take in memory; a larger one is refused before it is loaded."""


def check_num_bytes(
    num_bytes: int, *, where: object, hint: str = "give fewer or smaller images"
) -> None:
    """Refuses data that would take more than `MAX_DATASET_BYTES`.

    Raises:
        DataError: It would.
    """
    if num_bytes > MAX_DATASET_BYTES:
        raise DataError(
            "the data are too large to hold in memory",
            wanted=f"at most {MAX_DATASET_BYTES} bytes",
            given=f"{num_bytes} bytes",
            where=where,
            hint=hint,
        )


def as_samples(images: NDArray[Any], labels: NDArray[Any], *, where: object) -> Samples:
    """Brings arrays into the form of `Samples`, and checks them.

    A missing channel axis is added, floats of any width become float32 and integer labels int64.

    Args:
        images: uint8 or float ``[N, H, W, C]`` or ``[N, H, W]``.
        labels: Integers ``[N]`` or ``[N, 1]``.
        where: What an error names as the place.

    Raises:
        DataError: As for `check_samples`.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype.kind == "f":
        images = images.astype(np.float32, copy=False)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.int64, copy=False)
    samples = Samples(images, labels)
    check_samples(samples, where=where)
    return samples


def check_samples(
    samples: Samples,
    *,
    where: object,
    num_classes: int | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> None:
    """Checks that samples are what `Samples` promises.

    Args:
        samples: What to check.
        where: What an error names as the place, such as ``calibration split``.
        num_classes: Labels must be below it, where it is given.
        image_shape: Height, width and channels that the images must have, where it is given.

    Raises:
        DataError: There are no samples; an array has the wrong type, number of axes or length; an
            image has a value that is not finite; a label is out of range.
    """
    images, labels = samples.images, samples.labels
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(
            "the images have the wrong dtype",
            wanted="uint8 or float32",
            given=f"dtype = {images.dtype}",
            where=where,
            hint="images.astype(numpy.uint8) for values from 0 to 255",
        )
    if images.ndim != 4:
        raise DataError(
            "the images have the wrong number of axes",
            wanted="[num_samples, height, width, channels]",
            given=f"shape = {images.shape}",
            where=where,
        )
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(
            "the labels are not a list of integers",
            wanted="int64 [num_samples]",
            given=f"dtype = {labels.dtype}, shape = {labels.shape}",
            where=where,
            hint="labels.argmax(axis=1) turns one-hot rows into labels"
            if labels.ndim == 2
            else "give the number of a class for each image, counted from 0",
        )
    if len(images) != len(labels):
        raise DataError(
            "there are not as many labels as images",
            wanted=f"{len(images)} labels",
            given=f"{len(labels)} labels",
            where=where,
        )
    if images.size == 0:
        raise DataError(
            "there are no samples",
            wanted="at least one image of at least one pixel",
            given=f"shape = {images.shape}",
            where=where,
        )
    _check_image_shape(images.shape[1:], image_shape, where)
    _check_finite(images, where)
    _check_range(labels, num_classes, where)


def agreed_classes(
    stated: Iterable[tuple[object, Sequence[str] | None]],
) -> tuple[str, ...] | None:
    """The class names of parts that each number their labels by their own.

    Args:
        stated: For each part where it is, and the class names that it states, if it does.

    Raises:
        DataError: Two parts state other classes, or the same in another order.
    """
    first: tuple[str, ...] | None = None
    for where, names in stated:
        if names is None:
            continue
        first = tuple(names) if first is None else first
        if tuple(names) != first:
            shared = min(len(names), len(first))
            at = next((n for n in range(shared) if names[n] != first[n]), shared)
            raise DataError(
                "the parts do not have the same classes",
                wanted=_class_at(at, first),
                given=_class_at(at, names),
                where=where,
                hint="number the labels of all parts by the same class names",
            )
    return first


def _class_at(number: int, names: Sequence[str]) -> str:
    there = f"{number} is {names[number]!r}" if number < len(names) else f"no {number}"
    return f"{len(names)} classes, {there}"


def check_every_class(labels: Labels, class_names: Sequence[str], *, where: object) -> None:
    """Checks that no class is without samples.

    Raises:
        DataError: One is.
    """
    missing = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if len(missing) > 0:
        raise DataError(
            "classes have no training samples",
            wanted=f"a sample of each of {len(class_names)} classes",
            given=f"none of {', '.join(class_names[index] for index in missing[:5])}",
            where=where,
            hint="labels count from 0 without gaps; class names are as many as classes",
        )


def _check_image_shape(
    given: tuple[int, ...], wanted: tuple[int, ...] | None, where: object
) -> None:
    height, width, channels = given
    if wanted is not None and given != tuple(wanted):
        raise DataError(
            "the images have another shape",
            wanted=f"[height, width, channels] = {tuple(wanted)}",
            given=given,
            where=where,
        )
    if height == 3 and width == channels > 4:
        raise DataError(
            "the channels come first",
            wanted="[num_samples, height, width, channels]",
            given=f"[num_samples, {height}, {width}, {channels}]",
            where=where,
            hint="images.transpose(0, 2, 3, 1)",
        )


def _check_finite(images: NDArray[Any], where: object) -> None:
    if images.dtype.kind != "f":
        return
    wrong = ~np.isfinite(images).all(axis=(1, 2, 3))
    if wrong.any():
        raise DataError(
            "images have values that are not finite",
            wanted="no NaN and no infinity",
            given=f"{int(wrong.sum())} of {len(images)} images; the first is {int(wrong.argmax())}",
            where=where,
        )


def _check_range(labels: NDArray[np.int64], num_classes: int | None, where: object) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise DataError(
            "a label is out of range",
            wanted="0 or more" if num_classes is None else f"0 to {num_classes - 1}",
            given=f"labels from {low} to {high}",
            where=where,
            hint="the number of classes is that of the class names or of the training labels",
        )
