"""Finds the files that make up a split: paths with ranges and wildcards."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgeexit.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_FILES = 1_000_000


def find_files(patterns: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """The files that patterns name, in the order of the patterns.

    Args:
        patterns: Paths; ``{000..146}`` in them is a range of numbers, and ``*`` is anything but
            a slash, in the name of a file or of a folder, except at the start of a hidden one.
        folder: What relative paths are relative to.

    Raises:
        DataError: A file is not there, or a pattern matches none.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for name in _expanded(pattern):
            path = folder / name
            # Of what glob knows as wildcards, only * is one here.
            literal = glob.escape(name).replace("[*]", "*")
            there = sorted(glob.glob(literal, root_dir=folder))
            found = [folder / one for one in there if (folder / one).is_file()]
            if not found:
                raise DataError(
                    "there is no such file",
                    wanted="files of this machine, such as shards/train-{000..146}.tar",
                    given=pattern,
                    where=path,
                )
            paths += found
    return tuple(paths)


def check_apart(parts: Mapping[str, Sequence[tuple[Path, str]]]) -> None:
    """Checks that no file is used twice, under whatever name.

    Args:
        parts: For each split its files, each with the pattern that names it.

    Raises:
        DataError: A file is in two splits, or twice in one.
    """
    seen: dict[Path, tuple[str, str]] = {}
    for part, files in parts.items():
        for path, pattern in files:
            real = path.resolve()
            if real in seen:
                other, before = seen[real]
                raise DataError(
                    f"a file is twice in the {part} split"
                    if other == part
                    else "a file is in two splits",
                    wanted="every file once",
                    given=f"{other} = {before!r}, {part} = {pattern!r}",
                    where=path,
                )
            seen[real] = part, pattern


def _expanded(pattern: str) -> Iterator[str]:
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MAX_FILES:
        raise DataError(
            "the range of files is not one",
            wanted=f"{{first..last}}, of at most {_MAX_FILES} numbers",
            given=match[0],
            where=pattern,
        )
    for number in range(first, last + 1):
        # The width of the first number is that of all.
        name = str(number).zfill(len(match[1]))
        yield from _expanded(pattern[: match.start()] + name + pattern[match.end() :])
