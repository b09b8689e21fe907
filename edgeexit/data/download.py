"""Downloads one file over HTTP: continued where it broke, there only if its checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from edgeexit.data.cache import storage_errors
from edgeexit.errors import FetchError

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes are done, and of how many (0: not known)."""

_BLOCK_BYTES = 1 << 18
_MAX_ATTEMPTS = 5


def download(
    url: str,
    target: Path,
    *,
    num_bytes: int,
    sha256: str,
    progress: Progress | None = None,
    timeout_s: float = 8.0,
) -> None:
    """Downloads a file whose length and checksum are known.

    The bytes gather in ``<target>.part``, which a later call continues. A connection that breaks
    after it delivered something is tried again at once; one that delivers nothing is given up, so
    that the caller's next source gets its turn.

    Args:
        url: An ``http`` or ``https`` address.
        target: Where the whole file appears; its folder must exist.
        num_bytes: The expected length.
        sha256: The expected checksum, hexadecimal.
        progress: Told about every block.
        timeout_s: How long the server may stay silent, seconds.

    Raises:
        FetchError: The server could not be reached, kept breaking off, or sent something else.
        StorageError: The disk is full.
    """
    part = part_file(target)
    failure: Exception | None = None
    for _ in range(_MAX_ATTEMPTS):
        before = _size(part)
        try:
            _continue(url, part, num_bytes, progress, timeout_s)
        except urllib.error.HTTPError as exc:
            if exc.code == 416 and before:
                part.unlink()
                continue
            raise FetchError(
                "the server refused the download", given=f"HTTP {exc.code} {exc.reason}", where=url
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            failure = exc
            if _size(part) <= before:
                break
            continue
        if _size(part) < num_bytes:
            continue
        given = file_sha256(part)
        if given == sha256:
            with storage_errors(target):
                os.replace(part, target)
            return
        part.unlink()
        # A file that was put together from two connections may be wrong where one piece is not.
        if before == 0:
            raise FetchError(
                "the download has the wrong checksum",
                wanted=f"sha256 {sha256}",
                given=f"sha256 {given}",
                where=url,
            )
    raise FetchError(
        "the download broke off" if _size(part) else "the server could not be reached",
        wanted=f"{num_bytes} bytes",
        given=f"{_size(part)} bytes" + (f" ({failure})" if failure else ""),
        where=url,
        hint="try again: a download continues where it stopped",
    ) from failure


def part_file(target: Path) -> Path:
    """Where the bytes of a download gather."""
    return target.with_name(target.name + ".part")


@contextmanager
def step(progress: Progress | None, what: str) -> Iterator[None]:
    """Tells ``progress`` when something begins whose length is not known, and when it is done."""
    if progress is not None:
        progress(what, 0, 0)
    yield
    if progress is not None:
        progress(what, 1, 1)


def file_sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _continue(
    url: str, part: Path, num_bytes: int, progress: Progress | None, timeout_s: float
) -> None:
    start = _size(part)
    if start == num_bytes:
        return
    headers = {"User-Agent": "edgeexit", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        resumed = response.status == 206 and str(
            response.headers.get("Content-Range", "")
        ).startswith(f"bytes {start}-")
        done = start if resumed else 0
        with storage_errors(part), part.open("ab" if resumed else "wb") as file:
            while block := _read(response):
                done += len(block)
                if done > num_bytes:
                    file.truncate(0)
                    raise FetchError(
                        "the download is longer than it should be",
                        wanted=f"{num_bytes} bytes",
                        where=url,
                    )
                file.write(block)
                if progress is not None:
                    progress(url.rsplit("/", 1)[-1], done, num_bytes)


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK_BYTES)
    except http.client.IncompleteRead as exc:
        return exc.partial


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
