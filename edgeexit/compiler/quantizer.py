"""Marks every value of a graph that must become int8: a torchao ``Quantizer`` for NNCF."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from edgeexit.backends.integer_ops import (
    INT8_MAX,
    INT8_MIN,
    INTEGER_OPS,
    activation_inputs,
    check_op,
    fused_activation,
    has_scale_for_each_channel,
)

_VALUE = QuantizationSpec(
    torch.int8,
    MinMaxObserver,
    quant_min=INT8_MIN,
    quant_max=INT8_MAX,
    qscheme=torch.per_tensor_affine,
    is_dynamic=False,
)
# Narrow and symmetric, as TFLite's kernels and XNNPACK demand of weights.
_CHANNEL_WEIGHT = QuantizationSpec(
    torch.int8,
    PerChannelMinMaxObserver,
    quant_min=-INT8_MAX,
    quant_max=INT8_MAX,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    is_dynamic=False,
)
_TENSOR_WEIGHT = QuantizationSpec(
    torch.int8,
    MinMaxObserver,
    quant_min=-INT8_MAX,
    quant_max=INT8_MAX,
    qscheme=torch.per_tensor_symmetric,
    is_dynamic=False,
)


class IntegerQuantizer(Quantizer):  # type: ignore[misc]
    """Annotates all inputs and outputs of all ops, logits included; nothing stays float.

    So every edge of the graph is int8, and the graph may be cut at any of them.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        """Adds ``quantization_annotation`` to each node.

        Raises:
            QuantizationError: An op has no integer form; the error names its module.
        """
        taken: set[Node] = set()
        for node in model.graph.nodes:
            if node.op != "call_function" or node in taken:
                continue
            check_op(node)
            rule = INTEGER_OPS[node.target]
            inputs = activation_inputs(node)
            specs: dict[Node, object] = {inputs[0]: _VALUE}
            shared = SharedQuantizationSpec((inputs[0], node))
            for other in inputs[1:]:
                specs[other] = shared if rule.same_parameters else _VALUE
            if rule.weight is not None:
                specs[node.args[rule.weight]] = (
                    _CHANNEL_WEIGHT if has_scale_for_each_channel(node) else _TENSOR_WEIGHT
                )
            activation = fused_activation(node)
            if activation is not None:
                taken.add(activation)
                _mark(node, specs, None)
                _mark(activation, {}, _VALUE)
            else:
                _mark(node, specs, shared if rule.same_parameters else _VALUE)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to do: `annotate` leaves no op out."""


def _mark(node: Node, inputs: dict[Node, object], output: object) -> None:
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )
