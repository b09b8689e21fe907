"""A network and a data set on which a training takes a second: three exits, three colours."""

from __future__ import annotations

import numpy as np
import torch

from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet


def make_model(seed: int = 0) -> MultiExitModel:
    """A ResNet-8 of eight channels for 8 x 8 images, with two early exits."""
    torch.manual_seed(seed)
    backbone = ResNet((1, 1, 1), (8, 8, 8), in_channels=3, num_classes=3)
    at = {"layer1": heads.Pooled(), "layer2": heads.Pooled()}
    return attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))


def make_data(count: int = 48, *, augmented: bool = True) -> Splits:
    """Images whose first channel says their class, the same in all splits."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(0, 90, (count, 8, 8, 3)).astype(np.uint8)
    images[..., 0] += (labels * 80)[:, None, None].astype(np.uint8)
    samples = Samples(images, labels)
    return Splits(
        "three-colours",
        samples,
        samples,
        samples,
        ("a", "b", "c"),
        Preprocessing((128.0,), (1 / 128,)),
        Augmentation(1, True) if augmented else Augmentation(0, False),
    )
