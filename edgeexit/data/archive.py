"""Reads an ``.npz`` that nobody vouches for: headers and sizes first, and never a pickle."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

MAX_DATASET_BYTES = 16 << 30
"""The most that a dataset may take in memory; a larger one is refused before it is loaded."""

_MAX_HEADER_BYTES = 4096
_PLAIN_KINDS = "biufU"


def read_npz(
    path: Path, *, required: Collection[str] = (), wanted: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz``.

    Args:
        path: The file.
        required: Keys that must be there.
        wanted: Keys to read where they are there; all by default.

    Raises:
        DataError: The file is not an ``.npz``, lacks a key, is damaged, holds Python objects, or
            states sizes that its content does not have.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            if missing := [key for key in required if key not in members]:
                raise DataError(
                    "The .npz lacks an array",
                    wanted=", ".join(missing),
                    given=", ".join(members) or "no arrays",
                    where=path,
                )
            chosen = {key: info for key, info in members.items() if wanted is None or key in wanted}
            total = sum(info.file_size for info in chosen.values())
            if total > MAX_DATASET_BYTES:
                raise DataError(
                    "The .npz is too large",
                    wanted=f"at most {MAX_DATASET_BYTES} bytes",
                    given=f"{total} bytes",
                    where=path,
                )
            return {key: _member(archive, info, path) for key, info in chosen.items()}
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as exc:
        # RuntimeError is zipfile's word for an encrypted member, NotImplementedError for an
        # unknown compression.
        raise DataError("The .npz is damaged", given=exc, where=path) from exc
    except FileNotFoundError as exc:
        raise DataError("The file does not exist", where=path) from exc


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    where = f"{path}, {info.filename}"
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)  # type: ignore[arg-type]
        except ValueError as exc:
            raise DataError(
                "The .npz holds something else than an array", given=exc, where=where
            ) from exc
        if dtype.hasobject or dtype.kind not in _PLAIN_KINDS:
            raise DataError(
                "The .npz holds an array of another kind than numbers",
                wanted="integers, floats or strings; Python objects are never loaded",
                given=f"dtype = {dtype}",
                where=where,
            )
        stated = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or stated != info.file_size - file.tell():
            raise DataError(
                "The .npz states another size than it has",
                wanted=f"{info.file_size - file.tell()} bytes",
                given=f"shape = {shape}, dtype = {dtype}: {stated} bytes",
                where=where,
            )
    with archive.open(info) as file:
        return np.lib.format.read_array(  # type: ignore[no-any-return]
            file, allow_pickle=False, max_header_size=_MAX_HEADER_BYTES
        )
