"""The checks that tables of images and labels pass, whatever they are stored in."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeexit.data.types import Labels
from edgeexit.errors import DataError


def check_columns(there: Sequence[str], image: str, label: str, where: object) -> None:
    """Checks that the columns of images and labels are there.

    Raises:
        DataError: One is not.
    """
    if not {image, label} <= set(there):
        raise DataError(
            "the dataset lacks a column",
            wanted=f"{image} and {label}",
            given=", ".join(there),
            where=where,
            hint="name the columns: image = ..., label = ...",
        )


def check_names_differ(class_names: Sequence[str], known: Mapping[str, int], where: object) -> None:
    """Checks that labels may be names of classes.

    Args:
        class_names: Those of the dataset.
        known: The number of a class by its name.
        where: What an error names as the place.

    Raises:
        DataError: Two classes have the same name.
    """
    if len(known) < len(class_names):
        raise DataError(
            "labels are names, and two classes have the same one",
            wanted="names that differ, or labels that are numbers",
            given=next(name for place, name in enumerate(class_names) if known[name] != place),
            where=where,
        )


def label_numbers(values: list[Any], class_names: tuple[str, ...], where: object) -> Labels:
    """The numbers of classes that a column of numbers or names holds.

    Args:
        values: Integers, or names of classes.
        class_names: Those of the dataset.
        where: What an error names as the place.

    Returns:
        int64 ``[len(values)]``.

    Raises:
        DataError: A value is neither, or out of range.
    """
    names = class_names if any(isinstance(value, str) for value in values) else ()
    known = {name: number for number, name in enumerate(names)}

    def number(value: Any) -> int:
        if isinstance(value, str):
            return known.get(value, -1)
        try:
            # NumPy's integers and tensors without axes; and bools, which number two classes.
            found = operator.index(value)
        except (TypeError, ValueError):
            return -1
        return found if 0 <= found < len(class_names) else -1

    check_names_differ(names, known, where)
    labels = np.array([number(value) for value in values], np.int64)
    wrong = labels < 0
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            "a label is not one of the classes",
            wanted=f"0 to {len(class_names) - 1}, or the name of a class",
            given=repr(values[row]),
            where=f"{where}, label {row}" if len(values) > 1 else where,
            hint="give the class_names or num_classes",
        )
    return labels
