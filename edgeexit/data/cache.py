"""The cache folder: where it is, who may write, and how a file gets into it whole."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import StorageError

_HINT = "free some space, or point EDGEEXIT_CACHE to another folder"
_LOCAL_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the folder cannot be written",
    errno.EACCES: "the folder cannot be written",
    errno.EPERM: "the folder cannot be written",
    errno.EEXIST: "a file is in the way of a folder",
    errno.ENOTDIR: "a file is in the way of a folder",
}


def default_cache(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that holds fetched datasets when the caller names none.

    ``EDGEEXIT_CACHE`` decides where it is set; else it is the platform's own place for caches.

    Args:
        environ: Environment variables; those of the process by default.
    """
    variables = os.environ if environ is None else environ
    if chosen := variables.get("EDGEEXIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(variables.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "edgeexit"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/edgeexit"
    return Path(variables.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeexit"


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into a `StorageError` about ``where``."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _LOCAL_ERRORS:
            raise
        raise StorageError(
            _LOCAL_ERRORS[exc.errno],
            given=str(exc),
            where=where,
            hint=_HINT,
        ) from exc


def check_free(folder: Path, num_bytes: int) -> None:
    """Finds out before anything is fetched whether it will fit; ``folder`` must exist.

    Raises:
        StorageError: There are fewer than ``num_bytes`` bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StorageError(
            _LOCAL_ERRORS[errno.ENOSPC],
            wanted=f"{num_bytes} bytes free",
            given=f"{free} bytes free",
            where=folder,
            hint=_HINT,
        )


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file ``path``; a second process waits until the first is done or has died."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError as exc:
                    # LK_LOCK gives up after ten seconds; the other process may need minutes.
                    if exc.errno != errno.EDEADLK:
                        raise
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes an ``.npz`` that appears whole or not at all; the caller holds the folder's lock.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with storage_errors(path):
        # Not a random name: a file left behind by a process that was killed is used again.
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
