"""What a step of each phase computes, in multiply-accumulates.

The backward pass of a layer is two products of the forward pass's size, one for its input and one
for its weights; a frozen backbone only runs forward. The first layer's unneeded input gradient is
counted too, which is less than 1 % on the networks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgeexit.nn.model import MultiExitModel
from edgeexit.training.strategies import PhaseName

FORWARD_AND_BACKWARD = 3


def macs_per_sample(model: MultiExitModel, image: Tensor) -> dict[PhaseName, int]:
    """Multiply-accumulates of one sample in a step of each phase.

    Args:
        model: Its modes and weights stay as they are.
        image: One input, ``[1, channels, height, width]``, float32 on the model's device.
    """
    backbone = _forward_macs(model, model.backbone, image)
    heads = _forward_macs(model, model, image) - backbone
    return {
        "backbone": FORWARD_AND_BACKWARD * backbone,
        "everything": FORWARD_AND_BACKWARD * (backbone + heads),
        "heads": backbone + FORWARD_AND_BACKWARD * heads,
    }


def _forward_macs(model: MultiExitModel, part: nn.Module, image: Tensor) -> int:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    counter = _Counter()
    with torch.no_grad(), _attention_in_parts(), counter:
        part(image)
    for module, training in modes:
        module.training = training
    return counter.flops // 2


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Attention as products and softmax: its fused forms have no formula on every device."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """torch's formulas for each op, in this thread alone: `FlopCounterMode` hooks all modules."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out
