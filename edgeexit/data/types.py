"""What every dataset becomes: arrays in three splits, and how a raw image turns into numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError

if TYPE_CHECKING:
    from edgeexit.data.streaming import StreamedSplit

Images: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """Images with their labels.

    Attributes:
        images: uint8 or float32 ``[num_samples, height, width, channels]``, raw: before
            preprocessing.
        labels: int64 ``[num_samples]``, each in ``[0, num_classes)``.
    """

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> Samples:
        """The samples that a slice or an int64 array of positions picks, in its order."""
        return Samples(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Preprocessing:
    """Real value = ``(raw - offset) * multiplier``, one number per channel or one for all."""

    offset: tuple[float, ...]
    multiplier: tuple[float, ...]


@dataclass(frozen=True)
class Augmentation:
    """What training may do to an image.

    Attributes:
        crop_padding: Pixels of padding on each side before a crop of the original size; 0 is none.
        horizontal_flip: Whether a mirrored image is still one of its class.

    Raises:
        ArgumentError: A field is of another type, or the padding is negative.
    """

    crop_padding: int
    horizontal_flip: bool

    def __post_init__(self) -> None:
        if type(self.crop_padding) is not int or self.crop_padding < 0:
            raise ArgumentError(
                "the padding of an augmentation is out of range",
                wanted="0 or a positive integer, in pixels",
                given=f"crop_padding={self.crop_padding!r}",
            )
        if type(self.horizontal_flip) is not bool:
            raise ArgumentError(
                "the flip of an augmentation is neither on nor off",
                wanted="true or false",
                given=f"horizontal_flip={self.horizontal_flip!r}",
            )


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset, divided.

    ``train`` fits weights; ``calibration`` collects ranges, stops training early and picks
    thresholds; ``test`` is looked at once, to report. ``train`` may be streamed; the others are in
    memory.
    """

    name: str
    train: Samples | StreamedSplit
    calibration: Samples
    test: Samples
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    augmentation: Augmentation

    @property
    def num_classes(self) -> int:
        """The number of classes, which is that of their names."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        _, height, width, channels = self.calibration.images.shape
        return height, width, channels

    def parts(self) -> dict[str, Samples | StreamedSplit]:
        """The three splits by name, in the order train, calibration, test."""
        return {"train": self.train, "calibration": self.calibration, "test": self.test}
