"""The ops that edgeexit makes integer, and what each demands of the numbers around it.

This table is what the quantizer annotates, what the verifier checks and what every backend must
lower: a new op is a row here and one lowering in each backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeexit.errors import QuantizationError

_ATEN = torch.ops.aten
# By name: the ops exist only once torchao has been imported.
_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
_QUANTIZE_CHANNELS = "quantized_decomposed.quantize_per_channel.default"
_DEQUANTIZE = (
    "quantized_decomposed.dequantize_per_tensor.default",
    "quantized_decomposed.dequantize_per_channel.default",
)

INT8_MIN, INT8_MAX = -128, 127


@dataclass(frozen=True)
class IntegerOp:
    """How one ATen op is quantized.

    Args:
        weight: Position of the argument that is a weight.
        scale_for_each_channel: Each output channel of that weight has a scale of its own; else one
            scale holds for all, which is all that CMSIS-NN's linear layer knows. Every backend
            writes a linear layer over tokens as a convolution: `has_scale_for_each_channel`.
        same_parameters: Inputs and output share scale and zero point.
        takes_activation: A ReLU or ReLU6 that is the only user becomes part of the op.
        fixed_output: Scale and zero point that integer kernels prescribe for the output.
        refusal: Why this very node cannot be made integer, or None.
    """

    weight: int | None = None
    scale_for_each_channel: bool = False
    same_parameters: bool = False
    takes_activation: bool = False
    fixed_output: tuple[float, int] | None = None
    refusal: Callable[[Node], str | None] = lambda node: None


def _refuse_conv(node: Node) -> str | None:
    if not is_constant(node.args[1]):
        return "its weight is computed"
    return None


def _refuse_mean(node: Node) -> str | None:
    dims, rank = args_of(node)[1], args_of(node)[0].meta["val"].ndim
    if not dims or any(dim % rank == 0 for dim in dims):
        return "it averages over the batch"
    return None


def _refuse_pool(node: Node) -> str | None:
    arguments = pool_arguments(node)
    if arguments.ceil_mode:
        return "ceil_mode=True"
    if arguments.dilation != (1, 1):
        return f"dilation={arguments.dilation}"
    if arguments.divisor is not None:
        return f"divisor_override={arguments.divisor}"
    if any(arguments.padding) and not arguments.counts_padding:
        return "count_include_pad=False with padding"
    return None


def _refuse_pad(node: Node) -> str | None:
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    if node.target is _ATEN.constant_pad_nd.default:
        mode, value = "constant", node.args[2] if len(node.args) > 2 else None
    if mode != "constant" or value not in (None, 0, 0.0):
        return f"mode={mode!r}, value={value}; only zeros can be padded"
    if any(amount < 0 for amount in args_of(node)[1]):
        return "negative padding"
    return None


def _refuse_softmax(node: Node) -> str | None:
    rank = node.meta["val"].ndim
    if rank > 4 or args_of(node)[1] % rank != rank - 1:
        return "it is not over the last dimension of at most four"
    return None


def _refuse_product(node: Node) -> str | None:
    if any(is_constant(arg) for arg in node.args):
        return "a factor is a constant, which is for a linear layer"
    first, second = (args_of(node)[k].meta["val"].shape for k in range(2))
    if len(first) not in (3, 4) or first[:-2] != second[:-2]:
        return f"shapes {tuple(first)} and {tuple(second)} are not one product for each head"
    return None


def _refuse_elementwise(node: Node) -> str | None:
    if node.kwargs.get("alpha", 1) != 1:
        return f"alpha={node.kwargs['alpha']}"
    if not all(isinstance(arg, Node) for arg in node.args):
        return "an operand is not a tensor"
    if all(is_constant(arg) for arg in node.args):
        return "it does not depend on the input"
    ranks = {arg.meta["val"].ndim for arg in node.args if not is_constant(arg)}  # type: ignore[union-attr]
    if len(ranks) > 1 or max(arg.meta["val"].ndim for arg in node.args) > max(ranks):  # type: ignore[union-attr]
        return "its operands differ in rank"
    return None


def _refuse_concatenation(node: Node) -> str | None:
    dim = args_of(node)[1] if len(node.args) > 1 else 0
    return "it joins along the batch" if dim % node.meta["val"].ndim == 0 else None


def _refuse_clamp(node: Node) -> str | None:
    return None if is_activation(node) else f"its bounds are {node.args[1:]}; only 0 to 6 is known"


def _refuse_reshape(node: Node) -> str | None:
    sizes = args_of(node)[1]
    return None if sizes[0] == -1 else "it changes the size of the batch"


def _refuse_permute(node: Node) -> str | None:
    order = args_of(node)[1]
    return None if order[0] == 0 else "it moves the batch"


INTEGER_OPS: dict[object, IntegerOp] = {
    _ATEN.conv2d.default: IntegerOp(
        weight=1, scale_for_each_channel=True, takes_activation=True, refusal=_refuse_conv
    ),
    _ATEN.linear.default: IntegerOp(weight=1, takes_activation=True, refusal=_refuse_conv),
    _ATEN.add.Tensor: IntegerOp(takes_activation=True, refusal=_refuse_elementwise),
    _ATEN.sub.Tensor: IntegerOp(takes_activation=True, refusal=_refuse_elementwise),
    _ATEN.mul.Tensor: IntegerOp(takes_activation=True, refusal=_refuse_elementwise),
    _ATEN.cat.default: IntegerOp(same_parameters=True, refusal=_refuse_concatenation),
    _ATEN.matmul.default: IntegerOp(refusal=_refuse_product),
    _ATEN.mean.dim: IntegerOp(refusal=_refuse_mean),
    _ATEN.avg_pool2d.default: IntegerOp(same_parameters=True, refusal=_refuse_pool),
    _ATEN.max_pool2d.default: IntegerOp(same_parameters=True, refusal=_refuse_pool),
    _ATEN.relu.default: IntegerOp(),
    _ATEN.hardtanh.default: IntegerOp(refusal=_refuse_clamp),
    _ATEN.hardswish.default: IntegerOp(),
    _ATEN.gelu.default: IntegerOp(),
    _ATEN.sigmoid.default: IntegerOp(fixed_output=(1 / 256, -128)),
    _ATEN.softmax.int: IntegerOp(fixed_output=(1 / 256, -128), refusal=_refuse_softmax),
    _ATEN.pad.default: IntegerOp(same_parameters=True, refusal=_refuse_pad),
    _ATEN.constant_pad_nd.default: IntegerOp(same_parameters=True, refusal=_refuse_pad),
    _ATEN.reshape.default: IntegerOp(same_parameters=True, refusal=_refuse_reshape),
    _ATEN.permute.default: IntegerOp(same_parameters=True, refusal=_refuse_permute),
}


def args_of(node: Node) -> tuple[Any, ...]:
    """The arguments of a node; what each may be is for the op to say."""
    return node.args


def has_scale_for_each_channel(node: Node) -> bool:
    """Whether each output channel of the node's weight has a scale of its own."""
    over_tokens = node.target is _ATEN.linear.default and node.meta["val"].ndim > 2
    return over_tokens or INTEGER_OPS[node.target].scale_for_each_channel


def is_activation(node: Node) -> bool:
    """Whether a node is a ReLU or a ReLU6, the two that a kernel before it can take along."""
    if node.target is _ATEN.relu.default:
        return True
    return node.target is _ATEN.hardtanh.default and tuple(map(float, _numbers(node))) == (0.0, 6.0)


def _numbers(node: Node) -> tuple[Any, ...]:
    return (*node.args[1:], *(-1.0, 1.0)[len(node.args) - 1 :])


def fused_activation(node: Node) -> Node | None:
    """The activation that ``node``'s kernel takes along, where there is one."""
    rule = INTEGER_OPS.get(node.target)
    if rule is None or not rule.takes_activation or len(node.users) != 1:
        return None
    user = next(iter(node.users))
    return user if is_activation(user) else None


def activation_inputs(node: Node) -> tuple[Node, ...]:
    """The tensors that an op reads as values: not its weight, not its bias."""
    if node.target is _ATEN.cat.default:
        return tuple(dict.fromkeys(args_of(node)[0]))
    if INTEGER_OPS[node.target].weight is not None:
        return (args_of(node)[0],)
    return tuple(dict.fromkeys(arg for arg in node.args if isinstance(arg, Node)))


def is_constant(arg: object) -> bool:
    """Whether a value is a weight or number of the network, before or after it was quantized."""
    while isinstance(arg, Node) and is_dequantize(arg):
        arg = arg.args[0]
    return isinstance(arg, Node) and arg.op == "get_attr"


def is_quantize(node: Node) -> bool:
    """Whether a node takes a float tensor to int8, per tensor."""
    return str(node.target) == _QUANTIZE


def is_quantize_any(node: Node) -> bool:
    """Whether a node takes a float tensor to int8, per tensor or per channel."""
    return str(node.target) in (_QUANTIZE, _QUANTIZE_CHANNELS)


def is_dequantize(node: Node) -> bool:
    """Whether a node takes int8 back to float, per tensor or per channel."""
    return str(node.target) in _DEQUANTIZE


def parameters_of(node: Node) -> tuple[float, int]:
    """Scale and zero point of a (de)quantize node, per tensor."""
    return float(args_of(node)[1]), int(args_of(node)[2])


def weight_scales(module: GraphModule, dequantize: Node) -> Tensor:
    """Scales of a weight, float32: one for each output channel, or a single one for all."""
    scales = args_of(dequantize)[1]
    return get_constant(module, scales) if isinstance(scales, Node) else torch.tensor([scales])


def set_weight_scales(module: GraphModule, dequantize: Node, scales: Tensor) -> None:
    """Replaces the scales of a weight, as many as there are."""
    if isinstance(dequantize.args[1], Node):
        set_constant(module, dequantize.args[1], scales)
    else:
        dequantize.update_arg(1, float(scales))
        module.recompile()


def get_constant(module: GraphModule, node: Node) -> Tensor:
    """The tensor that a ``get_attr`` node of ``module`` names."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def set_constant(module: GraphModule, node: Node, value: Tensor) -> None:
    """Replaces the tensor that a ``get_attr`` node names, for this module only.

    Raises:
        AttributeError: There is no such tensor.
    """
    *path, name = str(node.target).split(".")
    owner = module.get_submodule(".".join(path))
    getattr(owner, name)
    if name in owner._parameters:
        del owner._parameters[name]
        owner.register_buffer(name, value)
    else:
        setattr(owner, name, value)


def has_bias(node: Node) -> bool:
    """Whether a node is a convolution or linear layer that adds a bias."""
    rule = INTEGER_OPS.get(node.target)
    weighted = rule is not None and rule.weight is not None
    return weighted and len(node.args) > 2 and isinstance(node.args[2], Node)


def shape_of(node: Node) -> tuple[int, ...]:
    """The static shape of a node's tensor, batch of one included."""
    return tuple(int(size) for size in node.meta["val"].shape)


def parameter_groups(module: GraphModule) -> dict[Node, Node]:
    """Every quantize node -> one that stands for all that must share its parameters."""
    parent: dict[Node, Node] = {node: node for node in module.graph.nodes if is_quantize(node)}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in list(parent):
        source: Node = args_of(node)[0]
        rule = INTEGER_OPS.get(source.target)
        if rule is None or not rule.same_parameters:
            continue
        for value in activation_inputs(source):
            if is_dequantize(value) and value.args[0] in parent:
                parent[root(args_of(value)[0])] = root(node)
    return {node: root(node) for node in parent}


@dataclass(frozen=True)
class PoolArguments:
    """A pooling node's arguments with the defaults filled in; pairs are (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool
    counts_padding: bool
    divisor: int | None


def pool_arguments(node: Node) -> PoolArguments:
    """Reads the arguments of ``max_pool2d`` or ``avg_pool2d``."""
    args = dict(enumerate(node.args))
    kernel = pair(args[1])
    stride = pair(args.get(2) or kernel)
    padding = pair(args.get(3, 0))
    if node.target is _ATEN.max_pool2d.default:
        return PoolArguments(
            kernel, stride, padding, pair(args.get(4, 1)), bool(args.get(5, False)), True, None
        )
    divisor: Any = args.get(6)
    return PoolArguments(
        kernel, stride, padding, (1, 1), bool(args.get(4, False)), bool(args.get(5, True)), divisor
    )


def pair(value: Any) -> tuple[int, int]:
    """One number for both directions, or one for each, as (height, width)."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)


def where_of(node: Node) -> str:
    """The path of the submodule that a node came from, for an error."""
    stack = node.meta.get("nn_module_stack") or {}
    path = [entry[0] for entry in stack.values() if entry[0]]
    return f"module {path[-1]!r}, node {node.name!r}" if path else f"node {node.name!r}"


_RELUS = "use ReLU, ReLU6, Hardswish, Hardsigmoid, SiLU, GELU or Sigmoid in its place"
_PARTS = "compute each part by a layer of its own"
_NORMS = "use a batch norm in its place: it becomes part of the layer before it"
_INSTEAD = {
    "adaptive_avg_pool2d": "pool to one position, or to sizes that divide the feature map's",
    "avg_pool1d": "use AvgPool2d with a kernel of (1, k) on [N, channels, 1, length]",
    "clamp": _RELUS,
    "conv1d": "use Conv2d with a kernel of (1, k) on [N, channels, 1, length]",
    "elu": _RELUS,
    "group_norm": _NORMS,
    "instance_norm": _NORMS,
    "layer_norm": _NORMS,
    "leaky_relu": _RELUS,
    "max_pool1d": "use MaxPool2d with a kernel of (1, k) on [N, channels, 1, length]",
    "mish": _RELUS,
    "prelu": _RELUS,
    "select": _PARTS,
    "slice": _PARTS,
    "softplus": _RELUS,
    "split": _PARTS,
    "split_with_sizes": _PARTS,
    "tanh": _RELUS,
}
"""What to try in place of an op that has no integer form, by the op's name."""


def check_op(node: Node) -> None:
    """Raises `QuantizationError` when an op has no integer form."""
    rule = INTEGER_OPS.get(node.target)
    reason = "edgeexit has no integer form of it" if rule is None else rule.refusal(node)
    if reason is None:
        return
    known = sorted({str(target).removeprefix("aten.").split(".")[0] for target in INTEGER_OPS})
    op = str(node.target).removeprefix("aten.").partition(".")[0]
    raise QuantizationError(
        f"the op {node.target} cannot be quantized: {reason}",
        wanted=f"one of {', '.join(known)}, attention, batch_norm, dropout, hardsigmoid, silu",
        given=node.format_node(),
        where=where_of(node),
        hint=_INSTEAD.get(op, "replace it in the network"),
    )
