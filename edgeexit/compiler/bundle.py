"""Pass 8: writes the bundle, whole or not at all.

Everything goes into a folder beside the output, which takes the output's name when it is complete
and has been opened once. Whatever interrupts that, Ctrl-C included, removes the folder again. The
same content gives the same bytes: nothing here knows the time or the path.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit._version import __version__
from edgeexit.compiler.artifacts import artifact_specs
from edgeexit.compiler.check import check_output
from edgeexit.errors import StorageError
from edgeexit.runtime.bundle import Bundle, open_bundle
from edgeexit.runtime.manifest import to_json
from edgeexit.types import Artifact, FileSpec, Manifest

GOLDEN = "golden.npz"
_NPY: Any = np.lib.format
_TOOLS = ("torch", "torchao", "nncf", "numpy")
_BACKEND_TOOLS = {"tflite": ("ai-edge-litert",), "executorch": ("executorch",)}
# The oldest time that a zip file can hold.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def tool_versions(backends: Sequence[str]) -> dict[str, str]:
    """Versions of all that took part in a compilation."""
    names = (*_TOOLS, *(name for backend in backends for name in _BACKEND_TOOLS[backend]))
    return {"edgeexit": __version__} | {name: version(name) for name in names}


def golden_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An ``.npz`` whose bytes depend on the arrays only."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            _NPY.write_array(content, np.ascontiguousarray(array), version=(1, 0))
            entry = zipfile.ZipInfo(f"{name}.npy", _NO_TIME)
            entry.create_system = 3  # or else the operating system is noted
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content.getvalue())
    return stream.getvalue()


def write_bundle(
    manifest: Manifest,
    artifacts: Sequence[Artifact],
    vectors: Mapping[str, NDArray[Any]],
    output: Path,
    *,
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle and opens it.

    Args:
        manifest: All of it but the facts about files, which are filled in here.
        artifacts: The files of all backends.
        vectors: The golden vectors.
        output: The folder to make; its parents are made too.
        overwrite: Replace a bundle that is there.

    Raises:
        StorageError: Something is there already, or the disk is full or not writable.
    """
    check_output(output, overwrite)
    golden = golden_bytes(vectors)
    manifest = replace(
        manifest,
        artifacts=artifact_specs(artifacts),
        golden=FileSpec(GOLDEN, hashlib.sha256(golden).hexdigest(), len(golden)),
    )
    files = {artifact.path: artifact.content for artifact in artifacts}
    files |= {GOLDEN: golden, "manifest.json": to_json(manifest)}
    with _beside(output) as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        open_bundle(folder)
        if overwrite and output.exists():
            # A folder cannot replace another in one step: the old one makes room first.
            old = folder.with_suffix(".old")
            output.rename(old)
            try:
                folder.rename(output)
            except BaseException:
                old.rename(output)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            folder.rename(output)
    return open_bundle(output)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A new folder on the same disk as ``output``, removed at the end if it is still there."""
    folder = output.parent / f".{output.name}.{os.getpid()}.partial"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
    except OSError as exc:
        raise _storage_error(exc, output) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _storage_error(exc: OSError, output: Path) -> StorageError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            "the disk is full", given=exc.strerror, where=output, hint="make room and try again"
        )
    was_renaming = exc.filename2 is not None
    if was_renaming and exc.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return StorageError(
            "somebody else wrote to the output meanwhile", where=output, hint="try another path"
        )
    return StorageError(
        "the bundle cannot be written",
        wanted="a folder that may be written to",
        given=exc.strerror or exc,
        where=output,
    )
