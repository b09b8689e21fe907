"""From ``.tflite`` models to one ``Program``: the first pass of the C backend.

Each model is a segment. Its dead ops are dropped, shapes are computed, and every op that is left
becomes steps; buffers at the segments' boundaries are one buffer in the program. Then `fuse` joins
steps, and `dense` makes dense layers of convolutions that are ones.

The program's edge is int8. What a file has outside it moves to the caller, who finds it in
``Edge``: a QUANTIZE of float32 at the input, a DEQUANTIZE at an output; a uint8 tensor is the int8
one with 128 less in values and zero point.

Where TFLite (its reference kernels) and TFLite-Micro differ, their answers are those of the latter,
except in RELU6 between different scales, which it does not rescale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgeexit.backends.c import fold, lower_matmul, lower_moves, lower_products, lower_values, turns
from edgeexit.backends.c.dense import windows_to_dense
from edgeexit.backends.c.fuse import fuse_additions, join_functions
from edgeexit.backends.c.lowering import Chain, Op, Segment
from edgeexit.backends.c.program import Buffer, Program, ProgramSegment, Step
from edgeexit.backends.c.reader import read_model
from edgeexit.backends.c.tflite_model import TfliteModel, TfliteTensor
from edgeexit.errors import LoweringError
from edgeexit.types import SegmentSpec

CHAIN_INPUT = -1


@dataclass(frozen=True)
class Link:
    """Where an input of a segment comes from.

    ``segment`` is the number of an earlier one and ``output`` the position among its outputs;
    ``segment`` is ``CHAIN_INPUT`` for what the caller gives.
    """

    segment: int
    output: int = 0


@dataclass(frozen=True)
class Edge:
    """What a file has at its edge, and the int8 buffer that stands for it.

    ``dtype`` is the file's: ``int8``; ``uint8``, of which the caller subtracts 128; ``float32``,
    which the caller quantizes (or gets by dequantizing) with ``scale`` and ``zero_point``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


def program_from_file(content: bytes, where: str) -> Program:
    """The program of a single model with one input; its last output is the logits.

    Raises:
        LoweringError: The file is damaged, or has something that the C backend cannot say.
    """
    return program_from_chain([read_model(content, where)], [[Link(CHAIN_INPUT)]])


def links_of(segments: Sequence[SegmentSpec]) -> list[list[Link]]:
    """The links of a bundle's segments: an input is the output that has its name."""
    made: dict[str, Link] = {spec.name: Link(CHAIN_INPUT) for spec in segments[0].inputs}
    links = []
    for number, segment in enumerate(segments):
        links.append([made[spec.name] for spec in segment.inputs])
        made.update(
            {
                spec.name: Link(number, position)
                for position, spec in enumerate((*segment.outputs, segment.logits))
            }
        )
    return links


def program_from_chain(models: Sequence[TfliteModel], links: Sequence[Sequence[Link]]) -> Program:
    """The program of all segments.

    Args:
        models: A model for each segment; the last output of each is its logits.
        links: For each segment, where its inputs come from.

    Raises:
        LoweringError: An op, type or shape is not supported, or two segments do not fit.
    """
    chain = Chain()
    lowered: list[Segment] = []
    for number, (model, sources) in enumerate(zip(models, links, strict=True)):
        wanted = {link.output for later in links for link in later if link.segment == number}
        lowered.append(_lower(chain, number, model, sources, lowered, sorted(wanted)))
    logits = [_buffer_of(segment, segment.model.outputs[-1]) for segment in lowered]
    crossing = [
        _buffer_of(lowered[link.segment], models[link.segment].outputs[link.output])
        for sources in links
        for link in sources
        if link.segment != CHAIN_INPUT
    ]
    if chain.input is None:
        raise LoweringError(
            "nothing reads the input",
            wanted="one input on which the output depends",
            given="none",
            where=models[0].where,
        )
    kept = {chain.input, *logits, *crossing}
    steps = join_functions(chain.segments, kept, chain.values)
    steps = fuse_additions(steps, kept, chain.values)
    steps = windows_to_dense(steps, chain.values)
    return _numbered(chain, steps, chain.input, logits)


def input_edge(model: TfliteModel) -> Edge:
    """What the caller of a model's program gives; ``model`` has been legalized."""
    tensor = model.tensors[model.inputs[0]]
    for op in model.operators:
        if op.kind == "QUANTIZE" and tensor.dtype.kind == "f" and op.inputs[0] == tensor.index:
            return _edge(tensor, model.tensors[op.outputs[0]])
    return _edge(tensor, tensor)


def output_edge(model: TfliteModel) -> Edge:
    """What the caller gets for a model's last output."""
    tensor = model.tensors[model.outputs[-1]]
    for op in model.operators:
        if op.kind == "DEQUANTIZE" and op.outputs[0] == tensor.index:
            return _edge(tensor, model.tensors[op.inputs[0]])
    return _edge(tensor, tensor)


def _edge(tensor: TfliteTensor, quantized: TfliteTensor) -> Edge:
    return Edge(
        tensor.name,
        tensor.shape,
        tensor.dtype.name,
        quantized.scales[0],
        quantized.zero_points[0] - (128 if quantized.dtype.name == "uint8" else 0),
    )


# ---------------------------------------------------------------------- one segment


def _lower(
    chain: Chain,
    number: int,
    model: TfliteModel,
    sources: Sequence[Link],
    before: Sequence[Segment],
    wanted: Sequence[int],
) -> Segment:
    """Lowers a model; of its outputs, the logits and those at the positions ``wanted``."""
    if not model.outputs:
        _refuse(model, "it has no output", "logits", "none")
    if len(model.inputs) != len(sources):
        _refuse(model, "it has another number of inputs", len(sources), len(model.inputs))
    if any(position >= len(model.outputs) for position in wanted):
        _refuse(model, "it has too few outputs", max(wanted) + 1, len(model.outputs))
    outputs = [model.outputs[position] for position in wanted] + [model.outputs[-1]]
    known = fold.constants(model)
    live = fold.live_operators(model, known, outputs)
    paddings = fold.paddings(model, live, known, outputs)
    turned = turns.around_products(model, live, known, outputs)
    segment = Segment(number, model, chain, known, paddings, turned)
    chain.segments.append([])
    for index, link in zip(model.inputs, sources, strict=True):
        _link(segment, model.tensors[index], link, before)
    folded = {padding.op for padding in paddings.values()} | turned.operators
    for op in live:
        if op.index in folded:
            continue
        lower = _LOWERINGS.get(op.kind)
        if lower is None:
            Op(segment, op).refuse(
                "it is not supported", ", ".join(sorted(_LOWERINGS)), f"{op.kind} {op.version}"
            )
        lower(Op(segment, op))
    return segment


def _refuse(model: TfliteModel, problem: str, wanted: object, given: object) -> None:
    raise LoweringError(
        f"the C backend cannot lower a model: {problem}",
        wanted=wanted,
        given=given,
        where=model.where,
    )


def _link(segment: Segment, tensor: TfliteTensor, link: Link, before: Sequence[Segment]) -> None:
    """Finds or makes the buffer of an input."""
    if link.segment == CHAIN_INPUT:
        if tensor.dtype.name == "float32":
            segment.given.add(tensor.index)
            return
        parameters = _int8_parameters(tensor)
        if parameters is None or not tensor.num_elements:
            _refuse(segment.model, "its input has another type", "int8, uint8, float32", tensor)
            return
        segment.buffers[tensor.index] = _chain_input(segment, tensor, parameters)
        return
    earlier = before[link.segment]
    index = earlier.model.outputs[link.output]
    other = earlier.model.tensors[index]
    given, wanted = (
        (each.shape, each.dtype.name, each.scales, each.zero_points) for each in (tensor, other)
    )
    if given != wanted:
        _refuse(
            segment.model,
            f"its {tensor} is not what {earlier.model.where} makes",
            wanted,
            given,
        )
    segment.buffers[tensor.index] = _buffer_of(earlier, index)


def _chain_input(segment: Segment, tensor: TfliteTensor, parameters: tuple[float, int]) -> int:
    """The buffer that the caller fills; it is made by whoever reads it first."""
    chain = segment.chain
    if chain.input is None:
        chain.input = chain.add(tensor.name, tensor, parameters)
        return chain.input
    value = chain.values[chain.input]
    given = (tensor.num_elements, *parameters)
    wanted = (Buffer(value.name, value.shape, 0, 0).num_bytes, value.scale, value.zero_point)
    if given != wanted:
        _refuse(segment.model, f"{tensor} is not like the chain's input", wanted, given)
    return chain.input


def _int8_parameters(tensor: TfliteTensor) -> tuple[float, int] | None:
    """Scale and zero point of the int8 tensor that stands for this one."""
    offset = {"int8": 0, "uint8": 128}.get(tensor.dtype.name)
    if offset is None or len(tensor.scales) != 1:
        return None
    return tensor.scales[0], tensor.zero_points[0] - offset


def _buffer_of(segment: Segment, index: int) -> int:
    number = segment.buffers.get(index)
    if number is None:
        _refuse(
            segment.model,
            "an output is a constant or the input itself",
            "a computed output",
            segment.model.tensors[index],
        )
    assert number is not None
    return number


def _quantize(op: Op) -> None:
    """QUANTIZE: of the caller's floats, of what was dequantized, or from one int8 to another."""
    op.check_count(1)
    source, output = op.tensor(0), op.output
    lower_products.check_shape(op, source.shape)
    parameters = _int8_parameters(output)
    if parameters is None or not output.num_elements:
        op.refuse("its output has another type", "int8 or uint8, one scale", output, output)
    buffers = op.segment.buffers
    if source.index in op.segment.given:
        buffers[output.index] = _chain_input(op.segment, output, parameters)
        return
    number = buffers.get(source.index)
    if number is None or (source.dtype.kind != "f" and _int8_parameters(source) is None):
        op.refuse(
            "its input has another type", "int8, or float at the model's edge", source, source
        )
    value = op.segment.chain.values[number]
    if (value.scale, value.zero_point) == parameters:
        op.alias(source)
        return
    if source.dtype.kind == "f":
        op.refuse(
            "it quantizes again, in another way, what was dequantized",
            f"scale and zero point {(value.scale, value.zero_point)}",
            parameters,
            output,
        )
    lower_values.requantize_buffer(op, number, (value.scale, value.zero_point), parameters)


def _dequantize(op: Op) -> None:
    """DEQUANTIZE: left to the caller, so that its output is the int8 buffer."""
    op.check_count(1)
    lower_products.check_shape(op, op.tensor(0).shape)
    op.read(0)
    op.alias(op.tensor(0))


_LOWERINGS: dict[str, Callable[[Op], None]] = {
    "ADD": lower_values.add,
    "AVERAGE_POOL_2D": lower_values.average_pool,
    "BATCH_MATMUL": lower_matmul.batch_matmul,
    "CONCATENATION": lower_moves.concatenation,
    "CONV_2D": lower_products.convolution,
    "DEPTHWISE_CONV_2D": lower_products.depthwise,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": lower_products.fully_connected,
    "GELU": lower_values.gelu,
    "HARD_SWISH": lower_values.hard_swish,
    "LOGISTIC": lower_values.logistic,
    "MAX_POOL_2D": lower_values.max_pool,
    "MEAN": lower_values.mean,
    "MUL": lower_values.multiply,
    "PAD": lower_moves.pad,
    "PADV2": lower_moves.pad,
    "QUANTIZE": _quantize,
    "RELU": lower_values.relu,
    "RELU6": lower_values.relu6,
    "RESHAPE": lower_moves.reshape,
    "SOFTMAX": lower_values.softmax,
    "STRIDED_SLICE": lower_moves.strided_slice,
    "SUB": lower_values.subtract,
    "TRANSPOSE": lower_moves.transpose,
}


# ---------------------------------------------------------------------- the program


def _numbered(
    chain: Chain, segments: Sequence[Sequence[Step]], given: int, logits: Sequence[int]
) -> Program:
    """The program, with the buffers that are still used, in the order of their first use."""
    order: dict[int, int] = {given: 0}
    for steps in segments:
        for step in steps:
            for number in (*step.inputs, step.output):
                order.setdefault(number, len(order))
    for number in logits:
        order.setdefault(number, len(order))
    buffers = []
    for number in order:
        value = chain.values[number]
        buffers.append(Buffer(value.name, value.shape, value.scale, value.zero_point))
    return Program(
        tuple(buffers),
        order[given],
        tuple(
            ProgramSegment(
                tuple(
                    replace(
                        step,
                        inputs=tuple(order[number] for number in step.inputs),
                        output=order[step.output],
                    )
                    for step in steps
                ),
                order[last],
            )
            for steps, last in zip(segments, logits, strict=True)
        ),
    )
