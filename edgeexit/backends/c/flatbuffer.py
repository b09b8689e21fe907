"""Reads tables and vectors of a flatbuffer that nobody vouches for.

Every offset, vtable, length and alignment is checked before it is used, and offsets only ever lead
forward, as the format demands, so that no file can make a reader run in circles. What may still
grow is work: many tables can share one long vector. ``Source`` therefore counts what has been read
and stops at ``MAX_ELEMENTS``.

Layout (little endian): a root offset; tables that start with the distance back to their vtable; a
vtable of 16-bit numbers: its own size, the table's size, then for each field its place in the
table, 0 where it is absent; vectors and strings with a 32-bit length before them.
"""

from __future__ import annotations

import struct
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import LoweringError

MAX_BYTES = 1 << 28
MAX_ELEMENTS = 1 << 20

_SCALARS = {
    "int8": struct.Struct("<b"),
    "uint8": struct.Struct("<B"),
    "bool": struct.Struct("<?"),
    "int32": struct.Struct("<i"),
    "uint32": struct.Struct("<I"),
    "uint64": struct.Struct("<Q"),
    "float32": struct.Struct("<f"),
}
_OFFSET = 4


class Source:
    """The bytes, where they came from, and how much of them may still be looked at."""

    def __init__(self, content: bytes, where: str) -> None:
        self.content = content
        self.where = where
        self.left = MAX_ELEMENTS
        if len(content) > MAX_BYTES:
            self.refuse("too long", f"at most {MAX_BYTES} bytes", f"{len(content)} bytes")

    def refuse(self, problem: str, wanted: object, given: object, what: str = "") -> NoReturn:
        """Raises the `LoweringError` of a file that is damaged or lies."""
        raise LoweringError(
            f"the .tflite file is damaged: {problem}",
            wanted=wanted,
            given=given,
            where=f"{self.where}, {what}" if what else self.where,
            hint="write the file again with its converter, or check how it was copied",
        )

    def spend(self, amount: int, what: str) -> None:
        """Counts ``amount`` elements against the limit."""
        self.left -= amount
        if self.left < 0:
            self.refuse("its vectors are too long together", f"{MAX_ELEMENTS} elements", what)

    def number(self, kind: str, position: int, what: str) -> int | float:
        """The scalar at ``position``, which is inside and aligned."""
        scalar = _SCALARS[kind]
        self.check(position, scalar.size, scalar.size, what)
        value: int | float = scalar.unpack_from(self.content, position)[0]
        return value

    def check(self, position: int, size: int, alignment: int, what: str) -> None:
        """That ``size`` bytes at ``position`` are inside, and the position is aligned."""
        if position < 0 or position + size > len(self.content):
            self.refuse(
                "an offset leads outside",
                f"at most byte {len(self.content) - size}",
                f"byte {position}",
                what,
            )
        if position % alignment:
            self.refuse(
                "an offset is not aligned", f"a multiple of {alignment}", f"byte {position}", what
            )

    def follow(self, position: int, what: str) -> int:
        """Where the offset at ``position`` leads."""
        distance = self.number("uint32", position, what)
        assert isinstance(distance, int)
        if distance < _OFFSET:
            self.refuse("an offset leads nowhere", f"at least {_OFFSET}", distance, what)
        target = position + distance
        self.check(target, _OFFSET, _OFFSET, what)
        return target

    def root(self, identifier: bytes) -> Table:
        """The outermost table of a file with this identifier."""
        if len(self.content) < 2 * _OFFSET or self.content[4:8] != identifier:
            self.refuse(
                "it is not a .tflite file",
                f"{identifier!r} at byte 4",
                f"{self.content[4:8]!r} in {len(self.content)} bytes",
            )
        return Table(self, self.follow(0, "root"), "root")


class Table:
    """A table whose extent and vtable have been checked; fields are checked when they are read."""

    def __init__(self, source: Source, position: int, what: str) -> None:
        self.source = source
        self.position = position
        self.what = what
        source.spend(1, what)
        back = source.number("int32", position, what)
        assert isinstance(back, int)
        vtable = position - back
        source.check(vtable, _OFFSET, 2, what)
        vtable_size, self.size = struct.unpack_from("<HH", source.content, vtable)
        if vtable_size < _OFFSET or vtable_size % 2 or self.size < _OFFSET:
            source.refuse(
                "a vtable is too short", "sizes of 4 and more", (vtable_size, self.size), what
            )
        source.check(vtable, vtable_size, 2, what)
        source.check(position, self.size, _OFFSET, what)
        self._vtable = vtable + _OFFSET
        self._num_slots = (vtable_size - _OFFSET) // 2

    def place(self, slot: int, size: int) -> int | None:
        """Where the field of ``size`` bytes lies; None where the file leaves it out."""
        if slot >= self._num_slots:
            return None
        (place,) = struct.unpack_from("<H", self.source.content, self._vtable + 2 * slot)
        if place == 0:
            return None
        if place < _OFFSET or place + size > self.size:
            self.source.refuse(
                "a field lies outside its table",
                f"byte {_OFFSET} to {self.size - size}",
                f"byte {place}",
                f"{self.what}, field {slot}",
            )
        return self.position + int(place)

    def scalar(self, slot: int, kind: str, default: int | float = 0) -> int | float:
        """A number, or what the schema says it is where the file leaves it out."""
        place = self.place(slot, _SCALARS[kind].size)
        if place is None:
            return default
        return self.source.number(kind, place, f"{self.what}, field {slot}")

    def integer(self, slot: int, kind: str, default: int = 0) -> int:
        """An integer."""
        return int(self.scalar(slot, kind, default))

    def table(self, slot: int, what: str) -> Table | None:
        """The table that a field refers to."""
        place = self.place(slot, _OFFSET)
        if place is None:
            return None
        return Table(self.source, self.source.follow(place, what), what)

    def tables(self, slot: int, what: str, most: int) -> list[Table]:
        """A vector of tables, at most ``most``; an error of the n-th one names ``what`` n."""
        start, count = self._vector(slot, _OFFSET, _OFFSET, what)
        if count > most:
            self.source.refuse("too many", f"at most {most}", count, f"{what}s")
        return [
            Table(
                self.source,
                self.source.follow(start + _OFFSET * n, f"{what} {n}"),
                f"{what} {n}",
            )
            for n in range(count)
        ]

    def numbers(self, slot: int, dtype: str, what: str) -> NDArray[Any]:
        """A vector of numbers, counted against the limit; empty where the file leaves it out."""
        kind = np.dtype(dtype)
        start, count = self._vector(slot, kind.itemsize, kind.itemsize, f"{self.what}, {what}")
        self.source.spend(count, what)
        return np.frombuffer(self.source.content, kind, count, start)

    def extent(self, slot: int, what: str) -> tuple[int, int] | None:
        """Start and length of a vector of bytes that is not looked at; None without one."""
        if self.place(slot, _OFFSET) is None:
            return None
        return self._vector(slot, 1, 1, what)

    def text(self, slot: int, most: int) -> str:
        """A string, cut after ``most`` bytes; what is not UTF-8 or not printable is escaped."""
        start, count = self._vector(slot, 1, 1, f"{self.what}, name")
        raw = self.source.content[start : start + min(count, most)]
        self.source.spend(len(raw) // 8, self.what)
        text = raw.decode("utf-8", "backslashreplace")
        return text if text.isprintable() else text.encode("unicode_escape").decode()

    def _vector(self, slot: int, size: int, alignment: int, what: str) -> tuple[int, int]:
        """Start of the elements and their count; (0, 0) where the field is absent."""
        place = self.place(slot, _OFFSET)
        if place is None:
            return 0, 0
        start = self.source.follow(place, what)
        count = int(self.source.number("uint32", start, what))
        start += _OFFSET
        if count == 0:
            return 0, 0
        self.source.check(start, count * size, alignment, what)
        return start, count
