"""Keeps networks away from a convolution of oneDNN that damages memory.

In torch 2.13 on processors without AVX-512, the backward pass of a 1 x 1 convolution with a stride,
fewer than 8 input channels and channels-last memory writes outside its buffers, and the process
aborts a little later. Such a network trains without oneDNN, slower and sound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

FEWEST_CHANNELS = 8


@contextlib.contextmanager
def sound_convolutions(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Around everything that computes with a model."""
    if device.type != "cpu" or not any(map(_is_damaging, model.modules())):
        yield
        return
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def _is_damaging(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and max(module.kernel_size) == 1
        and max(module.stride) > 1
        and module.in_channels // module.groups < FEWEST_CHANNELS
    )
