"""Thousands of damaged ``.tflite`` files: each is refused with an error of ours, or compiled.

Damage is deterministic. Blind damage mostly breaks the flatbuffer; damage that knows the fields
(sizes, indices, scales, options set to extreme values) gets past the reader and into the passes
behind it.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_ops import NONE, RELU, Builder, cases

from edgeexit.backends.c.legalize import CHAIN_INPUT, Link, program_from_chain
from edgeexit.backends.c.program import Program
from edgeexit.backends.c.reader import read_model
from edgeexit.errors import LoweringError

# Generous: what is meant is seconds and megabytes, not minutes and gigabytes.
MAX_SECONDS = 5.0
MAX_BYTES = 64 << 20

_WORDS = (0, 1, 2, 3, 4, 8, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
_FIELDS = (0, 1, -1, 2, 3, 5, 7, 127, -128, 255, 1000, 65535, 65536, 2**20, 2**31 - 1, -(2**31))
_SCALES = (0.0, -1.0, 1e-45, 1e-38, 1e-20, 1e-9, 1.0, 7.9, 1e9, 1e20, 3e38, float("inf"))


def residual() -> bytes:
    """Convolutions, padding, an addition, a pool and a dense layer: what passes join."""
    rng = np.random.default_rng(3)
    b = Builder()
    x = b.tensor((1, 8, 8, 4), 0.02, -3)

    def conv(source: int, channels: tuple[int, int], size: int, stride: int, padding: int) -> int:
        data = rng.integers(-127, 128, (channels[1], 3, 3, channels[0])).astype(np.int8)
        weight = b.tensor(data.shape, [0.01] * channels[1], data=data)
        zeros = np.zeros(channels[1], np.int32)
        bias = b.tensor(zeros.shape, [0.0002] * channels[1], dtype="int32", data=zeros)
        output = b.tensor((1, size, size, channels[1]), 0.1, -5)
        b.op(
            "CONV_2D",
            [source, weight, bias],
            [output],
            "Conv2DOptions",
            padding=padding,
            strideH=stride,
            strideW=stride,
            fusedActivationFunction=NONE,
        )
        return output

    first = conv(x, (4, 4), 8, 1, 0)
    second = conv(first, (4, 4), 8, 1, 0)
    total = b.tensor((1, 8, 8, 4), 0.15, -100)
    b.op("ADD", [second, x], [total], "AddOptions", fusedActivationFunction=RELU)
    padded = b.tensor((1, 9, 9, 4), 0.15, -100)
    b.op("PAD", [total, b.numbers([[0, 0], [1, 0], [1, 0], [0, 0]])], [padded], "PadOptions")
    third = conv(padded, (4, 8), 4, 2, 1)
    means = b.tensor((1, 8), 0.05, 4)
    b.op("MEAN", [third, b.numbers([1, 2])], [means], "ReducerOptions", keepDims=False)
    rows = b.tensor((1, 8), 0.05, 4)
    b.op("RESHAPE", [means, b.numbers([1, 8])], [rows], "ReshapeOptions")
    weight = b.tensor((5, 8), 0.01, data=rng.integers(-127, 128, (5, 8)).astype(np.int8))
    logits = b.tensor((1, 5), 0.1, 0)
    b.op("FULLY_CONNECTED", [rows, weight, -1], [logits], "FullyConnectedOptions")
    answer = b.tensor((1, 5), 1 / 256, -128)
    b.op("SOFTMAX", [logits], [answer], "SoftmaxOptions", beta=1.0)
    return b.finish([x], [answer])


def compiled(content: bytes) -> Program | None:
    """Reads and legalizes; None where that was refused."""
    try:
        model = read_model(content, "fuzz")
        return program_from_chain([model], [[Link(CHAIN_INPUT)]])
    except LoweringError:
        return None


def blind(rng: np.random.Generator, content: bytes) -> bytes:
    """Bits flipped, words replaced, parts cut, moved or doubled."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(0, len(data)))
        match int(rng.integers(0, 6)):
            case 0:
                data[place] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[place] = int(rng.integers(0, 256))
            case 2 | 3:
                place -= place % 4
                word = int(rng.choice(np.array(_WORDS, np.uint64)))
                data[place : place + 4] = word.to_bytes(4, "little")
            case 4:
                length = int(rng.integers(1, 32))
                data[place : place + length] = data[:length]
            case 5:
                del data[max(8, place) :]
        if len(data) < 16:
            break
    return bytes(data)


def aware(rng: np.random.Generator, content: bytes) -> bytes:
    """A whole flatbuffer in which a few fields have values that make no sense."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for _ in range(int(rng.integers(1, 3))):
        number = int(rng.choice(np.array(_FIELDS, np.int64)))
        tensor = graph.tensors[int(rng.integers(len(graph.tensors)))]
        op = graph.operators[int(rng.integers(len(graph.operators)))]
        match int(rng.integers(0, 9)):
            case 0 if tensor.shape is not None and len(tensor.shape):
                shape = [int(n) for n in tensor.shape]
                shape[int(rng.integers(len(shape)))] = number
                tensor.shape = shape
            case 1:
                tensor.type = int(rng.integers(0, 18))
            case 2:
                tensor.buffer = int(rng.integers(0, len(model.buffers) + 1))
            case 3 if (
                tensor.quantization is not None
                and tensor.quantization.scale is not None
                and len(tensor.quantization.scale)
            ):
                scales = [float(s) for s in tensor.quantization.scale]
                scales[int(rng.integers(len(scales)))] = float(rng.choice(_SCALES))
                tensor.quantization.scale = scales if rng.integers(4) else scales[1:]
            case 4 if tensor.quantization is not None:
                tensor.quantization.zeroPoint = [number]
                tensor.quantization.quantizedDimension = int(rng.integers(-2, 5))
            case 5 if len(op.inputs):
                indices = [int(n) for n in op.inputs]
                indices[int(rng.integers(len(indices)))] = int(rng.integers(-2, 40))
                op.inputs = indices
            case 6:
                op.opcodeIndex = int(rng.integers(0, len(model.operatorCodes) + 1))
            case 7 if op.builtinOptions is not None and vars(op.builtinOptions):
                name = str(rng.choice(sorted(vars(op.builtinOptions))))
                old = getattr(op.builtinOptions, name)
                small = "Type" in name or "padding" in name or "Function" in name
                if isinstance(old, float):
                    setattr(op.builtinOptions, name, float(rng.choice(_SCALES)))
                elif isinstance(old, bool | int):
                    setattr(op.builtinOptions, name, int(rng.integers(0, 6)) if small else number)
            case 8:
                buffer = model.buffers[int(rng.integers(len(model.buffers)))]
                if buffer.data is not None and len(buffer.data) >= 4:
                    raw = np.array(buffer.data, np.uint8)
                    place = 4 * int(rng.integers(len(raw) // 4))
                    raw[place : place + 4] = np.frombuffer(
                        (number % 2**32).to_bytes(4, "little"), np.uint8
                    )
                    buffer.data = raw
            case _:
                pass
    builder = flatbuffers.Builder(1024)
    try:
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    except Exception:  # the generated classes cannot write every value
        return content
    return bytes(builder.Output())


def seeds() -> Iterator[bytes]:
    yield residual()
    for number, (_, content) in enumerate(cases()):
        if number % 6 == 0 and len(content) < 8000:
            yield content


def test_the_seeds_are_compiled_as_they_are() -> None:
    assert all(compiled(content) is not None for content in seeds())


@pytest.mark.slow
@pytest.mark.parametrize("damage", [blind, aware])
def test_a_damaged_file_is_refused_or_compiled(damage: object) -> None:
    assert callable(damage)
    rng = np.random.default_rng(11)
    originals = list(seeds())
    outcomes = []
    for number in range(2500):
        original = originals[0] if number % 2 else originals[number // 2 % len(originals)]
        content = damage(rng, original)
        start = time.process_time()
        try:
            outcomes.append(compiled(content) is not None)
        except Exception as error:
            raise AssertionError(f"file {number} of {damage.__name__}: {error!r}") from error
        assert time.process_time() - start < MAX_SECONDS, number
    assert not all(outcomes)
    assert any(outcomes)


def test_every_truncation_is_refused() -> None:
    content = residual()
    for length in range(0, len(content) - 1, 7):
        assert compiled(content[:length]) is None


def test_memory_stays_bounded() -> None:
    rng = np.random.default_rng(5)
    originals = list(seeds())
    tracemalloc.start()
    try:
        for number in range(300):
            damage = aware if number % 2 else blind
            compiled(damage(rng, originals[number % len(originals)]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_BYTES
