"""How much flash a program takes: counted for its constants, estimated for its code.

The estimate is the sum of the files that the program needs, each with all of its functions and as
large as on the core where it is largest: ``code_bytes.json``, measured by
``benchmarks/code_bytes.py`` with arm-none-eabi-gcc 12.2, kernels at -O3 and the runtime at -O2. A
linker that drops what nobody calls leaves less, so what is said to fit does. Linked, the code of
ResNet-8 takes 13.3 KB on a Cortex-M4, 18.1 KB on an M55, and 5.1 KB in plain C on an M0+; the
estimates are 21.0, 29.1 and 8.4 KB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import CProgram
from edgeexit.backends.c.emit import RUNTIME_SOURCES
from edgeexit.backends.c.kernels.base import Struct
from edgeexit.types import DecisionSpec, OperatingPoint

CODE_BYTES_PATH = Path(__file__).with_name("code_bytes.json")

_WORD = 4
_ALIGNMENT = 8
"""Of arrays."""
_MODEL_BYTES, _EXIT_BYTES, _POINT_BYTES = 128, 32, 32
"""At most, of the structs that describe a chain, and of their names."""
_STEP_BYTES, _SEGMENT_BYTES = 32, 64
"""At most, of the code that calls a kernel, and of the function around a segment's calls."""
_LIBRARY_BYTES = 1024
"""Of what code calls in the compiler's library and the C library, and of gaps; 0.9 KB measured."""


@dataclass(frozen=True)
class FlashBytes:
    """Flash that a program takes: ``constants``, up to 2 KB too many; ``code``, at most."""

    constants: int
    code: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.constants + self.code


def flash_bytes(
    program: CProgram, decision: DecisionSpec, points: Sequence[OperatingPoint]
) -> FlashBytes:
    """What a compiled chain takes.

    Args:
        program: The chain.
        decision: The rule and its tables.
        points: The operating points that the program holds.
    """
    structs = [implementation.parameters for implementation in program.implementations]
    # Equal arrays are written once.
    arrays = {_content(array) for struct in structs for array in _arrays(struct)}
    arrays |= {_content(np.asarray(table, np.uint32)) for table in decision.tables if table}
    arrays |= {_content(np.asarray(point.thresholds, np.uint32)) for point in points}
    num_segments, num_steps = len(program.program.segments), len(structs)
    constants = sum(-(-len(content) // _ALIGNMENT) * _ALIGNMENT for _, content in arrays)
    constants += sum(_struct_bytes(struct) for struct in structs)
    constants += _MODEL_BYTES + num_segments * _EXIT_BYTES + len(points) * _POINT_BYTES
    measured = _code_bytes()
    largest = max(measured.values())
    sources = {*program.emission.sources, *RUNTIME_SOURCES}
    code = sum(measured.get(source, largest) for source in sources) + _LIBRARY_BYTES
    code += num_steps * _STEP_BYTES + num_segments * _SEGMENT_BYTES
    return FlashBytes(constants, code)


@cache
def _code_bytes() -> dict[str, int]:
    sizes: dict[str, int] = json.loads(CODE_BYTES_PATH.read_text(encoding="utf-8"))
    return sizes


def _content(array: NDArray[Any]) -> tuple[str, bytes]:
    return array.dtype.name, array.tobytes()


def _arrays(struct: Struct) -> Iterator[NDArray[Any]]:
    for value in struct.fields.values():
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, Struct):
            yield from _arrays(value)


def _struct_bytes(struct: Struct) -> int:
    """The struct and those that it points to, without arrays; no field is larger than a word."""
    inner = [value for value in struct.fields.values() if isinstance(value, Struct)]
    return _WORD * len(struct.fields) + sum(_struct_bytes(value) for value in inner)
