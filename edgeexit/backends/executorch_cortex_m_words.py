"""Says a quantized segment in the words that ExecuTorch's Cortex-M passes know.

They expect what ExecuTorch's own quantizer makes. What differs in ours is said differently, on a
copy, without changing what is computed:

- a bias is int32 on the grid of its accumulator;
- an activation is the clamping that its int8 output does anyway, or a table of 256 bytes;
- a linear layer of several rows is a convolution over a map of them;
- a mean has another scale than its input, which no pooling of CMSIS-NN knows: it is a product with
  a row of ones, whose scale is that of the mean;
- an operand that is broadcast is written out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeexit.backends.integer_ops import (
    INT8_MAX,
    INT8_MIN,
    args_of,
    get_constant,
    has_bias,
    is_activation,
    is_constant,
    is_dequantize,
    is_quantize,
    parameters_of,
    pool_arguments,
    shape_of,
    weight_scales,
    where_of,
)
from edgeexit.errors import LoweringError

_ATEN = torch.ops.aten
_INT32 = torch.iinfo(torch.int32)
_NHWC = (0, 2, 3, 1)
_NCHW = (0, 3, 1, 2)


def in_cortex_m_words(module: GraphModule, where: str) -> GraphModule:
    """A copy that computes the same and that ExecuTorch's Cortex-M passes know how to lower.

    Args:
        module: Of a segment: int8 in and out, NCHW.
        where: Names the segment, for errors.

    Returns:
        int8 in and out, four-dimensional tensors in NHWC.

    Raises:
        LoweringError: A bias does not fit 32 bits.
    """
    words = _Words(copy.deepcopy(module), where)
    words.turn_ends()
    for node in list(words.graph.nodes):
        if is_quantize(node):
            words.rewrite(node)
    words.graph.eliminate_dead_code()
    words.graph.lint()
    words.module.recompile()
    return words.module


class _Words:
    """Rewrites one graph in place, a dequantize-op-quantize group at a time."""

    def __init__(self, module: GraphModule, where: str) -> None:
        self.module = module
        self.graph = module.graph
        self.where = where

    def rewrite(self, quantize: Node) -> None:
        """Rewrites the group that ends in ``quantize``."""
        node = cast(Node, quantize.args[0])
        if is_activation(node) and not is_dequantize(cast(Node, node.args[0])):
            self._drop_activation(node, quantize)
            node = cast(Node, quantize.args[0])
        if has_bias(node):
            self._round_bias(node)
        if is_dequantize(node):
            self._tabulate(quantize, node, lambda x: x)
        elif node.target in _TABULATED:
            function, numbers = cast(Callable[..., Tensor], node.target), node.args[1:]
            source = cast(Node, node.args[0])
            self._tabulate(quantize, source, lambda x: function(x, *numbers))
        elif node.target in _MOVES:
            self._move(quantize, node)
        elif node.target is _ATEN.mean.dim:
            self._mean_as_product(node)
        elif node.target is _ATEN.linear.default and len(shape_of(node)) > 2:
            self._rows_as_map(node)
        elif node.target is _ATEN.avg_pool2d.default and not any(pool_arguments(node).padding):
            # Counting what is not there makes the passes copy the map.
            pool = pool_arguments(node)
            node.args = (node.args[0], list(pool.kernel), list(pool.stride), [0, 0], False, False)
        elif node.target in _ELEMENTWISE:
            for operand in dict.fromkeys(args_of(node)[:2]):
                self._write_out(operand, node)

    def _constant(self, value: Tensor) -> Node:
        """A ``get_attr`` node for a new constant. The insertion point is the caller's."""
        count = sum(1 for name, _ in self.module.named_buffers() if name.startswith("_cortex_m_"))
        name = f"_cortex_m_{count}"
        self.module.register_buffer(name, value)
        node = self.graph.get_attr(name)
        node.meta["val"] = value
        return node

    def _call(self, target: Callable[..., Any], *args: Any) -> Node:
        return self.graph.call_function(target, args)

    def _drop_activation(self, activation: Node, quantize: Node) -> None:
        """The op's own int8 range clamps; where it is wider than the activation's, a table does."""
        scale, zero_point = parameters_of(quantize)
        function, numbers = cast(Callable[..., Tensor], activation.target), activation.args[1:]
        activation.replace_all_uses_with(cast(Node, activation.args[0]))
        self.graph.erase_node(activation)
        upper = math.inf if function is _ATEN.relu.default else 6.0
        if zero_point > INT8_MIN or upper / scale + zero_point < INT8_MAX:
            with self.graph.inserting_after(quantize):
                wide = self._call(
                    _ops().dequantize_per_tensor.default, quantize, *quantize.args[1:]
                )
            with self.graph.inserting_after(wide):
                clamped = self._call(_ops().quantize_per_tensor.default, wide, *quantize.args[1:])
            quantize.replace_all_uses_with(clamped, lambda user: user is not wide)
            self._tabulate(clamped, wide, lambda x: function(x, *numbers))

    def _tabulate(
        self, quantize: Node, dequantize: Node, function: Callable[[Tensor], Tensor]
    ) -> None:
        """Replaces a whole group with one table: for each int8 value, that of the group."""
        steps = torch.arange(INT8_MIN, INT8_MAX + 1).to(torch.int8)
        real = _ops().dequantize_per_tensor.default(steps, *dequantize.args[1:])
        table = _ops().quantize_per_tensor.default(function(real), *quantize.args[1:])
        with self.graph.inserting_before(quantize):
            found = self._call(
                torch.ops.cortex_m.quantized_activation.default,
                dequantize.args[0],
                self._constant(table),
            )
        quantize.replace_all_uses_with(found)

    def _move(self, quantize: Node, node: Node) -> None:
        """Replaces a whole group with the move of its int8 values."""
        source = cast(Node, node.args[0]).args[0]
        with self.graph.inserting_before(quantize):
            moved = self._call(_MOVES[node.target], source, *node.args[1:])
        quantize.replace_all_uses_with(moved)

    def _round_bias(self, node: Node) -> None:
        """The bias as int32, in steps of input scale times weight scale."""
        scales = weight_scales(self.module, cast(Node, node.args[1])).double()
        steps = scales * parameters_of(cast(Node, node.args[0]))[0]
        whole = torch.round(get_constant(self.module, cast(Node, node.args[2])).double() / steps)
        if whole.abs().max() > _INT32.max:
            raise LoweringError(
                "a bias does not fit 32 bits",
                wanted="|bias| <= 2^31 * input scale * weight scale",
                given=f"{float(whole[whole.abs().argmax()]):.0f}",
                where=f"{self.where}, {where_of(node)}",
            )
        steps = steps.float().expand(len(whole)).contiguous()
        with self.graph.inserting_before(node):
            bias = self._call(
                _ops().dequantize_per_channel.default,
                self._constant(whole.to(torch.int32)),
                self._constant(steps),
                self._constant(torch.zeros(len(whole), dtype=torch.int64)),
                0,
                _INT32.min,
                _INT32.max,
                torch.int32,
            )
        node.update_arg(2, bias)

    def _mean_as_product(self, node: Node) -> None:
        """Ones [1, 1, R] times values [1, R, K] are K sums of R; the scale of ones is 1/R."""
        source = cast(Node, node.args[0])
        shape = shape_of(source)
        reduced = sorted(dim % len(shape) for dim in args_of(node)[1])
        kept = [dim for dim in range(1, len(shape)) if dim not in reduced]
        count = math.prod(shape[dim] for dim in reduced)
        with self.graph.inserting_before(node):
            turned = self._call(_ATEN.permute_copy.default, source.args[0], [0, *reduced, *kept])
            rows = self._call(_ATEN.view_copy.default, turned, [1, count, -1])
            values = self._call(_ops().dequantize_per_tensor.default, rows, *source.args[1:])
            ones = self._call(
                _ops().dequantize_per_tensor.default,
                self._constant(torch.ones(1, 1, count, dtype=torch.int8)),
                1.0 / count,
                0,
                INT8_MIN,
                INT8_MAX,
                torch.int8,
            )
            product = self._call(_ATEN.bmm.default, ones, values)
        (quantize,) = node.users
        parameters = quantize.args[1:]
        with self.graph.inserting_before(quantize):
            means = self._call(_ops().quantize_per_tensor.default, product, *parameters)
            shaped = self._call(_ATEN.view_copy.default, means, list(shape_of(node)))
        quantize.replace_all_uses_with(shaped)

    def _rows_as_map(self, node: Node) -> None:
        """A linear layer of several rows is a convolution of one position over a map of them.

        The passes give such a layer an int32 result for a while, which a product does not take.
        """
        source, weight = cast(Node, node.args[0]), cast(Node, node.args[1])
        shape = shape_of(node)
        num_out, num_in = get_constant(self.module, cast(Node, weight.args[0])).shape
        (quantize,) = node.users
        with self.graph.inserting_before(node):
            rows = self._call(_ATEN.view_copy.default, source.args[0], [1, 1, -1, num_in])
            turned = self._call(_ATEN.permute_copy.default, rows, list(_NCHW))
            values = self._call(_ops().dequantize_per_tensor.default, turned, *source.args[1:])
            kernel = get_constant(self.module, cast(Node, weight.args[0]))
            weights = self._call(
                cast(Callable[..., Any], weight.target),
                self._constant(kernel.reshape(num_out, num_in, 1, 1)),
                *weight.args[1:],
            )
            sums = self._call(_ATEN.conv2d.default, values, weights, *node.args[2:])
        quantize.replace_input_with(node, sums)
        with self.graph.inserting_after(quantize):
            back = self._call(_ATEN.permute_copy.default, quantize, list(_NHWC))
        with self.graph.inserting_after(back):
            shaped = self._call(_ATEN.view_copy.default, back, list(shape))
        quantize.replace_all_uses_with(shaped, lambda user: user is not back)

    def _write_out(self, operand: Node, node: Node) -> None:
        """Expands an operand to the shape of the result; CMSIS-NN adds and multiplies pairs."""
        wanted, value = shape_of(node), cast(Node, operand.args[0])
        given = (
            tuple(get_constant(self.module, value).shape)
            if is_constant(operand)
            else shape_of(operand)
        )
        if given == wanted:
            return
        with self.graph.inserting_before(node):
            if is_constant(operand):
                whole = get_constant(self.module, value).expand(wanted).contiguous()
                written = self._constant(whole)
            else:
                written = self._call(_ATEN.expand_copy.default, value, list(wanted))
            node.replace_input_with(
                operand,
                self._call(_ops().dequantize_per_tensor.default, written, *operand.args[1:]),
            )

    def turn_ends(self) -> None:
        """Maps come and go in NHWC; the passes remove the moves that cancel out."""
        for node in [node for node in self.graph.nodes if node.op == "placeholder"]:
            if len(shape_of(node)) != 4:
                continue
            with self.graph.inserting_after(node):
                turned = self._call(_ATEN.permute_copy.default, node, list(_NCHW))
            node.replace_all_uses_with(turned, lambda user, turned=turned: user is not turned)
            n, c, h, w = shape_of(node)
            node.meta["val"] = torch.zeros(n, h, w, c, dtype=torch.int8)
        output = self.graph.output_node()
        with self.graph.inserting_before(output):
            gives = [
                self._call(_ATEN.permute_copy.default, value, list(_NHWC))
                if len(shape_of(value)) == 4
                else value
                for value in args_of(output)[0]
            ]
        output.args = (tuple(gives),)


_TABULATED = (_ATEN.relu.default, _ATEN.hardtanh.default, _ATEN.hardswish.default)
_MOVES: dict[object, Callable[..., Any]] = {
    _ATEN.reshape.default: _ATEN.view_copy.default,
    _ATEN.permute.default: _ATEN.permute_copy.default,
}
_ELEMENTWISE = (_ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor)


def _ops() -> Any:
    return torch.ops.quantized_decomposed
