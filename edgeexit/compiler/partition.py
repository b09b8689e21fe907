"""Pass 4: cuts the quantized graph at its exits.

Segment k is what exit k needs and no earlier exit computed, found by walking back from the logits.
The graph is cut between a quantize node and the dequantize nodes that read it, so what crosses is
int8 with parameters that both sides share, and the chain of segments computes what the uncut graph
does, to the bit. A tensor may be read by any later segment, not only by the next; earlier logits
may too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch.fx import Graph, GraphModule, Node

from edgeexit.backends.integer_ops import is_dequantize, is_quantize, parameters_of, shape_of
from edgeexit.compiler.cost import macs_of, num_parameters_of
from edgeexit.errors import PartitionError
from edgeexit.types import Layout, QuantizedGraph, Segment, SegmentSpec, TensorSpec


def partition(graph: QuantizedGraph) -> tuple[tuple[Segment, ...], Segment]:
    """Cuts ``graph`` at its exits.

    Returns:
        ``(segments, static)``: one segment for each exit, in order, and the static network, which
        is the backbone with its last exit as one piece: it takes the model's input and gives
        logits only.

    Raises:
        PartitionError: An exit does not depend on the input, or an earlier exit already computed
            everything that it needs.
    """
    nodes = list(graph.module.graph.nodes)
    model_input = _quantized_input(nodes)
    logits = _quantized_logits(graph)
    names = _names(nodes, model_input, logits)
    done: set[Node] = {model_input, *model_input.all_input_nodes}
    parts: list[set[Node]] = []
    for exit_name, value in zip(graph.exit_names, logits, strict=True):
        needed = _needed_for(value)
        own = {node for node in needed - done if node.op == "call_function"}
        if model_input not in needed:
            raise PartitionError(
                "an exit does not depend on the input",
                wanted="logits that are computed from the image",
                where=f"exit {exit_name!r}",
                hint="attach the exit to a submodule that processes the image",
            )
        if value not in own:
            raise PartitionError(
                "an exit computes nothing of its own",
                wanted="an exit that comes after those before it",
                where=f"exit {exit_name!r}",
                hint="name the exits in the order in which the network reaches them",
            )
        parts.append(own)
        done |= own
    segments = []
    for index, own in enumerate(parts):
        later = set().union(*parts[index + 1 :])
        outputs = [
            node
            for node in nodes
            if node in own
            and is_quantize(node)
            and node is not logits[index]
            and any(user in later for user in node.users)
        ]
        segments.append(_segment(graph, index, own, outputs, logits[index], names, nodes))
    last = len(logits) - 1
    whole = {n for n in _needed_for(logits[last]) if n.op == "call_function"} - {model_input}
    return tuple(segments), _segment(graph, last, whole, [], logits[last], names, nodes)


def _quantized_input(nodes: Sequence[Node]) -> Node:
    readers = [user for node in nodes if node.op == "placeholder" for user in node.users]
    if len(readers) != 1 or not is_quantize(readers[0]):
        raise PartitionError(
            "the input is not quantized exactly once",
            wanted="one quantize node after the input",
            given=readers,
        )
    return readers[0]


def _quantized_logits(graph: QuantizedGraph) -> list[Node]:
    found = []
    outputs = graph.module.graph.output_node().args[0]
    for exit_name, output in zip(graph.exit_names, outputs, strict=True):  # type: ignore[arg-type]
        if not isinstance(output, Node) or not is_dequantize(output):
            raise PartitionError(
                "an exit's logits are not int8",
                wanted="a dequantize node",
                given=output,
                where=f"exit {exit_name!r}",
            )
        found.append(output.all_input_nodes[0])
    return found


def _names(nodes: Iterable[Node], model_input: Node, logits: Sequence[Node]) -> dict[Node, str]:
    """A name for every quantized value: that of the op whose result it holds."""
    names = {node: f"logits_{index}" for index, node in enumerate(logits)}
    names[model_input] = "input"
    taken = set(names.values())
    for node in nodes:
        if is_quantize(node) and node not in names:
            stem = name = node.all_input_nodes[0].name
            number = 1
            while name in taken:
                number += 1
                name = f"{stem}.{number}"
            names[node] = name
            taken.add(name)
    return names


def _needed_for(value: Node) -> set[Node]:
    needed: set[Node] = set()
    todo = [value]
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo += node.all_input_nodes
    return needed


def _segment(
    graph: QuantizedGraph,
    index: int,
    own: set[Node],
    outputs: Sequence[Node],
    logits: Node,
    names: dict[Node, str],
    nodes: Sequence[Node],
) -> Segment:
    # In the order of the ops that made them; that of their readers differs from run to run.
    used = {source for node in own for source in node.all_input_nodes}
    inputs = [node for node in nodes if node in used - own and node.op != "get_attr"]
    piece = Graph()
    copies: dict[Node, Node] = {}
    for source in inputs:
        if not is_quantize(source):
            raise PartitionError(
                "a value that is not int8 crosses a cut",
                wanted="a quantize node",
                given=source.format_node(),
                where=f"segment {index}",
            )
        # A placeholder's name ends up in Python code, so it may not have a dot.
        copies[source] = piece.placeholder(names[source].replace(".", "_"))
        copies[source].meta = dict(source.meta)
    for node in nodes:
        if node in own:
            for source in node.all_input_nodes:
                if source.op == "get_attr" and source not in copies:
                    copies[source] = piece.node_copy(source)
            copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(tuple(copies[node] for node in (*outputs, logits)))
    piece.lint()
    module = GraphModule(graph.module, piece, class_name="Segment")
    spec = SegmentSpec(
        index=index,
        exit_name=graph.exit_names[index],
        inputs=tuple(_tensor(node, names[node]) for node in inputs),
        outputs=tuple(_tensor(node, names[node]) for node in outputs),
        logits=_tensor(logits, names[logits]),
        macs=macs_of(module),
        num_parameters=num_parameters_of(module),
    )
    return Segment(spec, module)


def _tensor(node: Node, name: str) -> TensorSpec:
    shape = shape_of(node)
    scale, zero_point = parameters_of(node)
    layout: Layout = "ND"
    if len(shape) == 4:
        batch, channels, height, width = shape
        shape, layout = (batch, height, width, channels), "NHWC"
    return TensorSpec(name, shape, scale, zero_point, layout)
