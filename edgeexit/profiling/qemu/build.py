"""Builds the program that runs an emitted model on samples: for an emulated core, or for the host.

It is made of the emitted files, the runtime, the kernels that the model calls, and a `main` of
``runtime/ports/qemu``. Every function has a section of its own and the linker drops what nobody
calls, so that its flash is that of a firmware.

Two flags differ from what a firmware would use, for the emitted file alone: nothing is inlined into
it and no call ends a function by a jump. Segments and layers are then calls that can be told apart,
for a few instructions a segment.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Literal

from edgeexit.backends.c.cmsis_nn_sources import CmsisNn, find_cmsis_nn
from edgeexit.backends.c.emit import Emission
from edgeexit.errors import ArgumentError, EngineError
from edgeexit.profiling.qemu.machines import Machine
from edgeexit.profiling.qemu.toolchain import compiler, tool_version
from edgeexit.resources import resource_folder

Part = Literal["model", "kernels", "runtime", "port"]

_COMMON = ("-std=c11", "-ffunction-sections", "-fdata-sections", "-fno-common")
_OPTIMIZE: dict[Part, str] = {"model": "-O2", "kernels": "-O3", "runtime": "-O2", "port": "-O2"}
_CALLS_STAY_CALLS = ("-fno-inline", "-fno-optimize-sibling-calls", "-fno-ipa-icf")
_TIMEOUT_S = 600
_CMSIS_NN = "cmsis_nn:"
_TELLING = ("error:", "undefined reference", "overflowed")
_CMSIS_NN_ON_HOST = ("-D__GNUC_PYTHON__", "-D__RESTRICT=__restrict")
"""How Arm's headers are told that this is no Arm core."""


@dataclass(frozen=True)
class Unit:
    """A C file, and what it is a part of.

    ``name`` is what a report calls it: a path below ``runtime/src``, ``ee_model.c``, or
    ``cmsis_nn:FILE``. ``compiled`` is its object file; beside it lies its call graph (``.ci``).
    """

    name: str
    part: Part
    path: Path
    compiled: Path


@dataclass(frozen=True)
class Firmware:
    """A program, ready to run. ``model`` is the C name of its ``ee_model``."""

    machine: Machine
    elf: Path
    units: tuple[Unit, ...]
    model: str
    compiler: str


def build_firmware(
    emission: Emission,
    machine: Machine,
    folder: Path,
    *,
    cmsis_nn: Path | None = None,
    cache: Path | None = None,
    flags: Sequence[str] = (),
) -> Firmware:
    """Compiles and links a model.

    Args:
        emission: The emitted files, ``ee_model.c`` and ``ee_model.h`` among them, and the kernels
            that they call.
        machine: What to build for.
        folder: An existing folder, where everything that is made is put.
        cmsis_nn: CMSIS-NN's root; the extra ``mcu`` brings one.
        cache: A folder in which objects are kept under a hash of all that they are made from.
        flags: More flags for the compiler and the linker, after all others.

    Raises:
        ArgumentError: A source is not known.
        EngineNotInstalledError: There is no compiler.
        EngineError: Something does not compile, or does not fit the machine.
    """
    gcc = compiler(machine)
    version = tool_version(gcc)
    runtime = resource_folder("runtime")
    for name, content in emission.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    needs_cmsis_nn = any(source.startswith(_CMSIS_NN) for source in emission.sources)
    library = _cmsis_nn(cmsis_nn) if needs_cmsis_nn else None
    includes = (
        runtime / "include",
        runtime / "src",
        runtime / "src" / "kernels",
        runtime / "ports" / "qemu",
        *(library.include_folders if library else ()),
    )
    units = tuple(_units(emission, machine, folder, runtime, library))
    main_flags = (
        f"-DEE_PROFILE_MODEL={emission.symbol}",
        f"-DEE_PROFILE_ARENA_BYTES={emission.symbol.upper()}_ARENA_BYTES",
    )
    headers = _digest_of_headers(includes)

    def compile_unit(unit: Unit) -> None:
        command = [str(gcc), *machine.flags, *_COMMON, _OPTIMIZE[unit.part]]
        command += ["-w"] if unit.name.startswith(_CMSIS_NN) else ["-Wall", "-Wextra"]
        command += _CALLS_STAY_CALLS if unit.part in ("model", "port") else ()
        command += _CMSIS_NN_ON_HOST if machine.is_host else ("-fcallgraph-info=su",)
        command += main_flags if unit.name == "profile_main.c" else ()
        command += flags
        key = hashlib.sha256("\n".join((version, headers, *command)).encode())
        key.update(unit.path.read_bytes())
        command += [f"-I{path}" for path in (folder, *includes)]
        command += ["-c", str(unit.path), "-o", str(unit.compiled)]
        # Only these see no emitted header.
        lasting = unit.part in ("kernels", "runtime")
        kept = cache / key.hexdigest() if cache is not None and lasting else None
        if kept is None or not _take(kept, unit.compiled):
            _execute(command, f"{unit.name} does not compile")
            if kept is not None:
                _keep(unit.compiled, kept)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_unit, units))

    elf = folder / "firmware.elf"
    command = [str(gcc), *machine.flags, "-Wl,--gc-sections", *flags]
    if machine.linker_script is not None:
        command += ["-nostartfiles", "--specs=nano.specs", f"-L{runtime / 'ports' / 'qemu'}"]
        command += ["-T", machine.linker_script]
    command += [str(unit.compiled) for unit in units] + ["-o", str(elf)]
    _execute(command, f"the program cannot be linked for {machine.name}")
    return Firmware(machine, elf, units, emission.symbol, version)


def _units(
    emission: Emission,
    machine: Machine,
    folder: Path,
    runtime: Path,
    library: CmsisNn | None,
) -> list[Unit]:
    port = runtime / "ports" / "qemu"
    runtime_sources = {path.name: path for path in sorted((runtime / "src").glob("*.c"))}
    parts: list[tuple[str, Part, Path]] = [
        (name, "model", folder / name) for name in emission.files if name.endswith(".c")
    ]
    for source in emission.sources:
        if source in runtime_sources:
            continue
        if library is not None and source.startswith(_CMSIS_NN):
            path = library.sources.get(source.removeprefix(_CMSIS_NN))
        else:
            path = runtime / "src" / source
        if path is None or not path.is_file():
            raise ArgumentError(
                "the source of a kernel is missing",
                wanted="a file below runtime/src, or cmsis_nn:FILE of CMSIS-NN",
                given=repr(source),
            )
        parts.append((source, "kernels", path))
    # All of the runtime, whose unused half the linker drops.
    parts += [(name, "runtime", path) for name, path in runtime_sources.items()]
    names = ["profile_main.c"]
    names += ["port_stdio.c"] if machine.is_host else ["port_semihosting.c", "startup.c"]
    parts += [(name, "port", port / name) for name in names]
    return [
        Unit(name, part, path, folder / f"{number:02d}_{path.stem}.o")
        for number, (name, part, path) in enumerate(parts)
    ]


def _cmsis_nn(folder: Path | None) -> CmsisNn:
    found = find_cmsis_nn(folder)
    if found is None:
        raise EngineError(
            "the model calls CMSIS-NN, which is not here",
            wanted="the root of CMSIS-NN, or the extra mcu",
            hint="pip install 'edgeexit[mcu]', or --cmsis-nn DIR",
        )
    return found


def _digest_of_headers(folders: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for header in sorted(folder.glob("*.h")):
            digest.update(header.read_bytes())
    return digest.hexdigest()


def _take(kept: Path, compiled: Path) -> bool:
    """Copies an object and its call graph out of the cache, if they are there."""
    try:
        for suffix in (".ci", ".o"):
            if suffix == ".o" or kept.with_suffix(suffix).exists():
                copyfile(kept.with_suffix(suffix), compiled.with_suffix(suffix))
    except FileNotFoundError:
        return False
    return True


def _keep(compiled: Path, kept: Path) -> None:
    """Puts an object into the cache, the call graph first: an object there has its call graph."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".ci", ".o"):
        if compiled.with_suffix(suffix).exists():
            half = kept.with_suffix(f"{suffix}.{os.getpid()}.{compiled.stem}")
            copyfile(compiled.with_suffix(suffix), half)
            half.replace(kept.with_suffix(suffix))


def _execute(command: Sequence[str], problem: str) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, errors="replace",
            timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.CalledProcessError as exc:
        lines = str(exc.stderr).strip().splitlines()
        errors = [line for line in lines if any(word in line for word in _TELLING)] or lines
        raise EngineError(problem, given="; ".join(errors[:5]), where=command[0]) from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EngineError(problem, given=exc, where=command[0]) from exc
