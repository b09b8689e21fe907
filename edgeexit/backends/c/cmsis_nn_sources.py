"""Finds the sources of CMSIS-NN: in a folder that is named, or in the package of the ``mcu`` extra.

They are Arm's, under Apache-2.0, and are not part of edgeexit: a project that is exported takes
copies of the ones it needs, with their licence.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from edgeexit.errors import ArgumentError

# Where CMSIS-Core's headers lie relative to CMSIS-NN, in the trees that carry both.
_CORE_FOLDERS = (
    "../cmsis_core/Include",
    "../CMSIS_6/CMSIS/Core/Include",
    "../CMSIS_5/CMSIS/Core/Include",
    "../CMSIS/Core/Include",
    "../Core/Include",
)
_MARK = "arm_nnfunctions.h"


@dataclass(frozen=True)
class CmsisNn:
    """CMSIS-NN on this machine. ``sources`` maps the name of a ``.c`` file to its path."""

    root: Path
    include_folders: tuple[Path, ...]
    sources: dict[str, Path]
    licenses: tuple[Path, ...]


def find_cmsis_nn(folder: Path | None = None) -> CmsisNn | None:
    """The sources in ``folder``; without one, those of the installed extra ``mcu``.

    Args:
        folder: The root of CMSIS-NN: the folder that holds ``Include`` and ``Source``.

    Returns:
        None if no folder is given and the extra is not installed.

    Raises:
        ArgumentError: ``folder`` does not hold CMSIS-NN.
    """
    if folder is not None:
        return _open(folder)
    spec = importlib.util.find_spec("bakenn")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(location) / "backend" / "cmsis_nn" / "vendor" / "cmsis_nn"
        if (bundled / "Include" / _MARK).is_file():
            return _open(bundled)
    return None


def _open(folder: Path) -> CmsisNn:
    if not (folder / "Include" / _MARK).is_file() or not (folder / "Source").is_dir():
        raise ArgumentError(
            "this is not CMSIS-NN",
            wanted=f"a folder with Include/{_MARK} and Source",
            given=str(folder),
            hint="name the root of a checkout of CMSIS-NN, or: pip install 'edgeexit[mcu]'",
        )
    cores = [folder / name for name in _CORE_FOLDERS if (folder / name).is_dir()][:1]
    return CmsisNn(
        root=folder,
        include_folders=(folder / "Include", *(core.resolve() for core in cores)),
        sources={path.name: path for path in sorted((folder / "Source").rglob("*.c"))},
        licenses=tuple(path for path in sorted(folder.glob("LICENSE*")) if path.is_file()),
    )
