"""Turns the files of a source into uint8 arrays; the table at the end has one row for each format.

A decoder never trusts a length that a file states: it compares it with the bytes that are there.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.recipes import Recipe, Source
from edgeexit.errors import FetchError

Read: TypeAlias = Callable[[str], bytes]
"""Returns the content of a file inside a source."""

MAX_MEMBER_BYTES = 1 << 29
"""The most that one file of a source may take, unpacked."""

Arrays: TypeAlias = dict[str, NDArray[np.uint8]]
"""Role -> images uint8 ``[N, H, W, C]`` or labels uint8 ``[N]``."""


def decode(recipe: Recipe, source: Source, read: Read) -> Arrays:
    """Decodes what a source delivered.

    Args:
        recipe: The dataset.
        source: Where the files came from; its ``format`` picks the decoder.
        read: Reads one of ``source.members``.

    Returns:
        One array for each of `edgeexit.data.recipes.ROLES`.

    Raises:
        FetchError: A file is not in the format that the recipe states.
    """
    return DECODERS[source.format](source.members, read, recipe.image_shape)


def _cifar_binary(
    members: Mapping[str, tuple[str, ...]], read: Read, shape: tuple[int, int, int]
) -> Arrays:
    # A record is one byte of label and then the planes red, green, blue.
    height, width, channels = shape
    record = 1 + height * width * channels
    arrays: Arrays = {}
    for part in ("train", "test"):
        records = []
        for name in members[f"{part}_images"]:
            content = read(name)
            if len(content) % record:
                raise _not_as_expected(name, f"a multiple of {record} bytes", len(content))
            records.append(np.frombuffer(content, np.uint8).reshape(-1, record))
        table = np.concatenate(records)
        planes = table[:, 1:].reshape(-1, channels, height, width)
        arrays[f"{part}_images"] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        arrays[f"{part}_labels"] = table[:, 0].copy()
    return arrays


def _png_sheets(
    members: Mapping[str, tuple[str, ...]], read: Read, shape: tuple[int, int, int]
) -> Arrays:
    arrays: Arrays = {}
    for part in ("train", "test"):
        sheets = [_png_sheet(name, read(name), shape) for name in members[f"{part}_images"]]
        arrays[f"{part}_images"] = np.concatenate(sheets)
        labels = [_json_labels(name, read(name)) for name in members[f"{part}_labels"]]
        arrays[f"{part}_labels"] = np.concatenate(labels)
    return arrays


def _png_sheet(name: str, content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as exc:
        raise FetchError(
            "this source needs Pillow to decode its images",
            where=name,
            hint="pip install pillow",
        ) from exc
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width != height * width or len(image.getbands()) != channels:
                raise _not_as_expected(
                    name, f"{height * width} pixels a row, {channels} channels", image.size
                )
            return np.asarray(image, dtype=np.uint8).reshape(-1, height, width, channels)
    except (OSError, SyntaxError, Image.DecompressionBombError) as exc:
        raise _not_as_expected(name, "a PNG image", exc) from exc


def _json_labels(name: str, content: bytes) -> NDArray[np.uint8]:
    try:
        labels = json.loads(content)
    except ValueError as exc:
        raise _not_as_expected(name, "a JSON list", exc) from exc
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not whole or not all(0 <= label < 256 for label in labels):
        raise _not_as_expected(name, "a JSON list of integers from 0 to 255", content[:40])
    return np.array(labels, np.uint8)


def _idx_gzip(
    members: Mapping[str, tuple[str, ...]], read: Read, shape: tuple[int, int, int]
) -> Arrays:
    arrays: Arrays = {}
    for role, names in members.items():
        wanted, kind = (shape[:2], "images") if role.endswith("_images") else ((), "labels")
        parts = []
        for name in names:
            part = _idx(name, read(name))
            if part.shape[1:] != wanted:
                raise _not_as_expected(name, f"{kind} of shape {wanted}", part.shape)
            parts.append(part)
        arrays[role] = np.concatenate(parts)
        if kind == "images":
            arrays[role] = arrays[role].reshape(-1, *shape)
    return arrays


def _idx(name: str, content: bytes) -> NDArray[np.uint8]:
    # IDX: two zero bytes, a type (8 is uint8), the number of axes, their lengths as big-endian u32.
    try:
        with gzip.open(io.BytesIO(content)) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 3:
                raise _not_as_expected(name, "an IDX file of uint8", magic)
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise _not_as_expected(name, f"the lengths of {magic[3]} axes", header)
            lengths = np.frombuffer(header, ">u4").tolist()
            if math.prod(lengths) > MAX_MEMBER_BYTES:
                raise _not_as_expected(name, f"at most {MAX_MEMBER_BYTES} bytes", lengths)
            # One byte more than stated, so that a longer file is noticed and never swallowed whole.
            body = file.read(math.prod(lengths) + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise _not_as_expected(name, "a gzip file", exc) from exc
    if len(body) != math.prod(lengths):
        raise _not_as_expected(name, f"{math.prod(lengths)} bytes of data", len(body))
    return np.frombuffer(body, np.uint8).reshape(lengths)


def _not_as_expected(name: str, wanted: str, given: object) -> FetchError:
    return FetchError(
        "a file of the source has another format", wanted=wanted, given=given, where=name
    )


DECODERS: dict[str, Callable[[Mapping[str, tuple[str, ...]], Read, tuple[int, int, int]], Arrays]]
DECODERS = {"cifar_binary": _cifar_binary, "png_sheets": _png_sheets, "idx_gzip": _idx_gzip}
