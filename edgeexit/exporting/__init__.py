"""From a bundle that holds C to a project that a firmware engineer builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeexit.errors import ArgumentError, BundleError, StorageError
from edgeexit.exporting import formats
from edgeexit.exporting.parts import Parts, collect
from edgeexit.runtime.bundle import open_bundle
from edgeexit.storage import write_folder

FORMATS: dict[str, Callable[[Parts], dict[str, bytes]]] = {
    "cmake": formats.cmake,
    "zephyr": formats.zephyr,
    "arduino": formats.arduino,
    "esp-idf": formats.esp_idf,
    "cmsis": formats.cmsis,
}
"""Name -> what lays the parts out. A new one is a function, its templates and a row."""


def export_project(
    bundle: str | Path, format_name: str, output: str | Path, *, cmsis_nn: Path | None = None
) -> tuple[str, ...]:
    """Writes a project with the model, the runtime, its kernels, and an example.

    Args:
        bundle: The folder of a bundle that was compiled for a target that runs C.
        format_name: A key of ``FORMATS``.
        output: The folder to make.
        cmsis_nn: The root of CMSIS-NN, if the model uses it; the extra ``mcu`` otherwise.

    Returns:
        The paths of all files, below ``output``.

    Raises:
        ArgumentError: There is no such format.
        BundleError: The bundle is damaged, or holds no C.
        TargetError: The model uses CMSIS-NN, which was not found.
        StorageError: The output exists, or cannot be written.
    """
    output = Path(output)
    if format_name not in FORMATS:
        raise ArgumentError(
            "there is no such format", wanted=" | ".join(FORMATS), given=repr(format_name)
        )
    opened = open_bundle(bundle)
    firmware = opened.manifest.firmware
    if firmware is None:
        raise BundleError(
            "the bundle holds no C",
            wanted="one that was compiled for a microcontroller",
            given=f"a bundle for the target {opened.manifest.target!r}",
            where=opened.path,
            hint="compile it with --target cortex-m4, or another that `edgeexit targets` marks C",
        )
    if output.exists():
        raise StorageError(
            "the output exists already",
            wanted="a path where nothing is",
            given=output,
            hint="choose another path, or remove what is there",
        )
    files = FORMATS[format_name](collect(opened, firmware, cmsis_nn))
    write_folder(files, output)
    return tuple(sorted(files))
