"""Runs a `Program` in numpy, step by step, in the arithmetic that ``program.py`` describes.

It is independent of the C kernels and of the engines, and slow. ``run`` returns every buffer, so
that a test can compare what lies between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c.program import (
    Add,
    Addition,
    BatchMatMul,
    Conv2D,
    Copy,
    DepthwiseConv2D,
    FullyConnected,
    Int8,
    Mean,
    Multiply,
    Pool2D,
    Program,
    Softmax,
    Step,
    Table,
    Window,
)

Int64 = NDArray[np.int64]


def run(program: Program, sample: Int8) -> list[Int8]:
    """All buffers after ``sample`` went through all segments, each in its own shape."""
    buffers: list[Any] = [np.full(each.shape, 99, np.int8) for each in program.buffers]
    buffers[program.input] = np.asarray(sample, np.int8).reshape(
        program.buffers[program.input].shape
    )
    for step in program.steps:
        inputs = [buffers[number] for number in step.inputs]
        result = _RUNNERS[type(step)](step, inputs, buffers[step.output])
        assert result.dtype == np.int8, step.name
        assert result.size == program.buffers[step.output].num_bytes, step.name
        buffers[step.output] = result.reshape(program.buffers[step.output].shape)
    return buffers


def logits(program: Program, sample: Int8) -> list[Int8]:
    """What each segment answers."""
    buffers = run(program, sample)
    return [buffers[segment.logits].ravel() for segment in program.segments]


def rescale(value: Int64, multiplier: Any, shift: Any) -> Int64:
    """``value * multiplier * 2^(shift - 31)``, rounded twice; arrays broadcast."""
    multiplier, shift = np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    product = ((value << left) * np.abs(multiplier) + (1 << 30)) >> 31
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    rounded = np.where(product >= 0, (product + half) >> right, -((-product + half) >> right))
    return np.asarray(np.where(multiplier < 0, -rounded, rounded))


def clamped(value: Int64, low: int, high: int) -> Int8:
    return np.clip(value, low, high).astype(np.int8)


def _sum(addition: Addition, a: Any, b: Any) -> Int8:
    scaled = [
        rescale((value.astype(np.int64) + offset) << addition.left_shift, multiplier, shift)
        for value, offset, multiplier, shift in (
            (a, addition.offset1, addition.multiplier1, addition.shift1),
            (b, addition.offset2, addition.multiplier2, addition.shift2),
        )
    ]
    total = rescale(scaled[0] + scaled[1], addition.output_multiplier, addition.output_shift)
    return clamped(total + addition.output_offset, addition.activation_min, addition.activation_max)


def _patches(step: Window, image: Int8, kernel: tuple[int, int], size: tuple[int, int]) -> Int64:
    """[out_h, out_w, kernel_h, kernel_w, channels], less the zero point; padding is 0."""
    values = image[0].astype(np.int64) + step.input_offset
    rows = [
        (count - 1) * stride + (extent - 1) * dilation + 1
        for count, stride, extent, dilation in zip(
            size, step.stride, kernel, step.dilation, strict=True
        )
    ]
    need = [
        max(n, before + m)
        for n, before, m in zip(rows, (step.pad_top, step.pad_left), values.shape[:2], strict=True)
    ]
    padded = np.zeros((*need, values.shape[2]), np.int64)
    padded[
        step.pad_top : step.pad_top + values.shape[0],
        step.pad_left : step.pad_left + values.shape[1],
    ] = values
    result = np.empty((*size, *kernel, values.shape[2]), np.int64)
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            top, left = y * step.dilation[0], x * step.dilation[1]
            result[:, :, y, x] = padded[
                top : top + (size[0] - 1) * step.stride[0] + 1 : step.stride[0],
                left : left + (size[1] - 1) * step.stride[1] + 1 : step.stride[1],
            ]
    return result


def _finish_window(step: Window, sums: Int64, inputs: list[Int8], output: Int8) -> Int8:
    scaled = rescale(sums + step.bias, step.multipliers, step.shifts) + step.output_offset
    result = clamped(scaled, step.activation_min, step.activation_max).reshape(output.shape)
    return result if step.residual is None else _sum(step.residual, result, inputs[1])


def _conv(step: Conv2D, inputs: list[Int8], output: Int8) -> Int8:
    channels, height, width, _ = step.weights.shape
    patches = _patches(step, inputs[0], (height, width), output.shape[1:3])
    flat = patches.reshape(*output.shape[1:3], -1).astype(np.float64)
    # Exact: all products and sums are far below 2^53.
    sums = flat @ step.weights.reshape(channels, -1).T.astype(np.float64)
    return _finish_window(step, sums.astype(np.int64), inputs, output)


def _depthwise(step: DepthwiseConv2D, inputs: list[Int8], output: Int8) -> Int8:
    height, width, _ = step.weights.shape
    patches = _patches(step, inputs[0], (height, width), output.shape[1:3])
    spread = np.repeat(patches, step.depth_multiplier, axis=-1)
    sums = (spread * step.weights.astype(np.int64)).sum((2, 3))
    return _finish_window(step, sums, inputs, output)


def _dense(step: FullyConnected, inputs: list[Int8], output: Int8) -> Int8:
    rows = inputs[0].reshape(-1, step.weights.shape[1]).astype(np.int64) + step.input_offset
    sums = rows @ step.weights.T.astype(np.int64) + step.bias
    scaled = rescale(sums, step.multipliers, step.shifts) + step.output_offset
    return clamped(scaled, step.activation_min, step.activation_max)


def _strided(values: Int8, extents: tuple[int, ...], strides: tuple[int, ...]) -> Int64:
    places = np.tensordot(np.array(strides), np.indices(extents), 1)
    return values.ravel()[places].astype(np.int64)


def _batch_matmul(step: BatchMatMul, inputs: list[Int8], output: Int8) -> Int8:
    *batches, rows, columns = step.extents
    a = _strided(inputs[0], (*batches, rows, step.depth), step.strides1) + step.offset1
    b = _strided(inputs[1], (*batches, columns, step.depth), step.strides2) + step.offset2
    sums = np.einsum("ijrd,ijcd->ijrc", a, b)
    result = clamped(rescale(sums, step.multiplier, step.shift) + step.output_offset, -128, 127)
    places = np.tensordot(np.array(step.output_strides), np.indices(step.extents), 1)
    flat = output.copy().ravel()
    flat[places.ravel()] = result.ravel()
    return flat


def _operands(step: Add | Multiply, inputs: list[Int8], output: Int8) -> list[Any]:
    shape = (1,) * (4 - output.ndim) + output.shape
    grid = np.indices(shape)
    second = step.constant if step.constant is not None else inputs[1]
    return [
        value.ravel()[sum(stride * index for stride, index in zip(strides, grid, strict=True))]
        for value, strides in ((inputs[0], step.strides1), (second, step.strides2))
    ]


def _add(step: Add, inputs: list[Int8], output: Int8) -> Int8:
    return _sum(step.addition, *_operands(step, inputs, output))


def _multiply(step: Multiply, inputs: list[Int8], output: Int8) -> Int8:
    a, b = (value.astype(np.int64) for value in _operands(step, inputs, output))
    product = rescale((a + step.offset1) * (b + step.offset2), step.multiplier, step.shift)
    return clamped(product + step.output_offset, step.activation_min, step.activation_max)


def _pool(step: Pool2D, inputs: list[Int8], output: Int8) -> Int8:
    image = inputs[0][0].astype(np.int64)
    result = np.empty(output.shape[1:], np.int64)
    for y in range(output.shape[1]):
        for x in range(output.shape[2]):
            top, left = y * step.stride[0] - step.pad_top, x * step.stride[1] - step.pad_left
            part = image[
                max(top, 0) : top + step.kernel[0], max(left, 0) : left + step.kernel[1]
            ].reshape(-1, image.shape[2])
            if step.kind == "max":
                result[y, x] = part.max(0)
            else:
                total, count = part.sum(0), len(part)
                size = (np.abs(total) + count // 2) // count
                result[y, x] = np.where(total > 0, size, -size)
    return clamped(result, step.activation_min, step.activation_max)


def _mean(step: Mean, inputs: list[Int8], output: Int8) -> Int8:
    values = inputs[0].reshape(step.outer, step.reduced, step.inner).astype(np.int64)
    sums = values.sum(1) - step.reduced * step.input_zero_point
    return clamped(rescale(sums, step.multiplier, step.shift) + step.output_offset, -128, 127)


def _table(step: Table, inputs: list[Int8], output: Int8) -> Int8:
    return step.table[inputs[0].astype(int) + 128]


def _copy(step: Copy, inputs: list[Int8], output: Int8) -> Int8:
    flat = output.copy().ravel()
    if step.fill is not None:
        flat[:] = step.fill
    grid = np.indices(step.extents).reshape(4, -1)
    target = step.output_start + np.array(step.output_strides) @ grid
    flat[target] = inputs[0].ravel()[step.input_start + np.array(step.input_strides) @ grid]
    return flat


# ---------------------------------------------------------------------- softmax


def _high_product(a: Any, b: Any) -> Int64:
    product = (np.asarray(a, np.int64) * np.asarray(b, np.int64) + (1 << 30)) >> 31
    return np.asarray(np.minimum(product, 2**31 - 1))


def _exponential(value: Int64) -> Int64:
    """exp of Q5.26, not positive, in Q0.31."""
    quarter = 1 << 24
    in_quarter = (value & (quarter - 1)) - quarter
    x = (in_quarter << 5) + (1 << 28)
    x2 = _high_product(x, x)
    x3, x4 = _high_product(x2, x), _high_product(x2, x2)
    series = _rounded_right(_high_product(_rounded_right(x4, 2) + x3, 715827883) + x2, 1)
    result = 1895147668 + _high_product(1895147668, x + series)
    rest = in_quarter - value
    powers = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for bit, power in enumerate(powers, 24):
        result = np.where(rest >> bit & 1, _high_product(result, power), result)
    return np.asarray(np.where(value == 0, 2**31 - 1, result))


def _softmax(step: Softmax, inputs: list[Int8], output: Int8) -> Int8:
    rows = inputs[0].reshape(step.num_rows, step.depth).astype(np.int64)
    result = np.empty(rows.shape, np.int8)
    for number, row in enumerate(rows):
        differences = row - row.max()
        used = differences >= step.diff_min
        scaled = _high_product(
            np.where(used, differences, 0) << step.input_shift, step.input_multiplier
        )
        powers = _exponential(scaled)
        # Q12.19: 12 integer bits hold sums over 4095 values.
        total = int(np.where(used, _rounded_right(powers, 12), 0).sum())
        headroom = 32 - total.bit_length()
        fraction = (total << headroom) - (1 << 31)
        inverse = _reciprocal(fraction)
        exponent = 12 - headroom + 31 - 8
        answer = _rounded_right(_high_product(powers, inverse), exponent) - 128
        result[number] = np.where(used, np.clip(answer, -128, 127), -128)
    return result


def _rounded_right(value: Int64, amount: int) -> Int64:
    half = (1 << amount) >> 1
    return np.asarray(np.where(value >= 0, (value + half) >> amount, -((-value + half) >> amount)))


def _reciprocal(fraction: int) -> int:
    half = (fraction + 2**31) // 2
    x = 1515870810 + int(_high_product(half, -1010580540))
    for _ in range(3):
        error = (1 << 29) - int(_high_product(half, x))
        x += min(max(int(_high_product(x, error)) << 2, -(2**31)), 2**31 - 1)
    return min(x << 1, 2**31 - 1)


_RUNNERS: dict[type[Step], Callable[[Any, list[Int8], Int8], Int8]] = {
    Add: _add,
    BatchMatMul: _batch_matmul,
    Conv2D: _conv,
    Copy: _copy,
    DepthwiseConv2D: _depthwise,
    FullyConnected: _dense,
    Mean: _mean,
    Multiply: _multiply,
    Pool2D: _pool,
    Softmax: _softmax,
    Table: _table,
}
