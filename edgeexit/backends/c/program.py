"""What the C backend computes: steps over int8 buffers, with every constant already an integer.

A ``Program`` is the whole chain. The pass that makes it (`legalize`) has folded padding into the
convolutions that follow, resolved reshapes, turned elementwise functions of one tensor into tables,
and fused a residual addition into the convolution before it where that is possible. The passes
after it (`plan`, `select`, `emit`) read it and never change it.

Arithmetic is that of TFLite's reference kernels, to the bit. A real factor ``r`` is a pair
``(multiplier, shift)`` with ``r = multiplier * 2^(shift - 31)``; it is applied with double
rounding: first the doubling high multiplication that rounds halves up, then a division by a power
of two that rounds halves away from zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Buffer:
    """An int8 value in the arena, NHWC where it is an image; the batch is one and included.

    Real value = ``scale * (q - zero_point)``.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def num_bytes(self) -> int:
        """Its size in the arena."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to compute. ``inputs`` and ``output`` are indices into ``Program.buffers``.

    ``name`` is unique in the program and is a C identifier; ``macs`` is zero where nothing is
    multiplied. ``output`` may be one of ``inputs`` only for a fused addition (see ``Residual``);
    whether an input's memory may be reused for the output is for the planner to decide, from
    ``in_place``: positions in ``inputs`` that may lie exactly where the output does.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    macs: int = 0

    @property
    def in_place(self) -> tuple[int, ...]:
        """Positions in ``inputs`` whose memory the output may take over."""
        return ()


@dataclass(frozen=True)
class Addition:
    """``clamp(output_offset + rescale(rescale1((a + offset1) << left_shift) + rescale2(...)))``.

    ``offset1`` and ``offset2`` are negated zero points; ``output_offset`` is a zero point. A
    subtraction is an addition with one multiplier negated: the value rescaled by its absolute is
    subtracted. (Rescaling by the negative number rounds halves of 2^-20 the other way.)
    """

    left_shift: int
    offset1: int
    multiplier1: int
    shift1: int
    offset2: int
    multiplier2: int
    shift2: int
    output_offset: int
    output_multiplier: int
    output_shift: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Window(Step):
    """What convolutions share.

    ``pad_top`` and ``pad_left`` are rows and columns of the input's zero point before it; what is
    needed after it follows from the shapes. ``input_offset`` is the negated zero point of the input
    and ``output_offset`` the zero point of the output. ``multipliers`` and ``shifts`` have one
    number for each output channel. With ``residual`` set, the second input is added to the result
    of the convolution (which is ``a`` in ``Addition``, already offset and clamped) and the sum is
    the output; the second input may then lie where the output does.
    """

    weights: Int8
    bias: Int32
    multipliers: Int32
    shifts: Int32
    input_offset: int
    output_offset: int
    activation_min: int
    activation_max: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad_top: int = 0
    pad_left: int = 0
    residual: Addition | None = None

    @property
    def in_place(self) -> tuple[int, ...]:
        """The tensor that is added."""
        return (1,) if self.residual is not None else ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2D(Window):
    """``weights`` is int8 [out_channels, kernel_h, kernel_w, in_channels]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthwiseConv2D(Window):
    """``weights`` is int8 [kernel_h, kernel_w, out_channels].

    Output channel ``c`` reads input channel ``c // depth_multiplier``.
    """

    depth_multiplier: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class FullyConnected(Step):
    """``weights`` is int8 [out_features, in_features]; input is [num_rows, in_features].

    ``multipliers`` and ``shifts`` have one number for each output feature, all equal where it is
    ``per_tensor``.
    """

    weights: Int8
    bias: Int32
    multipliers: Int32
    shifts: Int32
    per_tensor: bool
    input_offset: int
    output_offset: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, kw_only=True)
class BatchMatMul(Step):
    """Products of matrices that are both computed, one for each pair in two dimensions of batches.

    ``output[i][j][row][column] = to_int8(output_offset + rescale(sum over d of
    (a[i][j][row][d] + offset1) * (b[i][j][d][column] + offset2)))``, where ``extents`` counts
    ``i, j, row, column`` and ``depth`` counts ``d``. Strides say how many elements one step moves:
    ``strides1`` for ``i, j, row, d`` in the first input, ``strides2`` for ``i, j, column, d`` in
    the second, ``output_strides`` for ``i, j, row, column`` in the output, which is written as a
    whole. A stride of 0 repeats a matrix for several of the other input.
    """

    extents: tuple[int, int, int, int]
    depth: int
    strides1: tuple[int, int, int, int]
    strides2: tuple[int, int, int, int]
    output_strides: tuple[int, int, int, int]
    offset1: int
    offset2: int
    output_offset: int
    multiplier: int
    shift: int


@dataclass(frozen=True, kw_only=True)
class Elementwise(Step):
    """Two tensors of one shape, or a second one that is broadcast.

    ``strides1`` and ``strides2`` give, for each of the output's last four dimensions (shorter
    shapes are padded with ones in front), how many elements one step moves in that input: 0 where
    it is broadcast. ``constant`` is the second input where it is one; ``inputs`` then has one
    entry.
    """

    strides1: tuple[int, int, int, int]
    strides2: tuple[int, int, int, int]
    constant: Int8 | None = None

    @property
    def in_place(self) -> tuple[int, ...]:
        """Inputs that are not broadcast."""
        return tuple(
            i for i, s in enumerate((self.strides1, self.strides2)[: len(self.inputs)]) if all(s)
        )


@dataclass(frozen=True, kw_only=True)
class Add(Elementwise):
    """The sum that ``addition`` describes."""

    addition: Addition


@dataclass(frozen=True, kw_only=True)
class Multiply(Elementwise):
    """``clamp(output_offset + rescale((a + offset1) * (b + offset2)))``."""

    offset1: int
    offset2: int
    output_offset: int
    multiplier: int
    shift: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, kw_only=True)
class Pool2D(Step):
    """The average (rounded halves away from zero) or maximum of a window, then a clamp.

    Padding does not count, neither as values nor in the divisor.
    """

    kind: str
    """``average`` or ``max``."""
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad_top: int
    pad_left: int
    activation_min: int
    activation_max: int


@dataclass(frozen=True, kw_only=True)
class Mean(Step):
    """The mean over a middle axis: input is seen as [outer, reduced, inner], output [outer, inner].

    ``clamp(output_offset + rescale(sum - reduced * input_zero_point))`` in the way of TFLite's
    integer kernel; ``multiplier`` and ``shift`` hold the division by ``reduced``.
    """

    outer: int
    reduced: int
    inner: int
    input_zero_point: int
    output_offset: int
    multiplier: int
    shift: int


@dataclass(frozen=True, kw_only=True)
class Table(Step):
    """``output = table[input + 128]``: any elementwise function of one int8 tensor."""

    table: Int8

    @property
    def in_place(self) -> tuple[int, ...]:
        """Its input."""
        return (0,)


@dataclass(frozen=True, kw_only=True)
class Softmax(Step):
    """TFLite's integer softmax over the last axis; input is seen as [num_rows, depth]."""

    num_rows: int
    depth: int
    input_multiplier: int
    input_shift: int
    diff_min: int

    @property
    def in_place(self) -> tuple[int, ...]:
        """Its input."""
        return (0,)


@dataclass(frozen=True, kw_only=True)
class Copy(Step):
    """A strided copy of up to four dimensions: transpose, slice, pad and concatenation.

    ``output[o + sum i_d output_strides_d] = input[i + sum i_d input_strides_d]`` for all
    ``i_d < extents_d``, in elements. With ``fill`` set, the whole output is set to it first.
    Several copies may write parts of one output (concatenation); only the first one may fill.
    """

    extents: tuple[int, int, int, int]
    input_start: int
    input_strides: tuple[int, int, int, int]
    output_start: int
    output_strides: tuple[int, int, int, int]
    fill: int | None = None


@dataclass(frozen=True)
class ProgramSegment:
    """The steps of one segment, in order, and the buffer in which its logits are found."""

    steps: tuple[Step, ...]
    logits: int


@dataclass(frozen=True)
class Program:
    """The chain. ``buffers[input]`` is what the caller fills before the first segment runs."""

    buffers: tuple[Buffer, ...]
    input: int
    segments: tuple[ProgramSegment, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps of all segments, in the order in which they run."""
        return tuple(step for segment in self.segments for step in segment.steps)


def dense_strides(shape: Sequence[int]) -> list[int]:
    """How many elements one step in each dimension moves, the last one moving by one."""
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def to_rank_4(numbers: Sequence[int], filling: int = 1) -> tuple[int, int, int, int]:
    """Sizes (or strides, with 0 for ``filling``) with dimensions in front, so that there are four.

    Of more, it is the last four.
    """
    first, second, third, fourth = (*(filling,) * (4 - len(numbers)), *numbers)[-4:]
    return (first, second, third, fourth)
