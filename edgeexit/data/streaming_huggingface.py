"""Reads datasets of Hugging Face's ``datasets`` package: folders of ``save_to_disk``, and objects.

- Folders of ``Dataset.save_to_disk`` and `datasets.Dataset` objects are mapped into memory.
- `datasets.IterableDataset` objects (``load_dataset(..., streaming=True)``) are read one sample
  after another, in the order of ``IterableDataset.shuffle``. A run that resumes, and every process
  beside the first, reads past samples that it does not use, without decoding them.

Nothing here asks the Hub; an object that the caller made may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.data.streaming import Encoded, Positions, StreamedSample
from edgeexit.data.streaming_decode import MAX_IMAGE_BYTES
from edgeexit.data.streaming_labels import check_columns, label_numbers
from edgeexit.data.types import Labels
from edgeexit.errors import DataError

_HINT = "pip install 'edgeexit[huggingface]'"
# Rows of a mapped dataset that count as neighbours.
_UNIT = 1000


@dataclass(frozen=True, eq=False)
class DatasetRecords:
    """A `datasets.Dataset` whose images are not decoded; see `edgeexit.data.streaming.Records`."""

    dataset: Any
    image: str
    labels: Labels
    name: str

    @property
    def unit(self) -> Positions:
        """Rows in thousands."""
        return np.arange(len(self.labels)) // _UNIT

    def read(self, position: int) -> Encoded:
        """The image file of a row."""
        return _encoded(self.dataset[position][self.image], self.where(position))

    def where(self, position: int) -> str:
        """The dataset and the row."""
        return f"{self.name}, row {position}"


@dataclass(frozen=True, eq=False)
class IterableStream:
    """A `datasets.IterableDataset`; see `edgeexit.data.streaming.Stream`."""

    dataset: Any
    image: str
    label: str
    class_names: tuple[str, ...]
    num_samples: int
    window: int
    name: str

    def __len__(self) -> int:
        return self.num_samples

    def ordered(self, seed: tuple[int, ...], start: int, step: int) -> Iterator[StreamedSample]:
        """See `edgeexit.data.streaming.Stream.ordered`."""
        state = int(np.random.SeedSequence(seed).generate_state(1)[0])
        shuffled = self.dataset.shuffle(seed=state, buffer_size=self.window)
        return self._samples(shuffled, start, step)

    def as_stored(self) -> Iterator[StreamedSample]:
        """See `edgeexit.data.streaming.Stream.as_stored`."""
        return self._samples(self.dataset, 0, 1)

    def _samples(self, dataset: Any, start: int, step: int) -> Iterator[StreamedSample]:
        rows = _wrapped(islice(dataset, start, None, step), self.name)
        for number, row in enumerate(rows):
            yield self._sample(row, f"{self.name}, sample {start + number * step} of the stream")

    def _sample(self, row: dict[str, Any], where: str) -> StreamedSample:
        check_columns(list(row), self.image, self.label, where)
        (label,) = label_numbers([row[self.label]], self.class_names, where)
        image = row[self.image]
        return StreamedSample(int(label), lambda: _encoded(image, where), lambda: where)


def _wrapped(rows: Iterator[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except (DataError, GeneratorExit):
        raise
    except Exception as exc:
        # What an object of the caller's raises may be anything: files, the network, a map().
        raise DataError("the stream cannot be read", given=repr(exc), where=name) from exc


def is_dataset(given: Any) -> bool:
    """Whether something is a `datasets.Dataset` or a `datasets.IterableDataset`."""
    return hasattr(given, "column_names")


def is_iterable(given: Any) -> bool:
    """Whether it is a `datasets.IterableDataset`."""
    return is_dataset(given) and not hasattr(given, "__len__")


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` made a folder, of one part or of several."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_saved(folder: Path) -> Any:
    """A `datasets.Dataset` that ``save_to_disk`` left in a folder.

    Raises:
        DataError: It cannot be read, or `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as exc:
        raise DataError("this folder needs `datasets`", where=folder, hint=_HINT) from exc
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as exc:
        raise DataError("the dataset cannot be read", given=exc, where=folder) from exc
    if not isinstance(found, datasets.Dataset):
        raise DataError(
            "the folder holds several parts",
            wanted="the folder of one part",
            given=", ".join(map(str, found)),
            where=folder,
            hint="name the parts: train = 'FOLDER/train', test = 'FOLDER/test'",
        )
    return found


def classes_of(dataset: Any, *, image: str, label: str, name: str) -> tuple[str, ...] | None:
    """The class names that a dataset of `datasets` states, if it does.

    Raises:
        DataError: It says what its columns are, and one is not there.
    """
    if dataset.column_names is not None:
        check_columns(dataset.column_names, image, label, name)
    names = getattr((dataset.features or {}).get(label), "names", None)
    return tuple(map(str, names)) if names else None


def from_dataset(
    dataset: Any, *, image: str, label: str, class_names: tuple[str, ...], name: str
) -> DatasetRecords:
    """A `datasets.Dataset` as records.

    Raises:
        DataError: A column is not there, or a label not one of the classes.
    """
    check_columns(dataset.column_names, image, label, name)
    column = dataset.select_columns([label]).with_format("arrow")[:].column(label)
    labels = label_numbers(column.to_pylist(), class_names, name)
    return DatasetRecords(_undecoded(dataset, image), image, labels, name)


def from_iterable(
    dataset: Any,
    *,
    image: str,
    label: str,
    class_names: tuple[str, ...],
    num_samples: int | None,
    window: int,
    name: str,
) -> IterableStream:
    """A `datasets.IterableDataset` as a stream.

    Args:
        dataset: The dataset.
        image: The column of images.
        label: The column of labels.
        class_names: Those of the dataset.
        num_samples: How many there are; what the dataset states by default.
        window: Size of the shuffle buffer.
        name: What an error names as the place.

    Raises:
        DataError: Nobody says how many samples there are.
    """
    split = (dataset.info.splits or {}).get(str(dataset.split))
    stated = num_samples or (split.num_examples if split else None)
    if not stated:
        raise DataError(
            "the stream does not say how many samples it has",
            wanted="num_train, num_calibration or num_test",
            where=name,
        )
    plain = _undecoded(dataset, image)
    return IterableStream(plain, image, label, class_names, stated, window, name)


def _undecoded(dataset: Any, image: str) -> Any:
    import datasets

    # Without features the images come as whatever the caller's own code makes of them.
    if isinstance((dataset.features or {}).get(image), datasets.Image):
        dataset = dataset.cast_column(image, datasets.Image(decode=False))
    return dataset.with_format(None)


def _encoded(value: Any, where: str) -> Encoded:
    content: Any = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict) and isinstance(value.get("path"), str):
        # Datasets made of image folders name their files.
        path = Path(value["path"])
        if not path.is_file() or path.stat().st_size > MAX_IMAGE_BYTES:
            raise DataError(
                "the image's file is not there or too large",
                wanted=f"a file of at most {MAX_IMAGE_BYTES} bytes",
                given=path,
                where=where,
            )
        return path.read_bytes()
    if isinstance(content, bytes) or hasattr(content, "getbands"):
        image: Encoded = content
        return image
    raise DataError(
        "the row holds no image",
        wanted="an image, or the bytes of an image file",
        given=type(content).__name__,
        where=where,
    )
