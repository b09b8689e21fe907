from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tflite_ops import NONE, RELU, SAME, VALID, Builder, concatenation, conv, unary

from edgeexit.backends.c import multipliers, tables
from edgeexit.backends.c.legalize import (
    CHAIN_INPUT,
    Link,
    input_edge,
    links_of,
    output_edge,
    program_from_chain,
    program_from_file,
)
from edgeexit.backends.c.program import (
    Add,
    Conv2D,
    Copy,
    FullyConnected,
    Mean,
    Program,
    Softmax,
    Step,
    Table,
)
from edgeexit.backends.c.reader import read_model
from edgeexit.errors import LoweringError
from edgeexit.types import SegmentSpec, TensorSpec

IMAGE = (1, 8, 8, 4)


class Network(Builder):
    """Ops with the parameters that most tests do not care about."""

    def __init__(self, zero_point: int = -3) -> None:
        super().__init__()
        self.rng = np.random.default_rng(5)
        self.source = self.tensor(IMAGE, 0.05, zero_point)

    def conv(
        self,
        source: int,
        size: int | tuple[int, int] = 8,
        padding: int = SAME,
        stride: int = 1,
        name: str | None = None,
        activation: int = NONE,
    ) -> int:
        data = self.rng.integers(-127, 128, (4, 3, 3, 4)).astype(np.int8)
        weight = self.tensor(data.shape, [0.01] * 4, data=data)
        height, width = size if isinstance(size, tuple) else (size, size)
        output = self.tensor((1, height, width, 4), 0.1, -5, name=name)
        self.op(
            "CONV_2D",
            [source, weight, -1],
            [output],
            "Conv2DOptions",
            padding=padding,
            strideH=stride,
            strideW=stride,
            fusedActivationFunction=activation,
        )
        return output

    def add(self, a: int, b: int, activation: int = NONE) -> int:
        output = self.tensor(IMAGE, 0.2, 7)
        self.op("ADD", [a, b], [output], "AddOptions", fusedActivationFunction=activation)
        return output

    def pad(self, source: int, amounts: Any, zero_point: int = -3, scale: float = 0.05) -> int:
        shape = [n + sum(each) for n, each in zip(IMAGE, amounts, strict=True)]
        output = self.tensor(shape, scale, zero_point)
        self.op("PAD", [source, self.numbers(amounts)], [output], "PadOptions")
        return output

    def reshaped(self, source: int, shape: Sequence[int]) -> int:
        given = self.graph.tensors[source].quantization
        output = self.tensor(shape, given.scale[0], given.zeroPoint[0])
        self.op("RESHAPE", [source, self.numbers(list(shape))], [output], "ReshapeOptions")
        return output

    def function(
        self,
        kind: str,
        source: int,
        scale: float = 0.1,
        zero_point: int = -5,
        shape: Sequence[int] = IMAGE,
    ) -> int:
        output = self.tensor(shape, scale, zero_point)
        self.op(kind, [source], [output])
        return output

    def program(self, *outputs: int) -> Program:
        return program_from_file(self.finish([self.source], list(outputs)), "net")


def kinds(program: Program) -> list[type[Step]]:
    return [type(step) for step in program.steps]


TOP_LEFT = ((0, 0), (1, 0), (1, 0), (0, 0))


# ---------------------------------------------------------------------- padding


def test_a_pad_becomes_the_convolutions_padding() -> None:
    net = Network()
    program = net.program(net.conv(net.pad(net.source, TOP_LEFT), 4, VALID, 2))
    (step,) = program.steps
    assert isinstance(step, Conv2D)
    assert (step.pad_top, step.pad_left) == (1, 1)
    assert program.buffers[step.inputs[0]].shape == IMAGE


def test_a_pad_adds_to_the_padding_that_is_there() -> None:
    net = Network()
    (step,) = net.program(net.conv(net.pad(net.source, TOP_LEFT), 9)).steps
    assert isinstance(step, Conv2D)
    assert (step.pad_top, step.pad_left) == (2, 2)


def test_a_pad_that_others_read_stays() -> None:
    net = Network()
    padded = net.pad(net.source, TOP_LEFT)
    first = net.conv(padded, 4, VALID, 2)
    assert kinds(net.program(padded, first)) == [Conv2D]  # the first output is nobody's
    net = Network()
    padded = net.pad(net.source, TOP_LEFT)
    both = [net.conv(padded, 4, VALID, 2), net.conv(padded, 4, VALID, 2)]
    total = net.tensor((1, 4, 4, 4), 0.2, 7)
    net.op("MUL", both, [total], "MulOptions")
    assert kinds(net.program(total))[0] is Copy


def test_a_pad_as_high_as_the_kernel_stays() -> None:
    net = Network()
    padded = net.pad(net.source, ((0, 0), (3, 0), (0, 0), (0, 0)))
    data = np.ones((4, 3, 3, 4), np.int8)
    output = net.tensor((1, 9, 6, 4), 0.1, -5)
    net.op(
        "CONV_2D",
        [padded, net.tensor(data.shape, 0.01, data=data), -1],
        [output],
        "Conv2DOptions",
        padding=VALID,
        strideH=1,
        strideW=1,
    )
    assert kinds(net.program(output)) == [Copy, Conv2D]


def test_a_pad_of_another_value_stays() -> None:
    net = Network()
    padded = net.tensor((1, 9, 9, 4), 0.05, -3)
    value = net.tensor((1,), 0.05, -3, data=np.array([4], np.int8))
    net.op("PADV2", [net.source, net.numbers(TOP_LEFT), value], [padded], "PadV2Options")
    assert kinds(net.program(net.conv(padded, 4, VALID, 2))) == [Copy, Conv2D]


@pytest.mark.parametrize("amount", [1.0, 1.5, math.nan])
def test_a_pad_by_no_integers_is_refused(amount: float) -> None:
    net = Network()
    amounts = np.array(TOP_LEFT, np.float32)
    amounts[1, 0] = amount
    padded = net.tensor((1, 9, 9, 4), 0.05, -3)
    numbers = net.tensor((4, 2), dtype="float32", data=amounts)
    net.op("PAD", [net.source, numbers], [padded], "PadOptions")
    with pytest.raises(LoweringError, match="cannot lower PAD: a type is not supported"):
        net.program(net.conv(padded, 4, VALID, 2))


def test_a_pad_of_a_value_of_another_type_is_refused() -> None:
    net = Network()
    padded = net.tensor((1, 9, 9, 4), 0.05, -3)
    value = net.tensor((1,), 0.05, -3, dtype="float32", data=np.array([-3.5], np.float32))
    net.op("PADV2", [net.source, net.numbers(TOP_LEFT), value], [padded], "PadV2Options")
    with pytest.raises(LoweringError, match="cannot lower PADV2: a type is not supported"):
        net.program(net.conv(padded, 4, VALID, 2))


# ---------------------------------------------------------------------- additions


def test_an_addition_joins_the_convolution_before_it() -> None:
    net = Network()
    program = net.program(net.add(net.conv(net.source), net.source, RELU))
    (step,) = program.steps
    assert isinstance(step, Conv2D)
    assert step.residual is not None
    assert step.inputs == (program.input, program.input)
    assert step.in_place == (1,)
    assert step.residual.offset1 == 5  # of the convolution's result
    assert step.residual.activation_min == 7


def test_the_convolution_is_the_first_operand_wherever_it_stood() -> None:
    orders = []
    for turned in (False, True):
        net = Network()
        pair = [net.conv(net.source), net.source]
        (step,) = net.program(net.add(*pair[:: -1 if turned else 1])).steps
        assert isinstance(step, Conv2D)
        orders.append(step.residual)
    assert orders[0] == orders[1]


def test_of_two_convolutions_the_later_one_takes_the_addition() -> None:
    net = Network()
    first, second = net.conv(net.source), net.conv(net.source)
    program = net.program(net.add(second, first))
    one, two = program.steps
    assert isinstance(one, Conv2D)
    assert isinstance(two, Conv2D)
    assert one.residual is None
    assert two.inputs == (program.input, one.output)


def test_a_convolution_moves_behind_what_is_added() -> None:
    net = Network()
    first = net.conv(net.source)
    table = net.function("RELU", net.source)
    program = net.program(net.add(first, table))
    assert kinds(program) == [Table, Conv2D]
    assert program.steps[1].inputs[1] == program.steps[0].output


def test_an_addition_stays_where_the_convolution_has_other_readers() -> None:
    net = Network()
    first = net.conv(net.source)
    total = net.add(first, net.source)
    product = net.tensor(IMAGE, 0.2, 0)
    net.op("MUL", [first, total], [product], "MulOptions")
    assert kinds(net.program(product))[:2] == [Conv2D, Add]
    net = Network()
    first = net.conv(net.source)
    assert kinds(net.program(net.add(first, first))) == [Conv2D, Add]


def test_an_addition_to_a_convolution_of_another_shape_stays() -> None:
    net = Network()
    first, second = (
        net.reshaped(each, (1, 4, 16, 4)) for each in (net.conv(net.source), net.source)
    )
    total = net.tensor((1, 4, 16, 4), 0.2, 7)
    net.op("ADD", [first, second], [total], "AddOptions")
    program = net.program(total)
    assert kinds(program) == [Conv2D, Add]
    assert [program.buffers[step.output].shape for step in program.steps] == [
        IMAGE,
        (1, 4, 16, 4),
    ]


def test_an_addition_of_tokens_joins_their_linear_layer() -> None:
    net = Network()
    first = net.conv(net.conv(net.reshaped(net.source, (1, 1, 64, 4)), (1, 64)), (1, 64))
    second = net.function("HARD_SWISH", net.reshaped(net.source, (1, 64, 4)), shape=(1, 64, 4))
    total = net.tensor((1, 64, 4), 0.2, 7)
    net.op("ADD", [net.reshaped(first, (1, 64, 4)), second], [total], "AddOptions")
    program = net.program(net.conv(net.reshaped(total, (1, 1, 64, 4)), (1, 64)))
    assert kinds(program) == [Conv2D, Table, Conv2D, Conv2D]
    assert isinstance(program.steps[2], Conv2D)
    assert program.steps[2].residual is not None
    assert program.buffers[program.steps[2].output].shape == (1, 1, 64, 4)


# ---------------------------------------------------------------------- dense layers


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_a_convolution_with_a_single_window_is_a_dense_layer(
    size: tuple[int, int], per_tensor: bool
) -> None:
    rng = np.random.default_rng(0)
    content = conv(rng, size, (5, 7), size, padding=VALID, per_tensor=per_tensor)
    program = program_from_file(content, "x")
    (step,) = program.steps
    assert isinstance(step, FullyConnected)
    assert step.weights.shape == (7, 5 * size[0] * size[1])
    assert step.macs == step.weights.size
    assert step.per_tensor == per_tensor


@pytest.mark.parametrize(
    ("size", "kernel", "more"),
    [
        ((3, 3), (2, 2), {"padding": VALID}),
        ((3, 3), (3, 2), {"padding": VALID, "stride": (1, 2)}),
        ((1, 1), (3, 3), {}),
        ((2, 2), (2, 2), {"stride": (2, 2), "dilation": (2, 2)}),
    ],
)
def test_a_convolution_stays_where_windows_are_not_the_image(
    size: tuple[int, int], kernel: tuple[int, int], more: dict[str, Any]
) -> None:
    content = conv(np.random.default_rng(0), size, (5, 7), kernel, **more)
    assert kinds(program_from_file(content, "x")) == [Conv2D]


def test_a_convolution_with_a_single_window_that_adds_stays() -> None:
    b = Builder()
    shape = (1, 1, 1, 4)
    source, middle, total = b.tensor(shape, 0.05), b.tensor(shape, 0.1), b.tensor(shape, 0.2)
    weight = b.tensor((4, 1, 1, 4), 0.01, data=np.ones((4, 1, 1, 4), np.int8))
    window = {"padding": VALID, "strideH": 1, "strideW": 1}
    b.op("CONV_2D", [source, weight, -1], [middle], "Conv2DOptions", **window)
    b.op("ADD", [middle, source], [total], "AddOptions")
    assert kinds(program_from_file(b.finish([source], [total]), "x")) == [Conv2D]


# ---------------------------------------------------------------------- functions


def test_a_relu_of_the_same_scale_becomes_limits() -> None:
    net = Network()
    (step,) = net.program(net.function("RELU", net.conv(net.source))).steps
    assert isinstance(step, Conv2D)
    assert (step.activation_min, step.activation_max) == (-5, 127)


def test_a_relu_of_another_shape_becomes_limits_unless_that_shape_is_read() -> None:
    for is_read in (False, True):
        net = Network()
        flat = net.reshaped(net.conv(net.source), (1, 4, 16, 4))
        output = net.function("RELU", flat, shape=(1, 4, 16, 4))
        program = net.program(net.conv(output, (4, 16)) if is_read else output)
        assert kinds(program) == ([Conv2D, Table, Conv2D] if is_read else [Conv2D])
        assert program.buffers[program.steps[0].output].shape == IMAGE


def test_a_relu_of_another_scale_stays() -> None:
    net = Network()
    assert kinds(net.program(net.function("RELU", net.conv(net.source), 0.09))) == [Conv2D, Table]


def test_functions_in_a_row_become_one() -> None:
    net = Network()
    first = net.function("HARD_SWISH", net.source)
    program = net.program(net.function("RELU", first, 0.03, -128))
    (step,) = program.steps
    assert isinstance(step, Table)
    swish = tables.hard_swish((0.05, -3), (0.1, -5))
    relu = tables.relu((0.1, -5), (0.03, -128), None)
    np.testing.assert_array_equal(step.table, relu[swish.astype(int) + 128])


# ---------------------------------------------------------------------- shapes and edges


def test_a_reshape_is_free_and_computed_shapes_are_folded() -> None:
    b = Builder()
    source = b.tensor((1, 2, 3, 4), 0.1, 5)
    shape = b.tensor((4,), dtype="int32")
    b.op("SHAPE", [source], [shape], "ShapeOptions", outType=2)
    first = b.tensor((), dtype="int32")
    bounds = [b.numbers([n]) for n in (0, 1, 1)]
    b.op("STRIDED_SLICE", [shape, *bounds], [first], "StridedSliceOptions", shrinkAxisMask=1)
    packed = b.tensor((2,), dtype="int32")
    size = b.tensor((), dtype="int32", data=np.array(24, np.int32))
    b.op("PACK", [first, size], [packed], "PackOptions", valuesCount=2)
    flat = b.tensor((1, 24), 0.1, 5)
    b.op("RESHAPE", [source, packed], [flat], "ReshapeOptions")
    weight = b.tensor((3, 24), 0.1, data=np.ones((3, 24), np.int8))
    output = b.tensor((1, 3), 1.0, 0)
    b.op("FULLY_CONNECTED", [flat, weight, -1], [output], "FullyConnectedOptions")
    program = program_from_file(b.finish([source], [output]), "x")
    assert kinds(program) == [FullyConnected]
    assert program.steps[0].inputs == (program.input,)


def test_a_buffer_that_two_steps_see_in_two_shapes_is_copied() -> None:
    net = Network()
    first = net.conv(net.source)
    wide = net.tensor((1, 4, 16, 4), 0.1, -5)
    net.op("RESHAPE", [first, net.numbers([1, 4, 16, 4])], [wide], "ReshapeOptions")
    output = net.tensor((1, 2, 8, 4), 0.1, -5)
    net.op(
        "MAX_POOL_2D",
        [wide],
        [output],
        "Pool2DOptions",
        padding=VALID,
        strideH=2,
        strideW=2,
        filterHeight=2,
        filterWidth=2,
    )
    program = net.program(output)
    assert program.steps[1].__class__ is Copy
    assert program.buffers[program.steps[2].inputs[0]].shape == (1, 4, 16, 4)


def edges(dtype: str, scale: float | None, zero_point: int, output: tuple[float, int]) -> bytes:
    b = Builder()
    source = b.tensor((1, 6), scale, zero_point, dtype=dtype)
    middle = b.tensor((1, 6), *output)
    b.op("QUANTIZE", [source], [middle], "QuantizeOptions")
    answer = b.tensor((1, 6), 1 / 256, -128)
    b.op("SOFTMAX", [middle], [answer], "SoftmaxOptions", beta=1.0)
    last = b.tensor((1, 6), dtype="float32")
    b.op("DEQUANTIZE", [answer], [last], "DequantizeOptions")
    return b.finish([source], [last])


def test_floats_at_the_edge_are_left_to_the_caller() -> None:
    content = edges("float32", None, 0, (0.25, 9))
    program = program_from_file(content, "x")
    assert kinds(program) == [Softmax]
    given = input_edge(read_model(content, "x"))
    assert (given.dtype, given.scale, given.zero_point) == ("float32", 0.25, 9)
    made = output_edge(read_model(content, "x"))
    assert (made.dtype, made.scale, made.zero_point) == ("float32", 1 / 256, -128)
    buffer = program.buffers[program.input]
    assert (buffer.scale, buffer.zero_point) == (0.25, 9)


def test_uint8_at_the_edge_is_int8_with_128_less() -> None:
    same = edges("uint8", 0.25, 137, (0.25, 9))
    assert kinds(program_from_file(same, "x")) == [Softmax]
    other = edges("uint8", 0.5, 100, (0.25, 9))
    program = program_from_file(other, "x")
    assert kinds(program) == [Table, Softmax]
    assert program.buffers[program.input].zero_point == -28
    assert input_edge(read_model(other, "x")).dtype == "uint8"


# ---------------------------------------------------------------------- chains


def chain_models(scale: float = 0.1) -> list[bytes]:
    first = Network()
    one = first.conv(first.source, name="cut")
    logits = first.tensor((1, 4), 0.1, -5, name="early")
    axes = first.numbers([1, 2])
    first.op("MEAN", [one, axes], [logits], "ReducerOptions", keepDims=False)
    second = Builder()
    cut = second.tensor(IMAGE, scale, -5, name="cut")
    image = second.tensor(IMAGE, 0.05, -3, name="image")
    total = second.tensor(IMAGE, 0.2, 7)
    second.op("ADD", [cut, image], [total], "AddOptions")
    return [first.finish([first.source], [one, logits]), second.finish([cut, image], [total])]


LINKS = [[Link(CHAIN_INPUT)], [Link(0, 0), Link(CHAIN_INPUT)]]


def test_segments_share_the_buffers_at_their_cuts() -> None:
    models = [read_model(content, f"segment {k}") for k, content in enumerate(chain_models())]
    program = program_from_chain(models, LINKS)
    assert [[type(step) for step in segment.steps] for segment in program.segments] == [
        [Conv2D, Mean],
        [Add],
    ]
    conv, mean, add = program.steps
    assert mean.inputs == (conv.output,)
    assert add.inputs == (conv.output, program.input)
    assert [segment.logits for segment in program.segments] == [mean.output, add.output]
    assert len({step.name for step in program.steps}) == 3


def test_segments_that_do_not_fit_are_refused() -> None:
    models = [
        read_model(content, f"segment {k}") for k, content in enumerate(chain_models(scale=0.11))
    ]
    with pytest.raises(LoweringError, match="is not what segment 0 makes") as info:
        program_from_chain(models, LINKS)
    assert info.value.facts()["where"] == "segment 1"


def test_links_follow_the_names_of_a_bundle() -> None:
    image, cut, far = (TensorSpec(name, (1, 4), 0.1, 0) for name in ("image", "cut", "far"))
    segments = [
        SegmentSpec(0, "a", (image,), (cut, far), TensorSpec("l0", (1, 2), 0.1, 0), 1, 1),
        SegmentSpec(1, "b", (far, image), (), TensorSpec("l1", (1, 2), 0.1, 0), 1, 1),
        SegmentSpec(
            2,
            "c",
            (TensorSpec("l0", (1, 2), 0.1, 0),),
            (),
            TensorSpec("l2", (1, 2), 0.1, 0),
            1,
            1,
        ),
    ]
    assert links_of(segments) == [
        [Link(CHAIN_INPUT)],
        [Link(0, 1), Link(CHAIN_INPUT)],
        [Link(0, 2)],  # logits come after the outputs
    ]


# ---------------------------------------------------------------------- refusals


def test_an_unknown_op_is_named_with_tensor_and_segment() -> None:
    b = Builder()
    source, output = b.tensor((1, 4), 0.1), b.tensor((1, 4), 0.1)
    b.op("TANH", [source], [output])
    with pytest.raises(LoweringError, match="cannot lower TANH: it is not supported") as info:
        program_from_file(b.finish([source], [output]), "segment 3")
    assert "segment 3, op 0 (TANH)" in info.value.facts()["where"]
    assert "CONV_2D" in info.value.facts()["wanted"]


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_other_types_are_refused(dtype: str) -> None:
    b = Builder()
    source = b.tensor((1, 4), 0.1, dtype=dtype, name="odd")
    output = b.tensor((1, 4), 0.1, dtype=dtype)
    b.op("RELU", [source], [output])
    with pytest.raises(LoweringError, match="type") as info:
        program_from_file(b.finish([source], [output]), "x")
    assert "odd" in str(info.value)


def test_a_concatenation_of_other_scales_is_refused() -> None:
    b = Builder()
    source = b.tensor((1, 4), 0.1)
    other = b.tensor((1, 4), 0.2)
    b.op("QUANTIZE", [source], [other], "QuantizeOptions")
    output = b.tensor((1, 8), 0.1)
    b.op("CONCATENATION", [source, other], [output], "ConcatenationOptions", axis=1)
    with pytest.raises(LoweringError, match="differ in scale or zero point"):
        program_from_file(b.finish([source], [output]), "x")


def test_a_sum_that_can_leave_32_bits_is_refused() -> None:
    b = Builder()
    source = b.tensor((1, 4), 0.1)
    weight = b.tensor((1, 4), 0.1, data=np.full((1, 4), 127, np.int8))
    bias = b.tensor((1,), 0.01, dtype="int32", data=np.array([2**31 - 1], np.int32))
    output = b.tensor((1, 1), 1.0)
    b.op("FULLY_CONNECTED", [source, weight, bias], [output], "FullyConnectedOptions")
    with pytest.raises(LoweringError, match="a sum can leave 32 bits"):
        program_from_file(b.finish([source], [output]), "x")


def test_a_softmax_whose_sum_can_overflow_is_refused() -> None:
    rng = np.random.default_rng(0)
    assert kinds(program_from_file(unary(rng, "SOFTMAX", (1, 4095)), "x")) == [Softmax]
    with pytest.raises(LoweringError, match="it is over too many values"):
        program_from_file(unary(rng, "SOFTMAX", (1, 4096)), "x")


def test_two_inputs_are_refused() -> None:
    b = Builder()
    tensors = [b.tensor((1, 4), 0.1) for _ in range(3)]
    b.op("ADD", tensors[:2], tensors[2:], "AddOptions")
    with pytest.raises(LoweringError, match="another number of inputs"):
        program_from_file(b.finish(tensors[:2], tensors[2:]), "x")


def test_names_are_unique_and_can_be_c() -> None:
    content = concatenation(np.random.default_rng(0), [(1, 3, 4, 5)] * 3, 2)
    names = [step.name for step in program_from_file(content, "x").steps]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in names)


# ---------------------------------------------------------------------- arithmetic


def test_a_factor_is_the_nearest_one() -> None:
    rng = np.random.default_rng(2)
    for real in np.exp(rng.uniform(-20, 20, 200)).tolist():
        multiplier, shift = multipliers.factor(real)
        assert 2**30 <= multiplier < 2**31
        assert math.isclose(multiplier * 2.0 ** (shift - 31), real, rel_tol=2.0**-31)
    assert multipliers.factor(0.0) == (0, 0)
    assert multipliers.factor(2.0**-40) == (0, 0)
    assert multipliers.factor(1.0) == (2**30, 1)
    assert multipliers.factor(1 - 2.0**-40) == (2**30, 1)
    for wrong in (math.inf, math.nan, -1.0, 2.0**31):
        with pytest.raises(ValueError, match="factor"):
            multipliers.factor(wrong)


def test_functions_are_close_to_the_real_ones() -> None:
    q = np.arange(-128, 128)
    source, output = (0.05, 3), (0.04, -30)
    x = source[0] * (q - source[1])
    wanted = {
        "swish": (x * np.clip(x + 3, 0, 6) / 6, tables.hard_swish(source, output), output),
        "relu": (np.maximum(x, 0), tables.relu(source, output, None), output),
        "relu6": (np.clip(x, 0, 6), tables.relu(source, output, 6.0), output),
        "sigmoid": (1 / (1 + np.exp(-x)), tables.sigmoid(source), (1 / 256, -128)),
    }
    for name, (real, table, (scale, zero_point)) in wanted.items():
        nearest = np.clip(np.rint(real / scale) + zero_point, -128, 127)
        assert np.abs(nearest - table).max() <= 1, name


def test_a_clamp_is_recognized() -> None:
    q = np.arange(-128, 128)
    assert tables.clamp_of(np.clip(q, -20, 90).astype(np.int8)) == (-20, 90)
    assert tables.clamp_of(np.clip(q + 1, -20, 90).astype(np.int8)) is None
    swish = program_from_file(unary(np.random.default_rng(0), "HARD_SWISH"), "x").steps[0]
    assert isinstance(swish, Table)
    assert tables.clamp_of(swish.table) is None
