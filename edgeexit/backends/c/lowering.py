"""What the lowering of one op sees: its tensors, checked, and the buffers and steps so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import fold
from edgeexit.backends.c.multipliers import limits_of
from edgeexit.backends.c.program import Copy, Step, to_rank_4
from edgeexit.backends.c.tflite_model import TfliteModel, TfliteOperator, TfliteTensor
from edgeexit.backends.c.turns import Turns
from edgeexit.errors import LoweringError

MAX_SIZE = 2**16 - 1
"""Of an image, kernel or stride in each direction: the kernels hold them in 16 bits."""
_MAX_RANK = 4


@dataclass
class Value:
    """A buffer in the making. ``fixed``: a step reads the shape, so that it must stay as it is."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    fixed: bool = False


@dataclass
class Chain:
    """Buffers and steps of all segments so far."""

    values: list[Value] = field(default_factory=list)
    segments: list[list[Step]] = field(default_factory=list)
    input: int | None = None

    def add(self, name: str, tensor: TfliteTensor, parameters: tuple[float, int]) -> int:
        """A new buffer for ``tensor``."""
        self.values.append(Value(name, tensor.shape, *parameters))
        return len(self.values) - 1


@dataclass
class Segment:
    """One model while it is lowered. ``buffers`` maps its tensors to numbers of buffers.

    ``given`` has the tensors that the caller quantizes: float inputs of the chain.
    """

    number: int
    model: TfliteModel
    chain: Chain
    known: fold.Constants
    paddings: dict[int, fold.Padding]
    turns: Turns
    buffers: dict[int, int] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)

    @property
    def steps(self) -> list[Step]:
        """Its steps so far."""
        return self.chain.segments[self.number]


class Op:
    """One op of a segment, and what its lowering may do."""

    def __init__(self, segment: Segment, op: TfliteOperator) -> None:
        self.segment = segment
        self.op = op
        self.kind = op.kind
        self.name = f"s{segment.number}_{op.index}_{op.kind.lower()}"

    def refuse(
        self, problem: str, wanted: object, given: object, tensor: TfliteTensor | None = None
    ) -> NoReturn:
        """Raises the `LoweringError` of an op that the C backend cannot say."""
        where = f"{self.segment.model.where}, {self.op}"
        raise LoweringError(
            f"the C backend cannot lower {self.kind}: {problem}",
            wanted=wanted,
            given=given,
            where=where if tensor is None else f"{where}, {tensor}",
            hint="convert the model to int8 with this op as TFLite-Micro has it, or replace it",
        )

    def attribute(self, name: str) -> int:
        """An option of the op."""
        return int(self.op.attributes[name])

    def check_count(self, least: int, most: int | None = None) -> None:
        """That it has so many inputs, and one output."""
        most = least if most is None else most
        if not least <= len(self.op.inputs) <= most or len(self.op.outputs) != 1:
            self.refuse(
                "it has another number of inputs or outputs",
                f"{least} to {most} inputs, 1 output",
                f"{len(self.op.inputs)} inputs, {len(self.op.outputs)} outputs",
            )

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.op.inputs) and self.op.inputs[position] >= 0

    def tensor(self, position: int) -> TfliteTensor:
        """An input."""
        if not self.has(position):
            self.refuse("an input is absent", f"input {position}", "none")
        return self.segment.model.tensors[self.op.inputs[position]]

    @property
    def output(self) -> TfliteTensor:
        """The output."""
        return self.segment.model.tensors[self.op.outputs[0]]

    def constant(self, position: int) -> NDArray[Any] | None:
        """The values of an input that is known before the program runs."""
        return self.segment.known.get(self.op.inputs[position]) if self.has(position) else None

    def known(self, position: int, *dtypes: str) -> NDArray[Any]:
        """The values of an input that must be known, of one of these types."""
        tensor, value = self.tensor(position), self.constant(position)
        if value is None:
            self.refuse(f"input {position} is computed", "a constant", "a result", tensor)
        if value.dtype.name not in dtypes:
            self.refuse("a type is not supported", " or ".join(dtypes), value.dtype.name, tensor)
        return value

    def numbers(self, position: int) -> list[int]:
        """Axes, sizes or paddings."""
        return [int(number) for number in self.known(position, "int32", "int64").ravel()]

    def parameters(self, tensor: TfliteTensor) -> tuple[float, int]:
        """Scale and zero point of an int8 tensor."""
        if tensor.dtype.name != "int8":
            self.refuse("a type is not supported", "int8", tensor.dtype.name, tensor)
        if len(tensor.scales) != 1:
            self.refuse(
                "a tensor is not quantized as a whole", "1 scale", len(tensor.scales), tensor
            )
        if not tensor.num_elements:
            self.refuse("a tensor has no elements", "sizes of 1 and more", tensor.shape, tensor)
        return tensor.scales[0], tensor.zero_points[0]

    def quantization(self, position: int) -> tuple[float, int]:
        """Scale and zero point of an input."""
        return self.parameters(self.tensor(position))

    def same_parameters(self, *positions: int, tolerance: float = 0.0) -> None:
        """That these inputs have the output's scale and zero point."""
        wanted = self.parameters(self.output)
        for position in positions:
            given = self.quantization(position)
            if abs(given[0] - wanted[0]) > tolerance or given[1] != wanted[1]:
                self.refuse(
                    "input and output differ in scale or zero point, which TFLite refuses",
                    wanted,
                    given,
                    self.tensor(position),
                )

    def rank(self, *tensors: TfliteTensor) -> None:
        """That these have at most four dimensions."""
        for tensor in tensors:
            if len(tensor.shape) > _MAX_RANK:
                self.refuse(
                    "a tensor has too many dimensions",
                    f"at most {_MAX_RANK}",
                    len(tensor.shape),
                    tensor,
                )

    def limits(self) -> tuple[int, int]:
        """Least and greatest output, with the activation that the op takes along."""
        with self.checking():
            return limits_of(
                self.attribute("fused_activation_function"), *self.parameters(self.output)
            )

    def checking(self) -> _Checking:
        """Turns a ``ValueError`` of the arithmetic into an error of this op."""
        return _Checking(self)

    # ------------------------------------------------------------------ buffers and steps

    def read(self, position: int, fixed: bool = False) -> int:
        """The buffer of an input.

        With ``fixed`` the step looks at the buffer's shape, which must be that of this tensor.
        """
        tensor = self.tensor(position)
        return self.read_tensor(tensor, fixed)

    def read_tensor(self, tensor: TfliteTensor, fixed: bool = False) -> int:
        """The same for any tensor."""
        parameters = self.parameters(tensor)
        number = self.segment.buffers.get(tensor.index)
        if number is None:
            self.refuse("an input is a constant", "a computed tensor", "a constant", tensor)
        value = self.segment.chain.values[number]
        if not fixed or value.shape == tensor.shape:
            value.fixed |= fixed
            return number
        if not value.fixed:
            value.shape, value.fixed = tensor.shape, True
            return number
        if to_rank_4(value.shape) == to_rank_4(tensor.shape):
            value.shape = max(value.shape, tensor.shape, key=len)
            return number
        # Two steps see one buffer in two shapes.
        copy = self.segment.chain.add(f"{tensor.name}_view", tensor, parameters)
        self.segment.chain.values[copy].fixed = True
        self.segment.buffers[tensor.index] = copy
        self.copy(
            number, copy, (tensor.num_elements,), 0, (1,), 0, (1,), suffix=f"_view{tensor.index}"
        )
        return copy

    def write(self, fixed: bool = False) -> int:
        """A new buffer for the output."""
        return self.write_tensor(self.output, fixed)

    def write_tensor(self, tensor: TfliteTensor, fixed: bool = False) -> int:
        """The same for any tensor that nothing has made yet."""
        number = self.segment.chain.add(tensor.name, tensor, self.parameters(tensor))
        self.segment.chain.values[number].fixed = fixed
        self.segment.buffers[tensor.index] = number
        return number

    def alias(self, source: TfliteTensor) -> None:
        """Lets the output be the very buffer of ``source``."""
        self.segment.buffers[self.output.index] = self.segment.buffers[source.index]

    def emit(self, step: Step) -> None:
        """Adds a step."""
        self.segment.steps.append(step)

    def copy(
        self,
        source: int,
        output: int,
        extents: Sequence[int],
        input_start: int,
        input_strides: Sequence[int],
        output_start: int,
        output_strides: Sequence[int],
        fill: int | None = None,
        suffix: str = "",
    ) -> None:
        """Adds a ``Copy``, with as few dimensions as say the same."""
        loops = _merged(extents, input_strides, output_strides)
        if len(loops) > _MAX_RANK:
            self.refuse(
                "it moves elements in too many directions", f"at most {_MAX_RANK}", list(extents)
            )
        padded = [(1, 0, 0)] * (_MAX_RANK - len(loops)) + loops
        sizes, steps_in, steps_out = (
            (line[0], line[1], line[2], line[3]) for line in zip(*padded, strict=True)
        )
        self.emit(
            Copy(
                name=f"{self.name}{suffix}",
                inputs=(source,),
                output=output,
                extents=sizes,
                input_start=input_start,
                input_strides=steps_in,
                output_start=output_start,
                output_strides=steps_out,
                fill=fill,
            )
        )


class _Checking:
    def __init__(self, op: Op) -> None:
        self.op = op

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            self.op.refuse(
                "its scales ask for what the kernels cannot compute",
                "factors that fit 32 bits",
                str(error),
            )


def _merged(
    extents: Sequence[int], input_strides: Sequence[int], output_strides: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Loops (extent, stride in, stride out) without those that run once or join the next."""
    loops: list[tuple[int, int, int]] = []
    for extent, source, output in zip(extents, input_strides, output_strides, strict=True):
        if extent == 1:
            continue
        if loops:
            outer = loops[-1]
            if outer[1] == extent * source and outer[2] == extent * output:
                loops[-1] = (outer[0] * extent, source, output)
                continue
        loops.append((extent, source, output))
    return loops or [(1, 1, 1)]


def check_sum(op: Op, largest: NDArray[np.int64], shifts: Sequence[int]) -> None:
    """That no sum, shifted left where its factor asks for it, leaves 32 bits."""
    for bound, shift in zip(largest.tolist(), shifts, strict=True):
        if bound << max(shift, 0) >= 2**31:
            op.refuse("a sum can leave 32 bits", "less than 2^31", f"{bound} * 2^{max(shift, 0)}")
