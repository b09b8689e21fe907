"""Networks that are ready to train, and the weights that ship with them.

A row of ``MODELS`` names a backbone and where its exits sit; ``create`` builds it. Weights are
``edgeexit/nn/weights/MODEL-DATASET.safetensors`` with a JSON beside that says how they were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgeexit.errors import ArgumentError, ModelError
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.heads import Flattened, Head, Pooled
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import read_weights
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.nn.zoo.vit import VisionTransformer

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Entry:
    """What makes a backbone of channels, classes and image size; its usual size, its exits."""

    backbone: Callable[[int, int, tuple[int, int]], nn.Module]
    image_size: tuple[int, int]
    exits: Mapping[str, Head]


def _square(size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise ModelError(
            "a vision transformer takes square images",
            wanted="images as high as they are wide",
            given=f"image_size={size}",
            hint="resize the images, or take another network of the zoo",
        )
    return size[0]


MODELS: dict[str, Entry] = {
    "resnet8": Entry(
        backbone=lambda channels, classes, _: ResNet((1, 1, 1), (16, 32, 64), channels, classes),
        image_size=(32, 32),
        exits={
            "layer1": Flattened(channels=(16, 32), kernels=(2, 3), strides=(4, 2)),
            "layer2": Flattened(channels=(16,), kernels=(3,), strides=(4,)),
        },
    ),
    "resnet20": Entry(
        backbone=lambda channels, classes, _: ResNet((3, 3, 3), (16, 32, 64), channels, classes),
        image_size=(32, 32),
        exits={
            "layer1.1": Flattened(channels=(16, 32), kernels=(2, 3), strides=(4, 2)),
            "layer2.0": Flattened(channels=(16,), kernels=(3,), strides=(4,)),
            "layer2.2": Flattened(channels=(16,), kernels=(3,), strides=(4,)),
        },
    ),
    "vit": Entry(
        backbone=lambda channels, classes, size: VisionTransformer(
            channels, classes, image_size=_square(size)
        ),
        image_size=(32, 32),
        exits={"blocks.1": Pooled(), "blocks.3": Pooled()},
    ),
}


def create(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: tuple[int, int] | None = None,
    pretrained: str | None = None,
) -> MultiExitModel:
    """Builds a network of the zoo with its exits.

    Args:
        name: A key of ``MODELS``.
        num_classes: Number of logits at every exit.
        in_channels: Channels of the image.
        image_size: Height and width of the image; the model's usual one, if None.
        pretrained: Dataset whose shipped weights are loaded, or None for fresh ones.

    Raises:
        ArgumentError: No such model, or no weights for that dataset.
        CheckpointError: The weights do not fit ``num_classes``, ``in_channels`` or ``image_size``.
        ModelError: The network does not take images of this size.
    """
    if name not in MODELS:
        raise ArgumentError("unknown model", wanted=", ".join(sorted(MODELS)), given=repr(name))
    entry = MODELS[name]
    size = image_size or entry.image_size
    backbone = entry.backbone(in_channels, num_classes, size)
    example = torch.zeros(1, in_channels, *size)
    model = attach_exits(backbone, entry.exits, example=example)
    if pretrained is not None:
        path = WEIGHTS_FOLDER / f"{name}-{pretrained}.safetensors"
        if not path.is_file():
            shipped = sorted(p.stem for p in WEIGHTS_FOLDER.glob(f"{name}-*.safetensors"))
            raise ArgumentError(
                f"no weights of {name!r} ship for {pretrained!r}",
                wanted=", ".join(shipped) or "no weights ship for this model",
                given=repr(pretrained),
                hint=f"train them: edgeexit train {name} --data {pretrained}",
            )
        read_weights(path, model)
    return model
