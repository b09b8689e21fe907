"""Opening a bundle: a folder that somebody else may have made.

Before anything of it runs, ``open_bundle`` reads the manifest under a size cap, checks every field
(``manifest.py``), refuses links anywhere in the folder, and compares the size and SHA-256 of each
file that the manifest names. ``Bundle.read`` compares them once more on the very bytes that it
returns. A bundle is data: nothing in it is unpickled, evaluated or imported. Files that the
manifest does not name are never opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.runtime import manifest as manifest_json
from edgeexit.types import ArtifactSpec, FileSpec, Manifest

_MAX_ENTRIES = 10_000
_MAX_ARRAYS = 64
_MAX_ARRAY_BYTES = 1 << 30
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those of NumPy. zipfile unpacks the others without a limit."""
_AGAIN = "compile the model again, or fetch the bundle again"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked. Made by ``open_bundle``."""

    path: Path
    manifest: Manifest

    def read(self, file: FileSpec | ArtifactSpec) -> bytes:
        """The content of a file of the bundle, hash checked.

        Raises:
            BundleError: If the file is missing, is no plain file, or has changed.
        """
        content = _read_plain(self.path, file.path, file.num_bytes)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != file.num_bytes or digest != file.sha256:
            raise BundleError(
                "a file of the bundle is damaged",
                wanted=f"{file.num_bytes} bytes with SHA-256 {file.sha256}",
                given=f"{len(content)} bytes with SHA-256 {digest}",
                where=f"{self.path.name}/{file.path}",
                hint=_AGAIN,
            )
        return content

    def golden(self) -> dict[str, NDArray[Any]]:
        """The golden vectors, as docs/bundle_format.md describes them.

        ``labels`` and ``logits`` are missing where a model came without data.

        Raises:
            BundleError: If the file is damaged or is not a plain archive of arrays, or if an array
                is missing or does not fit the manifest.
        """
        where = f"{self.path.name}/{self.manifest.golden.path}"
        arrays = read_arrays(self.read(self.manifest.golden), where)
        _check_golden(arrays, self.manifest, where)
        return arrays


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Opens a bundle and checks all of it; runs nothing.

    Args:
        path: The folder ``NAME.eexit``.

    Returns:
        The bundle, its manifest parsed.

    Raises:
        BundleVersionError: If it was written for another schema.
        BundleError: If it is missing, damaged, not safe to load, or cannot be read.
    """
    folder = Path(path)
    try:
        if not folder.is_dir():
            raise BundleError(
                "there is no bundle here",
                wanted="a folder with a manifest.json",
                given="a file" if folder.exists() else "nothing",
                where=folder,
                hint="`edgeexit compile` makes one",
            )
        _refuse_links(folder)
    except OSError as exc:
        raise BundleError(
            "a bundle cannot be read", given=exc.strerror, where=exc.filename or folder
        ) from exc
    content = _read_plain(folder, "manifest.json", manifest_json.MAX_MANIFEST_BYTES)
    bundle = Bundle(folder, manifest_json.from_json(content))
    bundle.read(bundle.manifest.golden)
    for source in bundle.manifest.firmware.files if bundle.manifest.firmware else ():
        bundle.read(source)
    for file in {artifact.path: artifact for artifact in bundle.manifest.artifacts}.values():
        bundle.read(file)
    return bundle


def read_arrays(content: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` that is not trusted.

    Sizes and headers are checked before memory is taken; only arrays of numbers and booleans are
    read, without pickle.

    Args:
        content: The bytes of the archive.
        where: What to name in an error.

    Raises:
        BundleError: If it is no such archive, or is larger than 1 GiB unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            num_bytes = sum(entry.file_size for entry in entries)
            names = {entry.filename for entry in entries}
            if len(entries) > _MAX_ARRAYS or num_bytes > _MAX_ARRAY_BYTES:
                raise BundleError(
                    "an archive of arrays is too large",
                    wanted=f"up to {_MAX_ARRAYS} arrays and {_MAX_ARRAY_BYTES} bytes",
                    given=f"{len(entries)} arrays and {num_bytes} bytes",
                    where=where,
                )
            if len(names) != len(entries) or not all(name.endswith(".npy") for name in names):
                raise BundleError(
                    "an archive of arrays holds something else",
                    wanted="different names that end in .npy",
                    given=sorted(names),
                    where=where,
                )
            return {
                entry.filename.removesuffix(".npy"): _read_array(
                    _unpacked(archive, entry), f"{where}, {entry.filename}"
                )
                for entry in entries
            }
    except BundleError:
        raise
    except Exception as exc:
        # zipfile passes on what its codecs, the file and the decoder of names raise.
        raise BundleError(
            "an archive of arrays cannot be read", given=repr(exc), where=where, hint=_AGAIN
        ) from exc


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of a member, which takes no more memory than its directory states."""
    if entry.compress_type not in _COMPRESSIONS:
        raise ValueError(f"{entry.filename}: compression {entry.compress_type}")
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _check_golden(arrays: dict[str, NDArray[Any]], manifest: Manifest, where: str) -> None:
    """Raises where an array is missing, or has another dtype or shape than the manifest implies."""
    num_samples = max(1, len(np.atleast_1d(arrays["inputs"]))) if "inputs" in arrays else 1
    logits = ("int8", (num_samples, len(manifest.segments), manifest.num_classes))
    numbers = ("int64", (num_samples,))
    needed: dict[str, tuple[str, tuple[int, ...]]]
    needed = {"inputs": ("int8", (num_samples, *manifest.input.tensor.shape[1:]))}
    for backend in manifest.points:
        needed |= {f"logits_{backend}": logits, f"exits_{backend}": numbers}
    for name, (dtype, shape) in {**needed, "labels": numbers, "logits": logits}.items():
        array = arrays.get(name)
        if array is None and name not in needed:
            continue
        if array is None or array.dtype != dtype or array.shape != shape:
            raise BundleError(
                "the golden vectors do not fit the manifest",
                wanted=f"{name}: {dtype} {list(shape)}",
                given="nothing" if array is None else f"{array.dtype} {list(array.shape)}",
                where=where,
                hint=_AGAIN,
            )


def _read_array(content: bytes, where: str) -> NDArray[Any]:
    stream = io.BytesIO(content)
    headers: Any = np.lib.format
    try:
        version = headers.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"version {version} of the array format")
        shape, _, dtype = headers.read_array_header_1_0(stream)
        num_bytes = dtype.itemsize
        for size in shape:
            num_bytes *= size
        if dtype.kind not in "biuf" or dtype.hasobject:
            raise ValueError(f"an array of {dtype}")
        if num_bytes != len(content) - stream.tell() or any(size < 0 for size in shape):
            raise ValueError(f"{len(content) - stream.tell()} bytes for {dtype} {shape}")
        stream.seek(0)
        array = np.load(stream, allow_pickle=False)
    except Exception as exc:
        # NumPy hands the header to Python's tokenizer and parser, which raise what they like.
        raise BundleError(
            "an array cannot be read",
            wanted="numbers or booleans, format 1.0, exactly as long as the header says",
            given=exc,
            where=where,
            hint=_AGAIN,
        ) from exc
    return np.asarray(array)


def _refuse_links(folder: Path) -> None:
    """Raises where a link hides in the folder, at any depth; the folder itself may be one."""
    pending, num_entries = [folder], 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                num_entries += 1
                if num_entries > _MAX_ENTRIES:
                    raise BundleError(
                        "a bundle holds too many files",
                        wanted=f"up to {_MAX_ENTRIES}",
                        where=folder,
                    )
                if entry.is_symlink():
                    raise BundleError(
                        "a bundle holds a link, which could lead anywhere",
                        wanted="plain files and folders",
                        given=f"a symbolic link {entry.name}",
                        where=Path(entry.path).relative_to(folder.parent),
                        hint="remove the link, or fetch the bundle again",
                    )
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))


def _read_plain(folder: Path, name: str, max_bytes: int) -> bytes:
    """A plain file of at most ``max_bytes``, without following a link or waiting for a pipe."""
    path = folder / name
    where = f"{folder.name}/{name}"
    # Windows has neither flag; there the search for links above is what there is.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise BundleError("a file of the bundle is no plain file", where=where, hint=_AGAIN)
            if facts.st_size > max_bytes:
                raise BundleError(
                    "a file of the bundle is too large",
                    wanted=f"up to {max_bytes} bytes",
                    given=f"{facts.st_size} bytes",
                    where=where,
                    hint=_AGAIN,
                )
            return file.read(max_bytes)
    except FileNotFoundError as exc:
        raise BundleError(
            "a file of the bundle is missing", wanted=name, where=folder, hint=_AGAIN
        ) from exc
    except OSError as exc:
        raise BundleError(
            "a file of the bundle cannot be read", given=exc.strerror, where=where
        ) from exc
