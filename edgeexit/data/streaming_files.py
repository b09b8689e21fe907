"""Finds the files that make up a split: paths with ranges and wildcards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeexit.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_FILES = 1_000_000


def find_files(patterns: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """The files that patterns name, in the order of the patterns.

    Args:
        patterns: Paths; ``{000..146}`` in them is a range of numbers, and ``*`` is anything.
        folder: What relative paths are relative to.

    Raises:
        DataError: A file is not there, or a pattern matches none.
    """
    paths: list[Path] = []
    for pattern in patterns:
        for name in _expanded(pattern):
            path = folder / name
            if "*" in path.name:
                found = sorted(path.parent.glob(path.name))
            else:
                found = [path] if path.is_file() else []
            if not found:
                raise DataError(
                    "there is no such file",
                    wanted="files of this machine, such as shards/train-{000..146}.tar",
                    given=pattern,
                    where=path,
                )
            paths += found
    return tuple(paths)


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
