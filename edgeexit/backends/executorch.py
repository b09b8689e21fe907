"""Lowers all segments to one ``model.pte``: a method for each, everything in XNNPACK's delegate.

Methods are called ``segment_0``, ``segment_1``, ... and ``static``. They take and return int8, so
that the (de)quantization at both ends of a segment is part of the delegate. Weights that several
methods use are stored once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from edgeexit.backends.integer_ops import args_of, shape_of
from edgeexit.backends.silence import silenced
from edgeexit.errors import LoweringError
from edgeexit.types import Artifact, Segment

_ATEN = torch.ops.aten
STATIC_METHOD = "static"


def lower(segments: Sequence[Segment], static: Segment) -> Sequence[Artifact]:
    """One file: a method for each segment, one for the static network. See `base.Backend`."""
    named: dict[str, tuple[int | None, Segment]] = {
        f"segment_{index}": (index, segment) for index, segment in enumerate(segments)
    }
    named[STATIC_METHOD] = (None, static)
    with silenced(LoweringError, "ExecuTorch could not lower the network"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        programs = {}
        for method, (_, segment) in named.items():
            module = _for_xnnpack(segment.module)
            programs[method] = torch.export.export(module, _example(module))
        edge = to_edge_transform_and_lower(
            programs,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        for method in named:
            _check_delegated(edge.exported_program(method).graph, method)
        content = bytes(edge.to_executorch().buffer)
    return (
        Artifact(
            backend="executorch",
            path="model.pte",
            content=content,
            parts=tuple((index, method) for method, (index, _) in named.items()),
            layout="NCHW",
        ),
    )


def _example(module: GraphModule) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.zeros(shape_of(node), dtype=torch.int8)
        for node in module.graph.nodes
        if node.op == "placeholder"
    )


def _for_xnnpack(module: GraphModule) -> GraphModule:
    """A copy in the words that XNNPACK's partitioner knows."""
    module = copy.deepcopy(module)
    for node in list(module.graph.nodes):
        if node.target is _ATEN.mean.dim:
            _mean_of_a_map(module.graph, node)
        elif node.target is _ATEN.matmul.default:
            _product_of_three_dimensions(module.graph, node)
    module.graph.lint()
    module.recompile()
    return module


def _mean_of_a_map(graph: Graph, node: Node) -> None:
    """A mean that the partitioner takes: over both directions of a map, which it keeps.

    A mean of tokens [N, T, C] becomes one of a map [N, C, T, 1]; a view gives the result its shape.
    All that is added moves int8 values and changes none.
    """
    source, shape = node.args[0], shape_of(node)
    assert isinstance(source, Node)
    rank = len(shape_of(source))
    dims = {dim % rank for dim in args_of(node)[1]}
    if rank == 3 and dims == {1}:
        num_tokens, num_channels = shape_of(source)[1:]
        turned = _moved(graph, node, source, _ATEN.permute.default, [0, 2, 1])
        source = _moved(
            graph, node, turned, _ATEN.view.default, [shape[0], num_channels, num_tokens, 1]
        )
        dims = {2, 3}
    if rank == 4 and len(node.args) > 2 and node.args[2]:
        return
    node.args = (source, sorted(dims), True)
    _view_result(graph, node, shape)


def _product_of_three_dimensions(graph: Graph, node: Node) -> None:
    """A product for each head of each sample, as the partitioner takes it: [N * heads, T, d].

    The delegate computes it in float32: close to the middle of two int8 values the result may round
    the other way than PyTorch's.
    """
    shape = shape_of(node)
    node.target = _ATEN.bmm.default
    if len(shape) == 3:
        return
    for position, source in enumerate(args_of(node)):
        rows, columns = shape_of(source)[2:]
        numbers = [shape[0] * shape[1], rows, columns]
        node.update_arg(position, _moved(graph, node, source, _ATEN.view.default, numbers))
    _view_result(graph, node, shape)


def _view_result(graph: Graph, node: Node, shape: tuple[int, ...]) -> None:
    """Gives the int8 result of ``node`` the shape that its readers know."""
    (quantize,) = node.users
    readers = list(quantize.users)
    with graph.inserting_after(quantize):
        opened = graph.call_function(
            _ops().dequantize_per_tensor.default, (quantize, *quantize.args[1:])
        )
    with graph.inserting_after(opened):
        view = graph.call_function(_ATEN.view.default, (opened, list(shape)))
    with graph.inserting_after(view):
        closed = graph.call_function(
            _ops().quantize_per_tensor.default, (view, *args_of(quantize)[1:])
        )
    for reader in readers:
        reader.replace_input_with(quantize, closed)


def _moved(
    graph: Graph, before: Node, opened: Node, target: Callable[..., Any], numbers: list[int]
) -> Node:
    """A dequantize node whose int8 value is that of ``opened``, moved by ``target``."""
    parameters = opened.args[1:]
    with graph.inserting_before(before):
        moved = graph.call_function(target, (opened, numbers))
        closed = graph.call_function(_ops().quantize_per_tensor.default, (moved, *parameters))
        return graph.call_function(_ops().dequantize_per_tensor.default, (closed, *parameters))


def _ops() -> Any:
    return torch.ops.quantized_decomposed


def _check_delegated(graph: Any, method: str) -> None:
    left = [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and "executorch_call_delegate" not in str(node.target)
        and "getitem" not in str(node.target)
    ]
    if left:
        raise LoweringError(
            "XNNPACK does not take an op",
            wanted="a network that its delegate runs from end to end",
            given=", ".join(sorted({_name(node) for node in left})),
            where=f"method {method!r}",
            hint="compile for the tflite backend alone, or replace the op",
        )


def _name(node: Any) -> str:
    target = node.target
    return str(target.name()) if hasattr(target, "name") and callable(target.name) else str(target)
