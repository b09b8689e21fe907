"""What a graph costs, counted from its shapes."""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from edgeexit.backends.integer_ops import shape_of

_ATEN = torch.ops.aten
_WEIGHTED = (_ATEN.conv2d.default, _ATEN.linear.default)


def macs_of(module: GraphModule) -> int:
    """Multiply-accumulates of one sample: convolutions, linear layers and matrix products.

    Additions, pooling and activations count nothing, as is customary. A convolution's border counts
    like its middle.
    """
    total = 0
    for node in module.graph.nodes:
        if node.target in _WEIGHTED:
            # All weights that one output channel reads, for every output value.
            total += _size(node) * math.prod(_shape(node.args[1])[1:])
        elif node.target in (_ATEN.matmul.default, _ATEN.bmm.default, _ATEN.mm.default):
            total += _size(node) * _shape(node.args[0])[-1]
    return total


def num_parameters_of(module: GraphModule) -> int:
    """Weights and biases of convolutions and linear layers; one that is used twice counts once."""
    counted: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.target in _WEIGHTED:
            for argument in node.args[1:3]:
                while isinstance(argument, Node) and argument.op != "get_attr":
                    argument = argument.args[0]  # through the dequantization
                if isinstance(argument, Node):
                    counted[str(argument.target)] = math.prod(_shape(argument))
    return sum(counted.values())


def _shape(node: object) -> tuple[int, ...]:
    assert isinstance(node, Node)
    return shape_of(node)


def _size(node: Node) -> int:
    return math.prod(shape_of(node))
