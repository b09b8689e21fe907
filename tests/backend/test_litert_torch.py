"""Our ``.tflite`` files against those that litert-torch makes of the same quantized graph.

litert-torch takes float inputs and float weights with quantize nodes behind them, so the static
network is wrapped and its weights are unfolded for it. Both files then run in LiteRT and have to
give the same logits to the bit; in XNNPACK, where a linear layer as a convolution (ours) rounds
like a FULLY_CONNECTED (theirs).
"""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgeexit import data
from edgeexit.backends.integer_ops import is_constant, is_dequantize, weight_scales
from edgeexit.backends.silence import silenced
from edgeexit.backends.tflite import lower
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.errors import LoweringError
from edgeexit.nn import zoo
from edgeexit.types import Segment

Q = torch.ops.quantized_decomposed


class FloatEnds(nn.Module):
    """NHWC float in, float logits out, int8 between."""

    def __init__(self, piece: Segment) -> None:
        super().__init__()
        self.inner = with_float_weights(piece.module)
        (self.takes,), self.gives = piece.spec.inputs, piece.spec.logits

    def forward(self, x: Tensor) -> Tensor:
        takes, gives = self.takes, self.gives
        steps = Q.quantize_per_tensor.default(
            x.permute(0, 3, 1, 2), takes.scale, takes.zero_point, -128, 127, torch.int8
        )
        return Q.dequantize_per_tensor.default(
            self.inner(steps)[-1], gives.scale, gives.zero_point, -128, 127, torch.int8
        )


def with_float_weights(module: GraphModule) -> GraphModule:
    module = copy.deepcopy(module)
    quantize = {
        Q.dequantize_per_channel.default: Q.quantize_per_channel.default,
        Q.dequantize_per_tensor.default: Q.quantize_per_tensor.default,
    }
    for node in list(module.graph.nodes):
        if not (is_dequantize(node) and is_constant(node)):
            continue
        weight, *parameters = node.args
        steps = getattr(module, weight.target)
        scales = weight_scales(module, node).reshape(-1, *[1] * (steps.ndim - 1))
        module.register_buffer(f"{weight.target}_real", steps.float() * scales)
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(f"{weight.target}_real")
            quantized = module.graph.call_function(quantize[node.target], (constant, *parameters))
        node.replace_input_with(weight, quantized)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def converted(piece: Segment) -> bytes:
    with silenced(LoweringError, "litert-torch failed"):
        import litert_torch
        from litert_torch.quantize.pt2e_quantizer import (
            PT2EQuantizer,
            get_symmetric_quantization_config,
        )
        from litert_torch.quantize.quant_config import QuantConfig

        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
        model = litert_torch.convert(
            FloatEnds(piece).eval(),
            (torch.zeros(piece.spec.inputs[0].shape),),
            quant_config=QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(config)),
        )
        content: bytes = model.model_content()
    return content


def logits(interpreter: Interpreter, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    interpreter.allocate_tensors()
    (takes,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert takes["dtype"] is gives["dtype"] is np.int8
    rows = []
    for row in inputs:
        interpreter.set_tensor(takes["index"], row[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(gives["index"])[0])
    return np.array(rows)


def test_the_shipped_resnet8_gives_the_same_logits_with_fewer_ops() -> None:
    splits = data.load("cifar10")
    exported = canonicalize(export(zoo.create("resnet8", pretrained="cifar10"), (3, 32, 32)))
    quantized = quantize(
        exported, splits.calibration, splits.preprocessing, num_range_samples=64,
        num_compared_samples=64,
    )  # fmt: skip
    segments, static = partition(quantized)
    (ours,) = [a for a in lower(segments, static) if a.parts[0][0] is None]
    inputs = (splits.calibration.images[:50].astype(np.int16) - 128).astype(np.int8)
    files = [Interpreter(model_content=each) for each in (ours.content, converted(static))]
    own, theirs = (logits(file, inputs) for file in files)
    assert len(np.unique(own.argmax(axis=1))) > 5  # the inputs make a difference
    np.testing.assert_array_equal(own, theirs)
    own_ops, their_ops = (
        Counter(op["op_name"] for op in file._get_ops_details()) for file in files
    )
    linear = Counter(CONV_2D=1, RESHAPE=1)
    assert own_ops - linear + Counter(FULLY_CONNECTED=1) <= their_ops
    assert "TRANSPOSE" not in own_ops
