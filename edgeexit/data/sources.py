"""Gets the files of a dataset from where a recipe says; the table at the end has one row per kind.

npm and apt are asked by package name through their own clients, which verify what they download;
`npm pack` runs no scripts, and `dpkg-deb -x` neither.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeexit.data.cache import storage_errors
from edgeexit.data.decode import MAX_MEMBER_BYTES, Read
from edgeexit.data.download import Progress, download, file_sha256, part_file, step
from edgeexit.data.recipes import Archive, Source
from edgeexit.errors import FetchError

_CLIENT_TIMEOUT_S = 900


@contextmanager
def open_source(source: Source, folder: Path, progress: Progress | None) -> Iterator[Read]:
    """Gets a source's archives and read files out of them.

    Args:
        source: What to get, and how.
        folder: Where downloads gather; those of kind ``url`` stay there until they are whole, and
            are removed when this context ends without an error. Where it ends with one, what was
            downloaded is left for a later try, or for `remove_downloads`.
        progress: Told about every step.

    Yields:
        A function from the name of a member to its bytes.

    Raises:
        FetchError: The source could not be reached, or is not what the recipe describes.
        StorageError: The disk is full.
    """
    with storage_errors(folder):
        temporary = tempfile.TemporaryDirectory(dir=folder)
    with temporary as scratch:
        yield KINDS[source.kind](source, folder, Path(scratch), progress)
    remove_downloads(source, folder)


def remove_downloads(source: Source, folder: Path) -> None:
    """Removes what a source of kind ``url`` has left in ``folder``, whole or in part."""
    if source.kind == "url":
        for archive in source.archives:
            target = folder / _file_name(archive)
            target.unlink(missing_ok=True)
            part_file(target).unlink(missing_ok=True)


def _url(source: Source, folder: Path, scratch: Path, progress: Progress | None) -> Read:
    for archive in source.archives:
        target = folder / _file_name(archive)
        if archive.num_bytes is None or archive.sha256 is None:
            raise FetchError("a download without a checksum is not taken", where=archive.location)
        if not target.exists() or file_sha256(target) != archive.sha256:
            download(
                archive.location,
                target,
                num_bytes=archive.num_bytes,
                sha256=archive.sha256,
                progress=progress,
            )
    first = folder / _file_name(source.archives[0])
    return _tar_reader(first, source) if first.name.endswith(".tar.gz") else _folder_reader(folder)


def _npm(source: Source, folder: Path, scratch: Path, progress: Progress | None) -> Read:
    (archive,) = source.archives
    with step(progress, f"npm pack {archive.location}"):
        _run(
            "npm",
            ["pack", archive.location, "--ignore-scripts", "--silent", "--fetch-retries=1"],
            scratch,
        )
    tarballs = list(scratch.glob("*.tgz"))
    if len(tarballs) != 1:
        raise FetchError(
            "npm did not leave one tarball",
            wanted="one .tgz file",
            given=sorted(path.name for path in tarballs),
            where=archive.location,
        )
    given = file_sha256(tarballs[0])
    if given != archive.sha256:
        raise FetchError(
            "the package has the wrong checksum",
            wanted=f"sha256 {archive.sha256}",
            given=f"sha256 {given}",
            where=archive.location,
        )
    return _tar_reader(tarballs[0], source)


def _apt(source: Source, folder: Path, scratch: Path, progress: Progress | None) -> Read:
    (archive,) = source.archives
    for name in ("lists/partial", "cache/archives/partial", "tree"):
        (scratch / name).mkdir(parents=True)
    # Package lists of its own: this needs no root, and leaves those of the system as they are.
    private = [
        f"-oDir::State::Lists={scratch / 'lists'}",
        f"-oDir::Cache={scratch / 'cache'}",
        "-oDebug::NoLocking=1",
        "-oAPT::Sandbox::User=",
        "-oAcquire::Retries=1",
        "-qq",
    ]
    with step(progress, "apt-get update"):
        _run("apt-get", [*private, "update"], scratch)
    with step(progress, f"apt-get download {archive.location}"):
        _run("apt-get", [*private, "download", archive.location], scratch)
    for package in scratch.glob("*.deb"):
        _run("dpkg-deb", ["-x", str(package), str(scratch / "tree")], scratch)
    return _folder_reader(scratch / "tree")


def _folder(source: Source, folder: Path, scratch: Path, progress: Progress | None) -> Read:
    (archive,) = source.archives
    path = Path(archive.location)
    if not path.is_dir():
        raise FetchError("the folder does not exist", where=path)
    return _folder_reader(path)


def _run(client: str, arguments: list[str], folder: Path) -> None:
    program = shutil.which(client)
    if program is None:
        raise FetchError(f"{client} is not installed", where=f"{client} {arguments[-1]}")
    command = f"{client} {' '.join(a for a in arguments if not a.startswith('-'))}"
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CLIENT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise FetchError(
            f"{client} did not finish", wanted=f"{_CLIENT_TIMEOUT_S} s at most", where=command
        ) from exc
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise FetchError(
            f"{client} failed",
            given=f"exit status {done.returncode}" + (f": {said[-1]}" if said else ""),
            where=command,
        )


def _tar_reader(path: Path, source: Source) -> Read:
    # One pass: going back inside a compressed archive means to decompress it again.
    wanted = {name for names in source.members.values() for name in names}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name not in wanted:
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None or member.size > MAX_MEMBER_BYTES:
                    raise FetchError(
                        "a member of the archive is not a file of a sensible size",
                        wanted=f"a file of at most {MAX_MEMBER_BYTES} bytes",
                        given=f"{member.size} bytes",
                        where=member.name,
                    )
                contents[member.name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise FetchError("the archive is damaged", given=exc, where=path.name) from exc
    if missing := sorted(wanted - contents.keys()):
        raise FetchError("the archive lacks files", wanted=", ".join(missing), where=path.name)
    return contents.__getitem__


def _folder_reader(folder: Path) -> Read:
    def read(name: str) -> bytes:
        path = folder / name
        if not path.is_file():
            raise FetchError("the source lacks a file", wanted=name, where=folder)
        if path.stat().st_size > MAX_MEMBER_BYTES:
            raise FetchError("a file of the source is too large", where=path)
        return path.read_bytes()

    return read


def _file_name(archive: Archive) -> str:
    return archive.location.rsplit("/", 1)[-1]


KINDS: dict[str, Callable[[Source, Path, Path, Progress | None], Read]]
KINDS = {"url": _url, "npm": _npm, "apt": _apt, "folder": _folder}
