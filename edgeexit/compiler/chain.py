"""Runs a chain of segments in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgeexit.types import Segment


def run_chain(segments: Sequence[Segment], inputs: Tensor) -> dict[str, Tensor]:
    """Every tensor that crosses a cut, and all logits, by name.

    Args:
        segments: The chain.
        inputs: int8 [N, C, H, W].
    """
    values = {segments[0].spec.inputs[0].name: inputs}
    for segment in segments:
        spec = segment.spec
        results = segment.module(*(values[tensor.name] for tensor in spec.inputs))
        names = [tensor.name for tensor in (*spec.outputs, spec.logits)]
        values.update(zip(names, results, strict=True))
    return values
