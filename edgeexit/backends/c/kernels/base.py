"""What a kernel set offers for a step, and what the emitter needs to know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.program import Program, Step, Window

if TYPE_CHECKING:
    from edgeexit.backends.c.kernels.costs import Work

Fields: TypeAlias = dict[str, Union[int, NDArray[np.integer[Any]], "Struct", None]]
"""Members of a C struct: see `Struct`."""


@dataclass(frozen=True)
class Core:
    """A processor core, as far as kernels care.

    ``dsp``: Armv7E-M / Armv8-M DSP instructions (SMLAD and the like). ``mve``: Helium integer
    vectors (Armv8.1-M). ``cost`` is the key of the counted costs to use: ``m0plus``, ``m4``,
    ``m7``, ``m33``, ``m55``, or ``generic``.
    """

    name: str
    dsp: bool
    mve: bool
    cost: str


@dataclass(frozen=True)
class Struct:
    """A C struct constant.

    Values: int | array (emitted as a const array, pointed to) | Struct (emitted on its own, pointed
    to) | None (NULL). A key is a designator of C without its dot: ``extents[0]`` is an element of
    an array that lies within the struct.
    """

    ctype: str
    fields: Fields


@dataclass(frozen=True)
class Implementation:
    """One way to run one step.

    The emitter writes ``parameters`` as a const struct and calls
    ``function(&parameters, input0, [input1, ...,] output, scratch)``: always a pointer to the
    struct, each of the step's inputs in order as ``const int8_t *``, the output as ``int8_t *``,
    and ``void *scratch`` (16-byte aligned, at least ``scratch_bytes``, NULL if that is 0).
    """

    kernel_set: str
    """``portable`` | ``cmsis_nn`` | ``packed``."""
    function: str
    parameters: Struct
    scratch_bytes: int
    headers: tuple[str, ...]
    """What ee_model.c includes to see the function and its struct, e.g. ``ee_kernels.h``."""
    sources: tuple[str, ...]
    """Files below ``runtime/src`` that define it; ``cmsis_nn:NAME.c`` for those of CMSIS-NN."""
    instructions: float | None = None
    """Instructions on the core, from counted costs; None where nothing was counted."""
    work: Work | None = None
    """What the instructions are counted from."""
    notes: str = field(default="", compare=False)


def array(name: str, values: Sequence[int]) -> Fields:
    """Elements of an array that lies within the struct, each as a designator of C."""
    return {f"{name}[{index}]": value for index, value in enumerate(values)}


def window_fields(step: Window, program: Program, kernel: tuple[int, int]) -> Fields:
    """What the structs of all convolutions have: the sizes of both images, kernel, stride and pads.

    Args:
        step: The convolution.
        program: For the shapes.
        kernel: Its height and width.
    """
    _, input_h, input_w, input_c = program.buffers[step.inputs[0]].shape
    _, output_h, output_w, output_c = program.buffers[step.output].shape
    return {
        "input_h": input_h,
        "input_w": input_w,
        "input_c": input_c,
        "output_h": output_h,
        "output_w": output_w,
        "output_c": output_c,
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": step.stride[0],
        "stride_w": step.stride[1],
        "pad_top": step.pad_top,
        "pad_left": step.pad_left,
    }


class KernelSet(Protocol):
    """A module of this package: its ``NAME`` and its ``offer``."""

    NAME: str

    def offer(self, step: Step, program: Program, core: Core) -> Implementation | None:
        """How this set runs ``step`` on ``core``; None if it does not."""
        ...
