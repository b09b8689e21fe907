"""Reads an ``.npz`` that nobody vouches for: headers and sizes first, and never a pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.validate import check_num_bytes
from edgeexit.errors import DataError

# NumPy's letters for booleans, integers, floats and text of a fixed length.
_PLAIN_KINDS = "biufU"
# What NumPy writes. zipfile unpacks the others without a limit.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(
    path: Path, *, required: Collection[str] = (), wanted: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Reads the arrays of an ``.npz``.

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
                    "the .npz lacks an array",
                    wanted=", ".join(missing),
                    given=", ".join(members) or "no arrays",
                    where=path,
                )
            chosen = {key: info for key, info in members.items() if wanted is None or key in wanted}
            check_num_bytes(sum(info.file_size for info in chosen.values()), where=path)
            return {key: _member(archive, info, path) for key, info in chosen.items()}
    except FileNotFoundError as exc:
        raise DataError("the file does not exist", where=path) from exc
    except DataError:
        raise
    except Exception as exc:
        # zipfile passes on what its codecs raise, and NumPy what Python's tokenizer and parser do.
        raise DataError("the .npz cannot be read", given=repr(exc), where=path) from exc


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    where = f"{path}, {info.filename}"
    # NumPy leaves these readers without types.
    npy: Any = np.lib.format
    if info.compress_type not in _COMPRESSIONS:
        raise DataError(
            "the .npz is compressed in another way than NumPy does",
            wanted="stored or deflated members",
            given=f"compression {info.compress_type}",
            where=where,
        )
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            # Later versions add named fields only.
            raise DataError(
                "the .npz holds an array with named fields",
                wanted="format 1.0 or 2.0",
                given=f"format {version[0]}.{version[1]}",
                where=where,
            )
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        # Items of no size would fit any shape.
        if dtype.hasobject or dtype.kind not in _PLAIN_KINDS or dtype.itemsize == 0:
            raise DataError(
                "the .npz holds an array of another kind than numbers",
                wanted="integers, floats or text of a length; Python objects are never loaded",
                given=f"dtype = {dtype}",
                where=where,
            )
        stated, there = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if min(shape, default=0) < 0 or stated != there:
            raise DataError(
                "the .npz states another size than it has",
                wanted=f"{there} bytes",
                given=f"shape = {shape}, dtype = {dtype}: {stated} bytes",
                where=where,
            )
    with archive.open(info) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array
