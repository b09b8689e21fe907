"""Writes constants as C: arrays, structs, strings and identifiers.

Names and texts come from files that nobody vouches for: whatever they hold, what is written here is
one identifier, one string literal or one line of a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.kernels.base import Struct

_CTYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
}
_WIDTH = 100
_INDENT = "    "
_MAX_NAME = 60
_INT32_MIN = -(1 << 31)
# Kernels load several narrow values at once; buses of the larger cores are eight bytes wide.
_ALIGNMENT = 8


def identifier(name: str) -> str:
    """``name`` with everything replaced that cannot be part of an identifier; never empty.

    It may begin with a digit or be a keyword: put a prefix before it.
    """
    return re.sub(r"[^A-Za-z0-9_]", "_", name)[:_MAX_NAME] or "unnamed"


def comment(text: str) -> str:
    """``text`` on one line in a comment that it cannot end."""
    return re.sub(r"[^A-Za-z0-9 _.,:;()\[\]=<>+-]", "_", text)[:_WIDTH]


def string(text: str) -> str:
    """``text`` as a string literal, in UTF-8."""
    # A question mark could be part of a trigraph.
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode("utf-8", "backslashreplace")
    )
    return f'"{escaped}"'


def integer(value: int) -> str:
    """``value`` as a literal that compilers read as a type that holds it."""
    if value == _INT32_MIN:
        return "INT32_MIN"
    return f"{value}u" if value >= 1 << 31 else str(value)


class Constants:
    """Definitions of constants, in an order in which each only refers to earlier ones.

    Arrays of the same type and content are written once.
    """

    def __init__(self) -> None:
        self.definitions: list[str] = []
        self._names: set[str] = set()
        self._arrays: dict[tuple[str, bytes], str] = {}

    def name(self, wanted: str) -> str:
        """``wanted``, or with a number behind it where that is taken."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def array(self, wanted_name: str, values: NDArray[np.integer[Any]]) -> str:
        """Defines an array, whatever its shape is, as one row after another; gives its name."""
        kind = values.dtype.newbyteorder("=").name
        key = (kind, values.tobytes())
        if key not in self._arrays:
            name = self._arrays[key] = self.name(wanted_name)
            aligned = f"EE_ALIGNAS({_ALIGNMENT}) " if values.itemsize < 4 else ""
            self.definitions.append(
                f"static const {aligned}{_CTYPES[kind]} {name}[{values.size}] = {{\n"
                + "\n".join(_rows(values))
                + "\n};\n"
            )
        return self._arrays[key]

    def struct(self, wanted_name: str, struct: Struct) -> str:
        """Defines a struct, and before it what its fields point to; gives its name."""
        name = self.name(wanted_name)
        values = {}
        for field, value in struct.fields.items():
            if value is None:
                values[field] = "NULL"
            elif isinstance(value, Struct):
                values[field] = f"&{self.struct(f'{name}_{identifier(field)}', value)}"
            elif isinstance(value, np.ndarray):
                values[field] = self.array(f"{name}_{identifier(field)}", value)
            else:
                values[field] = integer(int(value))
        lines = _wrapped([f".{field} = {value}" for field, value in values.items()])
        self.definitions.append(
            f"static const {struct.ctype} {name} = {{\n" + "\n".join(lines) + "\n};\n"
        )
        return name


def _rows(values: NDArray[np.integer[Any]]) -> Iterator[str]:
    suffix = "u" if values.dtype.kind == "u" and values.itemsize == 4 else ""
    texts = [f"{value}{suffix}," for value in values.ravel().tolist()]
    if values.dtype == np.int32:
        # The minus sign is not part of a literal, and 2^31 is none of an int.
        texts = ["INT32_MIN," if text == f"{_INT32_MIN}," else text for text in texts]
    per_row = (_WIDTH - len(_INDENT)) // max(map(len, texts), default=1)
    for start in range(0, len(texts), per_row):
        yield _INDENT + "".join(texts[start : start + per_row])


def _wrapped(parts: list[str]) -> Iterator[str]:
    line = _INDENT
    for part in parts:
        piece = f"{part},"
        if len(line) + len(piece) > _WIDTH and line.strip():
            yield line.rstrip()
            line = _INDENT
        line += f"{piece} "
    yield line.rstrip()
