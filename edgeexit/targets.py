"""Targets: what a device can run, read from one TOML file each.

A file is read strictly. A key that this version does not know is an error and not a comment,
because a limit that is misspelt would otherwise be no limit.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgeexit.errors import TargetError
from edgeexit.resources import resource_folder
from edgeexit.runtime.engines import ENGINES
from edgeexit.types import BackendName

_MAX_FILE_BYTES = 1 << 20
_BACKENDS: tuple[str, ...] = get_args(BackendName)


@dataclass(frozen=True)
class Target:
    """A device that a model can be compiled for.

    ``backends`` are tried in this order. ``engines`` maps each of them to the engine whose logits
    thresholds are chosen on. ``system`` and ``architectures`` name the machine as
    `platform.system` and `platform.machine` do.
    """

    name: str
    description: str
    system: str
    architectures: tuple[str, ...]
    backends: tuple[str, ...]
    engines: Mapping[str, str]


def list_targets() -> tuple[Target, ...]:
    """Every target that ships with this version, by name.

    Raises:
        TargetError: A file is not a target.
    """
    return tuple(_read(path) for path in sorted(resource_folder("targets").glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """One target, by name or from a TOML file of one's own.

    Args:
        name_or_path: A name that ``edgeexit targets`` lists, or the path of a ``.toml`` file.

    Raises:
        TargetError: No such target, or its file is not one.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return _read(path)
    known = {file.stem: file for file in resource_folder("targets").glob("*.toml")}
    name = str(name_or_path)
    if name in known:
        return _read(known[name])
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise TargetError(
        f"there is no target {name!r}",
        wanted=f"one of {', '.join(sorted(known))}, or the path of a .toml file",
        given=repr(name),
        hint=f"did you mean {', '.join(near)}?" if near else "edgeexit targets lists them",
    )


def _read(path: Path) -> Target:
    table = _parse(path)
    reader = _Reader(path, table, where="")
    engines = reader.table("engines")
    target = Target(
        name=reader.text("name"),
        description=reader.text("description"),
        system=reader.text("system"),
        architectures=reader.texts("architectures"),
        backends=tuple(engines.values),
        engines={backend: engines.text(backend) for backend in engines.values},
    )
    reader.done()
    for backend, engine in target.engines.items():
        _check_engine(path, backend, engine)
    if not target.backends:
        raise TargetError("a target has no backend", wanted="at least one in [engines]", where=path)
    return target


def _check_engine(path: Path, backend: str, engine: str) -> None:
    where = f"{path}: engines.{backend}"
    if backend not in _BACKENDS:
        raise TargetError(
            "the target names an unknown backend",
            wanted=f"one of {', '.join(_BACKENDS)}",
            given=repr(backend),
            where=where,
        )
    if engine not in ENGINES:
        raise TargetError(
            "there is no such engine",
            wanted=f"one of {', '.join(ENGINES)}",
            given=repr(engine),
            where=where,
        )
    if ENGINES[engine].backend != backend:
        fitting = [name for name, info in ENGINES.items() if info.backend == backend]
        raise TargetError(
            f"the engine does not run artifacts of {backend}",
            wanted=f"one of {', '.join(fitting)}",
            given=repr(engine),
            where=where,
        )


def _parse(path: Path) -> dict[str, object]:
    try:
        import tomllib
    except ModuleNotFoundError as exc:
        raise TargetError(
            "targets cannot be read by this Python", wanted="Python 3.11 or newer", where=path
        ) from exc
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise TargetError(
                "the file is too large for a target", wanted="at most 1 MiB", where=path
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise TargetError(
            "the target's file cannot be read", given=exc.strerror, where=path
        ) from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise TargetError("the target's file is not TOML", given=exc, where=path) from exc


class _Reader:
    """Takes values out of a TOML table by type, and knows which were never asked for."""

    def __init__(self, path: Path, values: dict[str, object], where: str) -> None:
        self.path = path
        self.values = values
        self.where = where
        self.asked: set[str] = set()

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a text that is not empty", value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise self._wrong(key, "a list of texts that is not empty", value)
        return tuple(value)

    def table(self, key: str) -> _Reader:
        value = self._take(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table", value)
        return _Reader(self.path, value, where=f"{self.where}{key}.")

    def done(self) -> None:
        unknown = sorted(self.values.keys() - self.asked)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self.asked, n=1)
            raise TargetError(
                f"the target has an unknown key {unknown[0]!r}",
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

    def _wrong(self, key: str, wanted: str, value: object) -> TargetError:
        return TargetError(
            f"{self.where}{key} has the wrong type",
            wanted=wanted,
            given=repr(value),
            where=self.path,
        )
