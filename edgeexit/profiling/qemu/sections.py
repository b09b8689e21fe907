"""Says what a program's flash holds: kernels, weights, tables, runtime.

Every byte that is stored is counted once. What belongs to no symbol (strings, and gaps between
objects that have to be aligned) is a part of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from edgeexit.profiling.qemu.build import Firmware
from edgeexit.profiling.qemu.elf import Elf, Symbol, read_elf

PARTS = (
    "weights",
    "parameters",
    "tables",
    "calls",
    "kernels",
    "runtime",
    "library",
    "unnamed",
    "harness",
)
"""``weights``: weights, biases and factors of channels. ``parameters``: all else that a kernel is
given. ``tables``: the model, and what its exits decide by. ``calls``: the code of the segments.
``library``: of the compiler and the C library. ``harness``: what only profiling needs; a firmware
has its own."""

_WEIGHTS = re.compile(r"op_\w*_(\w*weights\d*|bias|channels)(_\d+)?\Z")


@dataclass(frozen=True)
class FlashPart:
    """Bytes of flash. ``name`` is one of ``PARTS``."""

    name: str
    bytes: int


@dataclass(frozen=True)
class FlashUnit:
    """What one C file takes: code and constants together, without what the linker dropped."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Flash:
    """``total_bytes`` is the sum of all parts but the harness; ``units`` come largest first."""

    total_bytes: int
    parts: tuple[FlashPart, ...]
    units: tuple[FlashUnit, ...]


def measure_flash(firmware: Firmware) -> Flash:
    """Reads the sizes out of the linked program.

    Raises:
        EngineError: The program is not one for a core.
    """
    elf = read_elf(firmware.elf)
    owners = _owners(firmware)
    parts: Counter[str] = Counter()
    units: Counter[str] = Counter()
    for symbol in _distinct(elf):
        owner = owners.get((symbol.file, symbol.name))
        parts[_part(symbol, owner[1] if owner else "library")] += symbol.size
        if owner:
            units[owner[0]] += symbol.size
    stored = sum(s.size for s in elf.sections if s.allocated and s.stored)
    parts["unnamed"] = stored - parts.total()
    return Flash(
        total_bytes=stored - parts["harness"],
        parts=tuple(FlashPart(name, parts[name]) for name in PARTS if parts[name]),
        units=tuple(FlashUnit(name, size) for name, size in units.most_common() if size),
    )


def _owners(firmware: Firmware) -> dict[tuple[str | None, str], tuple[str, str]]:
    """The name and part of the unit that defines a symbol, by its file (if local) and name."""
    owners: dict[tuple[str | None, str], tuple[str, str]] = {}
    for unit in firmware.units:
        for symbol in read_elf(unit.compiled).symbols:
            if symbol.kind in ("object", "function") and symbol.section:
                owners[symbol.file, symbol.name] = (unit.name, unit.part)
    return owners


def _distinct(elf: Elf) -> list[Symbol]:
    """Functions and objects that take flash; of several names for one place, the first."""
    found: dict[int, Symbol] = {}
    for symbol in elf.symbols:
        if symbol.kind in ("object", "function") and 0 < symbol.section < len(elf.sections):
            section = elf.sections[symbol.section]
            if section.allocated and section.stored and symbol.size:
                found.setdefault(symbol.address, symbol)
    return list(found.values())


def _part(symbol: Symbol, part: str) -> str:
    if part != "model":
        return "harness" if part == "port" else part
    if symbol.kind == "function":
        return "calls"
    if not symbol.name.startswith("op_"):
        return "tables"
    return "weights" if _WEIGHTS.match(symbol.name) else "parameters"
