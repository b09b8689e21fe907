"""Lowers all segments to one ``model.pte`` of CMSIS-NN calls, for a Cortex-M core.

ExecuTorch's Cortex-M passes turn quantized ATen ops into ``cortex_m`` ops, which its own library
for microcontrollers runs on CMSIS-NN. Methods are called ``segment_0``, ``segment_1``, ... and
``static``; they take and return int8, four-dimensional tensors in NHWC, so that nothing is
transposed at their ends. Scratch memory and the form of a linear layer depend on the instruction
set, so a file is for one core.

The passes expect what ExecuTorch's own quantizer makes; `executorch_cortex_m_words` says ours
in their words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.executorch_cortex_m_words import in_cortex_m_words
from edgeexit.backends.integer_ops import args_of, shape_of
from edgeexit.backends.silence import silenced
from edgeexit.errors import LoweringError
from edgeexit.types import Artifact, Segment

STATIC_METHOD = "static"

PORTABLE_OPS = ("aten::cat", "aten::expand_copy", "aten::view_copy")
"""What stays with ExecuTorch's portable kernels: ops that move int8 values and change none."""


@dataclass(frozen=True)
class CortexMBackend:
    """The backend for one core. See `base.Backend`."""

    core: Core

    def lower(self, segments: Sequence[Segment], static: Segment) -> Sequence[Artifact]:
        """One file: a method for each segment, one for the static network."""
        named: dict[str, tuple[int | None, Segment]] = {
            f"segment_{index}": (index, segment) for index, segment in enumerate(segments)
        }
        named[STATIC_METHOD] = (None, static)
        _check_installed()
        with silenced(LoweringError, "ExecuTorch could not lower the network"):
            content = _program(
                {method: segment.module for method, (_, segment) in named.items()}, self.core
            )
        return (
            Artifact(
                backend="executorch",
                path="model.pte",
                content=content,
                parts=tuple((index, method) for method, (index, _) in named.items()),
                layout="NHWC",
            ),
        )


def for_core(core: Core) -> CortexMBackend:
    """The backend that makes files for ``core``."""
    return CortexMBackend(core)


def _check_installed() -> None:
    try:
        with silenced(LoweringError, "ExecuTorch's Cortex-M passes cannot be imported"):
            import executorch.backends.cortex_m.passes  # noqa: F401
    except LoweringError as exc:
        missing = exc.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            raise
        raise LoweringError(
            "a package of ExecuTorch's Cortex-M passes is missing",
            wanted="executorch 1.5.1 and tosa-tools, which its passes for Arm import",
            given=missing,
            hint="pip install 'edgeexit[cortex-m]'",
        ) from missing


def _program(modules: dict[str, GraphModule], core: Core) -> bytes:
    from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
    from executorch.exir import to_edge

    programs = {}
    for method, module in modules.items():
        ready = in_cortex_m_words(module, method)
        example = tuple(
            torch.zeros(shape_of(node), dtype=torch.int8)
            for node in ready.graph.nodes
            if node.op == "placeholder"
        )
        programs[method] = torch.export.export(ready, example)
    edge = to_edge(programs, compile_config=cortex_m_edge_compile_config())
    for method in modules:
        program = edge.exported_program(method)
        _drop_clones(program.graph)
        _mark_quantized(program.graph)
        program = _passes(program, core)
        _drop_unread_constants(program)
        _check_lowered(program.graph, method)
        edge._edge_programs[method] = program
    return bytes(edge.to_executorch().buffer)


def _passes(program: Any, core: Core) -> Any:
    """ExecuTorch's own passes, in the order in which NHWC is a tensor's shape and not its strides.

    They leave a move between NCHW and NHWC that is undone later where another op reads between the
    two, or where a table lies between: `_settle_moves` does not.
    """
    from executorch.backends.cortex_m.library import cmsis_nn
    from executorch.backends.cortex_m.passes import CortexMPassManager
    from executorch.backends.cortex_m.passes.explicit_layout_pass import (
        CortexMCanonicalizeViewCopyPermutePass,
    )
    from executorch.backends.cortex_m.target_config import CortexMTargetConfig
    from executorch.exir.pass_base import PassResult

    class SettleMoves(CortexMCanonicalizeViewCopyPermutePass):  # type: ignore[misc]
        def call(self, graph_module: GraphModule) -> Any:
            module = super().call(graph_module).graph_module
            _settle_moves(module.graph)
            module.recompile()
            return PassResult(module, True)

    isa = cmsis_nn.Backend.SCALAR
    if core.dsp:
        isa = cmsis_nn.Backend.DSP
    if core.mve:
        isa = cmsis_nn.Backend.MVE
    cpu = CortexMTargetConfig.from_target_string(core.name).cpu
    passes = [
        SettleMoves if each is CortexMCanonicalizeViewCopyPermutePass else each
        for each in CortexMPassManager.explicit_layout_pass_list
    ]
    return CortexMPassManager(program, passes, CortexMTargetConfig(cpu, isa)).transform()


def _settle_moves(graph: Graph) -> None:
    """Makes one move of two in a row, or none where they cancel out; tables come before moves."""
    for node in list(graph.nodes):
        before = node.args[0] if node.args else None
        if not isinstance(before, Node) or not _is_move(before):
            continue
        source = cast(Node, before.args[0])
        if "quantized_activation" in str(node.target):
            with graph.inserting_after(node):
                moved = graph.call_function(cast(Any, before.target), (node, before.args[1]))
            node.replace_all_uses_with(moved, lambda user, moved=moved: user is not moved)
            node.replace_input_with(before, source)
            moved.meta, node.meta = node.meta, {**node.meta, "val": source.meta["val"]}
        elif _is_move(node):
            first, second = args_of(before)[1], args_of(node)[1]
            order = [first[dim] for dim in second]
            if order == list(range(len(order))):
                node.replace_all_uses_with(source)
            else:
                node.args = (source, order)
    graph.eliminate_dead_code()


def _is_move(node: Node) -> bool:
    return "permute_copy" in str(node.target)


def _drop_clones(graph: Graph) -> None:
    """A copy that changes neither layout nor type is left of an expanded operand."""
    for node in list(graph.nodes):
        if "_clone_dim_order" in str(node.target):
            node.replace_all_uses_with(cast(Node, node.args[0]))
            graph.erase_node(node)


def _mark_quantized(graph: Graph) -> None:
    """Marks every op between dequantize and quantize nodes, as ExecuTorch's quantizer would."""
    from executorch.backends.arm.common.annotation_meta import ArmAnnotationInfo

    for node in graph.nodes:
        if node.op != "call_function" or "quantize_per" in str(node.target):
            continue
        if any("dequantize_per" in str(source.target) for source in node.all_input_nodes):
            custom = node.meta.setdefault("custom", {})
            custom[ArmAnnotationInfo.CUSTOM_META_KEY] = dict(ArmAnnotationInfo(quantized=True))


def _drop_unread_constants(program: Any) -> None:
    """What the passes have replaced, as weights in PyTorch's order, would stay in the file."""
    from torch.export.graph_signature import InputKind

    specs = program.graph_signature.input_specs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in list(specs):
        node = nodes[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT or node.users:
            continue
        specs.remove(spec)
        program.graph.erase_node(node)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
    program.graph_module.recompile()


def _check_lowered(graph: Any, method: str) -> None:
    left = {
        _name(node)
        for node in graph.nodes
        if node.op == "call_function"
        and not _name(node).startswith("cortex_m::")
        and _name(node) not in PORTABLE_OPS
        and "alloc" not in str(node.target)
    } | {
        f"{_name(node)} in {value.dtype}"
        for node in graph.nodes
        if node.op == "call_function"
        and isinstance(value := node.meta.get("val"), Tensor)
        and value.dtype not in (torch.int8, torch.uint8)
    }
    if left:
        raise LoweringError(
            "ExecuTorch has no Cortex-M kernel for an op",
            wanted="a network of cortex_m ops",
            given=", ".join(sorted(left)),
            where=f"method {method!r}",
            hint="compile for the tflite backend, or replace the op",
        )


def _name(node: Any) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name) if schema is not None else str(node.target)
