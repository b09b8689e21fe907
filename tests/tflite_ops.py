"""Builds small ``.tflite`` files, one for each op and way of using it.

They are written with the classes generated from TFLite's schema, independently of edgeexit's own
writer and reader, and are deterministic: ``cases()`` gives the same bytes in every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)
_ACTIVATIONS = (NONE, RELU, RELU6)

_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "BATCH_MATMUL": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEQUANTIZE": 2,
    "FULLY_CONNECTED": 4,
    "GELU": 2,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "PADV2": 2,
    "QUANTIZE": 2,
    "RELU": 2,
    "RELU6": 2,
    "SOFTMAX": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "TRANSPOSE": 2,
}
_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
}


class Builder:
    """Tensors and ops of one file, as they come; a tensor is its number."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [schema.BufferT()]
        self.codes: list[tuple[str, int]] = []

    def tensor(
        self,
        shape: Sequence[int],
        scale: float | Sequence[float] | None = None,
        zero_point: int = 0,
        *,
        dtype: str = "int8",
        data: NDArray[Any] | None = None,
        axis: int = 0,
        name: str | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = name or f"t{len(self.graph.tensors)}"
        tensor.shape = list(shape)
        tensor.type = _TYPES[dtype]
        tensor.buffer = 0
        if data is not None:
            assert data.shape == tuple(shape)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = [scale] if isinstance(scale, float) else list(scale)
            quantization.zeroPoint = [zero_point] * len(quantization.scale)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def parts(
        self,
        rng: np.random.Generator,
        shapes: Sequence[Sequence[int]],
        parameters: Sequence[tuple[float, int]],
    ) -> tuple[int, list[int]]:
        """One input, and its pieces in other shapes and scales: operands that differ in value."""
        sizes = [int(np.prod(shape)) for shape in shapes]
        scale, zero = _scale(rng, 0.02, 0.05), 0
        source = self.tensor((1, sum(sizes)), scale, zero)
        pieces, start = [], 0
        for shape, size, each in zip(shapes, sizes, parameters, strict=True):
            piece = self.tensor((1, size), scale, zero)
            bounds = [self.numbers(b) for b in ([0, start], [1, start + size], [1, 1])]
            self.op("STRIDED_SLICE", [source, *bounds], [piece], "StridedSliceOptions")
            shaped = self.tensor(shape, scale, zero)
            self.op("RESHAPE", [piece, self.numbers(list(shape))], [shaped], "ReshapeOptions")
            pieces.append(self.tensor(shape, *each))
            self.op("QUANTIZE", [shaped], [pieces[-1]], "QuantizeOptions")
            start += size
        return source, pieces

    def numbers(self, values: Any) -> int:
        data = np.array(values, np.int32)
        return self.tensor(data.shape, dtype="int32", data=data)

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        **fields: Any,
    ) -> None:
        code = (kind, _VERSIONS.get(kind, 1))
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, options + "T")()
            for name, value in fields.items():
                assert hasattr(operator.builtinOptions, name), name
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version = 3
        model.buffers = self.buffers
        model.subgraphs = [self.graph]
        model.operatorCodes = []
        for kind, version in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = version
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def _scale(rng: np.random.Generator, low: float = 0.005, high: float = 0.2) -> float:
    return float(np.float32(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _zero(rng: np.random.Generator) -> int:
    return int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))


def _output_zero(rng: np.random.Generator, activation: int = NONE) -> int:
    """A zero point with which most results are not clamped."""
    return int(rng.integers(-128, -90) if activation else rng.integers(-30, 31))


def _out(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    span = dilation * (kernel - 1) + 1
    return -(-size // stride) if padding == SAME else (size - span) // stride + 1


def _weights(
    rng: np.random.Generator, shape: Sequence[int], num_scales: int
) -> tuple[NDArray[Any], list[float]]:
    scales = [_scale(rng, 0.002, 0.02) for _ in range(num_scales)]
    return rng.integers(-127, 128, shape).astype(np.int8), scales


def _bias(
    rng: np.random.Generator, size: int, source: float, scales: Sequence[float]
) -> tuple[NDArray[Any], list[float]]:
    data = rng.integers(-3000, 3000, size).astype(np.int32)
    return data, [float(np.float32(source * s)) for s in scales]


def conv(
    rng: np.random.Generator,
    size: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: int = SAME,
    dilation: tuple[int, int] = (1, 1),
    activation: int = NONE,
    depthwise: bool = False,
    per_tensor: bool = False,
    bias: bool = True,
    groups: int = 1,
) -> bytes:
    b = Builder()
    source_scale = _scale(rng)
    source = b.tensor((1, *size, channels[0]), source_scale, _zero(rng))
    num_scales = 1 if per_tensor else channels[1]
    shape = (
        (1, *kernel, channels[1]) if depthwise else (channels[1], *kernel, channels[0] // groups)
    )
    data, scales = _weights(rng, shape, num_scales)
    inputs = [source, b.tensor(shape, scales, data=data, axis=3 if depthwise else 0)]
    if bias:
        numbers, bias_scales = _bias(rng, channels[1], source_scale, scales)
        inputs.append(b.tensor((channels[1],), bias_scales, dtype="int32", data=numbers))
    out = tuple(
        _out(n, k, s, padding, d) for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    )
    depth = 1 if depthwise else channels[0]
    scale = source_scale * float(np.mean(scales)) * 90 * np.sqrt(kernel[0] * kernel[1] * depth)
    zero = _output_zero(rng, activation)
    output = b.tensor((1, *out, channels[1]), float(np.float32(scale)), zero)
    fields: dict[str, Any] = {
        "padding": padding,
        "strideH": stride[0],
        "strideW": stride[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": activation,
    }
    if depthwise:
        fields["depthMultiplier"] = channels[1] // channels[0]
        b.op("DEPTHWISE_CONV_2D", inputs, [output], "DepthwiseConv2DOptions", **fields)
    else:
        b.op("CONV_2D", inputs, [output], "Conv2DOptions", **fields)
    return b.finish([source], [output])


def fully_connected(
    rng: np.random.Generator,
    rows: Sequence[int],
    features: tuple[int, int],
    activation: int = NONE,
    per_channel: bool = False,
    bias: bool = True,
) -> bytes:
    b = Builder()
    source_scale = _scale(rng)
    source = b.tensor((*rows, features[0]), source_scale, _zero(rng))
    data, scales = _weights(rng, features[::-1], features[1] if per_channel else 1)
    inputs = [source, b.tensor(features[::-1], scales, data=data)]
    if bias:
        numbers, bias_scales = _bias(rng, features[1], source_scale, scales)
        inputs.append(b.tensor((features[1],), bias_scales, dtype="int32", data=numbers))
    scale = source_scale * float(np.mean(scales)) * 90 * np.sqrt(features[0])
    zero = _output_zero(rng, activation)
    output = b.tensor((*rows, features[1]), float(np.float32(scale)), zero)
    b.op(
        "FULLY_CONNECTED",
        inputs,
        [output],
        "FullyConnectedOptions",
        fusedActivationFunction=activation,
        keepNumDims=len(rows) > 1,
    )
    return b.finish([source], [output])


def binary(
    rng: np.random.Generator,
    kind: str,
    shapes: tuple[Sequence[int], Sequence[int]],
    activation: int = NONE,
    constant: int | None = None,
) -> bytes:
    """``constant`` is the position of an operand that is one."""
    b = Builder()
    scales = [_scale(rng, 0.02, 0.05), _scale(rng, 0.02, 0.05)]
    zeros = [int(zero) for zero in rng.integers(-60, 61, 2)]
    if constant is None:
        source, tensors = b.parts(rng, shapes, list(zip(scales, zeros, strict=True)))
    else:
        tensors = [
            b.tensor(
                shape,
                scale,
                zero,
                data=rng.integers(-128, 128, shape).astype(np.int8) if n == constant else None,
            )
            for n, (shape, scale, zero) in enumerate(zip(shapes, scales, zeros, strict=True))
        ]
        source = tensors[1 - constant]
    scale = scales[0] * scales[1] * 60 if kind == "MUL" else max(scales) * rng.uniform(0.7, 2)
    zero = _output_zero(rng, activation)
    output = b.tensor(np.broadcast_shapes(*shapes), float(np.float32(scale)), zero)
    options = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[kind]
    b.op(kind, tensors, [output], options, fusedActivationFunction=activation)
    return b.finish([source], [output])


def pool(
    rng: np.random.Generator,
    kind: str,
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: int,
    activation: int = NONE,
) -> bytes:
    b = Builder()
    scale, zero = _scale(rng), _output_zero(rng)
    source = b.tensor((1, *size, channels), scale, zero)
    out = tuple(_out(n, k, s, padding) for n, k, s in zip(size, kernel, stride, strict=True))
    output = b.tensor((1, *out, channels), scale, zero)
    b.op(
        f"{kind}_POOL_2D",
        [source],
        [output],
        "Pool2DOptions",
        padding=padding,
        strideH=stride[0],
        strideW=stride[1],
        filterHeight=kernel[0],
        filterWidth=kernel[1],
        fusedActivationFunction=activation,
    )
    return b.finish([source], [output])


def mean(
    rng: np.random.Generator,
    shape: Sequence[int],
    axes: Sequence[int],
    keep: bool,
    same: bool = False,
) -> bytes:
    """``same``: the output has the input's scale and zero point."""
    b = Builder()
    scale, zero = _scale(rng), _zero(rng)
    zero = _output_zero(rng)
    source = b.tensor(shape, scale, zero)
    reduced = {a % len(shape) for a in axes}
    out = [1 if d in reduced else n for d, n in enumerate(shape) if keep or d not in reduced]
    if not same:
        scale, zero = float(np.float32(scale * rng.uniform(0.3, 1.3))), _output_zero(rng)
    output = b.tensor(out, scale, zero)
    b.op("MEAN", [source, b.numbers(list(axes))], [output], "ReducerOptions", keepDims=keep)
    return b.finish([source], [output])


def unary(
    rng: np.random.Generator, kind: str, shape: Sequence[int] = (1, 256), same: bool = False
) -> bytes:
    b = Builder()
    scale, zero = _scale(rng, 0.001, 0.3), int(rng.integers(-128, 128))
    source = b.tensor(shape, scale, zero)
    if kind in ("LOGISTIC", "SOFTMAX"):
        output = b.tensor(shape, 1 / 256, -128)
    elif same:
        output = b.tensor(shape, scale, zero)
    else:
        output = b.tensor(
            shape, float(np.float32(scale * rng.uniform(0.3, 1.5))), _output_zero(rng)
        )
    if kind == "SOFTMAX":
        beta = float(rng.choice([1.0, 0.5, 2.0]))
        b.op(kind, [source], [output], "SoftmaxOptions", beta=beta)
    elif kind == "GELU":
        b.op(kind, [source], [output], "GeluOptions", approximate=bool(rng.integers(2)))
    else:
        options = {"QUANTIZE": "QuantizeOptions", "HARD_SWISH": "HardSwishOptions"}.get(kind)
        b.op(kind, [source], [output], options)
    return b.finish([source], [output])


def pad(
    rng: np.random.Generator,
    shape: Sequence[int],
    amounts: Sequence[tuple[int, int]],
    value: int | None = None,
) -> bytes:
    b = Builder()
    scale, zero = _scale(rng), _zero(rng)
    source = b.tensor(shape, scale, zero)
    inputs = [source, b.numbers(amounts)]
    if value is not None:
        inputs.append(b.tensor((1,), scale, zero, data=np.array([value], np.int8)))
    out = [n + before + after for n, (before, after) in zip(shape, amounts, strict=True)]
    output = b.tensor(out, scale, zero)
    kind, options = ("PAD", "PadOptions") if value is None else ("PADV2", "PadV2Options")
    b.op(kind, inputs, [output], options)
    return b.finish([source], [output])


def transpose(rng: np.random.Generator, shape: Sequence[int], order: Sequence[int]) -> bytes:
    b = Builder()
    scale, zero = _scale(rng), _zero(rng)
    source = b.tensor(shape, scale, zero)
    output = b.tensor([shape[d] for d in order], scale, zero)
    b.op("TRANSPOSE", [source, b.numbers(list(order))], [output], "TransposeOptions")
    return b.finish([source], [output])


def batch_matmul(
    rng: np.random.Generator,
    shapes: tuple[Sequence[int], Sequence[int]],
    adjoint: tuple[bool, bool] = (False, False),
    orders: tuple[Sequence[int], ...] = (),
) -> bytes:
    """``shapes`` are the operands'; with ``orders``, those of a TRANSPOSE before each and one after
    the product, ``shapes`` are what the first two make."""
    b = Builder()
    parameters = [(_scale(rng, 0.02, 0.05), _zero(rng)) for _ in shapes]
    befores: list[Sequence[int]] = list(shapes)
    if orders:
        befores = [
            [shape[order.index(d)] for d in range(len(shape))]
            for shape, order in zip(shapes, orders, strict=False)
        ]
    source, operands = b.parts(rng, befores, parameters)
    for position, order in enumerate(orders[:2]):
        turned = b.tensor(shapes[position], *parameters[position])
        inputs = [operands[position], b.numbers(list(order))]
        b.op("TRANSPOSE", inputs, [turned], "TransposeOptions")
        operands[position] = turned
    sizes = [
        (*shape[:-2], shape[-1], shape[-2]) if turn else tuple(shape)
        for shape, turn in zip(shapes, adjoint, strict=True)
    ]
    batches = np.broadcast_shapes(sizes[0][:-2], sizes[1][:-2])
    scale = parameters[0][0] * parameters[1][0] * 90 * float(np.sqrt(sizes[0][-1]))
    result = (float(np.float32(scale)), _output_zero(rng))
    out = (*batches, sizes[0][-2], sizes[1][-1])
    output = b.tensor(out, *result)
    b.op(
        "BATCH_MATMUL",
        operands,
        [output],
        "BatchMatMulOptions",
        adjX=adjoint[0],
        adjY=adjoint[1],
    )
    if orders:
        turned = b.tensor([out[d] for d in orders[2]], *result)
        b.op("TRANSPOSE", [output, b.numbers(list(orders[2]))], [turned], "TransposeOptions")
        output = turned
    return b.finish([source], [output])


def reshape(rng: np.random.Generator, shape: Sequence[int], new: Sequence[int]) -> bytes:
    b = Builder()
    scale, zero = _scale(rng), _zero(rng)
    source, output = b.tensor(shape, scale, zero), b.tensor(new, scale, zero)
    b.op("RESHAPE", [source, b.numbers(list(new))], [output], "ReshapeOptions")
    return b.finish([source], [output])


def concatenation(rng: np.random.Generator, shapes: Sequence[Sequence[int]], axis: int) -> bytes:
    b = Builder()
    scale, zero = _scale(rng), _zero(rng)
    source, pieces = b.parts(rng, shapes, [(scale, zero)] * len(shapes))
    out = list(shapes[0])
    out[axis] = sum(shape[axis] for shape in shapes)
    output = b.tensor(out, scale, zero)
    b.op("CONCATENATION", pieces, [output], "ConcatenationOptions", axis=axis)
    return b.finish([source], [output])


def strided_slice(
    rng: np.random.Generator,
    shape: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    strides: Sequence[int],
    masks: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """``masks``: begin, end, shrink axis."""
    b = Builder()
    scale, zero = _scale(rng), _zero(rng)
    source = b.tensor(shape, scale, zero)
    where: list[slice | int] = []
    for d in range(len(begin)):
        if masks[2] >> d & 1:
            where.append(0 if masks[0] >> d & 1 else begin[d])
            continue
        first = None if masks[0] >> d & 1 else begin[d]
        last = None if masks[1] >> d & 1 else end[d]
        where.append(slice(first, last, strides[d]))
    output = b.tensor(np.empty(shape, np.int8)[tuple(where)].shape, scale, zero)
    numbers = [b.numbers(list(values)) for values in (begin, end, strides)]
    b.op(
        "STRIDED_SLICE",
        [source, *numbers],
        [output],
        "StridedSliceOptions",
        beginMask=masks[0],
        endMask=masks[1],
        shrinkAxisMask=masks[2],
    )
    return b.finish([source], [output])


def _conv_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    for n, activation in enumerate((*_ACTIVATIONS, RELU_N1_TO_1)):
        yield f"conv_3x3_act{activation}", conv(rng, (7, 6), (4, 5), (3, 3), activation=activation)
        yield (
            f"depthwise_3x3_act{activation}",
            conv(rng, (7, 6), (5, 5), (3, 3), activation=activation, depthwise=True),
        )
        yield (
            f"conv_1x1_{n}",
            conv(
                rng, (5, 4), (8 + n, 7 + n), (1, 1), activation=activation, stride=(1 + n % 2,) * 2
            ),
        )
    for padding in (SAME, VALID):
        for stride in ((1, 1), (2, 2), (2, 1), (1, 3), (3, 2)):
            for kernel in ((3, 3), (2, 2), (5, 3), (1, 4)):
                name = f"{padding}_s{stride[0]}{stride[1]}_k{kernel[0]}{kernel[1]}"
                yield f"conv_{name}", conv(rng, (9, 8), (3, 6), kernel, stride, padding)
                yield (
                    f"depthwise_{name}",
                    conv(rng, (9, 8), (3, 6), kernel, stride, padding, depthwise=True),
                )
        for dilation in ((2, 2), (1, 3), (3, 2)):
            name = f"{padding}_d{dilation[0]}{dilation[1]}"
            yield f"conv_{name}", conv(rng, (9, 9), (4, 4), (3, 3), (1, 1), padding, dilation)
            yield (
                f"depthwise_{name}",
                conv(rng, (9, 9), (4, 8), (3, 3), (1, 1), padding, dilation, depthwise=True),
            )
    yield "conv_deep", conv(rng, (4, 4), (64, 33), (3, 3))
    yield "conv_16_16", conv(rng, (8, 8), (16, 16), (3, 3), activation=RELU)
    yield "conv_16_32_s2", conv(rng, (8, 8), (16, 32), (3, 3), (2, 2), activation=RELU)
    yield "conv_image", conv(rng, (12, 12), (3, 16), (3, 3), activation=RELU)
    yield "conv_speech", conv(rng, (25, 10), (1, 8), (10, 4), (2, 2), activation=RELU)
    # In a row, the first window has no column inside the image, and the next one has.
    yield "conv_gap", conv(rng, (3, 2), (4, 4), (1, 2), (1, 1), SAME, (1, 3))
    yield "conv_one_window", conv(rng, (3, 2), (8, 10), (3, 2), padding=VALID, activation=RELU)
    yield "conv_linear", conv(rng, (1, 1), (64, 10), (1, 1))
    yield "conv_per_tensor", conv(rng, (5, 5), (4, 4), (3, 3), per_tensor=True)
    yield "conv_no_bias", conv(rng, (5, 5), (4, 4), (3, 3), bias=False)
    yield "depthwise_no_bias", conv(rng, (5, 5), (4, 4), (3, 3), bias=False, depthwise=True)
    yield "conv_groups", conv(rng, (5, 5), (6, 9), (3, 3), groups=3)
    for multiplier in (1, 2, 3):
        yield (
            f"depthwise_multiplier_{multiplier}",
            conv(rng, (6, 6), (7, 7 * multiplier), (3, 3), depthwise=True),
        )
    yield "depthwise_16", conv(rng, (8, 8), (16, 16), (3, 3), depthwise=True, activation=RELU)
    yield "depthwise_64_s2", conv(rng, (8, 6), (64, 64), (3, 3), (2, 2), depthwise=True)
    yield "depthwise_per_tensor", conv(rng, (5, 5), (4, 4), (3, 3), depthwise=True, per_tensor=True)


def _dense_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    for features in ((1, 1), (16, 10), (64, 10), (37, 13), (256, 32), (640, 128)):
        for activation in _ACTIVATIONS:
            yield (
                f"fc_{features[0]}_{features[1]}_act{activation}",
                fully_connected(rng, (1,), features, activation),
            )
    yield "fc_per_channel", fully_connected(rng, (1,), (64, 10), per_channel=True)
    yield "fc_no_bias", fully_connected(rng, (1,), (20, 6), bias=False)
    yield "fc_rows", fully_connected(rng, (1, 5), (12, 7))
    shapes: list[tuple[str, tuple[Sequence[int], Sequence[int]]]] = [
        ("same", ((1, 4, 5, 6), (1, 4, 5, 6))),
        ("flat", ((1, 37), (1, 37))),
        ("channels", ((1, 4, 5, 6), (1, 1, 1, 6))),
        ("channels_first", ((1, 1, 1, 6), (1, 4, 5, 6))),
        ("scalar", ((1, 4, 5, 6), (1, 1, 1, 1))),
        ("rows", ((1, 4, 1, 6), (1, 1, 5, 6))),
        ("lower_rank", ((1, 4, 5, 6), (6,))),
    ]
    for kind in ("ADD", "SUB", "MUL"):
        for name, pair in shapes:
            for activation in _ACTIVATIONS[: 3 if name == "same" else 1]:
                yield (
                    f"{kind.lower()}_{name}_act{activation}",
                    binary(rng, kind, pair, activation),
                )
            for constant in (0, 1):
                if np.prod(pair[1 - constant]) >= np.prod(pair[constant]):
                    yield (
                        f"{kind.lower()}_{name}_constant{constant}",
                        binary(rng, kind, pair, constant=constant),
                    )
        for n in range(6):
            name = f"{kind.lower()}_random_{n}"
            yield name, binary(rng, kind, ((1, 8, 8, 16), (1, 8, 8, 16)), _ACTIVATIONS[n % 3])


def _move_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    none = (0, 0)
    yield "pad_image", pad(rng, (1, 4, 5, 3), (none, (1, 2), (0, 3), none))
    yield "pad_channels", pad(rng, (1, 4, 5, 3), (none, none, (1, 0), (2, 1)))
    yield "pad_rank_2", pad(rng, (1, 7), (none, (3, 2)))
    yield "padv2", pad(rng, (1, 4, 5, 3), (none, (1, 1), (1, 1), none), value=-77)
    for order in ((0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 3, 2)):
        yield f"transpose_{''.join(map(str, order))}", transpose(rng, (1, 3, 4, 5), order)
    yield "transpose_rank_3", transpose(rng, (1, 6, 5), (0, 2, 1))
    yield "transpose_rank_2", transpose(rng, (6, 5), (1, 0))
    yield "reshape", reshape(rng, (1, 3, 4, 5), (1, 60))
    for axis in (1, 2, 3, -1):
        shapes = [[1, 3, 4, 5] for _ in range(3)]
        for n, shape in enumerate(shapes):
            shape[axis] += n
        yield f"concatenation_{axis % 4}{'n' if axis < 0 else ''}", concatenation(rng, shapes, axis)
    yield "concatenation_rank_2", concatenation(rng, [(1, 7), (1, 9)], 1)
    whole, ones = (1, 6, 7, 4), (1, 1, 1, 1)
    yield "slice_plain", strided_slice(rng, whole, (0, 1, 2, 1), (1, 5, 6, 3), ones)
    yield "slice_steps", strided_slice(rng, whole, (0, 0, 1, 0), (1, 6, 7, 4), (1, 2, 3, 1))
    yield "slice_masks", strided_slice(rng, whole, (0, 3, 2, 1), (1, 4, 4, 2), ones, (3, 12, 0))
    yield "slice_negative", strided_slice(rng, whole, (0, -3, -6, 0), (1, -1, 7, 4), ones)
    yield "slice_reverse", strided_slice(rng, whole, (0, 5, 6, 0), (1, 0, 1, 4), (1, -1, -2, 1))
    yield "slice_shrink", strided_slice(rng, whole, (0, 3, 0, 0), (1, 4, 7, 4), ones, (0, 0, 2))
    yield (
        "slice_shrink_masked",
        strided_slice(rng, whole, (0, 3, 0, 0), (1, 4, 7, 4), ones, (2, 0, 2)),
    )


def _matmul_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    yield "matmul_rank_2", batch_matmul(rng, ((5, 9), (9, 6)))
    yield "matmul_rank_3", batch_matmul(rng, ((1, 7, 12), (1, 12, 9)))
    for turns in ((False, False), (True, False), (False, True), (True, True)):
        name = "".join("xy"[n] for n in range(2) if turns[n])
        first = (2, 3, 8, 5) if turns[0] else (2, 3, 5, 8)
        second = (2, 3, 7, 8) if turns[1] else (2, 3, 8, 7)
        yield f"matmul_adjoint_{name}", batch_matmul(rng, (first, second), turns)
    yield "matmul_broadcast_first", batch_matmul(rng, ((2, 1, 4, 6), (2, 3, 6, 5)))
    yield "matmul_broadcast_second", batch_matmul(rng, ((1, 3, 4, 6), (1, 1, 6, 5)))
    yield "matmul_one_row", batch_matmul(rng, ((1, 2, 1, 33), (1, 2, 33, 1)))
    heads, back = (0, 2, 1, 3), (0, 2, 1, 3)
    # Queries and keys, and shares and values, as attention has them.
    scores = ((1, 3, 16, 8), (1, 3, 8, 16))
    yield "matmul_scores", batch_matmul(rng, scores, orders=(heads, (0, 2, 3, 1), (0, 1, 2, 3)))
    values = ((1, 3, 16, 16), (1, 3, 16, 8))
    yield "matmul_values", batch_matmul(rng, values, orders=((0, 1, 2, 3), heads, back))
    yield (
        "matmul_turned",
        batch_matmul(
            rng, ((2, 3, 4, 5), (2, 3, 5, 6)), orders=((2, 0, 3, 1), (3, 2, 1, 0), (3, 1, 0, 2))
        ),
    )


def cases() -> Iterator[tuple[str, bytes]]:
    """All files, of one input and output, with names that can be part of a C identifier."""
    rng = np.random.default_rng(7)
    yield from _conv_cases(rng)
    yield from _dense_cases(rng)
    for kind in ("AVERAGE", "MAX"):
        for padding in (SAME, VALID):
            for kernel, stride in (((2, 2), (2, 2)), ((3, 3), (1, 1)), ((3, 2), (2, 3))):
                name = (
                    f"{kind.lower()}_pool_{padding}_k{kernel[0]}{kernel[1]}s{stride[0]}{stride[1]}"
                )
                yield name, pool(rng, kind, (7, 8), 5, kernel, stride, padding)
        for activation in (RELU, RELU6):
            name = f"{kind.lower()}_pool_act{activation}"
            yield name, pool(rng, kind, (6, 6), 8, (2, 2), (2, 2), VALID, activation)
        name = f"{kind.lower()}_pool_global"
        yield name, pool(rng, kind, (25, 5), 64, (25, 5), (25, 5), VALID)
    for keep in (False, True):
        for same in (False, True):
            name = f"mean_{'keep' if keep else 'drop'}{'_same' if same else ''}"
            yield f"{name}_hw", mean(rng, (1, 7, 6, 8), (1, 2), keep, same)
            yield f"{name}_wh", mean(rng, (1, 4, 4, 32), (2, 1), keep, same)
    yield "mean_negative_axes", mean(rng, (1, 5, 3, 6), (-3, -2), False)
    yield "mean_last", mean(rng, (1, 5, 3, 6), (3,), True)
    yield "mean_h", mean(rng, (1, 5, 3, 6), (1,), False)
    yield "mean_rank_3", mean(rng, (1, 9, 6), (1,), False)
    for kind in ("RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "QUANTIZE"):
        for n in range(8):
            yield f"{kind.lower()}_{n}", unary(rng, kind, same=n % 4 == 3 or kind == "RELU6")
    for n, shape in enumerate([(1, 10), (1, 2), (1, 12), (1, 300), (1, 4, 7), (1, 1, 3, 9)] * 2):
        yield f"softmax_{n}", unary(rng, "SOFTMAX", shape)
    yield from _move_cases(rng)
    yield from _matmul_cases(rng)
