"""Reads TOML where Python can: 3.10, which runs bundles, cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeexit.errors import EdgeExitError


def parse_toml(path: Path) -> dict[str, Any]:
    """The outermost table of a file.

    Raises:
        EdgeExitError: This Python has no reader of TOML.
        OSError: The file cannot be read.
        ValueError: It is not TOML, or not UTF-8.
        RecursionError: It is nested too deeply.
    """
    try:
        import tomllib
    except ModuleNotFoundError as exc:
        raise EdgeExitError(
            "this Python cannot read TOML files", wanted="Python 3.11 or newer", where=path
        ) from exc
    return tomllib.loads(path.read_text(encoding="utf-8"))
