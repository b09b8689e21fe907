"""Reads WebDataset shards: plain tar files in which neighbours of one name form a sample.

``shards/000.tar`` holds ``n01440764_18.jpg``, ``n01440764_18.cls``, ``n01440764_36.jpg``, ...: the
part of a name before the first dot of its last component is the key, the rest says what the member
is. The members' places are found once, from the headers, and kept in the cache; images are then
read where they lie, in any order.

The ``webdataset`` package is not used to read: it gives a shard's name to a shell where it begins
with ``pipe:``, reads members of any size, and can neither begin in the middle nor say how many
samples there are. The tests compare with it what is read here.

Not handled: compressed tar files, and members other than an image and a label.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.archive import read_npz
from edgeexit.data.cache import exclusive, write_arrays
from edgeexit.data.download import Progress, step
from edgeexit.data.streaming import Positions
from edgeexit.data.streaming_decode import MAX_IMAGE_BYTES
from edgeexit.data.streaming_labels import check_names_differ
from edgeexit.data.types import Labels
from edgeexit.errors import DataError

IMAGE_EXTENSIONS = ("bmp", "jpeg", "jpg", "pgm", "png", "ppm", "webp")
_MAX_LABEL_BYTES = 256
# Part of the names of files in the cache: what another version found is not read.
_VERSION = 2
# What tarfile raises for headers that were made to do harm: sizes that fit no integer or no memory,
# long names of long names.
_TAR_ERRORS = (
    OSError, tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TarRecords:
    """The samples of some shards; see `edgeexit.data.streaming.Records`.

    Attributes:
        paths: The shards.
        labels: int64 ``[num_samples]``.
        unit: For each sample its shard, int64 ``[num_samples]``, ascending.
        places: For each sample, in bytes of its shard: where the header of the image is, where the
            image is, and how long it is; int64 ``[num_samples, 3]``.
    """

    paths: tuple[Path, ...]
    labels: Labels
    unit: Positions
    places: NDArray[np.int64]

    def read(self, position: int) -> bytes:
        """The image file of a sample."""
        path = self.paths[self.unit[position]]
        _, start, size = self.places[position].tolist()
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                content: bytes = file.read(size)
        except OSError as exc:
            raise DataError("the shard cannot be read", given=exc, where=path) from exc
        if len(content) != size:
            raise DataError(
                "the shard has changed since it was opened",
                wanted=f"{size} bytes of an image",
                given=f"{len(content)} bytes",
                where=self.where(position),
            )
        return content

    def where(self, position: int) -> str:
        """The shard and the key of a sample."""
        path = self.paths[self.unit[position]]
        try:
            with path.open("rb") as file:
                file.seek(int(self.places[position, 0]))
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    member = archive.next()
        except _TAR_ERRORS:
            member = None
        return f"{path}, {_split(member.name)[0] if member else f'sample {position}'}"


def read_shards(
    paths: tuple[Path, ...],
    *,
    image: str | None,
    label: str,
    class_names: tuple[str, ...],
    cache: Path,
    progress: Progress | None = None,
) -> TarRecords:
    """Finds the samples of some shards: from the cache, or from the headers of every member.

    Args:
        paths: The shards.
        image: The extension of images; any of `IMAGE_EXTENSIONS` by default.
        label: The extension of labels: the number of a class or its name, as text.
        class_names: Those of the dataset.
        cache: Folder in which what was found is kept.
        progress: Told how many shards were read.

    Raises:
        DataError: A shard cannot be read, is not a plain tar file, or has a sample without an image
            or a usable label; the error names shard and key.
        StorageError: The cache cannot be written.
    """
    states = [path.stat() for path in paths]
    facts = [
        [str(path.resolve()), state.st_size, state.st_mtime_ns]
        for path, state in zip(paths, states, strict=True)
    ]
    key = json.dumps([_VERSION, facts, image, label, class_names])
    target = cache / "shards" / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
    # A cache that holds them need not be one that can be written.
    table = _kept(target)
    if table is None:
        with exclusive(target.with_suffix(".lock")):
            # Another process may have found them while this one waited.
            table = _kept(target)
            if table is None:
                images = IMAGE_EXTENSIONS if image is None else (image.lower(),)
                with step(progress, f"read the headers of {len(paths)} shards"):
                    table = _found(paths, images, label.lower(), class_names)
                write_arrays(target, {"samples": table})
    return TarRecords(paths, table[:, 1].copy(), table[:, 0].copy(), table[:, 2:].copy())


def _found(
    paths: tuple[Path, ...], images: tuple[str, ...], label: str, class_names: tuple[str, ...]
) -> NDArray[np.int64]:
    """For each sample its shard and what `_samples` says of it, int64 ``[num_samples, 5]``."""
    known = {name: number for number, name in enumerate(class_names)}
    tables = [np.empty((0, 5), np.int64)]
    for number, path in enumerate(paths):
        rows = list(_samples(path, images, label, class_names, known))
        column = np.full((len(rows), 1), number, np.int64)
        tables.append(np.hstack([column, np.array(rows, np.int64).reshape(-1, 4)]))
    return np.concatenate(tables)


def _kept(target: Path) -> NDArray[np.int64] | None:
    if not target.exists():
        return None
    try:
        table: NDArray[np.int64] = read_npz(target, required=("samples",))["samples"]
    except DataError:
        return None
    return table if table.dtype == np.int64 and table.shape[1:] == (5,) else None


def _samples(
    path: Path,
    images: tuple[str, ...],
    label: str,
    class_names: tuple[str, ...],
    known: Mapping[str, int],
) -> Iterator[tuple[int, int, int, int]]:
    """For each sample of a shard: label, header, start and size of the image."""
    key: str | None = None
    parts: dict[str, tarfile.TarInfo] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in _members(archive, file, path):
                this, extension = _split(member.name)
                if extension is None or this.startswith("__"):
                    continue
                if this != key and parts:
                    yield _sample(file, path, key, parts, class_names, known)
                    parts = {}
                key = this
                kind = "image" if extension in images else "label" if extension == label else None
                if kind in parts:
                    raise DataError(
                        f"a sample has two {kind}s",
                        given=f"{parts[kind].name}, {member.name}",
                        where=f"{path}, {key}",
                    )
                parts |= {kind: member} if kind else {}
            if parts:
                yield _sample(file, path, key, parts, class_names, known)
    except _TAR_ERRORS as exc:
        raise DataError(
            "the shard cannot be read",
            wanted="a tar file that is not compressed",
            given=repr(exc),
            where=path,
        ) from exc


def _members(archive: tarfile.TarFile, file: IO[bytes], path: Path) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        # A shard may have a million members: they are not gathered.
        archive.members.clear()  # type: ignore[attr-defined]
        if archive.offset <= member.offset:
            # A negative size would lead back to the same members again and again.
            raise DataError(
                "the shard is damaged",
                wanted="a member of a positive size",
                given=f"{member.size} bytes",
                where=f"{path}, byte {member.offset}",
            )
        if member.isreg() and not member.issparse():
            if member.offset_data + member.size > os.fstat(file.fileno()).st_size:
                raise DataError(
                    "the shard ends inside a member",
                    wanted=f"{member.size} bytes",
                    where=f"{path}, {member.name}",
                )
            yield member
    # tarfile takes a damaged header for the end, and the end of the file for the end mark.
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if any(block):
        raise DataError(
            "the shard is damaged", wanted="a header", where=f"{path}, byte {archive.offset}"
        )
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(
            "the shard ends without its end mark",
            wanted=f"{tarfile.BLOCKSIZE} bytes of zeros",
            given=f"{len(block)} bytes",
            where=f"{path}, byte {archive.offset}",
            hint="copy the shard again: it may have been cut short",
        )


def _sample(
    file: IO[bytes],
    path: Path,
    key: str | None,
    parts: dict[str, tarfile.TarInfo],
    class_names: tuple[str, ...],
    known: Mapping[str, int],
) -> tuple[int, int, int, int]:
    where = f"{path}, {key}"
    if parts.keys() != {"image", "label"}:
        (there,) = parts.values()
        raise DataError(
            "a sample lacks its image or its label",
            wanted="both, one after the other",
            given=there.name,
            where=where,
            hint="say which extensions they have: image = 'jpg', label = 'cls'",
        )
    image, label = parts["image"], parts["label"]
    if image.size > MAX_IMAGE_BYTES or label.size > _MAX_LABEL_BYTES:
        raise DataError(
            "a member is too large",
            wanted=f"{MAX_IMAGE_BYTES} bytes of image, {_MAX_LABEL_BYTES} of label at most",
            given=f"{image.size} and {label.size} bytes",
            where=where,
        )
    file.seek(label.offset_data)
    text = file.read(label.size).decode("utf-8", "replace").strip()
    number = int(text) if text.isascii() and text.isdecimal() else None
    if number is None:
        check_names_differ(class_names, known, where)
        number = known.get(text)
    if number is None or number >= len(class_names):
        raise DataError(
            "a label is not one of the classes",
            wanted=f"0 to {len(class_names) - 1}, or the name of a class",
            given=repr(text),
            where=where,
        )
    return number, image.offset, image.offset_data, image.size


def _split(name: str) -> tuple[str, str | None]:
    """Key and extension of a member: what is before and after the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    if not stem or not dot:
        return name, None
    return folder + slash + stem, extension.lower()
