"""Heads: what turns a feature map into logits at an early exit.

A head is described first, as plain data, and built once the shape of its feature map is known. All
of them end in one linear layer, over the mean of all positions or over the positions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from edgeexit.errors import ModelError


class Head(Protocol):
    """A description that can build its module."""

    def build(self, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """A module from ``feature_shape`` (batch first) to logits ``[N, num_classes]``."""
        ...


class GlobalMean(nn.Module):
    """Mean over all positions: ``[N, C, H, W]`` -> ``[N, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Averages over height and width."""
        return x.mean((2, 3))


class TokenMean(nn.Module):
    """Mean over all tokens: ``[N, T, C]`` -> ``[N, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Averages over the tokens."""
        return x.mean(1)


def _pool(feature_shape: tuple[int, ...], head: Head) -> tuple[nn.Module, int]:
    if len(feature_shape) == 4:
        return GlobalMean(), feature_shape[1]
    if len(feature_shape) == 3:
        return TokenMean(), feature_shape[2]
    if len(feature_shape) == 2:
        return nn.Identity(), feature_shape[1]
    raise ModelError(
        "a head cannot pool this feature",
        wanted="[N, C, H, W], [N, tokens, C] or [N, C]",
        given=f"shape {feature_shape}",
        where=repr(head),
    )


@dataclass(frozen=True)
class Pooled:
    """Mean over positions, then one linear layer: the cheapest head."""

    def build(self, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `Head.build`."""
        pool, channels = _pool(feature_shape, self)
        return nn.Sequential(pool, nn.Linear(channels, num_classes))


@dataclass(frozen=True)
class Convolutional:
    """Strided 3 x 3 convolutions, each with batch norm and ReLU, then as `Pooled`.

    The first stride shrinks the map before any convolution's cost is paid: with a stride of 4 the
    head computes one position in sixteen. Each convolution after the first halves the map again,
    which costs little and widens what a position sees; an exit after few layers needs that most.

    Args:
        channels: Output channels of each convolution.
        stride: Stride of the first one, in both directions.
    """

    channels: tuple[int, ...] = (32,)
    stride: int = 4

    def build(self, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `Head.build`."""
        if len(feature_shape) != 4 or min(feature_shape[2:]) < self.stride:
            raise ModelError(
                "a convolutional head does not fit this feature",
                wanted=f"[N, C, H, W] with H and W of at least stride={self.stride}",
                given=f"shape {feature_shape}",
                where=repr(self),
                hint="use a smaller stride, or heads.Pooled()",
            )
        layers: list[nn.Module] = []
        in_channels, stride = feature_shape[1], self.stride
        for out_channels in self.channels:
            layers += [
                nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
            in_channels, stride = out_channels, 2
        return nn.Sequential(*layers, GlobalMean(), nn.Linear(in_channels, num_classes))


@dataclass(frozen=True)
class Flattened:
    """Strided convolutions, each with batch norm and ReLU, then a linear layer over all positions.

    Nothing is padded and nothing is averaged: the few positions that are left keep their places, of
    which the linear layer makes use. On small maps that is both cheaper and more accurate than
    `Convolutional`; on large ones the linear layer grows with the number of positions.

    Args:
        channels: Output channels of each convolution.
        kernels: Its size, in both directions.
        strides: Its stride, in both directions.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def build(self, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `Head.build`."""
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ModelError(
                "a head has as many kernels and strides as it has convolutions",
                wanted=f"{len(self.channels)} of each",
                given=f"{len(self.kernels)} kernels and {len(self.strides)} strides",
                where=repr(self),
            )
        if len(feature_shape) != 4:
            raise self._misfit(feature_shape)
        layers: list[nn.Module] = []
        in_channels, height, width = feature_shape[1:]
        for out_channels, kernel, stride in zip(
            self.channels, self.kernels, self.strides, strict=True
        ):
            if min(height, width) < kernel:
                raise self._misfit(feature_shape)
            layers += [
                nn.Conv2d(in_channels, out_channels, kernel, stride, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            in_channels = out_channels
        linear = nn.Linear(in_channels * height * width, num_classes)
        return nn.Sequential(*layers, nn.Flatten(), linear)

    def _misfit(self, feature_shape: tuple[int, ...]) -> ModelError:
        return ModelError(
            "a flattened head does not fit this feature",
            wanted="[N, C, H, W], no smaller than the kernels at any convolution",
            given=f"shape {feature_shape}",
            where=repr(self),
            hint="use smaller kernels or strides, or heads.Pooled()",
        )
