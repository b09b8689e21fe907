"""Lowers convolutions and dense layers: the ops that multiply by weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import tflite_schema as schema
from edgeexit.backends.c.fold import same_padding
from edgeexit.backends.c.lowering import MAX_SIZE, Op, check_sum
from edgeexit.backends.c.multipliers import window_factors
from edgeexit.backends.c.program import Conv2D, DepthwiseConv2D, FullyConnected, Int8, Int32
from edgeexit.backends.c.tflite_model import TfliteTensor

_MAX_WEIGHTS = 1 << 22


def image_size(op: Op, tensor: TfliteTensor) -> tuple[int, int, int]:
    """Height, width and channels of a single image."""
    if len(tensor.shape) != 4 or tensor.shape[0] != 1:
        op.refuse("a tensor is not one image", "[1, height, width, channels]", tensor.shape, tensor)
    if max(tensor.shape) > MAX_SIZE:
        op.refuse("an image is too large", f"sizes of at most {MAX_SIZE}", tensor.shape, tensor)
    return tensor.shape[1], tensor.shape[2], tensor.shape[3]


def windows(
    op: Op, size: tuple[int, int], span: tuple[int, int], stride: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Number of windows, and padding before the first, downwards and across."""
    padding = op.attribute("padding")
    if padding not in (schema.PADDING_SAME, schema.PADDING_VALID):
        op.refuse("its padding is unknown", "SAME (0) or VALID (1)", padding)
    if not all(1 <= step <= MAX_SIZE for step in (*stride, *span)):
        op.refuse("a stride or window is out of range", f"1 to {MAX_SIZE}", (stride, span))
    counts, before = [], []
    for n, window, step in zip(size, span, stride, strict=True):
        if padding == schema.PADDING_SAME:
            counts.append(math.ceil(n / step))
            before.append(same_padding(n, window, step))
        else:
            if window > n:
                op.refuse("its window is larger than the input", f"at most {n}", window)
            counts.append((n - window) // step + 1)
            before.append(0)
    return (counts[0], counts[1]), (before[0], before[1])


def check_shape(op: Op, wanted: tuple[int, ...]) -> None:
    """That the file gives the output the shape that follows from the inputs."""
    if op.output.shape != wanted:
        op.refuse("the output has another shape", wanted, op.output.shape, op.output)


def _weights(op: Op, axis: int) -> tuple[Int8, list[float]]:
    """An int8 constant, symmetric, and its scales: one, or one for each output channel."""
    tensor = op.tensor(1)
    data: Int8 = op.known(1, "int8")
    if not data.size or not tensor.scales:
        op.refuse("its weights are not quantized", "scales", "none", tensor)
    if any(tensor.zero_points):
        op.refuse(
            "its weights are not symmetric", "zero points of 0", tensor.zero_points[0], tensor
        )
    if len(tensor.scales) > 1 and tensor.axis != axis:
        op.refuse("its scales are not for output channels", f"axis {axis}", tensor.axis, tensor)
    return data, list(tensor.scales)


def _bias(op: Op, channels: int) -> Int32:
    if not op.has(2):
        return np.zeros(channels, np.int32)
    bias: Int32 = op.known(2, "int32")
    if bias.size != channels:
        op.refuse("its bias has another size", channels, bias.size, op.tensor(2))
    return bias.reshape(-1)


def _without_groups(op: Op, weights: Int8, depth: int) -> Int8:
    """Weights for all ``depth`` input channels; a group's own ones, and zeros for all others."""
    channels, height, width, own = weights.shape
    groups, rest = divmod(depth, own)
    if rest or not groups or channels % groups:
        op.refuse("weights and input do not agree", f"{own} * groups channels", depth, op.tensor(1))
    if groups == 1:
        return weights
    if weights.size * groups > _MAX_WEIGHTS:
        op.refuse(
            "its weights are too many without groups",
            f"at most {_MAX_WEIGHTS}",
            weights.size * groups,
            op.tensor(1),
        )
    whole = np.zeros((groups, channels // groups, height, width, groups, own), np.int8)
    for group, part in enumerate(np.split(weights, groups)):
        whole[group, ..., group, :] = part
    return whole.reshape(channels, height, width, depth)


def _check_sums(
    op: Op, weights: NDArray[Any], axes: tuple[int, ...], bias: Int32, shifts: list[int]
) -> None:
    # An input less its zero point is between -255 and 255.
    largest = np.abs(weights.astype(np.int64)).sum(axes) * 255 + np.abs(bias.astype(np.int64))
    check_sum(op, largest, shifts)


def convolution(op: Op) -> None:
    """CONV_2D."""
    _window(op, depthwise=False)


def depthwise(op: Op) -> None:
    """DEPTHWISE_CONV_2D."""
    _window(op, depthwise=True)


def _window(op: Op, depthwise: bool) -> None:
    op.check_count(2, 3)
    weights, scales = _weights(op, 3 if depthwise else 0)
    if weights.ndim != 4 or (depthwise and weights.shape[0] != 1):
        op.refuse("its weights have another shape", "4 dimensions", weights.shape, op.tensor(1))
    kernel = (weights.shape[1], weights.shape[2])
    channels = weights.shape[3] if depthwise else weights.shape[0]
    if max(weights.shape) > MAX_SIZE:
        op.refuse("its weights are too large", f"at most {MAX_SIZE}", weights.shape, op.tensor(1))
    padded = op.tensor(0)
    *size, depth = image_size(op, padded)
    stride = (op.attribute("stride_h"), op.attribute("stride_w"))
    dilation = (op.attribute("dilation_h_factor"), op.attribute("dilation_w_factor"))
    if not all(1 <= step <= MAX_SIZE for step in dilation):
        op.refuse("a dilation is out of range", f"1 to {MAX_SIZE}", dilation)
    span = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    counts, before = windows(op, (size[0], size[1]), span, stride)
    check_shape(op, (1, *counts, channels))
    if depthwise and (channels % depth or op.attribute("depth_multiplier") != channels // depth):
        op.refuse(
            "weights, input and depth_multiplier do not agree",
            f"{depth} * {op.attribute('depth_multiplier')} output channels",
            channels,
        )
    if not depthwise:
        weights = _without_groups(op, weights, depth)
    source, output = op.quantization(0), op.parameters(op.output)
    if len(scales) == 1:
        scales *= channels
    with op.checking():
        factors = window_factors(source[0], scales, output[0])
    bias = _bias(op, channels)
    shifts = [shift for _, shift in factors]
    _check_sums(op, weights, (0, 1, 2) if depthwise else (1, 2, 3), bias, shifts)
    padding = op.segment.paddings.get(op.op.index)
    if padding is None:
        buffer = op.read(0, fixed=True)
    else:
        buffer = op.read_tensor(op.segment.model.tensors[padding.source], fixed=True)
        before = (before[0] + padding.top, before[1] + padding.left)
    low, high = op.limits()
    common: dict[str, Any] = {
        "name": op.name,
        "inputs": (buffer,),
        "output": op.write(fixed=True),
        "macs": math.prod(counts) * weights.size,
        "bias": bias,
        "multipliers": np.array([multiplier for multiplier, _ in factors], np.int32),
        "shifts": np.array(shifts, np.int32),
        "input_offset": -source[1],
        "output_offset": output[1],
        "activation_min": low,
        "activation_max": high,
        "stride": stride,
        "dilation": dilation,
        "pad_top": before[0],
        "pad_left": before[1],
    }
    if depthwise:
        op.emit(DepthwiseConv2D(weights=weights[0], depth_multiplier=channels // depth, **common))
    else:
        op.emit(Conv2D(weights=weights, **common))


def fully_connected(op: Op) -> None:
    """FULLY_CONNECTED."""
    op.check_count(2, 3)
    if op.attribute("weights_format"):
        op.refuse("its weights are shuffled", "format 0", op.attribute("weights_format"))
    weights, scales = _weights(op, 0)
    if weights.ndim != 2:
        op.refuse("its weights are not a matrix", "2 dimensions", weights.shape, op.tensor(1))
    features, depth = weights.shape
    source_tensor = op.tensor(0)
    rows, rest = divmod(source_tensor.num_elements, depth)
    if rest or op.output.num_elements != rows * features or op.output.shape[-1:] != (features,):
        op.refuse(
            "input, weights and output do not agree in shape",
            f"rows of {depth} in, of {features} out",
            f"{source_tensor.shape} in, {op.output.shape} out",
        )
    source, output = op.quantization(0), op.parameters(op.output)
    per_tensor = len(scales) == 1
    with op.checking():
        factors = window_factors(source[0], scales, output[0])
    if per_tensor:
        factors *= features
    bias = _bias(op, features)
    shifts = [shift for _, shift in factors]
    _check_sums(op, weights, (1,), bias, shifts)
    low, high = op.limits()
    op.emit(
        FullyConnected(
            name=op.name,
            inputs=(op.read(0),),
            output=op.write(),
            macs=rows * weights.size,
            weights=weights,
            bias=bias,
            multipliers=np.array([multiplier for multiplier, _ in factors], np.int32),
            shifts=np.array(shifts, np.int32),
            per_tensor=per_tensor,
            input_offset=-source[1],
            output_offset=output[1],
            activation_min=low,
            activation_max=high,
        )
    )
