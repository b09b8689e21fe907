"""The networks of ``scripts/bench mcu``, their inputs, and what TFLite-Micro answers to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlperf_tiny import mlperf_tiny
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime as tflm

from edgeexit.backends.c.legalize import input_edge, output_edge
from edgeexit.backends.c.reader import read_model
from edgeexit.data.types import Splits
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.preprocess import Preprocessor

NUM_INPUTS = 200
_TFLM_ARENA_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Network:
    """A ``.tflite``, int8 inputs ``[n, ...]``, and TFLite-Micro's answers, int8 ``[n, bytes]``.

    What a file has outside int8 (floats in ``ad``, uint8 in ``vww``) is the caller's business:
    inputs are turned into it for TFLite-Micro and its answers back, which loses nothing.
    """

    name: str
    content: bytes
    inputs: NDArray[np.int8]
    expected: NDArray[np.int8]


def networks(bundle: Bundle, splits: Splits, num_inputs: int) -> list[Network]:
    """All networks: ``bundle``'s without its early exits, and those of MLPerf Tiny."""
    images = splits.test.images[:num_inputs]
    (static,) = [
        artifact
        for artifact in bundle.manifest.artifacts
        if artifact.backend == "tflite" and artifact.segment is None
    ]
    inputs = Preprocessor(bundle.manifest.input).batch(images)
    made = [_network("resnet8", bundle.read(static), inputs)]
    for name, content in mlperf_tiny().items():
        if name == "mlperf_ic":
            # Real = (pixel - 128) / 128 in this network.
            given = (images ^ 128).view(np.int8)
        else:
            model = read_model(content, name)
            shape = model.tensors[model.inputs[0]].shape
            given = synthetic_inputs(shape[1:], num_inputs)
        made.append(_network(name, content, given))
    return made


def synthetic_inputs(shape: tuple[int, ...], count: int) -> NDArray[np.int8]:
    """Noise, smooth waves, and stripes between the extremes, in turn; the same in every run."""
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    made = []
    for index in range(count):
        if index % 3 == 0:
            values = rng.integers(-128, 128, size)
        elif index % 3 == 1:
            place = np.arange(size) / size
            waves = sum(np.sin(2 * np.pi * f * place + rng.uniform(0, 7)) for f in (1, 3, 17))
            values = np.round(waves * rng.uniform(10, 60) + rng.uniform(-40, 40))
        else:
            low, high = np.sort(rng.choice([-128, -127, -1, 0, 1, 127], 2))
            values = np.where(np.arange(size) // rng.integers(1, 200) % 2, low, high)
        made.append(np.clip(values, -128, 127).astype(np.int8).reshape(shape))
    return np.stack(made)


def tflm_answers(content: bytes, inputs: NDArray[np.int8], where: str) -> NDArray[np.int8]:
    """What TFLite-Micro answers: int8 [n, bytes]."""
    model = read_model(content, where)
    source, result = input_edge(model), output_edge(model)
    interpreter = tflm.Interpreter.from_bytes(content, arena_size=_TFLM_ARENA_BYTES)
    rows = []
    for sample in inputs.reshape(len(inputs), *source.shape):
        value = _outside(sample, source.dtype, source.scale, source.zero_point)
        interpreter.set_input(value, 0)
        interpreter.invoke()
        output = interpreter.get_output(0).ravel()
        rows.append(_inside(output, result.dtype, result.scale, result.zero_point))
    return np.stack(rows)


def _network(name: str, content: bytes, inputs: NDArray[np.int8]) -> Network:
    return Network(name, content, inputs, tflm_answers(content, inputs, name))


def _outside(values: NDArray, dtype: str, scale: float, zero_point: int) -> NDArray:  # type: ignore[type-arg]
    if dtype == "float32":
        return ((values.astype(np.float64) - zero_point) * scale).astype(np.float32)
    return values if dtype == "int8" else (values.astype(np.int16) + 128).astype(np.uint8)


def _inside(values: NDArray, dtype: str, scale: float, zero_point: int) -> NDArray[np.int8]:  # type: ignore[type-arg]
    if dtype == "float32":
        return (np.round(values.astype(np.float64) / scale) + zero_point).astype(np.int8)
    return values if dtype == "int8" else (values.astype(np.int16) - 128).astype(np.int8)
