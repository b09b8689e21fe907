"""Lowers segments to ``.tflite``: int8 throughout, NHWC at the edges and inside.

A segment is read op by op, a dequantize-op-quantize group at a time, and each group becomes one op
of the file. Four-dimensional tensors lie in NHWC from the start, so that no TRANSPOSE is needed
around convolutions, pooling or means; one is written only where the network itself orders elements
anew, and not even there when a linear layer follows whose columns can be ordered instead. A matrix
product and a softmax of four dimensions are over the network's last ones: each is written between
two TRANSPOSEs, which cancel out, or join the network's own, wherever one such op follows another.

A linear layer is a CONV_2D of one position, because interpreters disagree about FULLY_CONNECTED:
LiteRT's reference kernel rounds ``acc * scale`` once, in double precision; tflite-runtime 2.14 and
TFLite Micro round twice, in integers. All of them compute a convolution in the second way, so that
logits are equal to the bit in all of them.

Why not litert-torch: version 0.10 takes no int8 inputs, leaves hardsigmoid and products in float,
refuses softmax and keeps TRANSPOSE pairs around pooling, concatenation and padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from edgeexit.backends.integer_ops import (
    INT8_MIN,
    args_of,
    get_constant,
    is_activation,
    is_constant,
    is_dequantize,
    is_quantize,
    pair,
    parameters_of,
    pool_arguments,
    shape_of,
    weight_scales,
    where_of,
)
from edgeexit.backends.tflite_file import FileOp, FileTensor, to_bytes
from edgeexit.backends.tflite_moves import without_idle_moves
from edgeexit.errors import LoweringError
from edgeexit.types import Artifact, Segment

_ATEN = torch.ops.aten
_INT32 = np.dtype(np.int32)
_NHWC = (0, 2, 3, 1)
_NCHW = (0, 3, 1, 2)
_NONE = schema.ActivationFunctionType.NONE
_SAME = schema.Padding.SAME
_VALID = schema.Padding.VALID
# Where dimension d of NCHW lies in NHWC.
_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}


def lower(segments: Sequence[Segment], static: Segment) -> Sequence[Artifact]:
    """One file for each segment, and one for the static network. See `base.Backend.lower`."""
    named = [*((k, str(k), s) for k, s in enumerate(segments)), (None, "static", static)]
    return tuple(
        Artifact(
            backend="tflite",
            path=f"segments/{name}.tflite",
            content=_Lowering(segment.module, f"segment {name}").run(),
            parts=((index, None),),
            layout="NHWC",
        )
        for index, name, segment in named
    )


def physical(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape as it lies in memory: NCHW becomes NHWC, all else stays."""
    return tuple(shape[d] for d in _NHWC) if len(shape) == 4 else tuple(shape)


class _Lowering:
    """The tensors and ops of one file, as they come.

    ``values`` maps an int8 node to the number of its tensor. ``columns`` maps a flattened value
    whose elements lie in the order of NHWC to the (C, H, W) that it had.
    """

    def __init__(self, module: GraphModule, where: str) -> None:
        self.module = module
        self.where = where
        self.tensors: list[FileTensor] = []
        self.ops: list[FileOp] = []
        self.values: dict[Node, int] = {}
        self.columns: dict[Node, tuple[int, ...]] = {}

    def run(self) -> bytes:
        """Lowers the whole module.

        Raises:
            LoweringError: An op has no counterpart.
        """
        inputs = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                reader = next(user for user in node.users if is_dequantize(user))
                inputs.append(self.add_value(node, reader))
            elif is_quantize(node):
                self._lower_group(node)
        outputs = [self.values[node] for node in args_of(self.module.graph.output_node())[0]]
        return to_bytes(*without_idle_moves(self.tensors, self.ops, inputs, outputs))

    def _lower_group(self, quantize: Node) -> None:
        """Lowers the op that ends in ``quantize``, with its activation."""
        node = quantize.args[0]
        assert isinstance(node, Node)
        activation = None
        if is_activation(node) and not is_dequantize(cast(Node, node.args[0])):
            activation, node = node, cast(Node, node.args[0])
        if is_dequantize(node):
            self.emit("QUANTIZE", [self.input(node)], quantize, "QuantizeOptions")
            return
        emit = _EMITTERS.get(node.target)
        if emit is None:
            raise LoweringError(
                f"TFLite has no int8 op for {node.target}",
                wanted=", ".join(sorted(str(target) for target in _EMITTERS)),
                given=node.format_node(),
                where=f"{self.where}, {where_of(node)}",
            )
        emit(self, node, quantize, _activation_code(activation))

    # -------------------------------------------------------------- tensors

    def add(self, tensor: FileTensor) -> int:
        """The number of a new tensor."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_value(self, node: Node, parameters: Node) -> int:
        """A new tensor for the int8 value of ``node``, as ``parameters`` (de)quantizes it.

        It is called after the op: the numbers in a quantize node's name differ from run to run.
        """
        name = cast(Node, node.args[0]).name if is_quantize(node) else node.name
        self.values[node] = self.add_like(name, physical(shape_of(node)), parameters)
        return self.values[node]

    def add_like(self, name: str, shape: Sequence[int], parameters: Node) -> int:
        """A new int8 tensor with the scale and zero point of a (de)quantize node."""
        scale, zero_point = parameters_of(parameters)
        return self.add(FileTensor(name, tuple(shape), scales=(scale,), zero_point=zero_point))

    def add_numbers(self, name: str, numbers: Sequence[int] | Sequence[Sequence[int]]) -> int:
        """A new int32 constant: axes, sizes or paddings."""
        data = np.array(numbers, np.int32)
        return self.add(FileTensor(name, data.shape, _INT32, data=data))

    def input(self, dequantize: object) -> int:
        """The tensor behind an operand; a constant is added when it is met."""
        assert isinstance(dequantize, Node)
        value = dequantize.all_input_nodes[0]
        if value.op == "get_attr" and value not in self.values:
            data = get_constant(self.module, value).numpy()
            scale, zero_point = parameters_of(dequantize)
            self.values[value] = self.add(
                FileTensor(
                    value.name, data.shape, scales=(scale,), zero_point=zero_point, data=data
                )
            )
        return self.values[value]

    def constant(self, node: object) -> NDArray[Any]:
        """The values behind a ``get_attr`` node."""
        assert isinstance(node, Node)
        return get_constant(self.module, node).numpy()

    def emit(
        self,
        code: str,
        inputs: Sequence[int],
        quantize: Node,
        options_table: str | None = None,
        **options: int | float | bool,
    ) -> None:
        """Adds an op whose result is the value of ``quantize``."""
        output = self.add_value(quantize, quantize)
        self.ops.append(FileOp(code, tuple(inputs), (output,), options_table, options))

    def emit_between(
        self,
        code: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        name: str,
        options_table: str | None = None,
        **options: int | float | bool,
    ) -> int:
        """Adds an op whose result only the next op reads; it has its first input's parameters."""
        source = self.tensors[inputs[0]]
        output = self.add(
            FileTensor(name, tuple(shape), scales=source.scales, zero_point=source.zero_point)
        )
        self.ops.append(FileOp(code, tuple(inputs), (output,), options_table, options))
        return output

    # -------------------------------------------------------------- shared by several ops

    def padded(
        self, source: int, padding: Sequence[Sequence[int]], name: str, value: int | None = None
    ) -> int:
        """The tensor with (before, after) elements added to each dimension of its own layout.

        They are real zeros, or the int8 ``value``.
        """
        tensor = self.tensors[source]
        shape = [
            n + before + after for n, (before, after) in zip(tensor.shape, padding, strict=True)
        ]
        inputs = [source, self.add_numbers(f"{name}.padding", padding)]
        if value is None or value == tensor.zero_point:
            return self.emit_between("PAD", inputs, shape, f"{name}.padded", "PadOptions")
        data = np.array([value], np.int8)
        inputs.append(
            self.add(
                FileTensor(
                    f"{name}.pad_value",
                    data.shape,
                    scales=tensor.scales,
                    zero_point=tensor.zero_point,
                    data=data,
                )
            )
        )
        return self.emit_between("PADV2", inputs, shape, f"{name}.padded", "PadV2Options")

    def windowed(
        self,
        node: Node,
        source: int,
        span: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        fill: int | None = None,
        may_be_same: bool = True,
    ) -> tuple[int, int]:
        """Padding for an op that slides a window of ``span`` over ``source``.

        Returns:
            The (padded) tensor, and TFLite's word for what padding is left to the op.
        """
        if not any(padding):
            return source, _VALID
        size, result = self.tensors[source].shape[1:3], shape_of(node)[2:]
        same = all(
            out == math.ceil(n / step) and before == max((out - 1) * step + window - n, 0) // 2
            for n, out, window, step, before in zip(
                size, result, span, stride, padding, strict=True
            )
        )
        if same and may_be_same:
            return source, _SAME
        amounts = [(0, 0)]
        for n, out, window, step, before in zip(size, result, span, stride, padding, strict=True):
            # What the last window does not reach needs no padding.
            amounts.append((before, min(before, max((out - 1) * step + window - n - before, 0))))
        return self.padded(source, [*amounts, (0, 0)], node.name, fill), _VALID

    def add_weights(self, node: Node, weight: NDArray[Any], axis: int) -> tuple[int, int]:
        """The weight's tensor, and that of the bias: zeros without one, which LiteRT asks for."""
        dequantize = cast(Node, node.args[1])
        scales = weight_scales(self.module, dequantize).numpy().astype(np.float32)
        name = cast(Node, dequantize.args[0]).name
        kernel = self.add(
            FileTensor(name, weight.shape, scales=tuple(map(float, scales)), axis=axis, data=weight)
        )
        bias = np.zeros(weight.shape[axis])
        if len(node.args) > 2 and node.args[2] is not None:
            bias = self.constant(node.args[2]).astype(np.float64)
        input_scale, _ = parameters_of(cast(Node, node.args[0]))
        bias_scales = np.float64(np.float32(input_scale)) * scales.astype(np.float64)
        whole = np.rint(bias / bias_scales)
        if np.abs(whole).max(initial=0) > np.iinfo(np.int32).max:
            raise LoweringError(
                "a bias does not fit 32 bits",
                wanted="|bias| <= 2^31 * input scale * weight scale",
                given=f"{whole[np.abs(whole).argmax()]:.0f}",
                where=f"{self.where}, {where_of(node)}",
            )
        data = whole.astype(np.int32)
        tensor = FileTensor(
            f"{node.name}.bias",
            data.shape,
            _INT32,
            scales=tuple(float(np.float32(s)) for s in bias_scales),
            data=data,
        )
        return kernel, self.add(tensor)


def _activation_code(activation: Node | None) -> int:
    kinds = schema.ActivationFunctionType
    if activation is None:
        return int(_NONE)
    return int(kinds.RELU if activation.target is _ATEN.relu.default else kinds.RELU6)


# ------------------------------------------------------------------ one function per op


def _conv(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    defaults = (None, None, None, (1, 1), (0, 0), (1, 1), 1)
    filled: tuple[Any, ...] = (*node.args, *defaults[len(node.args) :])
    source_node, _, _, strides, paddings, dilations, groups = filled
    stride, padding, dilation = pair(strides), pair(paddings), pair(dilations)
    dequantize = cast(Node, node.args[1])
    weight = low.constant(dequantize.args[0])
    num_out, per_group, *kernel = weight.shape
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    source, pad_word = low.windowed(
        node, low.input(source_node), cast(tuple[int, int], span), stride, padding
    )
    common = {
        "padding": pad_word,
        "strideH": stride[0],
        "strideW": stride[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": activation,
    }
    if groups > 1 and per_group == 1:
        ordered = weight.transpose(1, 2, 3, 0)
        weights = low.add_weights(node, ordered, axis=3)
        common["depthMultiplier"] = num_out // groups
        code, table = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
    else:
        weights = low.add_weights(node, weight.transpose(_NHWC), axis=0)
        code, table = "CONV_2D", "Conv2DOptions"
    low.emit(code, [source, *weights], quantize, table, **common)


def _linear(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    """A convolution of one position: see the head of this file for why."""
    weight = low.constant(cast(Node, node.args[1]).args[0])
    num_out, num_in = weight.shape
    num_rows = math.prod(shape_of(node)[:-1])
    source = _over_last(low, node.args[0])
    value = cast(Node, node.args[0]).all_input_nodes[0]
    if value in low.columns:
        # The window is the whole map that was flattened, which then need not be flattened at all.
        kernel_shape = low.columns[value]
        (flatten,) = (op for op in low.ops if op.outputs == (source,))
        source = flatten.inputs[0]
    else:
        kernel_shape = (num_in, 1, 1)
        shape = (1, 1, num_rows, num_in)
        sizes = low.add_numbers(f"{node.name}.rows", shape)
        source = low.emit_between(
            "RESHAPE", [source, sizes], shape, f"{node.name}.in", "ReshapeOptions"
        )
    ordered = weight.reshape(num_out, *kernel_shape).transpose(_NHWC)
    kernel, bias = low.add_weights(node, ordered, axis=0)
    options = {"padding": _VALID, "strideH": 1, "strideW": 1, "fusedActivationFunction": activation}
    options |= {"dilationHFactor": 1, "dilationWFactor": 1}
    result = low.add_like(f"{node.name}.out", (1, 1, num_rows, num_out), quantize)
    inputs = (source, kernel, bias)
    low.ops.append(FileOp("CONV_2D", inputs, (result,), "Conv2DOptions", options))
    sizes = low.add_numbers(f"{node.name}.shape", shape_of(node))
    _emit_over_last(low, "RESHAPE", [result, sizes], node, quantize, "ReshapeOptions")


def _elementwise(code: str, table: str) -> Callable[[_Lowering, Node, Node, int], None]:
    def emit(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
        rank = len(shape_of(node))
        inputs = []
        for operand in node.args[:2]:
            number = low.input(operand)
            tensor = low.tensors[number]
            if is_constant(operand) and rank == 4 and tensor.data is not None:
                wide = tensor.data.reshape((1,) * (4 - tensor.data.ndim) + tensor.data.shape)
                data = np.ascontiguousarray(wide.transpose(_NHWC))
                number = low.add(
                    FileTensor(
                        f"{node.name}.{tensor.name}",
                        data.shape,
                        scales=tensor.scales,
                        zero_point=tensor.zero_point,
                        data=data,
                    )
                )
            inputs.append(number)
        low.emit(code, inputs, quantize, table, fusedActivationFunction=activation)

    return emit


def _simple(
    code: str, table: str | None = None, **options: float
) -> Callable[[_Lowering, Node, Node, int], None]:
    def emit(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
        low.emit(code, [low.input(node.args[0])], quantize, table, **options)

    return emit


def _over_last(low: _Lowering, operand: object) -> int:
    """An operand whose last dimensions are those of the network, not those of NHWC."""
    source = low.input(operand)
    shape = shape_of(cast(Node, operand))
    if len(shape) < 4:
        return source
    name = low.tensors[source].name
    order = low.add_numbers(f"{name}.to_nchw", _NCHW)
    return low.emit_between("TRANSPOSE", [source, order], shape, f"{name}.nchw", "TransposeOptions")


def _emit_over_last(
    low: _Lowering,
    code: str,
    inputs: Sequence[int],
    node: Node,
    quantize: Node,
    table: str,
    **options: float,
) -> None:
    """Adds an op on operands of `_over_last`; its result goes back to NHWC."""
    shape = shape_of(node)
    if len(shape) < 4:
        low.emit(code, inputs, quantize, table, **options)
        return
    result = low.add_like(f"{node.name}.nchw_out", shape, quantize)
    low.ops.append(FileOp(code, tuple(inputs), (result,), table, options))
    order = low.add_numbers(f"{node.name}.to_nhwc", _NHWC)
    low.emit("TRANSPOSE", [result, order], quantize, "TransposeOptions")


def _product(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    inputs = [_over_last(low, operand) for operand in node.args[:2]]
    _emit_over_last(low, "BATCH_MATMUL", inputs, node, quantize, "BatchMatMulOptions")


def _softmax(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    inputs = [_over_last(low, node.args[0])]
    _emit_over_last(low, "SOFTMAX", inputs, node, quantize, "SoftmaxOptions", beta=1.0)


def _gelu(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    by_tanh = node.kwargs.get("approximate", "none") == "tanh"
    low.emit("GELU", [low.input(node.args[0])], quantize, "GeluOptions", approximate=by_tanh)


def _concatenation(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    rank = len(shape_of(node))
    dim = (cast(int, node.args[1]) if len(node.args) > 1 else 0) % rank
    low.emit(
        "CONCATENATION",
        [low.input(operand) for operand in cast(list[Node], node.args[0])],
        quantize,
        "ConcatenationOptions",
        axis=_AXIS[dim] if rank == 4 else dim,
        fusedActivationFunction=_NONE,
    )


def _mean(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    source_node = cast(Node, node.args[0])
    shape = shape_of(source_node)
    dims = sorted(dim % len(shape) for dim in cast(list[int], node.args[1]))
    keeps = bool(node.args[2]) if len(node.args) > 2 else False
    axes = sorted(_AXIS[dim] for dim in dims) if len(shape) == 4 else dims
    inputs = [low.input(source_node), low.add_numbers(f"{node.name}.axes", axes)]
    left = [dim for dim in _NHWC if dim not in dims]
    if len(shape) < 4 or keeps or left == sorted(left):
        low.emit("MEAN", inputs, quantize, "ReducerOptions", keepDims=keeps)
        return
    # The channels are last in memory and must come first again. The mean is on its final grid
    # before it is moved, so that nothing is rounded twice.
    scrambled = low.add_like(f"{node.name}.nhwc", [shape[dim] for dim in left], quantize)
    low.ops.append(
        FileOp("MEAN", tuple(inputs), (scrambled,), "ReducerOptions", {"keepDims": False})
    )
    order = low.add_numbers(f"{node.name}.order", [left.index(dim) for dim in sorted(left)])
    low.emit("TRANSPOSE", [scrambled, order], quantize, "TransposeOptions")


def _pool(code: str) -> Callable[[_Lowering, Node, Node, int], None]:
    def emit(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
        arguments = pool_arguments(node)
        is_max = code == "MAX_POOL_2D"
        source, pad_word = low.windowed(
            node,
            low.input(node.args[0]),
            arguments.kernel,
            arguments.stride,
            arguments.padding,
            fill=INT8_MIN if is_max else None,
            may_be_same=is_max,  # TFLite's average does not count what SAME adds
        )
        low.emit(
            code,
            [source],
            quantize,
            "Pool2DOptions",
            padding=pad_word,
            filterHeight=arguments.kernel[0],
            filterWidth=arguments.kernel[1],
            strideH=arguments.stride[0],
            strideW=arguments.stride[1],
            fusedActivationFunction=_NONE,
        )

    return emit


def _pad(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    amounts = cast(list[int], node.args[1])
    rank = len(shape_of(node))
    padding = [(0, 0)] * rank
    for index in range(len(amounts) // 2):  # the last dimension comes first
        padding[rank - 1 - index] = (amounts[2 * index], amounts[2 * index + 1])
    ordered = [padding[dim] for dim in _NHWC] if rank == 4 else padding
    inputs = [low.input(node.args[0]), low.add_numbers(f"{node.name}.padding", ordered)]
    low.emit("PAD", inputs, quantize, "PadOptions")


def _reshape(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    source_node = cast(Node, node.args[0])
    before, after = shape_of(source_node), shape_of(node)
    source = low.input(source_node)
    if len(before) == 4 and _order_matters(before):
        if _only_linear_reads(quantize) and len(after) == 2:
            low.columns[quantize] = before[1:]
        else:
            order = low.add_numbers(f"{node.name}.to_nchw", _NCHW)
            source = low.emit_between(
                "TRANSPOSE", [source, order], before, f"{node.name}.nchw", "TransposeOptions"
            )
    if len(after) == 4 and _order_matters(after):
        sizes = low.add_numbers(f"{node.name}.shape", after)
        flat = low.emit_between(
            "RESHAPE", [source, sizes], after, f"{node.name}.nchw_out", "ReshapeOptions"
        )
        order = low.add_numbers(f"{node.name}.to_nhwc", _NHWC)
        low.emit("TRANSPOSE", [flat, order], quantize, "TransposeOptions")
        return
    sizes = low.add_numbers(f"{node.name}.shape", physical(after))
    low.emit("RESHAPE", [source, sizes], quantize, "ReshapeOptions")


def _order_matters(shape: Sequence[int]) -> bool:
    """Whether NCHW and NHWC of this shape differ in memory."""
    return shape[1] > 1 and shape[2] * shape[3] > 1


def _only_linear_reads(quantize: Node) -> bool:
    """Whether every reader, in this segment and after it, is the input of a linear layer."""
    return all(
        is_dequantize(reader)
        and all(
            user.target is _ATEN.linear.default and user.args[0] is reader for user in reader.users
        )
        for reader in quantize.users
    )


def _permute(low: _Lowering, node: Node, quantize: Node, activation: int) -> None:
    rank = len(shape_of(node))
    order = [dim % rank for dim in cast(list[int], node.args[1])]
    if rank == 4:  # NHWC of the result, each dimension looked up where it lies in NHWC
        order = [_AXIS[order[dim]] for dim in _NHWC]
    source = low.input(node.args[0])
    if order == list(range(rank)):
        sizes = low.add_numbers(f"{node.name}.shape", physical(shape_of(node)))
        low.emit("RESHAPE", [source, sizes], quantize, "ReshapeOptions")
        return
    numbers = low.add_numbers(f"{node.name}.order", order)
    low.emit("TRANSPOSE", [source, numbers], quantize, "TransposeOptions")


_EMITTERS: dict[object, Callable[[_Lowering, Node, Node, int], None]] = {
    _ATEN.conv2d.default: _conv,
    _ATEN.linear.default: _linear,
    _ATEN.add.Tensor: _elementwise("ADD", "AddOptions"),
    _ATEN.sub.Tensor: _elementwise("SUB", "SubOptions"),
    _ATEN.mul.Tensor: _elementwise("MUL", "MulOptions"),
    _ATEN.matmul.default: _product,
    _ATEN.cat.default: _concatenation,
    _ATEN.mean.dim: _mean,
    _ATEN.avg_pool2d.default: _pool("AVERAGE_POOL_2D"),
    _ATEN.max_pool2d.default: _pool("MAX_POOL_2D"),
    _ATEN.relu.default: _simple("RELU"),
    _ATEN.hardtanh.default: _simple("RELU6"),
    _ATEN.hardswish.default: _simple("HARD_SWISH", "HardSwishOptions"),
    _ATEN.gelu.default: _gelu,
    _ATEN.sigmoid.default: _simple("LOGISTIC"),
    _ATEN.softmax.int: _softmax,
    _ATEN.pad.default: _pad,
    _ATEN.constant_pad_nd.default: _pad,
    _ATEN.reshape.default: _reshape,
    _ATEN.permute.default: _permute,
}
