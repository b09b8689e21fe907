"""Describes a dataset that is streamed, in Python or in a TOML file, and opens it.

The training split is streamed; the calibration and test splits are decoded once and held in memory,
because thresholds, ranges and reports go over them many times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomllib

from edgeexit.data.download import Progress, step
from edgeexit.data.split import stratified_order, stratified_parts
from edgeexit.data.streaming import Records, ShuffledRecords, Stream, StreamedSplit, hold
from edgeexit.data.streaming_decode import Decoding, Fit
from edgeexit.data.streaming_files import check_apart, find_files
from edgeexit.data.streaming_huggingface import (
    classes_of,
    from_dataset,
    from_iterable,
    is_dataset,
    is_iterable,
    is_saved,
    read_saved,
)
from edgeexit.data.streaming_parquet import read_parquet, stated_classes
from edgeexit.data.streaming_webdataset import read_shards
from edgeexit.data.types import Augmentation, Preprocessing, Splits
from edgeexit.data.validate import agreed_classes, check_every_class, check_num_bytes
from edgeexit.errors import ArgumentError, DataError

_KINDS = ("webdataset", "huggingface")
_PARTS = ("train", "calibration", "test")
_MOST_CALIBRATION = 5000
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
    max_pixels: int = 1 << 26
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
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
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


def open_stream(
    source: StreamedSource, *, cache: Path, seed: int = 0, progress: Progress | None = None
) -> Splits:
    """Opens a streamed dataset, and decodes its calibration and test splits.

    Args:
        source: The dataset.
        cache: Where the places of samples in shards are kept.
        seed: Decides which samples are taken for calibration, and out of a test split that is cut.
        progress: Told about every step.

    Raises:
        DataError: The data are not usable; the error says where and why.
        StorageError: The cache cannot be written.
    """
    places = {part: _place(source, part) for part in _PARTS if getattr(source, part) is not None}
    check_apart({part: place.files for part, place in places.items()})
    names = _class_names(source, places.values())
    opener = _OPENERS[source.kind]
    parts = {
        part: opener(source, part, place, names, cache, progress) for part, place in places.items()
    }
    if "calibration" not in parts:
        parts["train"], parts["calibration"] = _divided(parts["train"], source, seed)
    if isinstance(parts["train"], ShuffledRecords):
        check_every_class(parts["train"].labels, names, where=f"{source.name}, train split")
    decoding = source.decoding()
    streams = {part: _cut(parts[part], source, part, seed) for part in ("calibration", "test")}
    num_bytes = sum(map(len, streams.values())) * math.prod(decoding.image_shape)
    check_num_bytes(
        num_bytes,
        where=f"{source.name}, calibration and test split",
        hint="set num_calibration or num_test, or a smaller image_size",
    )
    held = {}
    for part, stream in streams.items():
        with step(progress, f"decode the {part} split of {source.name}"):
            held[part] = hold(stream, decoding, num_threads=source.num_threads)
    return Splits(
        name=source.name,
        train=StreamedSplit(parts["train"], decoding, source.num_threads),
        calibration=held["calibration"],
        test=held["test"],
        class_names=names,
        preprocessing=source.preprocessing,
        augmentation=source.augmentation,
    )


def _divided(train: Stream, source: StreamedSource, seed: int) -> tuple[Stream, Stream]:
    if not isinstance(train, ShuffledRecords):
        raise DataError(
            "a calibration split cannot be taken out of this stream",
            wanted="calibration",
            where=source.name,
            hint="dataset.take(5000) and dataset.skip(5000) divide an IterableDataset",
        )
    count = source.num_calibration or min(_MOST_CALIBRATION, len(train) // 10)
    kept, taken = stratified_parts(train.labels, (len(train) - count, count), seed)
    return train.some(kept), train.some(taken)


def _cut(stream: Stream, source: StreamedSource, part: str, seed: int) -> Stream:
    wanted = getattr(source, f"num_{part}")
    if wanted is None or wanted == len(stream) or not isinstance(stream, ShuffledRecords):
        return stream
    if wanted > len(stream):
        raise DataError(
            f"the {part} split has fewer samples",
            wanted=f"num_{part}={wanted}",
            given=f"{len(stream)} samples",
            where=source.name,
        )
    return stream.some(stratified_order(stream.labels, seed)[:wanted])


@dataclass(frozen=True)
class _Place:
    """Where a split lies.

    Attributes:
        files: Shards, Parquet files or the folder of ``save_to_disk``, each with the pattern that
            names it.
        dataset: One of `datasets`, as it was given or lies in that folder.
        name: What an error names as the place.
    """

    files: tuple[tuple[Path, str], ...]
    dataset: Any
    name: str


def _place(source: StreamedSource, part: str) -> _Place:
    given, name = getattr(source, part), f"{source.name}, {part} split"
    if source.kind == "huggingface" and is_dataset(given):
        return _Place((), given, name)
    patterns = _patterns(source, part)
    if source.kind == "huggingface" and isinstance(given, str | Path):
        folder = source.folder / given
        if is_saved(folder):
            return _Place(((folder, str(given)),), read_saved(folder), str(folder))
    files = [(path, one) for one in patterns for path in find_files([one], source.folder)]
    return _Place(tuple(files), None, name)


def _class_names(source: StreamedSource, places: Iterable[_Place]) -> tuple[str, ...]:
    """Those that the source names; else those that its parts state, which have to agree anyhow."""
    stated = agreed_classes(_stated(source, places))
    if source.class_names is not None:
        return source.class_names
    if source.num_classes is not None:
        return tuple(map(str, range(source.num_classes)))
    if stated is None:
        raise DataError(
            "nobody says what the classes are",
            wanted="class_names or num_classes",
            where=source.name,
        )
    return stated


def _stated(
    source: StreamedSource, places: Iterable[_Place]
) -> Iterator[tuple[object, tuple[str, ...] | None]]:
    if source.kind != "huggingface":
        return
    image, label = source.columns()
    for place in places:
        if place.dataset is not None:
            yield place.name, classes_of(place.dataset, image=image, label=label, name=place.name)
            continue
        for path, _ in place.files:
            yield path, stated_classes(path, image=image, label=label)


def _webdataset(
    source: StreamedSource,
    part: str,
    place: _Place,
    names: tuple[str, ...],
    cache: Path,
    progress: Progress | None,
) -> Stream:
    records = read_shards(
        tuple(path for path, _ in place.files),
        image=source.image,
        label=source.label or "cls",
        class_names=names,
        cache=cache,
        progress=progress,
    )
    return _shuffled(records, source, part)


def _huggingface(
    source: StreamedSource,
    part: str,
    place: _Place,
    names: tuple[str, ...],
    cache: Path,
    progress: Progress | None,
) -> Stream:
    image, label = source.columns()
    records: Records
    if place.dataset is None:
        records = read_parquet(
            [path for path, _ in place.files],
            image=image,
            label=label,
            class_names=names,
            window=source.shuffle_window,
        )
    elif is_iterable(place.dataset):
        return from_iterable(
            place.dataset,
            image=image,
            label=label,
            class_names=names,
            num_samples=getattr(source, f"num_{part}"),
            window=source.shuffle_window,
            name=place.name,
        )
    else:
        records = from_dataset(
            place.dataset, image=image, label=label, class_names=names, name=place.name
        )
    return _shuffled(records, source, part)


def _patterns(source: StreamedSource, part: str) -> Sequence[str]:
    given = getattr(source, part)
    patterns = [given] if isinstance(given, str | Path) else given
    if not isinstance(patterns, list | tuple) or not patterns:
        raise ArgumentError(
            "this is not where a split lies",
            wanted="paths, or for huggingface a datasets.Dataset or datasets.IterableDataset",
            given=type(given).__name__,
            where=f"{source.name}, {part} split",
        )
    return [str(pattern) for pattern in patterns]


def _shuffled(records: Records, source: StreamedSource, part: str) -> ShuffledRecords:
    if len(records.labels) == 0:
        raise DataError(
            "there are no samples", wanted="at least one", where=f"{source.name}, {part} split"
        )
    return ShuffledRecords(records, np.arange(len(records.labels)), source.shuffle_window)


_OPENERS: dict[
    str,
    Callable[
        [StreamedSource, str, _Place, tuple[str, ...], Path, Progress | None],
        Stream,
    ],
]
_OPENERS = {"webdataset": _webdataset, "huggingface": _huggingface}
