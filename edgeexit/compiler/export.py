"""Pass 1: captures a multi-exit network as one static ATen graph.

The graph keeps its batch of one, but nothing in it may depend on that number, so that later passes
can run many samples at once. Control flow that depends on data has no place in it: exits are
decided outside of the graph.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.fx.graph import CodeGen

from edgeexit.backends.silence import silenced
from edgeexit.errors import ExportError
from edgeexit.nn.model import MultiExitModel
from edgeexit.types import ExportedGraph


def export(model: MultiExitModel, input_shape: tuple[int, int, int]) -> ExportedGraph:
    """Captures ``model`` in evaluation mode; the model itself is left as it is.

    Args:
        model: Maps float32 ``[N, channels, height, width]`` to one logits tensor per exit.
        input_shape: ``(channels, height, width)``.

    Returns:
        A functional graph (no in-place op) with one output for each exit.

    Raises:
        ExportError: The forward pass is not one static graph, does not accept the shape, or does
            not return logits ``[N, num_classes]`` for each exit.
    """
    frozen = copy.deepcopy(model).eval().cpu().requires_grad_(False)
    # Training leaves kernels in channels-last memory, which ExecuTorch takes for another layout.
    frozen = frozen.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros(1, *input_shape)
    with silenced(ExportError, "the network could not be captured as one graph"):
        try:
            program = torch.export.export(frozen, (example,))
            # An empty table of decompositions only makes every op functional.
            unlifted = program.run_decompositions({}).module(check_guards=False)
        except GuardOnDataDependentSymNode as exc:
            raise ExportError(
                "the network's control flow depends on data",
                wanted="a forward pass that does the same for every input",
                given=_first_line(exc),
                hint="compute with tensors instead of branching on them; edgeexit decides exits "
                "outside of the network",
            ) from exc
    assert isinstance(unlifted, GraphModule)
    # A plain module over the same graph: the exported one refuses any batch but the example's.
    unlifted.graph.set_codegen(CodeGen())
    module = GraphModule(unlifted, unlifted.graph)
    _check_outputs(module, model)
    return ExportedGraph(module, (1, *input_shape), model.exit_names, model.num_classes)


def _first_line(exc: Exception) -> str:
    return str(exc).strip().split("\n", 1)[0]


def _check_outputs(module: GraphModule, model: MultiExitModel) -> None:
    branches = [
        n for n in module.graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)
    ]
    if branches:
        raise ExportError(
            "the network has a control-flow op",
            wanted="a forward pass without torch.cond, while_loop or map",
            given=branches[0].target,
            where=branches[0].name,
            hint="no integer engine runs it; compute both sides, or leave the decision to an exit",
        )
    outputs = module.graph.output_node().args[0]
    if not isinstance(outputs, tuple) or len(outputs) != len(model.exit_names):
        raise ExportError(
            "the network does not return one tensor per exit",
            wanted=f"{len(model.exit_names)} tensors for the exits {model.exit_names}",
            given=outputs,
        )
    for name, node in zip(model.exit_names, outputs, strict=True):
        value = getattr(node, "meta", {}).get("val")
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if shape != (1, model.num_classes):
            raise ExportError(
                "an exit does not return logits",
                wanted=f"shape {(1, model.num_classes)}",
                given=f"shape {shape}",
                where=f"exit {name!r}",
            )
        if not _sees_input(node):
            raise ExportError(
                "an exit does not depend on the input",
                wanted="logits that are computed from the image",
                where=f"exit {name!r}",
                hint="attach the exit to a submodule that processes the image",
            )


def _sees_input(output: Node) -> bool:
    seen: set[Node] = set()
    todo = [output]
    while todo:
        node = todo.pop()
        if node.op == "placeholder":
            return True
        if node not in seen:
            seen.add(node)
            todo += node.all_input_nodes
    return False
