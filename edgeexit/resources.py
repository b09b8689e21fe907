"""Finds what ships with the package: ``targets``, ``calibration``, and the C ``runtime``.

In a wheel they lie inside the package; in a source checkout, and so in an editable install, they
lie beside it, where people edit them.
"""

from __future__ import annotations

from pathlib import Path

from edgeexit.errors import StorageError

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """The folder of shipped data called ``name``.

    Raises:
        StorageError: The installation is not whole.
    """
    candidates = (_PACKAGE / "_resources" / name, _PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise StorageError(
        f"the folder {name!r} that ships with edgeexit is missing",
        wanted=" or ".join(map(str, candidates)),
        hint="install edgeexit again",
    )
