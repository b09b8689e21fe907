"""Reads the symbols of a 32-bit little-endian ELF file that this machine's compiler has made.

Only what a profile asks for: sections, symbols with their sizes, and which file a local symbol is
from. Format: Tool Interface Standard, "Executable and Linking Format", version 1.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgeexit.errors import EngineError

_SYMTAB, _NOBITS, _REL = 2, 8, 9
# A word that is an address, and the low half of one in MOVW: taken, and not called.
_ADDRESS_RELOCATIONS = (2, 47)
_ALLOC = 2
_KINDS = {0: "none", 1: "object", 2: "function", 3: "section", 4: "file"}


@dataclass(frozen=True)
class Section:
    """A section. ``allocated``: it takes memory when the program runs; ``stored``: it has bytes."""

    name: str
    address: int
    size: int
    allocated: bool
    stored: bool
    content: bytes


@dataclass(frozen=True)
class Symbol:
    """A symbol. ``file`` is the C file of a local one, None of a global one.

    ``address`` is that of the first byte also where bit 0 says Thumb. ``section`` is the number of
    its section.
    """

    name: str
    address: int
    size: int
    kind: str
    file: str | None
    section: int


@dataclass(frozen=True)
class Elf:
    """Sections and symbols, in the order of the file.

    ``taken``, of an object file: the functions whose address is a value somewhere.
    """

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    taken: tuple[str, ...] = ()

    @cached_property
    def functions(self) -> dict[str, Symbol]:
        """Functions by name; a name that several files use is not among them."""
        found: dict[str, Symbol] = {}
        twice = set()
        for symbol in self.symbols:
            if symbol.kind == "function" and symbol.size:
                if symbol.name in found:
                    twice.add(symbol.name)
                found[symbol.name] = symbol
        return {name: symbol for name, symbol in found.items() if name not in twice}

    @cached_property
    def functions_by_address(self) -> tuple[list[int], list[str]]:
        """Addresses of all functions, ascending, and their names."""
        found = sorted((s.address, s.name) for s in self.symbols if s.kind == "function")
        return [address for address, _ in found], [name for _, name in found]

    def code(self, function: Symbol) -> bytes:
        """The bytes of a function."""
        section = self.sections[function.section]
        start = function.address - section.address
        return section.content[start : start + function.size]


def read_elf(path: Path) -> Elf:
    """Reads an ELF file.

    Raises:
        EngineError: It is not one for a 32-bit little-endian processor.
    """
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x01\x01":
        raise EngineError("this is not a program for a 32-bit little-endian core", where=path)
    (table,) = struct.unpack_from("<I", content, 32)
    entry_bytes, count, names_index = struct.unpack_from("<3H", content, 46)
    headers = [struct.unpack_from("<10I", content, table + i * entry_bytes) for i in range(count)]
    names = _section_bytes(content, headers[names_index])
    sections = tuple(
        Section(
            name=_text(names, header[0]),
            address=header[3],
            size=header[5],
            allocated=bool(header[2] & _ALLOC),
            stored=header[1] != _NOBITS,
            content=_section_bytes(content, header),
        )
        for header in headers
    )
    symbols: list[Symbol] = []
    for header in headers:
        if header[1] == _SYMTAB:
            texts = sections[header[6]].content
            symbols += _symbols(_section_bytes(content, header), texts)
    taken: set[str] = set()
    for header in headers:
        if header[1] == _REL and sections[header[7]].allocated:
            table_of_symbols = sections[header[6]]
            texts = sections[headers[header[6]][6]].content
            relocations = _section_bytes(content, header)
            taken |= _taken(relocations, table_of_symbols.content, texts, symbols)
    return Elf(sections, tuple(symbols), tuple(sorted(taken)))


def _taken(relocations: bytes, table: bytes, texts: bytes, symbols: list[Symbol]) -> set[str]:
    """Functions that relocations take the address of: by name, or as all of a section."""
    found: set[str] = set()
    for _, info in struct.iter_unpack("<2I", relocations):
        if info & 0xFF in _ADDRESS_RELOCATIONS:
            name, _, _, kind, _, section = struct.unpack_from("<3I2BH", table, 16 * (info >> 8))
            if _KINDS.get(kind & 15) == "section":
                found |= {s.name for s in symbols if s.kind == "function" and s.section == section}
            else:
                # A global of another file has no kind here; what is no function is not called.
                found.add(_text(texts, name))
    return found


def _symbols(table: bytes, texts: bytes) -> list[Symbol]:
    symbols = []
    file = ""
    for name, value, size, info, _, section in struct.iter_unpack("<3I2BH", table):
        kind = _KINDS.get(info & 15, "none")
        if kind == "file":
            file = _text(texts, name)
            continue
        symbols.append(
            Symbol(
                name=_text(texts, name),
                address=value & ~1 if kind == "function" else value,
                size=size,
                kind=kind,
                file=None if info >> 4 else file,
                section=section,
            )
        )
    return symbols


def _section_bytes(content: bytes, header: tuple[int, ...]) -> bytes:
    return b"" if header[1] == _NOBITS else content[header[4] : header[4] + header[5]]


def _text(texts: bytes, start: int) -> str:
    return texts[start : texts.index(b"\0", start)].decode("ascii", "replace")
