"""Describes a dataset that is streamed, in Python or in a TOML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from edgeexit.data.streaming_decode import MAX_PIXELS, Decoding, Fit
from edgeexit.data.streaming_huggingface import is_iterable
from edgeexit.data.types import Augmentation, Preprocessing
from edgeexit.errors import ArgumentError, DataError
from edgeexit.toml_text import parse_toml

_KINDS = ("webdataset", "huggingface")
_MOST_CLASSES = 1 << 20
_PREPROCESSING = Preprocessing((128.0,), (1 / 128,))
_AUGMENTATION = Augmentation(crop_padding=0, horizontal_flip=False)


@dataclass(frozen=True, kw_only=True)
class StreamedSource:
    """A dataset that is streamed.

    Attributes:
        kind: ``webdataset`` or ``huggingface``.
        train: Shards or Parquet files as paths, with ``{000..146}`` for a range and ``*`` for
            anything; the folder of ``Dataset.save_to_disk``; or a `datasets.Dataset` or
            `datasets.IterableDataset`. No file may be in two splits, or twice in one.
        test: The same for the test split.
        calibration: The same for the calibration split; taken out of ``train`` by default.
        image_size: Height and width that images are scaled to.
        grey: Whether images get one channel instead of three.
        class_names: Needed where neither the dataset states them nor ``num_classes`` does. Names
            that files or datasets state have to be the same in all that do, whatever is given here.
        num_classes: The number of classes, which are then named 0, 1, ...
        image: The extension (``jpg``) or column (``image``) of the images.
        label: The extension (``cls``) or column (``label``) of the labels.
        num_train: How many samples a `datasets.IterableDataset` has, unless it says so; nothing
            else takes it.
        num_calibration: Samples of the calibration split; by default all of ``calibration``, or a
            tenth of ``train``, but not more than 5,000.
        num_test: Samples of the test split; all by default.
        fit: See `edgeexit.data.streaming_decode.Decoding`; so for the next two.
        smallest_crop: Training crops; calibration and test splits have none.
        max_pixels: Larger images are refused.
        shuffle_window: How far from its place on disk a sample may be moved, in samples.
        num_threads: How many threads decode.
        preprocessing: How a raw image turns into numbers.
        augmentation: What training may do to an image beside the crop.
        name: What the dataset is called.
        folder: What relative paths are relative to.
    """

    kind: Literal["webdataset", "huggingface"]
    train: Any
    test: Any
    image_size: tuple[int, int]
    calibration: Any = None
    grey: bool = False
    class_names: tuple[str, ...] | None = None
    num_classes: int | None = None
    image: str | None = None
    label: str | None = None
    num_train: int | None = None
    num_calibration: int | None = None
    num_test: int | None = None
    fit: Fit = "crop"
    smallest_crop: float = 1.0
    max_pixels: int = MAX_PIXELS
    shuffle_window: int = 4096
    num_threads: int = 4
    preprocessing: Preprocessing = _PREPROCESSING
    augmentation: Augmentation = _AUGMENTATION
    name: str = "stream"
    folder: Path = Path()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ArgumentError(
                "unknown kind of stream", wanted=" or ".join(_KINDS), given=f"kind={self.kind!r}"
            )
        counts = ("num_classes", "num_train", "num_calibration", "num_test")
        for name in (*counts, "shuffle_window", "num_threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ArgumentError(
                    "a number of a streamed dataset is out of range",
                    wanted="a positive integer",
                    given=f"{name}={value!r}",
                )
        if self.num_train is not None and not is_iterable(self.train):
            raise ArgumentError(
                "num_train is for an IterableDataset, which may not say how many samples it has",
                wanted="no num_train: all samples of the others are trained on",
                given=f"num_train={self.num_train}",
                hint="name fewer files, or give dataset.select(range(n))",
            )
        names = self.class_names
        if self.num_classes is not None and names is not None and len(names) != self.num_classes:
            raise ArgumentError(
                "class_names and num_classes do not agree",
                wanted="one of them",
                given=f"{len(names)} class_names, num_classes={self.num_classes}",
            )
        if self.num_classes is not None and self.num_classes > _MOST_CLASSES:
            raise ArgumentError(
                "a streamed dataset has too many classes",
                wanted=f"at most {_MOST_CLASSES}",
                given=f"num_classes={self.num_classes}",
            )
        for name, kinds in (("grey", bool), ("image", str | None), ("label", str | None)):
            if not isinstance(getattr(self, name), kinds):
                raise ArgumentError(
                    "a field of a streamed dataset has the wrong type",
                    wanted=getattr(kinds, "__name__", kinds),
                    given=f"{name}={getattr(self, name)!r}",
                )
        _check_preprocessing(self.preprocessing, self.decoding().image_shape[2])

    def columns(self) -> tuple[str, str]:
        """The columns of images and labels, where the samples are rows of a table."""
        return self.image or "image", self.label or "label"

    def decoding(self) -> Decoding:
        """What an encoded image becomes."""
        height, width = self.image_size
        channels = 1 if self.grey else 3
        shape = (int(height), int(width), channels)
        return Decoding(shape, self.fit, self.smallest_crop, self.max_pixels)


def read_source(path: Path) -> StreamedSource:
    """Reads a description out of a TOML file, which has the fields of `StreamedSource`.

    ``class_names`` may be the name of a text file with a class on each line; paths are relative to
    the folder of the file.

    Raises:
        DataError: The file is not TOML, or a field is missing, unknown or of the wrong type.
        ArgumentError: A field is out of range, or of the wrong type where Python would accept it.
        EdgeExitError: This Python has no reader of TOML.
    """
    try:
        table = parse_toml(path)
        unknown = table.keys() - {field.name for field in fields(StreamedSource)} | (
            table.keys() & {"folder"}
        )
        if unknown:
            raise DataError(
                "the description has unknown fields",
                wanted=", ".join(field.name for field in fields(StreamedSource)),
                given=", ".join(sorted(unknown)),
                where=path,
            )
        names = table.get("class_names")
        if isinstance(names, str):
            names = (path.parent / names).read_text(encoding="utf-8").split("\n")
            table["class_names"] = [name.strip() for name in names if name.strip()]
        if "class_names" in table:
            table["class_names"] = tuple(map(str, table["class_names"]))
        if "preprocessing" in table:
            numbers = {key: tuple(map(float, row)) for key, row in table["preprocessing"].items()}
            table["preprocessing"] = Preprocessing(**numbers)
        if "augmentation" in table:
            table["augmentation"] = Augmentation(**table["augmentation"])
        height, width = table["image_size"]
        table["image_size"] = (height, width)
        return StreamedSource(**{"name": path.stem, **table}, folder=path.parent)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError,
            RecursionError) as exc:  # fmt: skip
        raise DataError(
            "the description of a streamed dataset cannot be read",
            given=f"{type(exc).__name__}: {exc}",
            where=path,
            hint="docs/datasets.md shows every field",
        ) from exc


def _check_preprocessing(preprocessing: Preprocessing, channels: int) -> None:
    for name in ("offset", "multiplier"):
        numbers = getattr(preprocessing, name)
        if len(numbers) not in (1, channels) or not all(map(math.isfinite, numbers)):
            raise ArgumentError(
                "the preprocessing of a streamed dataset is out of range",
                wanted=f"1 finite number, or {channels} (one for each channel)",
                given=f"{name}={tuple(numbers)}",
            )
