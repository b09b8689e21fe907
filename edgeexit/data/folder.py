"""Reads a folder of images, a folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeexit.data.split import stratified_order
from edgeexit.data.streaming_decode import FORMATS, GREY_MODES, check_mode, upright
from edgeexit.data.types import Samples
from edgeexit.data.validate import check_num_bytes
from edgeexit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_FORMATS = (*FORMATS, "TIFF")


def read_folder(root: Path) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """Reads ``root/CLASS/*`` or ``root/{train,calibration,test}/CLASS/*``.

    Labels follow the sorted names of the class folders. Images are grey when all are, and RGB
    otherwise. Hidden files and files without an image's suffix are passed over. The order is one in
    which classes alternate, and is always the same.

    Args:
        root: The folder.

    Returns:
        The samples under ``all``, or under ``train``, ``test`` and, where it is there,
        ``calibration``; and the class names.

    Raises:
        DataError: There are no class folders; one has no images; two parts have other classes; an
            image cannot be read, has another size than the rest or more than 8 bits a channel; or
            Pillow is not installed.
    """
    folders = {name: root / name for name in ("train", "calibration", "test")}
    if not (folders["train"].is_dir() and folders["test"].is_dir()):
        folders = {"all": root}
    files = {
        part: _class_files(folder)
        for part, folder in folders.items()
        if part != "calibration" or folder.is_dir()
    }
    class_names, *others = (tuple(classes) for classes in files.values())
    for other in others:
        if other != class_names:
            raise DataError(
                "the parts do not have the same classes",
                wanted=", ".join(class_names),
                given=", ".join(other),
                where=root,
            )
    return _read(files), class_names


def _class_files(folder: Path) -> dict[str, list[Path]]:
    classes = {
        child.name: sorted(
            path
            for path in child.iterdir()
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        )
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if not classes:
        raise DataError(
            "the folder has no class folders",
            wanted="FOLDER/CLASS/IMAGE or FOLDER/{train,test}/CLASS/IMAGE",
            where=folder,
        )
    for name, files in classes.items():
        if not files and any(child.is_dir() for child in (folder / name).iterdir()):
            raise DataError(
                "a class folder holds folders instead of images",
                wanted="FOLDER/CLASS/IMAGE, or FOLDER/PART/CLASS/IMAGE with parts that are called "
                "train and test, and perhaps calibration",
                given=", ".join(classes),
                where=folder / name,
            )
        if not files:
            raise DataError(
                "a class folder has no images",
                wanted=f"files ending in {', '.join(sorted(_SUFFIXES))}",
                where=folder / name,
            )
    return classes


def _read(parts: Mapping[str, Mapping[str, Sequence[Path]]]) -> dict[str, Samples]:
    paths = [path for classes in parts.values() for files in classes.values() for path in files]
    size, grey = _size_and_colour(paths)
    channels = 1 if grey else 3
    check_num_bytes(len(paths) * size[0] * size[1] * channels, where=paths[0].parents[1])
    samples = {}
    for part, classes in parts.items():
        labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
        files = [path for group in classes.values() for path in group]
        images = np.empty((len(files), size[1], size[0], channels), np.uint8)
        order = stratified_order(labels, seed=0)
        for row, position in enumerate(order):
            with open_image(files[position]) as image:
                pixels = np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
                images[row] = pixels.reshape(images.shape[1:])
        samples[part] = Samples(images, labels[order])
    return samples


def _size_and_colour(paths: Sequence[Path]) -> tuple[tuple[int, int], bool]:
    # Headers alone, so that a wrong size is found before anything is decoded.
    size: tuple[int, int] | None = None
    grey = True
    for path in paths:
        with open_image(path) as image:
            if size is not None and image.size != size:
                raise DataError(
                    "the images differ in size",
                    wanted=f"{size[0]} x {size[1]} pixels, as in {paths[0].name}",
                    given=f"{image.size[0]} x {image.size[1]} pixels",
                    where=path,
                    hint="resize them first: a network has one input shape",
                )
            size = image.size
            grey = grey and image.mode in GREY_MODES
    assert size is not None
    return size, grey


@contextmanager
def open_image(path: Path) -> Iterator[Image]:
    """Opens an image file of 8 bits a channel, turned upright where its EXIF data say how.

    Pixels are decoded when they are asked for, or have to be turned.

    Args:
        path: A file in one of the formats that class folders may hold.

    Raises:
        DataError: It cannot be read, on entry or inside the ``with``, or has more than 8 bits a
            channel; or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as exc:
        raise DataError(
            "reading images needs Pillow", where=path, hint="pip install 'edgeexit[images]'"
        ) from exc
    try:
        with Image.open(path, formats=_FORMATS) as image:
            check_mode(image, lambda: path)
            yield upright(image)
    except DataError:
        raise
    except Exception as exc:
        # Over damaged bytes Pillow's decoders raise errors of many kinds, ValueError among them.
        raise DataError("the image cannot be read", given=exc, where=path) from exc
