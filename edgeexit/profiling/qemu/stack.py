"""The deepest that a call of ``ee_run`` can go, from what the compiler says about every function.

GCC writes a call graph with the bytes of each frame (``-fcallgraph-info=su``). The runtime's
indirect call runs the model's segments; one of a kernel may reach every function of a kernel whose
address is taken. Functions of the compiler's own library come without a graph, and those that are
written in assembly without a frame: it is read from their code, as the sum of all that lowers the
stack pointer.

A frame of the caller and of interrupts comes on top.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from edgeexit.errors import EngineError
from edgeexit.profiling.qemu.build import Firmware
from edgeexit.profiling.qemu.calls import direct_calls
from edgeexit.profiling.qemu.elf import Elf, read_elf

ROOT = "ee_run"
_INDIRECT = "__indirect_call"
_BY_ADDRESS = "__indirect_call of a kernel"
_NODE = re.compile(r'node: \{ title: "([^"]*)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"')
_FRAME = re.compile(r"(\d+) bytes \((\w+)[^)]*\)")


@dataclass(frozen=True)
class Frame:
    """A function on the deepest way, and the bytes of its frame."""

    function: str
    bytes: int


@dataclass(frozen=True)
class Stack:
    """``worst_bytes`` is a bound, the sum of ``path``; None if there is none.

    ``painted_bytes`` is what real samples took, seen on a painted stack. ``unbounded`` names
    functions that keep arrays of varying length, or call what cannot be told.
    """

    worst_bytes: int | None
    path: tuple[Frame, ...]
    painted_bytes: int | None
    unbounded: tuple[str, ...]


def worst_stack(firmware: Firmware, painted_bytes: int | None = None) -> Stack:
    """Follows all calls from ``ee_run`` on.

    Args:
        firmware: A program for a core.
        painted_bytes: What was measured, to go with it.

    Raises:
        EngineError: The compiler wrote no call graph.
    """
    graph = _Graph(firmware)
    if ROOT not in graph.frames:
        raise EngineError(
            "the compiler wrote no call graph",
            wanted="GCC 10 or newer, which knows -fcallgraph-info",
            given=firmware.compiler,
        )
    path = graph.deepest(ROOT)
    unbounded = tuple(sorted(graph.unbounded & graph.visited.keys()))
    return Stack(
        worst_bytes=None if unbounded else sum(frame.bytes for frame in path),
        path=path,
        painted_bytes=painted_bytes,
        unbounded=tuple(name.rpartition(":")[2] for name in unbounded),
    )


class _Graph:
    """Frames and calls. A function that is local to a file is called ``FILE:FUNCTION``."""

    def __init__(self, firmware: Firmware) -> None:
        self.elf: Elf = read_elf(firmware.elf)
        self.frames: dict[str, int] = {}
        self.calls: dict[str, set[str]] = {}
        self.unbounded: set[str] = set()
        self.visited: dict[str, tuple[Frame, ...] | None] = {}
        engines: set[str] = set()
        taken: set[str] = set()
        for unit in firmware.units:
            graph = unit.compiled.with_suffix(".ci")
            if not graph.exists():
                continue
            text = graph.read_text(encoding="utf-8", errors="replace")
            for name, label in _NODE.findall(text):
                if frame := _FRAME.search(label):
                    self.frames[name] = int(frame[1])
                    if frame[2] != "static":
                        self.unbounded.add(name)
                    if unit.part == "model" and name.endswith(":run_segment"):
                        engines.add(name)
            is_kernel = unit.part in ("kernels", "model")
            for caller, target in _EDGE.findall(text):
                called = _BY_ADDRESS if is_kernel and target == _INDIRECT else target
                self.calls.setdefault(caller, set()).add(called)
            if is_kernel:
                taken |= set(read_elf(unit.compiled).taken)
        self.calls[_INDIRECT] = engines
        self.calls[_BY_ADDRESS] = {
            name for name in self.frames if name.rpartition(":")[2] in taken
        } - engines
        self.frames[_INDIRECT] = self.frames[_BY_ADDRESS] = 0

    def deepest(self, name: str) -> tuple[Frame, ...]:
        """The frames from ``name`` on, along the calls that need most."""
        if name in self.visited:
            known = self.visited[name]
            if known is None:
                # A function that is reached from itself: no bound.
                self.unbounded.add(name)
                return ()
            return known
        self.visited[name] = None
        # GCC says 0 of a naked function, whatever its assembly pushes.
        if not self.frames.get(name) and name not in (_INDIRECT, _BY_ADDRESS):
            self._read_code(name)
        ways = [self.deepest(target) for target in sorted(self.calls.get(name, ()))]
        below = max(ways, key=lambda way: sum(frame.bytes for frame in way), default=())
        own = (
            ()
            if name in (_INDIRECT, _BY_ADDRESS)
            else (Frame(name.rpartition(":")[2], self.frames[name]),)
        )
        self.visited[name] = (*own, *below)
        return (*own, *below)

    def _read_code(self, name: str) -> None:
        """Takes a frame from the code; a function that is not linked is called by nobody."""
        symbol = self.elf.functions.get(name.rpartition(":")[2])
        if symbol is None:
            self.frames[name] = 0
            return
        self.frames[name] = _pushed_bytes(self.elf.code(symbol))
        calls = direct_calls(self.elf, symbol)
        found = {call.target for call in calls if call.target is not None}
        self.calls[name] = self.calls.get(name, set()) | found


def _pushed_bytes(code: bytes) -> int:
    """Sum of all that lowers the stack pointer: PUSH, VPUSH, STR with write-back, SUB SP."""
    total = 0
    at = 0
    while at + 2 <= len(code):
        (first,) = struct.unpack_from("<H", code, at)
        wide = first >> 11 in (0b11101, 0b11110, 0b11111) and at + 4 <= len(code)
        second = struct.unpack_from("<H", code, at + 2)[0] if wide else 0
        if first & 0xFE00 == 0xB400:
            total += 4 * (first & 0x1FF).bit_count()
        elif first & 0xFF80 == 0xB080:
            total += 4 * (first & 0x7F)
        elif first == 0xE92D:
            total += 4 * second.bit_count()
        elif first == 0xF84D and second & 0x0F00 == 0x0D00:
            total += second & 0xFF
        elif first & 0xFBFF in (0xF1AD, 0xF2AD) and second & 0x8F00 == 0x0D00:
            number = (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF
            total += number if first & 0x0200 else _expanded(number)
        elif first & 0xFFBF == 0xED2D:
            total += 4 * (second & 0xFF)
        at += 4 if wide else 2
    return total


def _expanded(number: int) -> int:
    """The constant that 12 bits of an instruction stand for.

    Source: Armv7-M Architecture Reference Manual, ThumbExpandImm.
    """
    low = number & 0xFF
    if number >> 10 == 0:
        return low * (0x00000001, 0x00010001, 0x01000100, 0x01010101)[number >> 8]
    # At least 8, so that no bit is turned past the lowest.
    turns = number >> 7
    return (low | 0x80) << (32 - turns)
