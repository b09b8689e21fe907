"""One encoded image into pixels of a fixed shape; nothing of the image is believed unchecked.

The size that an image states is compared with a limit before a pixel of it is decoded, and only
the formats of `FORMATS` are tried, so that few of Pillow's decoders see foreign bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

Fit: TypeAlias = Literal["crop", "stretch"]

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
"""Formats that are decoded, by Pillow's names."""

MAX_IMAGE_BYTES = 1 << 26
"""The most that one encoded image may take."""

MAX_PIXELS = 1 << 26
"""The most pixels that an image may state, unless a limit is asked for."""

GREY_MODES = frozenset(("1", "L"))
"""Pillow's names of the grey formats of pixels that are taken."""

_COLOUR_MODES = frozenset(("CMYK", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"))
_TRIES = 10
# EXIF's tag 274 says how a camera was held. Source: Exif 2.32, 4.6.4 A, "Orientation".
_ORIENTATION = 274
_TURNS: dict[Any, str] = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True)
class Decoding:
    """What an encoded image becomes.

    Attributes:
        image_shape: Height, width and channels (1 or 3).
        fit: ``crop`` takes the largest centred part of the wanted proportions, ``stretch`` the
            whole image; either is then scaled.
        smallest_crop: Training takes a random part of at least this share of the image's area; 1
            turns that off.
        max_pixels: An image that states more is refused. Pillow has a limit of its own,
            ``PIL.Image.MAX_IMAGE_PIXELS``, and this one may not be above it.
    """

    image_shape: tuple[int, int, int]
    fit: Fit = "crop"
    smallest_crop: float = 1.0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if min(self.image_shape) < 1 or self.image_shape[2] not in (1, 3):
            raise ArgumentError(
                "no image has that shape",
                wanted="[height, width, channels], positive, with 1 or 3 channels",
                given=f"image_shape={self.image_shape}",
            )
        if self.fit not in get_args(Fit):
            raise ArgumentError(
                "unknown fit", wanted="'crop' or 'stretch'", given=f"fit={self.fit!r}"
            )
        if not 0 < self.smallest_crop <= 1 or self.max_pixels < 1:
            raise ArgumentError(
                "the limits of an image are out of range",
                wanted="0 < smallest_crop <= 1, max_pixels >= 1",
                given=f"smallest_crop={self.smallest_crop}, max_pixels={self.max_pixels}",
            )
        if self.max_pixels > MAX_PIXELS:
            _check_pillow_allows(self.max_pixels)


def _check_pillow_allows(max_pixels: int) -> None:
    try:
        from PIL import Image
    except ImportError:
        # Decoding says that it is missing.
        return
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and max_pixels > limit:
        raise ArgumentError(
            "max_pixels is above Pillow's own limit",
            wanted=f"at most {limit}",
            given=f"max_pixels={max_pixels}",
            hint="scale the images down, or set PIL.Image.MAX_IMAGE_PIXELS first",
        )


def decode_image(
    encoded: bytes | Image, decoding: Decoding, random: Any | None, where: Callable[[], str]
) -> NDArray[np.uint8]:
    """Decodes, crops and scales an image, turned upright where its EXIF data say how.

    Args:
        encoded: The bytes of an image file, or an image that Pillow has opened.
        decoding: What it becomes.
        random: A ``numpy.random.RandomState`` for a random crop; None for none.
        where: What an error names as the place.

    Returns:
        uint8 ``[height, width, channels]``.

    Raises:
        DataError: The image cannot be read, is too large, or has more than 8 bits a channel; or
            Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as exc:
        raise DataError(
            "reading images needs Pillow", where=where(), hint="pip install 'edgeexit[images]'"
        ) from exc
    height, width, channels = decoding.image_shape
    try:
        opened = _opened(encoded, where)
        _check_header(opened, decoding, where)
        image = upright(opened)
        box = _box(image.size, decoding, random)
        if image is opened:
            box = _reduced(image, box, (width, height))
        pixels = image.convert("RGB" if channels == 3 else "L")
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR, box)
        return np.asarray(pixels, np.uint8).reshape(decoding.image_shape)
    except DataError:
        raise
    except Exception as exc:
        # Over damaged bytes Pillow's decoders raise errors of many kinds, struct.error among them.
        raise DataError("the image cannot be read", given=exc, where=where()) from exc


def upright(image: Image) -> Image:
    """An image as its EXIF orientation says that it is to be seen; itself where that is how it is.

    EXIF data that cannot be read say nothing. Orientations in XMP data are not handled.
    """
    from PIL import Image

    # Asked without need, Pillow decodes a whole PNG to look for EXIF data after its pixels.
    if "exif" not in image.info:
        return image
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:
        # What Pillow's reader raises over damaged bytes is of many kinds.
        return image
    return image if turn is None else image.transpose(Image.Transpose[turn])


def check_mode(image: Image, where: Callable[[], object]) -> None:
    """Refuses pixels of other formats, which Pillow would turn into bytes by cutting them off.

    Raises:
        DataError: The image has more than 8 bits a channel; ``where`` says which one it is.
    """
    if image.mode not in GREY_MODES | _COLOUR_MODES:
        raise DataError(
            "the image has another pixel format",
            wanted="8 bits a channel",
            given=f"mode = {image.mode}",
            where=where(),
        )


def _opened(encoded: bytes | Image, where: Callable[[], str]) -> Image:
    from PIL import Image

    if not isinstance(encoded, bytes):
        return encoded
    if len(encoded) > MAX_IMAGE_BYTES:
        wanted = f"at most {MAX_IMAGE_BYTES} bytes"
        raise _too_large(wanted, f"{len(encoded)} bytes", where, "scale it down")
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        wanted = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise _too_large(wanted, exc, where, "scale it down") from exc


def _check_header(image: Image, decoding: Decoding, where: Callable[[], str]) -> None:
    if image.width * image.height > decoding.max_pixels:
        wanted = f"at most {decoding.max_pixels} pixels"
        given = f"{image.width} x {image.height} pixels"
        raise _too_large(wanted, given, where, "scale it down, or raise max_pixels")
    check_mode(image, where)


def _too_large(wanted: str, given: object, where: Callable[[], str], hint: str) -> DataError:
    return DataError("the image is too large", wanted=wanted, given=given, where=where(), hint=hint)


def _reduced(image: Image, box: Box, wanted: tuple[int, int]) -> Box:
    """Lets a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size, which costs a fraction.

    What is kept of it stays at least twice as large as ``wanted`` (width, height), so that the
    filter that scales it down sees enough of it.

    Returns:
        ``box`` in pixels of the image as it will be decoded.
    """
    if getattr(image, "format", None) != "JPEG" or not hasattr(image, "draft"):
        return box
    before = image.size
    left, top, right, bottom = box
    enlarged = [2 * wanted[0] / (right - left), 2 * wanted[1] / (bottom - top)]
    image.draft(None, (math.ceil(before[0] * enlarged[0]), math.ceil(before[1] * enlarged[1])))
    across, down = image.width / before[0], image.height / before[1]
    # A size that is not a multiple of 8 is rounded up: the edge is where it was, or before it.
    return (
        left * across,
        top * down,
        min(right * across, image.width),
        min(bottom * down, image.height),
    )


def _box(size: tuple[int, int], decoding: Decoding, random: Any | None) -> Box:
    """The part of an image that is kept."""
    width, height = size
    proportion = decoding.image_shape[1] / decoding.image_shape[0]
    if random is not None and decoding.smallest_crop < 1:
        return _random_box(width, height, proportion, decoding.smallest_crop, random)
    if decoding.fit == "stretch":
        return 0, 0, width, height
    kept_width, kept_height = min(width, height * proportion), min(height, width / proportion)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return left, top, left + kept_width, top + kept_height


def _random_box(width: int, height: int, proportion: float, smallest: float, random: Any) -> Box:
    """A part of random area and proportions.

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6: the area is uniform
    between 8 and 100 % of the image, the proportions between 3/4 and 4/3. Deviations: the least
    area is an option, proportions are uniform in their logarithm and relative to those of the
    network's input, and where ten draws do not fit, the whole image is taken.
    """
    for _ in range(_TRIES):
        area = width * height * random.uniform(smallest, 1)
        drawn = proportion * math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        kept_width, kept_height = math.sqrt(area * drawn), math.sqrt(area / drawn)
        if kept_width <= width and kept_height <= height:
            left = random.uniform(0, width - kept_width)
            top = random.uniform(0, height - kept_height)
            # Rounding may carry a sum past the edge by one unit in the last place.
            return left, top, min(left + kept_width, width), min(top + kept_height, height)
    return 0, 0, width, height
