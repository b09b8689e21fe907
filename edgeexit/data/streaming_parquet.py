"""Reads Parquet files of images, as datasets lie on the Hugging Face Hub.

Groups of rows are read when the first of their rows is needed and dropped when about a window of
later ones was; nothing is converted first. Every process reads every group and decodes its own
share. Class names come from the metadata that the ``datasets`` package writes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.data.streaming import Positions
from edgeexit.data.streaming_labels import check_columns, label_numbers
from edgeexit.data.types import Labels
from edgeexit.errors import DataError

MAX_GROUP_BYTES = 1 << 30
"""The most that the images of one group of rows, or the labels of one file, may take in memory."""

MAX_GROUP_ROWS = 1 << 22
"""The most rows of a group: a column of one value takes no bytes of a file, however long it is."""

MAX_ROWS = 1 << 26
"""The most rows of a split."""

_HINT = "pip install 'edgeexit[huggingface]'"


@dataclass(frozen=True)
class _Group:
    """A group of rows: its file, its number there, and the position of its first row."""

    path: Path
    number: int
    first: int


@dataclass(frozen=True, eq=False)
class ParquetRecords:
    """The rows of some Parquet files; see `edgeexit.data.streaming.Records`.

    Attributes:
        labels: int64 ``[num_samples]``.
        unit: For each row its group, int64 ``[num_samples]``, ascending.
        groups: The groups of rows.
        image: The column of images: binary, or a struct with ``bytes``.
        max_rows: Rows that are held in memory, as the bytes of image files.
    """

    labels: Labels
    unit: Positions
    groups: tuple[_Group, ...]
    image: str
    max_rows: int
    _held: dict[int, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, position: int) -> bytes:
        """The image file of a row."""
        number = int(self.unit[position])
        with self._lock:
            column = self._held.get(number)
            if column is None:
                column = self._held[number] = self._column(self.groups[number])
                # The group that came first is the one that a window leaves first.
                while len(self._held) > 1 and sum(map(len, self._held.values())) > self.max_rows:
                    del self._held[next(iter(self._held))]
        content = column[position - self.groups[number].first].as_py()
        if not isinstance(content, bytes):
            raise DataError(
                "the row holds no image",
                wanted="the bytes of an image file",
                given=type(content).__name__,
                where=self.where(position),
            )
        return content

    def where(self, position: int) -> str:
        """The file and the row."""
        path = self.groups[self.unit[position]].path
        start = min(group.first for group in self.groups if group.path == path)
        return f"{path}, row {position - start}"

    def _column(self, group: _Group) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(group.path) as file:
                where = f"{group.path}, group {group.number}"
                pieces = _pieces(file, self.image, where, groups=[group.number])
        except (OSError, pa.ArrowException) as exc:
            raise DataError("the Parquet file cannot be read", given=exc, where=group.path) from exc
        return pa.chunked_array(
            [piece.field("bytes") if pa.types.is_struct(piece.type) else piece for piece in pieces]
        )


def stated_classes(path: Path, *, image: str, label: str) -> tuple[str, ...] | None:
    """The class names that a Parquet file states, if it does.

    Raises:
        DataError: The file cannot be read, or a column is not there; or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise DataError("reading Parquet needs pyarrow", where=path, hint=_HINT) from exc
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as exc:
        raise DataError("the Parquet file cannot be read", given=exc, where=path) from exc
    check_columns(schema.names, image, label, path)
    try:
        stated = json.loads((schema.metadata or {})[b"huggingface"])
        names = stated["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def read_parquet(
    paths: Sequence[Path],
    *,
    image: str,
    label: str,
    class_names: tuple[str, ...],
    window: int,
) -> ParquetRecords:
    """Opens Parquet files and reads their labels.

    Args:
        paths: The files.
        image: The column of images.
        label: The column of labels: numbers, or names of classes.
        class_names: Those of the dataset.
        window: How far apart two samples may be read that lie side by side.

    Raises:
        DataError: A file cannot be read, or a column is not there or not as it should be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups: list[_Group] = []
    sizes: list[int] = []
    num_rows = 0
    labels = []
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                check_columns(schema.names, image, label, path)
                for number in range(file.num_row_groups):
                    group = _Group(path, number, num_rows)
                    sizes.append(_num_rows(file.metadata.row_group(number), group))
                    groups.append(group)
                    num_rows += sizes[-1]
                pieces = _pieces(file, label, path, groups=range(file.num_row_groups))
        except (OSError, pa.ArrowException) as exc:
            raise DataError("the Parquet file cannot be read", given=exc, where=path) from exc
        values = [value for piece in pieces for value in piece.to_pylist()]
        labels.append(label_numbers(values, class_names, path))
        kind = schema.field(image).type
        if pa.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            kind = kind.field(index).type if index >= 0 else kind
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise DataError(
                "the column does not hold image files",
                wanted="binary, or a struct with a field `bytes`",
                given=kind,
                where=f"{path}, column {image}",
            )
    unit = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    # A window of samples, the groups at its two ends, and what threads read ahead.
    max_rows = 5 * window // 4 + 4 * max(sizes, default=0)
    all_labels = np.concatenate(labels) if labels else np.empty(0, np.int64)
    return ParquetRecords(all_labels, unit, tuple(groups), image, max_rows)


def _pieces(file: Any, name: str, where: object, *, groups: Sequence[int]) -> list[Any]:
    """The values of a column in some groups of rows, in arrays of a few rows each.

    The sizes that a file states are those of its pages. A value that many rows refer to is in them
    once, and in memory once for each row, so what was read is counted while it is read.
    """
    import pyarrow as pa

    plain = pa.types.is_integer(file.schema_arrow.field(name).type)
    pieces: list[Any] = []
    num_bytes = 0
    for batch in file.iter_batches(1 << 16 if plain else 64, row_groups=groups, columns=[name]):
        piece = batch.column(name)
        if pa.types.is_dictionary(piece.type):
            piece = piece.dictionary_decode()
        pieces.append(piece)
        num_bytes += piece.nbytes
        if num_bytes > MAX_GROUP_BYTES:
            raise DataError(
                "a column is too large to be read at once",
                wanted=f"at most {MAX_GROUP_BYTES} bytes",
                given="more",
                where=f"{where}, column {name}",
                hint="write the file again with a smaller row_group_size, or as several files",
            )
    return pieces


def _num_rows(metadata: Any, group: _Group) -> int:
    """How many rows a group says that it has, if they can be held in memory."""
    num_rows, num_bytes = int(metadata.num_rows), int(metadata.total_byte_size)
    if group.first + num_rows > MAX_ROWS:
        raise DataError(
            "the files have too many rows",
            wanted=f"at most {MAX_ROWS} in a split",
            given=f"{group.first + num_rows} or more",
            where=f"{group.path}, group {group.number}",
        )
    if num_bytes > MAX_GROUP_BYTES or num_rows > MAX_GROUP_ROWS:
        raise DataError(
            "a group of rows is too large",
            wanted=f"at most {MAX_GROUP_BYTES} bytes and {MAX_GROUP_ROWS} rows",
            given=f"{num_bytes} bytes and {num_rows} rows",
            where=f"{group.path}, group {group.number}",
            hint="write the file again with a smaller row_group_size",
        )
    return num_rows
