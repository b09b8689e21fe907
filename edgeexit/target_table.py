"""Takes values out of a target's TOML file by type, and knows which were never asked for."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgeexit.errors import BundleError, TargetError
from edgeexit.runtime.manifest import plain_text
from edgeexit.toml_text import parse_toml

_MAX_FILE_BYTES = 1 << 20
_MAX_INTEGER = 1 << 53  # every integer up to here is a double too
_MAX_NUMBER = 1e30
_MAX_SHOWN = 200


def read_toml(path: Path) -> TargetTable:
    """The file's outermost table.

    Raises:
        TargetError: It cannot be read, or is not TOML.
        EdgeExitError: This Python has no reader of TOML.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise TargetError(
                "the file is too large for a target", wanted="at most 1 MiB", where=path
            )
        return TargetTable(path, parse_toml(path), where="")
    except OSError as exc:
        raise TargetError(
            "the target's file cannot be read", given=exc.strerror, where=path
        ) from exc
    except (ValueError, RecursionError) as exc:  # among them what numbers of any length raise
        raise TargetError("the target's file is not TOML", given=exc, where=path) from exc


class TargetTable:
    """One table of the file. All methods raise TargetError where the value is not as asked for.

    Args:
        path: The file, for messages.
        values: What is in the table.
        where: Its name and a dot, for messages; empty for the outermost table.
    """

    def __init__(self, path: Path, values: dict[str, object], where: str) -> None:
        self.path = path
        self.values = values
        self.where = where
        self.asked: set[str] = set()

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value = self._take(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a text that is not empty", value)
        return value

    def line(self, key: str) -> str:
        """A short line of text, as manifests hold it."""
        value = self.text(key)
        try:
            return plain_text(value, key)
        except BundleError as exc:
            raise TargetError(
                f"a bundle cannot hold {self.where}{key}",
                wanted=exc.wanted,
                given=_shown(value),
                where=self.path,
            ) from exc

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts that is not empty."""
        value = self._take(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self._wrong(key, "a list of texts that is not empty", value)
        return tuple(value)

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of some words."""
        return self._known(key, self.text(key), known)

    def choices(self, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """A list of such words that is not empty."""
        return tuple(self._known(key, value, known) for value in self.texts(key))

    def boolean(self, key: str) -> bool:
        """``true`` or ``false``."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def integer(self, key: str, least: int = 1) -> int:
        """An integer from ``least`` to 2^53."""
        value = self._take(key)
        # A boolean is an integer to Python.
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "an integer", value)
        if not least <= value <= _MAX_INTEGER:
            raise self._wrong(key, f"an integer of at least {least} and at most 2^53", value)
        return value

    def span(self, key: str) -> tuple[float, float, float]:
        """Three positive numbers in order: low, mid, high."""
        value = self._take(key)
        numbers = value if isinstance(value, list) else []
        valid = len(numbers) == 3 and all(
            isinstance(n, int | float) and not isinstance(n, bool) and 0 < n <= _MAX_NUMBER
            for n in numbers
        )
        if not valid or not numbers[0] <= numbers[1] <= numbers[2]:
            raise self._wrong(key, "[low, mid, high], positive and in order", value)
        return float(numbers[0]), float(numbers[1]), float(numbers[2])

    def table(self, key: str) -> TargetTable:
        """A table within this one."""
        value = self._take(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table", value)
        return TargetTable(self.path, value, where=f"{self.where}{key}.")

    def optional_table(self, key: str) -> TargetTable | None:
        """A table that may be missing."""
        self.asked.add(key)
        return self.table(key) if key in self.values else None

    def tables(self, key: str) -> tuple[TargetTable, ...]:
        """The tables of ``[[key]]``; none where it is missing."""
        self.asked.add(key)
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise self._wrong(key, "a list of tables", value)
        return tuple(
            TargetTable(self.path, row, where=f"{self.where}{key}[{number}].")
            for number, row in enumerate(value)
        )

    def done(self) -> None:
        """Raises TargetError if the table has a key that was never asked for."""
        unknown = sorted(self.values.keys() - self.asked)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.asked, n=1)
            raise TargetError(
                f"the target has an unknown key {self.where + unknown[0]!r}",
                wanted=f"only {', '.join(sorted(self.asked))}",
                where=self.path,
                hint=f"did you mean {near[0]}?" if near else None,
            )

    def _take(self, key: str) -> object:
        self.asked.add(key)
        if key not in self.values:
            raise TargetError(
                f"the target has no {self.where}{key}", wanted=f"{self.where}{key}", where=self.path
            )
        return self.values[key]

    def _known(self, key: str, value: str, known: tuple[str, ...]) -> str:
        if value not in known:
            raise TargetError(
                f"{self.where}{key} has an unknown value",
                wanted=f"one of {', '.join(known)}",
                given=repr(value),
                where=self.path,
            )
        return value

    def _wrong(self, key: str, wanted: str, value: object) -> TargetError:
        return TargetError(
            f"{self.where}{key} has the wrong type",
            wanted=wanted,
            given=_shown(value),
            where=self.path,
        )


def _shown(value: object) -> str:
    """The value for a message, in bounds: Python writes no decimal number of any length."""
    try:
        return repr(value)[:_MAX_SHOWN]
    except ValueError:
        return "a number of thousands of digits"
