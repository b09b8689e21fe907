"""Small multi-exit networks whose graphs differ in what crosses a cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.types import ExportedGraph, QuantizedGraph, Segment

NUM_CLASSES = 5
IMAGE = (3, 16, 16)


class Exits(nn.Module):
    """What the compiler needs of a `MultiExitModel`, for networks that return all exits alone."""

    num_classes = NUM_CLASSES
    num_exits = 3

    @property
    def exit_names(self) -> tuple[str, ...]:
        return (*(f"early{k}" for k in range(self.num_exits - 1)), "final")


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1, size: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(Exits):
    """Strided blocks, projections, convolutional heads: the shape of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.wide = nn.ModuleList([nn.Conv2d(c, d, 3, s, 1) for c, d, s in self.stages])
        self.short = nn.ModuleList([nn.Conv2d(c, d, 1, s) for c, d, s in self.stages])
        self.heads = nn.ModuleList(
            [
                nn.Sequential(conv(d, 8, stride=2), Mean(), nn.Linear(8, 5))
                for _, d, _ in self.stages
            ]
        )

    stages = ((8, 8, 1), (8, 16, 2), (16, 16, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        logits = []
        for wide, short, head in zip(self.wide, self.short, self.heads, strict=True):
            x = F.relu(wide(x) + short(x))
            logits.append(head(x))
        return tuple(logits)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Dense(Exits):
    """Batch norm and ReLU before each convolution, concatenation after it: a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8 + 4 * k) for k in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(8 + 4 * k, 4, 3, padding=1) for k in range(3)])
        self.heads = nn.ModuleList([nn.Linear(12 + 4 * k, 5) for k in range(3)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        logits = []
        for norm, layer, head in zip(self.norms, self.convs, self.heads, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
            logits.append(head(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return tuple(logits)


class TwoScale(Exits):
    """Two resolutions side by side, as in MSDNet: every cut carries two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv(3, 4), conv(3, 8, stride=2)
        self.across = nn.ModuleList([conv(4, 8, stride=2) for _ in range(3)])
        self.fine_on = nn.ModuleList([conv(4, 4) for _ in range(3)])
        self.coarse_on = nn.ModuleList([conv(16, 8) for _ in range(3)])
        self.heads = nn.ModuleList([nn.Linear(8, 5) for _ in range(3)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine, coarse = self.fine(x), self.coarse(x)
        logits = []
        for k in range(3):
            fine, coarse = (
                self.fine_on[k](fine),
                self.coarse_on[k](torch.cat([self.across[k](fine), coarse], 1)),
            )
            logits.append(self.heads[k](coarse.mean((2, 3))))
        return tuple(logits)


class Ensemble(Exits):
    """Each head reads the logits of the exit before it; the first feature reaches every segment."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([conv(3, 8, 2), conv(8, 8, 2), conv(8, 8)])
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Linear(13, 5), nn.Linear(21, 5)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.blocks[0](x)
        second = self.blocks[1](first)
        third = self.blocks[2](second)
        a = self.heads[0](first.mean((2, 3)))
        b = self.heads[1](torch.cat([second.mean((2, 3)), a], 1))
        c = self.heads[2](torch.cat([third.mean((2, 3)), first.mean((2, 3)), b], 1))
        return a, b, c


class Mobile(Exits):
    """Depthwise convolutions, squeeze-and-excite, hard swish: the shape of MobileNetV3."""

    num_exits = 2

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 5, 1, 2, groups=8), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(8, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, 8, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Sequential(nn.Dropout(), nn.Linear(8, 5))])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        early = self.heads[0](F.avg_pool2d(x, 8).flatten(1))
        y = self.depthwise(x)
        x = self.project(y * self.squeeze(y)) + x
        return early, self.heads[1](x.mean((2, 3)))


class Assorted(Exits):
    """The ops that the others leave out."""

    num_exits = 2

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.grouped = nn.Conv2d(4, 8, 3, padding="same", groups=2, dilation=2)
        self.multiplied = nn.Conv2d(8, 16, 3, 2, 1, groups=8)
        self.flat = nn.Linear(8 * 7 * 7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.tokens = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.pad(self.first(x), (1, 0, 0, 1))
        x = F.avg_pool2d(F.relu(x), 3, 2, 1)
        x = self.grouped(x)
        x = F.max_pool2d(x, 2, 1) * 0.5 + 0.25
        early = self.norm(self.flat(x.flatten(1)))
        x = self.multiplied(x - F.relu6(x))
        tokens = self.tokens(x.permute(0, 2, 3, 1).reshape(1, 16, 16))
        gate = torch.softmax(early, 1)
        return early, tokens.mean(1) * gate + early


NETWORKS: dict[str, Callable[[], Exits]] = {
    "residual": Residual,
    "dense": Dense,
    "two_scale": TwoScale,
    "ensemble": Ensemble,
    "mobile": Mobile,
    "assorted": Assorted,
}


def network(name: str, seed: int = 0) -> Exits:
    """A network in evaluation mode whose batch norms do something."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@dataclass(frozen=True)
class Pieces:
    """A network on its way through the first passes."""

    model: Exits
    exported: ExportedGraph
    quantized: QuantizedGraph
    segments: tuple[Segment, ...]
    static: Segment


PREPROCESSING = Preprocessing((128.0,), (1 / 128,))


def samples(count: int = 64, seed: int = 0) -> Samples:
    """Smooth random images; noise alone would leave every mean near zero."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3))
    fine = generator.integers(-20, 21, (count, 16, 16, 3))
    images = np.clip(coarse.repeat(4, axis=1).repeat(4, axis=2) + fine, 0, 255).astype(np.uint8)
    return Samples(images, generator.integers(0, NUM_CLASSES, count))


def splits(count: int = 64) -> Splits:
    part = samples(count)
    names = tuple("abcde")
    return Splits("toy", part, part, part, names, PREPROCESSING, Augmentation(0, False))


@cache
def pieces(name: str) -> Pieces:
    """A network, quantized on `samples` and cut; made once for all tests."""
    model = network(name)
    exported = canonicalize(export(model, IMAGE))
    quantized = quantize(
        exported, samples(), PREPROCESSING, num_range_samples=32, num_compared_samples=32
    )
    return Pieces(model, exported, quantized, *partition(quantized))


def int8_images(count: int) -> Tensor:
    """`samples` as the int8 input, NCHW: uint8 - 128."""
    images = samples(count).images.astype(np.int16) - 128
    return torch.from_numpy(images.astype(np.int8).transpose(0, 3, 1, 2).copy())
