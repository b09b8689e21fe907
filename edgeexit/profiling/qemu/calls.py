"""Finds direct calls in the Thumb code of a function.

Encodings: Arm, "Armv7-M Architecture Reference Manual", A7.7.12 (B, T4) and A7.7.18 (BL).
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass

from edgeexit.profiling.qemu.elf import Elf, Symbol


@dataclass(frozen=True)
class Call:
    """A call, or a jump to another function that ends this one.

    ``returns_to`` is the address after it; ``target`` a function's name, or None if it is in no
    function that has a symbol.
    """

    address: int
    returns_to: int
    target: str | None
    is_jump: bool


def direct_calls(elf: Elf, function: Symbol) -> tuple[Call, ...]:
    """The direct calls of a function, by address."""
    code = elf.code(function)
    starts, names = elf.functions_by_address
    calls = []
    for begin, end in _code_ranges(elf, function):
        at = begin
        while at + 2 <= end:
            (first,) = struct.unpack_from("<H", code, at)
            if first >> 11 not in (0b11101, 0b11110, 0b11111) or at + 4 > end:
                at += 2
                continue
            (second,) = struct.unpack_from("<H", code, at + 2)
            kind = second & 0xD000
            if first >> 11 == 0b11110 and kind in (0xD000, 0x9000):
                address = function.address + at
                goal = address + 4 + _offset(first, second)
                inside = function.address <= goal < function.address + function.size
                if kind == 0xD000 or not inside:
                    place = bisect.bisect_right(starts, goal) - 1
                    found = place >= 0 and goal == starts[place]
                    target = names[place] if found else None
                    calls.append(Call(address, address + 4, target, kind == 0x9000))
            at += 4
    return tuple(calls)


def _offset(first: int, second: int) -> int:
    sign = first >> 10 & 1
    i1, i2 = (~((second >> bit & 1) ^ sign) & 1 for bit in (13, 11))
    offset = i1 << 23 | i2 << 22 | (first & 0x3FF) << 12 | (second & 0x7FF) << 1
    return offset - (sign << 24)


def _code_ranges(elf: Elf, function: Symbol) -> list[tuple[int, int]]:
    """Offsets of code in a function, without the constants between; ``$t`` and ``$d`` mark them."""
    end = function.address + function.size
    changes = sorted(
        (symbol.address, symbol.name[:2])
        for symbol in elf.symbols
        if symbol.name[:2] in ("$t", "$d") and function.address <= symbol.address < end
    )
    ranges = []
    begin: int | None = 0
    for address, mark in changes:
        offset = address - function.address
        if begin is not None and mark == "$d":
            ranges.append((begin, offset))
            begin = None
        elif begin is None and mark == "$t":
            begin = offset
    if begin is not None:
        ranges.append((begin, function.size))
    return ranges
