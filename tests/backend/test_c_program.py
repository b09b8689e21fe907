"""Legalized programs, run in numpy, against TFLite-Micro and LiteRT's reference kernels.

Equal means every byte. Where the two engines differ, TFLite-Micro's answer counts:

- LiteRT rounds once in FULLY_CONNECTED where all others round twice; about one output in a
  thousand differs by one.
- TFLite-Micro's RELU6 does not rescale; there LiteRT counts, and files with two scales are only
  compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from networks import pieces
from program_reference import logits, rescale, run
from tflite_ops import Builder, cases, fully_connected, unary

from edgeexit.backends.c import tables
from edgeexit.backends.c.legalize import links_of, program_from_chain, program_from_file
from edgeexit.backends.c.multipliers import factor
from edgeexit.backends.c.program import Int8
from edgeexit.backends.c.reader import read_model
from edgeexit.backends.tflite import lower

tflm = pytest.importorskip(
    "tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed"
)

ARENA_BYTES = 1 << 20
ALL_VALUES = np.arange(-128, 128).astype(np.int8)
CASES = dict(cases())


class Micro:
    """TFLite-Micro."""

    def __init__(self, content: bytes) -> None:
        self.interpreter = tflm.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)
        self.shape = self.interpreter.get_input_details(0)["shape"]

    def __call__(self, sample: Any, num_outputs: int = 1) -> list[Any]:
        self.interpreter.set_input(sample.reshape(self.shape), 0)
        self.interpreter.invoke()
        return [self.interpreter.get_output(k) for k in range(num_outputs)]


class Reference:
    """LiteRT's reference kernels."""

    def __init__(self, content: bytes) -> None:
        self.interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        self.interpreter.allocate_tensors()

    def __call__(self, sample: Any) -> Any:
        (given,) = self.interpreter.get_input_details()
        self.interpreter.set_tensor(given["index"], sample.reshape(given["shape"]))
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"])


def samples(count: int, size: int) -> Iterator[Int8]:
    """Random ones; where all 256 values fit, these first."""
    rng = np.random.default_rng(9)
    if size == ALL_VALUES.size:
        yield ALL_VALUES
        count -= 1
    for _ in range(count):
        yield rng.integers(-128, 128, size).astype(np.int8)


@pytest.mark.parametrize("name", CASES)
def test_a_case_gives_the_bytes_of_both_engines(name: str) -> None:
    content = CASES[name]
    program = program_from_file(content, name)
    micro = Micro(content)
    # LiteRT demands a bias of a convolution; FULLY_CONNECTED: see above.
    reference = None if name == "conv_no_bias" or name.startswith("fc_") else Reference(content)
    for sample in samples(4, program.buffers[program.input].num_bytes):
        (mine,) = logits(program, sample)
        np.testing.assert_array_equal(mine, micro(sample)[0].ravel())
        if reference is not None:
            np.testing.assert_array_equal(mine, reference(sample).ravel())


def test_litert_rounds_once_in_fully_connected() -> None:
    """If this fails, LiteRT has changed, and the comparison above can include it."""
    rng = np.random.default_rng(4)
    differences = total = 0
    for _ in range(5):
        content = fully_connected(rng, (1,), (64, 500), per_channel=True)
        program, reference = program_from_file(content, "x"), Reference(content)
        for sample in samples(5, 64):
            change = logits(program, sample)[0].astype(int) - reference(sample).ravel()
            assert np.abs(change).max() <= 1
            differences += int((change != 0).sum())
            total += change.size
    assert 0 < differences < total / 500


def test_the_factor_of_a_dense_layer_is_computed_in_double() -> None:
    """Sums whose outputs differ if the scales are multiplied in single precision."""
    source, weight, out = (float(np.float32(scale)) for scale in (0.0353, 2.3e-5, 0.6180))
    single = factor(float(np.float32(source) * np.float32(weight)) / out)
    double = factor(source * weight / out)
    size = int(120 * out / (source * weight))
    sums = np.arange(-size, size, dtype=np.int64)
    telling = sums[rescale(sums, *single) != rescale(sums, *double)][:100]
    assert len(telling) > 10
    b = Builder()
    given, output = b.tensor((1, 4), source), b.tensor((1, len(telling)), out)
    weights = b.tensor((len(telling), 4), weight, data=np.ones((len(telling), 4), np.int8))
    product = float(np.float32(source * weight))
    bias = b.tensor((len(telling),), product, dtype="int32", data=telling.astype(np.int32))
    b.op("FULLY_CONNECTED", [given, weights, bias], [output], "FullyConnectedOptions")
    content = b.finish([given], [output])
    zeros = np.zeros(4, np.int8)
    expected = Micro(content)(zeros)[0].ravel()
    np.testing.assert_array_equal(logits(program_from_file(content, "x"), zeros)[0], expected)
    assert (rescale(telling, *single) != expected).all()


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "QUANTIZE"])
def test_tables_are_those_of_both_engines(kind: str) -> None:
    rng = np.random.default_rng(6)
    for number in range(60):
        same = kind == "RELU6" and number % 2 == 0
        content = unary(rng, kind, same=same)
        source, output = (
            (tensor.scales[0], tensor.zero_points[0])
            for tensor in read_model(content, kind).tensors
        )
        table = {
            "RELU": lambda s, o: tables.relu(s, o, None),
            "RELU6": lambda s, o: tables.relu(s, o, 6.0),
            "HARD_SWISH": tables.hard_swish,
            "LOGISTIC": lambda s, o: tables.sigmoid(s),
            "QUANTIZE": tables.requantized,
        }[kind](source, output)
        np.testing.assert_array_equal(table, Reference(content)(ALL_VALUES).ravel())
        if kind != "RELU6" or same:
            np.testing.assert_array_equal(table, Micro(content)(ALL_VALUES)[0].ravel())


def test_tables_of_gelu_are_those_of_litert() -> None:
    """TFLite-Micro has no such kernel."""
    rng = np.random.default_rng(7)
    for _ in range(60):
        content = unary(rng, "GELU")
        (given,) = logits(program_from_file(content, "gelu"), ALL_VALUES)
        np.testing.assert_array_equal(given, Reference(content)(ALL_VALUES).ravel())


@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_sums_and_products_of_all_pairs(kind: str) -> None:
    """65,536 pairs for each of some scales; halves are rounded in every direction."""
    rng = np.random.default_rng(8)
    for _ in range(6):
        first, second = rng.uniform(0.01, 0.2, 2).astype(np.float32).tolist()
        b = Builder()
        a = b.tensor((1, 256, 1), first, int(rng.integers(-128, 128)))
        turned = b.tensor((1, 1, 256), first, b.graph.tensors[a].quantization.zeroPoint[0])
        b.op("RESHAPE", [a, b.numbers([1, 1, 256])], [turned], "ReshapeOptions")
        other = b.tensor((1, 1, 256), second, int(rng.integers(-128, 128)))
        b.op("QUANTIZE", [turned], [other], "QuantizeOptions")
        scale = 2 * max(first, second) if kind != "MUL" else 120 * first * second
        output = b.tensor((1, 256, 256), float(np.float32(scale)), int(rng.integers(-20, 20)))
        b.op(kind, [a, other], [output], f"{kind.title()}Options")
        content = b.finish([a], [output])
        (mine,) = logits(program_from_file(content, kind), ALL_VALUES)
        np.testing.assert_array_equal(mine, Micro(content)(ALL_VALUES)[0].ravel())


def test_a_file_with_a_residual_block_gives_the_same_bytes_fused() -> None:
    from test_c_fuzz_reader import residual

    content = residual()
    program = program_from_file(content, "residual")
    assert any(getattr(step, "residual", None) for step in program.steps)
    micro = Micro(content)
    for sample in samples(20, program.buffers[program.input].num_bytes):
        np.testing.assert_array_equal(logits(program, sample)[0], micro(sample)[0].ravel())


@pytest.mark.parametrize(
    "name", ["residual", "dense", "two_scale", "ensemble", "mobile", "assorted"]
)
def test_a_chain_gives_the_bytes_of_its_segments(name: str) -> None:
    """Compiled networks of several exits; every value that crosses a cut is compared, too."""
    made = pieces(name)
    *artifacts, static = lower(made.segments, made.static)
    models = [read_model(each.content, each.path) for each in artifacts]
    specs = [segment.spec for segment in made.segments]
    program = program_from_chain(models, links_of(specs))
    engines = [Micro(each.content) for each in artifacts]
    alone = program_from_file(static.content, "static")
    for sample in samples(20, program.buffers[program.input].num_bytes):
        mine = logits(program, sample)
        values = {specs[0].inputs[0].name: sample}
        for engine, spec, answer in zip(engines, specs, mine, strict=True):
            for position, each in enumerate(spec.inputs):
                engine.interpreter.set_input(values[each.name].reshape(each.shape), position)
            engine.interpreter.invoke()
            for position, each in enumerate((*spec.outputs, spec.logits)):
                values[each.name] = engine.interpreter.get_output(position)
            np.testing.assert_array_equal(answer, values[spec.logits.name].ravel())
        np.testing.assert_array_equal(logits(alone, sample)[0], mine[-1])


def test_the_comparison_notices_a_wrong_bit() -> None:
    content = CASES["conv_16_16"]
    program = program_from_file(content, "x")
    sample = next(samples(1, program.buffers[program.input].num_bytes))
    wrong = run(program, sample)[program.segments[0].logits].copy().ravel()
    wrong[3] ^= 1
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(wrong, Micro(content)(sample)[0].ravel())
