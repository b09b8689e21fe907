"""Reads any dataset that has a length and yields pairs, such as ``torch.utils.data.Dataset``.

Tensors and PIL images are told by what they can do, so that neither torch nor Pillow is imported.
"""

from __future__ import annotations

import operator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.streaming_decode import check_mode
from edgeexit.data.types import Samples
from edgeexit.data.validate import as_samples, check_num_bytes
from edgeexit.errors import DataError

_CHANNELS = (1, 3, 4)


class Sized(Protocol):
    """What is asked of a dataset: ``dataset[i]`` is ``(image, label)`` for each i below its length.

    An image is a PIL image, or an array or tensor of 2 or 3 axes. Of three axes, the channels are
    the first or last one that has 1, 3 or 4 entries; where both or none have, floats have their
    channels first (as torch does) and uint8 last (as images do).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def read_dataset(dataset: Sized, *, where: object) -> Samples:
    """Reads a whole dataset into arrays; a random transform is applied this once.

    Args:
        dataset: What to read.
        where: What an error names as the place.

    Raises:
        DataError: An item is not a pair of image and integer label, images differ in shape or type,
            or a PIL image has more than 8 bits a channel; and as for
            `edgeexit.data.validate.check_samples`.
    """
    count = len(dataset)
    if count == 0:
        raise DataError("there are no samples", wanted="at least one", given="0", where=where)
    first, _ = _item(dataset, 0, where)
    check_num_bytes(count * first.nbytes, where=where)
    images = np.empty((count, *first.shape), first.dtype)
    labels = np.empty(count, np.int64)
    for index in range(count):
        image, labels[index] = _item(dataset, index, where)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise DataError(
                "the images differ in shape or type",
                wanted=f"{first.dtype} {first.shape}, as in item 0",
                given=f"{image.dtype} {image.shape}",
                where=f"{where}, item {index}",
                hint="resize or convert them in the dataset's transform",
            )
        images[index] = image
    return as_samples(images, labels, where=where)


def _item(dataset: Sized, index: int, where: object) -> tuple[NDArray[Any], int]:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(
            "an item is not a pair",
            wanted="(image, label)",
            given=type(item).__name__,
            where=f"{where}, item {index}",
        )
    image, label = item
    try:
        number = operator.index(label)
    except (TypeError, ValueError) as exc:
        raise DataError(
            "a label is not an integer",
            wanted="an int or an integer tensor without axes",
            given=repr(label),
            where=f"{where}, item {index}",
        ) from exc
    return _height_width_channels(image, f"{where}, item {index}"), number


def _height_width_channels(image: Any, where: str) -> NDArray[Any]:
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    elif hasattr(image, "getbands"):
        check_mode(image, lambda: where)
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    array = np.asarray(image)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    if array.dtype not in (np.uint8, np.float32) or array.ndim not in (2, 3):
        raise DataError(
            "an image is not an image",
            wanted="uint8 or float, [height, width] with or without channels",
            given=f"{type(image).__name__} {array.dtype} {array.shape}",
            where=where,
        )
    if array.ndim == 2:
        return array[..., np.newaxis]
    first, last = array.shape[0] in _CHANNELS, array.shape[-1] in _CHANNELS
    channels_first = first if first != last else array.dtype == np.float32
    return np.ascontiguousarray(array.transpose(1, 2, 0)) if channels_first else array
