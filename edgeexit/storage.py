"""Folders that appear whole or not at all; docs/error_handling.md says what holds when."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgeexit.errors import StorageError


def write_folder(
    files: Mapping[str, bytes],
    output: Path,
    *,
    replace: bool = False,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Writes files into a folder beside ``output`` and renames it when it is complete.

    Whatever interrupts that, Ctrl-C included, removes what was written. A process that is killed
    leaves ``.NAME.TOKEN.partial`` and, in the middle of a replacement, the old folder as
    ``.NAME.TOKEN.old``; neither is in the way of a later write. Where ``output`` is a link, all of
    it happens to the folder that it names.

    Args:
        files: Path below the folder -> content.
        output: The folder to make; its parents are made too.
        replace: Replace a folder that is there.
        check: Called with the complete folder before it takes its name; may raise.

    Raises:
        StorageError: Something is there already, or the disk is full or not writable.
    """
    place = Path(os.path.realpath(output))
    # Not mkdtemp, whose folders nobody else may read.
    folder = place.parent / f".{place.name}.{secrets.token_hex(4)}.partial"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        if check is not None:
            check(folder)
        for entry in (folder, *folder.rglob("*")):
            _to_disk(entry)
        _take_name(folder, place, replace)
    except OSError as exc:
        raise _storage_error(exc, output) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps a second process out of it for as long as the block runs.

    The lock is the system's, on the folder itself: it ends with the process and leaves no file.
    Where there is none, as on Windows and some network drives, nobody is kept out.

    Raises:
        StorageError: Another process holds the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as exc:
        raise _storage_error(exc, folder) from exc
    try:
        if number is not None:
            _lock(number, folder)
        yield
    finally:
        if number is not None:
            os.close(number)


def _lock(number: int, folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StorageError(
            "another process writes to the folder",
            where=folder,
            hint="wait until it is done, or choose another folder",
        ) from exc
    except OSError as exc:
        if exc.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
            raise


def _take_name(folder: Path, output: Path, replace: bool) -> None:
    # A folder cannot replace another in one step: the old one makes room first.
    old = folder.with_suffix(".old")
    try:
        if replace and output.exists():
            output.rename(old)
        folder.rename(output)
    except BaseException:
        if old.exists():
            old.rename(output)
        raise
    _to_disk(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where the system can say."""
    if os.name != "posix":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as exc:
        # Some network drives cannot do it for folders.
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


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
        "the output cannot be written",
        wanted="a folder that may be written to",
        given=exc.strerror or exc,
        where=output,
    )
