"""Files whose bytes may change only on purpose.

The segment below is written by hand in integers and powers of two, so that no machine rounds it
differently. When a change of the writer is meant, put the new hash here and say so in the commit.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torchao.quantization.pt2e  # noqa: F401  (registers the quantized ops)
from torch import Tensor, nn

from edgeexit.backends.tflite import lower
from edgeexit.compiler.bundle import golden_bytes
from edgeexit.types import Segment, SegmentSpec, TensorSpec

TFLITE = "ae65806adc8d438324e5ed4423891da1c66ee52f93533cdecb71469a098c7a8e"
GOLDEN = "92eba39fce5a84a9ef9584fe274f50f49257d1716ac278d36025f9fa670bbe88"


class ByHand(nn.Module):
    """int8 [1, 2, 4, 4] -> strided convolution with ReLU, mean, linear -> int8 [1, 3]."""

    def __init__(self) -> None:
        super().__init__()
        ramp = torch.arange(-36, 36).to(torch.int8)
        self.register_buffer("kernel", ramp.reshape(4, 2, 3, 3))
        self.register_buffer("kernel_scale", torch.tensor([0.5, 0.25, 0.125, 0.0625]))
        self.register_buffer("kernel_zero", torch.zeros(4, dtype=torch.int64))
        self.register_buffer("bias", torch.tensor([1.0, -2.0, 3.0, -4.0]))
        self.register_buffer("weight", torch.arange(12).to(torch.int8).reshape(3, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q = torch.ops.quantized_decomposed
        channels = (0, -127, 127, torch.int8)
        x = q.dequantize_per_tensor(x, 0.0078125, 0, -128, 127, torch.int8)
        kernel = q.dequantize_per_channel(
            self.kernel, self.kernel_scale, self.kernel_zero, *channels
        )
        x = torch.ops.aten.relu(torch.ops.aten.conv2d(x, kernel, self.bias, [2, 2], [1, 1]))
        x = q.quantize_per_tensor(x, 0.25, -128, -128, 127, torch.int8)
        x = q.dequantize_per_tensor(x, 0.25, -128, -128, 127, torch.int8)
        x = q.quantize_per_tensor(
            torch.ops.aten.mean(x, [2, 3]), 0.125, -128, -128, 127, torch.int8
        )
        x = q.dequantize_per_tensor(x, 0.125, -128, -128, 127, torch.int8)
        weight = q.dequantize_per_tensor(self.weight, 0.5, 0, -127, 127, torch.int8)
        x = torch.ops.aten.linear(x, weight)
        return (q.quantize_per_tensor(x, 0.5, 3, -128, 127, torch.int8),)


def by_hand() -> Segment:
    image = torch.zeros(1, 2, 4, 4, dtype=torch.int8)
    module = torch.export.export(ByHand(), (image,)).module(check_guards=False)
    return Segment(
        SegmentSpec(
            index=0,
            exit_name="final",
            inputs=(TensorSpec("input", (1, 4, 4, 2), 0.0078125, 0, "NHWC"),),
            outputs=(),
            logits=TensorSpec("logits_0", (1, 3), 0.5, 3),
            macs=0,
            num_parameters=0,
        ),
        module,  # type: ignore[arg-type]
    )


def test_a_tflite_file() -> None:
    (_, static) = lower((by_hand(),), by_hand())
    assert hashlib.sha256(static.content).hexdigest() == TFLITE


def test_golden_vectors() -> None:
    arrays = {"inputs": np.arange(24, dtype=np.int8).reshape(2, 2, 2, 3), "labels": np.arange(2)}
    assert hashlib.sha256(golden_bytes(arrays)).hexdigest() == GOLDEN
