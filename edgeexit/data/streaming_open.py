"""Opens a dataset that is streamed.

The training split is streamed; the calibration and test splits are decoded once and held in memory,
because thresholds, ranges and reports go over them many times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.data.download import Progress, step
from edgeexit.data.split import stratified_order, stratified_parts
from edgeexit.data.streaming import Records, ShuffledRecords, Stream, StreamedSplit, hold
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
from edgeexit.data.streaming_source import StreamedSource
from edgeexit.data.streaming_webdataset import read_shards
from edgeexit.data.types import Splits
from edgeexit.data.validate import agreed_classes, check_every_class, check_num_bytes
from edgeexit.errors import ArgumentError, DataError

_PARTS = ("train", "calibration", "test")
_MOST_CALIBRATION = 5000


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
    parts = {
        part: _opened(source, part, place, names, cache, progress) for part, place in places.items()
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


def _opened(
    source: StreamedSource,
    part: str,
    place: _Place,
    names: tuple[str, ...],
    cache: Path,
    progress: Progress | None,
) -> Stream:
    files = tuple(path for path, _ in place.files)
    image, label = source.columns()
    records: Records
    if source.kind == "webdataset":
        records = read_shards(
            files,
            image=source.image,
            label=source.label or "cls",
            class_names=names,
            cache=cache,
            progress=progress,
        )
    elif place.dataset is None:
        records = read_parquet(
            files, image=image, label=label, class_names=names, window=source.shuffle_window
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
    if len(records.labels) == 0:
        raise DataError(
            "there are no samples", wanted="at least one", where=f"{source.name}, {part} split"
        )
    return ShuffledRecords(records, np.arange(len(records.labels)), source.shuffle_window)


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
