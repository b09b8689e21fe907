"""Finds the compiler and the emulator, and says what to install where they are missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from edgeexit.errors import EngineError, EngineNotInstalledError
from edgeexit.profiling.qemu.machines import Machine

_PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "gcc": "gcc libc6-dev",
}
_OLDEST_QEMU = (6, 0)


def find_tool(name: str) -> Path:
    """The path of a program.

    Raises:
        EngineNotInstalledError: It is not on the PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise EngineNotInstalledError(
            f"{name} is not installed",
            wanted=f"{name} on the PATH",
            hint=f"on Debian or Ubuntu: apt-get install {_PACKAGES[name]}",
        )
    return Path(found)


def compiler(machine: Machine) -> Path:
    """The C compiler for a machine.

    Raises:
        EngineNotInstalledError: It is not on the PATH.
    """
    return find_tool("gcc" if machine.is_host else "arm-none-eabi-gcc")


def emulator() -> Path:
    """QEMU.

    Raises:
        EngineNotInstalledError: It is not on the PATH.
    """
    return find_tool("qemu-system-arm")


def emulator_version(qemu: Path) -> tuple[int, int]:
    """Major and minor version of QEMU.

    Raises:
        EngineError: It does not say, or is too old to count instructions.
    """
    said = tool_version(qemu)
    found = re.search(r"version (\d+)\.(\d+)", said)
    version = (int(found[1]), int(found[2])) if found else None
    if version is None or version < _OLDEST_QEMU:
        raise EngineError(
            "this QEMU cannot be used",
            wanted="version 6.0 or newer",
            given=said or "no version",
            where=qemu,
        )
    return version


def tool_version(tool: Path) -> str:
    """The first line of what a program says about its version.

    Raises:
        EngineError: It cannot be run.
    """
    try:
        done = subprocess.run(
            [tool, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise EngineError(f"{tool.name} cannot be run", given=exc, where=tool) from exc
    return done.stdout.partition("\n")[0].strip()
