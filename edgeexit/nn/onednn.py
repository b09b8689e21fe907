"""Keeps networks away from a convolution of oneDNN that damages memory.

In torch 2.13 on processors without AVX-512, the backward pass of a 1 x 1 convolution with a stride,
fewer than 8 input channels and channels-last memory writes outside its buffers, and the process
aborts a little later. Gradients of such a network are computed without oneDNN, slower and sound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import nn

FEWEST_CHANNELS = 8

Convolution: TypeAlias = tuple[Sequence[int], Sequence[int]]
"""Shape of the weight, ``[outputs, inputs / groups, height, width]``, and stride."""


@contextlib.contextmanager
def sound_convolutions(convolutions: Iterable[Convolution], device: torch.device) -> Iterator[None]:
    """Around everything that computes gradients of a network.

    Args:
        convolutions: Of the network.
        device: Where it is.
    """
    if device.type != "cpu" or not any(_is_damaging(*each) for each in convolutions):
        yield
        return
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def convolutions_of(model: nn.Module) -> list[Convolution]:
    """The convolutions over images that are submodules of a network."""
    return [(m.weight.shape, m.stride) for m in model.modules() if isinstance(m, nn.Conv2d)]


def _is_damaging(weight: Sequence[int], stride: Sequence[int]) -> bool:
    return max(weight[2:]) == 1 and max(stride) > 1 and weight[1] < FEWEST_CHANNELS
