"""ResNets for 32 x 32 images.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2; ResNet-8 in the
form of Banbury et al. 2021, "MLPerf Tiny Benchmark": one block a stage, 16, 32 and 64 channels.
Deviation from both: a convolution that batch norm follows carries no bias.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.nn.heads import GlobalMean


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; ReLU after the addition."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` -> ``[N, out_channels, H / stride, W / stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + cast(Tensor, self.shortcut(x)))


class ResNet(nn.Module):
    """A stem and three stages, each halving the map and doubling the channels but for the first.

    Args:
        blocks: Blocks in each stage; (1, 1, 1) is ResNet-8, (3, 3, 3) is ResNet-20.
        channels: Channels of each stage.
        in_channels: Channels of the image.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int] = (1, 1, 1),
        channels: tuple[int, int, int] = (16, 32, 64),
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        )
        self.layer1 = _stage(channels[0], channels[0], blocks[0], stride=1)
        self.layer2 = _stage(channels[0], channels[1], blocks[1], stride=2)
        self.layer3 = _stage(channels[1], channels[2], blocks[2], stride=2)
        self.pool = GlobalMean()
        self.fc = nn.Linear(channels[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``[N, in_channels, 32, 32]`` -> logits ``[N, num_classes]``."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return cast(Tensor, self.fc(self.pool(x)))


def _stage(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Block(in_channels, out_channels, stride)
    rest = [Block(out_channels, out_channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)
