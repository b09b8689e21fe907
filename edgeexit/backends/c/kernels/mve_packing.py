"""Streams of constants of the packed MVE kernels; ``ee_kernels_mve.h`` says what they are."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.program import Int8, Int32

_Integer = TypeVar("_Integer", np.int8, np.int32)

_VECTOR = 16
"""Bytes in a vector."""
_CHANNELS = 4
"""Output channels that a kernel computes together."""


def pad(values: NDArray[_Integer], *units: int) -> NDArray[_Integer]:
    """Zeros after the end of the first dimensions, until each is a multiple of its unit."""
    widths = [(0, -size % unit) for size, unit in zip(values.shape, units, strict=False)]
    widths += [(0, 0)] * (values.ndim - len(widths))
    return np.pad(values, widths)


def by_blocks_of_channels(weights: Int8) -> Int8:
    """Weights [out, height, width, in] in the order of the 3x3 kernels: [out, elements].

    A channel's elements are ``[in / 16][height][width][16]``.
    """
    out, height, width, channels = weights.shape
    blocks = weights.reshape(out, height, width, channels // _VECTOR, _VECTOR)
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 2, 4)).reshape(out, -1)


def pack_convolution(weights: Int8, bias: Int32, multipliers: Int32, shifts: Int32) -> Int32:
    """``weights`` of ``ee_mve_conv2d``: int32 words.

    Args:
        weights: int8 [out_channels, elements], in the kernel's order.
        bias: int32 [out_channels], with the input offset folded in.
        multipliers: int32 [out_channels].
        shifts: int32 [out_channels].
    """
    padded = pad(weights, _CHANNELS, _VECTOR)
    # Channels c and c + 2, then c + 1 and c + 3: [four][half][which of two].
    blocks = padded.reshape(-1, 2, 2, padded.shape[1] // _VECTOR, _VECTOR)
    blocks = np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))
    words = blocks.reshape(blocks.shape[0], 2, -1).view(np.int32)
    numbers = _in_fours(bias, multipliers, shifts).reshape(-1, 3, 2, 2).transpose(0, 3, 1, 2)
    records = (words, numbers.reshape(-1, 2, 6))
    stream: Int32 = np.concatenate(records, axis=2).reshape(-1)
    return stream


def pack_fully_connected(weights: Int8, bias: Int32, multipliers: Int32, shifts: Int32) -> Int32:
    """``weights`` of ``ee_mve_fully_connected``; arguments as for a convolution."""
    padded = pad(weights, _CHANNELS, _VECTOR)
    blocks = padded.reshape(-1, _CHANNELS, padded.shape[1] // _VECTOR, _VECTOR)
    blocks = np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))
    words = blocks.reshape(blocks.shape[0], -1).view(np.int32)
    numbers = _in_fours(bias, multipliers, shifts).reshape(-1, 12)
    stream: Int32 = np.concatenate((words, numbers), axis=1).reshape(-1)
    return stream


def pack_depthwise(weights: Int8, bias: Int32, multipliers: Int32, shifts: Int32) -> Int32:
    """``parameters`` of ``ee_depthwise_mve``.

    Args:
        weights: int8 [kernel_h, kernel_w, channels].
        bias: int32 [channels], as the model has it.
        multipliers: int32 [channels].
        shifts: int32 [channels].
    """
    taps = weights.reshape(-1, weights.shape[2]).T
    blocks = pad(taps, _CHANNELS).reshape(-1, _CHANNELS, taps.shape[1]).transpose(0, 2, 1)
    words = np.ascontiguousarray(blocks).reshape(blocks.shape[0], -1).view(np.int32)
    numbers = _in_fours(bias, multipliers, shifts).reshape(-1, 12)
    stream: Int32 = np.concatenate((numbers, words), axis=1).reshape(-1)
    return stream


def pack_depthwise_3x3(weights: Int8, bias: Int32, multipliers: Int32, shifts: Int32) -> Int32:
    """``parameters`` of ``ee_depthwise_mve_3x3_*``; the input offset is folded into ``bias``."""
    taps = np.zeros((weights.shape[2], 12), np.int8)
    taps[:, :9] = weights.reshape(9, -1).T
    numbers = np.stack((bias, multipliers, shifts), axis=1)
    stream: Int32 = np.concatenate((numbers, taps.view(np.int32)), axis=1).reshape(-1)
    return stream


def _in_fours(bias: Int32, multipliers: Int32, shifts: Int32) -> Int32:
    """int32 [fours of channels, 3, 4]."""
    numbers = np.stack((bias, multipliers, shifts), axis=1).astype(np.int32)
    return pad(numbers, _CHANNELS).reshape(-1, _CHANNELS, 3).transpose(0, 2, 1).astype(np.int32)
