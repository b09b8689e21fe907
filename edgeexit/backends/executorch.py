"""Lowers all segments to one ``model.pte``: a method for each, everything in XNNPACK's delegate.

Methods are called ``segment_0``, ``segment_1``, ... and ``static``. They take and return int8, so that the
(de)quantization at both ends of a segment is part of the delegate. Weights that several methods use are
stored once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeexit.backends.integer_ops import (
    is_dequantize,
    is_quantize,
    parameters_of,
    shape_of,
)
from edgeexit.backends.silence import silenced
from edgeexit.errors import LoweringError
from edgeexit.types import Artifact, Segment

_ATEN = torch.ops.aten
STATIC_METHOD = "static"


def lower(segments: Sequence[Segment], static: Segment) -> Sequence[Artifact]:
    """One file with a method for each segment and one for the static network. See `base.Backend`."""
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
            _keep_mean_dims(module, node)
    module.graph.lint()
    module.recompile()
    return module


def _keep_mean_dims(module: GraphModule, node: Node) -> None:
    """The partitioner takes a mean only if it keeps its dimensions; a view drops them after it."""
    if len(node.args) > 2 and node.args[2]:
        return
    (quantize,) = node.users
    shape = shape_of(node)
    node.args = (*node.args[:2], True)
    graph = module.graph
    parameters = quantize.args[1:]
    with graph.inserting_after(quantize):
        ops = torch.ops.quantized_decomposed
        opened = graph.call_function(
            ops.dequantize_per_tensor.default, (quantize, *parameters)
        )
    with graph.inserting_after(opened):
        view = graph.call_function(_ATEN.view.default, (opened, list(shape)))
    with graph.inserting_after(view):
        closed = graph.call_function(ops.quantize_per_tensor.default, (view, *parameters))
    quantize.replace_all_uses_with(closed, delete_user_cb=lambda user: user is not opened)


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
            given=", ".join(sorted({str(node.target) for node in left})),
            where=f"method {method!r}",
            hint="compile for the tflite backend alone, or replace the op",
        )
