"""Plain C kernels on the host, under sanitizers: bit for bit what TFLite-Micro computes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import c_host
import dsp_cases
import numpy as np
import program_reference
import pytest
import tiny_chain
from numpy.typing import NDArray
from tflite_micro.python.tflite_micro import runtime as tflm
from tflite_ops import Builder, cases, unary

from edgeexit.backends.c import (
    CHAIN_INPUT,
    ChainInfo,
    ChainPoint,
    Link,
    build,
)
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.legalize import program_from_file
from edgeexit.backends.c.multipliers import swapped
from edgeexit.backends.c.program import (
    Add,
    Addition,
    Buffer,
    Conv2D,
    DepthwiseConv2D,
    Program,
    ProgramSegment,
    Table,
)
from edgeexit.runtime.decision import batch_exits, batch_scores, exp_table
from edgeexit.types import DecisionSpec, Rule

Int8 = NDArray[np.int8]
NUM_SAMPLES = 6


def tflm_outputs(content: bytes, inputs: Int8) -> Int8:
    """The last output for each sample, int8 [num_samples, num_bytes]."""
    interpreter = tflm.Interpreter.from_bytes(content, arena_size=1 << 20)
    shape = interpreter.get_input_details(0)["shape"]
    rows = []
    for sample in inputs:
        interpreter.set_input(sample.reshape(shape), 0)
        interpreter.invoke()
        rows.append(interpreter.get_output(0).ravel())
    return np.stack(rows)


# ------------------------------------------------------------------ one op at a time


def op_inputs(program: Program) -> Int8:
    rng = np.random.default_rng(3)
    shape = program.buffers[program.input].shape
    inputs = rng.integers(-128, 128, (NUM_SAMPLES, *shape)).astype(np.int8)
    inputs[0], inputs[1] = -128, 127
    return inputs


@cache
def op_models() -> dict[str, tuple[bytes, c_host.Model]]:
    return {
        name: (content, c_host.make(program_from_file(content, "op"), name=name))
        for name, content in cases()
    }


@pytest.fixture(scope="module", params=c_host.COMPILERS)
def ops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> c_host.Host:
    return c_host.Host(
        {name: model for name, (_, model) in op_models().items()},
        tmp_path_factory.mktemp("ops"),
        compiler=request.param,
    )


@pytest.mark.parametrize("name", [name for name, _ in cases()])
def test_one_op(ops: c_host.Host, name: str) -> None:
    content, model = op_models()[name]
    inputs = op_inputs(model.program)
    np.testing.assert_array_equal(
        ops.outputs(name, inputs)[-1], tflm_outputs(content, inputs), strict=True
    )


def test_the_comparison_notices_one_bit(tmp_path: Path) -> None:
    content = dict(cases())["conv_deep"]
    program = program_from_file(content, "op")
    (step,) = program.steps
    assert isinstance(step, Conv2D)
    changed = replace(step, output_offset=step.output_offset + 1)
    program = replace(program, segments=(replace(program.segments[0], steps=(changed,)),))
    inputs = op_inputs(program)
    given = c_host.run_program(program, inputs, tmp_path)
    assert (given != tflm_outputs(content, inputs)).any()


# ------------------------------------------------------------------ what no file can say


def residual_programs() -> dict[str, Program]:
    """A convolution whose sum with another tensor is written over that tensor."""
    rng = np.random.default_rng(5)
    addition = Addition(20, 7, 1 << 30, -1, -3, 1518500250, -1, 11, 1431655765, -18, -128, 127)
    programs = {}
    for kind in (Conv2D, DepthwiseConv2D):
        shape = (1, 6, 5, 7)
        weights = (7, 3, 3, 7) if kind is Conv2D else (3, 3, 7)
        base = {
            "output": 1,
            "stride": (1, 1),
            "pad_top": 1,
            "pad_left": 1,
            "input_offset": 9,
            "output_offset": -20,
            "activation_min": -128,
            "activation_max": 127,
            "multipliers": rng.integers(1 << 30, (1 << 31) - 1, 7).astype(np.int32),
            "shifts": rng.integers(-9, -6, 7).astype(np.int32),
            "bias": rng.integers(-5000, 5000, 7).astype(np.int32),
        }
        first = kind(
            name="first",
            inputs=(0,),
            weights=rng.integers(-127, 128, weights).astype(np.int8),
            **base,
        )
        second = kind(
            name="second",
            inputs=(1, 0),
            weights=rng.integers(-127, 128, weights).astype(np.int8),
            residual=addition,
            **{**base, "output": 2},
        )
        buffers = tuple(Buffer(name, shape, 1.0, 0) for name in ("image", "middle", "sum"))
        segment = ProgramSegment((first, second), 2)
        programs[f"residual_{kind.__name__}"] = Program(buffers, 0, (segment,))
    return programs


@pytest.mark.parametrize("compiler", c_host.COMPILERS)
def test_a_sum_is_written_over_its_second_input(tmp_path: Path, compiler: str) -> None:
    models = {name: c_host.make(p, name=name) for name, p in residual_programs().items()}
    host = c_host.Host(models, tmp_path, compiler=compiler)
    inputs = np.random.default_rng(6).integers(-128, 128, (4, 6, 5, 7)).astype(np.int8)
    for name, model in models.items():
        assert model.plan.offsets[0] == model.plan.offsets[2]
        expected = [program_reference.run(model.program, sample)[2].ravel() for sample in inputs]
        assert len(np.unique(expected)) > 50
        np.testing.assert_array_equal(host.outputs(name, inputs)[0], expected)


SUBTRACTIONS = (
    # Scales and zero points of the operands and the result, and operands whose difference shows
    # how an operand is rounded,
    (
        (0.08926434069871902, -30),
        (0.07239477336406708, -55),
        (0.1341577023267746, 34),
        (-109, -44),
    ),
    # and that factors are taken in double precision.
    (
        (0.03003866784274578, -36),
        (0.04581153020262718, -8),
        (0.04991694539785385, 7),
        (-84, 21),
    ),
)


def subtraction_files() -> list[bytes]:
    """All values subtracted from a constant, and a constant from all values."""
    files = []
    for *parameters, values in SUBTRACTIONS:
        for constant, value in enumerate(values):
            b = Builder()
            data = np.full((1, 256), value, np.int8)
            tensors = [
                b.tensor((1, 256), *each, data=data if n == constant else None)
                for n, each in enumerate(parameters)
            ]
            b.op("SUB", tensors[:2], tensors[2:], "SubOptions")
            files.append(b.finish([tensors[1 - constant]], tensors[2:]))
    return files


def constant_first(program: Program) -> dict[str, Program]:
    """An addition of a constant, which a step computes: by itself, and in convolutions."""
    (add,) = program.steps
    assert isinstance(add, Add)
    assert add.constant is not None
    value = int(add.constant[0, 0])
    table = Table(name="table", inputs=(0,), output=1, table=np.full(256, value, np.int8))
    plain = replace(add, inputs=(0, 1), output=2, constant=None)
    line = tuple(Buffer(name, (1, 256), 1.0, 0) for name in ("input", "constant", "sum"))
    made = {"plain": Program(line, 0, (ProgramSegment((table, plain), 2),))}
    image = tuple(Buffer(name, (1, 16, 16, 1), 1.0, 0) for name in ("input", "sum"))
    for kind in (Conv2D, DepthwiseConv2D):
        window = kind(
            name="window",
            inputs=(0, 0),
            output=1,
            weights=np.zeros((1, 1, 1, 1)[: 4 if kind is Conv2D else 3], np.int8),
            bias=np.zeros(1, np.int32),
            multipliers=np.full(1, 1 << 30, np.int32),
            shifts=np.full(1, -1, np.int32),
            input_offset=0,
            output_offset=value,
            activation_min=-128,
            activation_max=127,
            residual=swapped(add.addition),
        )
        made[kind.__name__] = Program(image, 0, (ProgramSegment((window,), 1),))
    return made


@pytest.mark.parametrize("core", [c_host.GENERIC, dsp_cases.CORTEX_M4], ids=["portable", "dsp"])
def test_a_subtraction_rounds_as_tflite_does(tmp_path: Path, core: Core) -> None:
    expected: dict[str, Int8] = {}
    models = {}
    inputs = np.arange(-128, 128).reshape(1, 256).astype(np.int8)
    for number, content in enumerate(subtraction_files()):
        program = program_from_file(content, "op")
        for name, each in {"file": program, **constant_first(program)}.items():
            key = f"{name}_{number}"
            models[key] = c_host.make(each, core=core, name=key)
            expected[key] = tflm_outputs(content, inputs)
    host = c_host.Host(models, tmp_path)
    for key, answer in expected.items():
        np.testing.assert_array_equal(host.outputs(key, inputs)[-1], answer, err_msg=key)


@pytest.mark.parametrize("bias", [(1 << 31) - 1, -(1 << 31)])
def test_a_bias_that_overflows_is_defined(tmp_path: Path, bias: int) -> None:
    program = residual_programs()["residual_Conv2D"]
    first = program.segments[0].steps[0]
    assert isinstance(first, Conv2D)
    first = replace(first, bias=np.full(7, bias, np.int32))
    program = replace(program, segments=(ProgramSegment((first,), 1),))
    inputs = np.zeros((1, 6, 5, 7), np.int8)
    c_host.run_program(program, inputs, tmp_path)


@pytest.mark.parametrize("depth", [511, 512, 4095])
def test_softmax_of_many_equal_values_is_defined(tmp_path: Path, depth: int) -> None:
    content = unary(np.random.default_rng(1), "SOFTMAX", (1, depth))
    inputs = np.stack([np.full(depth, 7), np.arange(depth) % 2]).astype(np.int8)
    program = program_from_file(content, "softmax")
    expected = [program_reference.logits(program, sample)[-1] for sample in inputs]
    given = c_host.run_program(program, inputs, tmp_path)
    np.testing.assert_array_equal(given, expected)
    assert (given[0] == (-127 if depth < 512 else -128)).all()


# ------------------------------------------------------------------ chains


def chain_files() -> list[bytes]:
    files = tiny_chain.tflite_files()
    return [content for path, content in sorted(files.items()) if "static" not in path]


LINKS = [[Link(CHAIN_INPUT)], [Link(0, 0)], [Link(0, 1), Link(1, 0)]]


def chain_info(rule: Rule) -> ChainInfo:
    tables = (exp_table(0.05),) * 3 if rule == "confidence" else ()
    points = {
        "confidence": ((0, 0, 2**32 - 1), (110_000, 120_000, 2**32 - 1)),
        "margin": ((256, 256, 0), (9, 4, 0)),
        "patience": ((2**32 - 1, 2**32 - 1, 1), (2, 2, 1)),
    }[rule]
    return ChainInfo(
        name=rule,
        decision=DecisionSpec(rule, tables),
        points=tuple(ChainPoint(f"point {n}", values) for n, values in enumerate(points)),
        costs=(5, 70, 900),
        cost_unit="ticks",
    )


@pytest.fixture(scope="module", params=c_host.COMPILERS)
def chains(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> c_host.Host:
    models = {}
    rules: tuple[Rule, ...] = ("confidence", "margin", "patience")
    for rule in rules:
        made = build(chain_files(), LINKS, chain_info(rule), c_host.GENERIC)
        outputs = tuple(segment.logits for segment in made.program.segments)
        models[rule] = c_host.Model(
            made.program, made.implementations, made.plan, made.emission, outputs
        )
    return c_host.Host(models, tmp_path_factory.mktemp("chains"), compiler=request.param)


def test_a_chain_gives_the_logits_of_every_exit(chains: c_host.Host) -> None:
    images = tiny_chain.images(40)
    given = np.stack(chains.outputs("margin", (images ^ 128).view(np.int8)), axis=1)
    np.testing.assert_array_equal(given, tiny_chain.expected_logits(images))


@pytest.mark.parametrize("rule", ["confidence", "margin", "patience"])
@pytest.mark.parametrize("point", [0, 1])
def test_a_chain_stops_where_python_does(chains: c_host.Host, rule: Rule, point: int) -> None:
    images = tiny_chain.images(60)
    logits = tiny_chain.expected_logits(images)
    info = chain_info(rule)
    scores = batch_scores(logits, info.decision)
    exits = batch_exits(scores, info.points[point].thresholds, rule)
    given = chains.decisions(rule, (images ^ 128).view(np.int8), point)
    rows = np.arange(len(images))
    np.testing.assert_array_equal(given.exits, exits)
    np.testing.assert_array_equal(given.labels, logits[rows, exits].argmax(axis=1))
    np.testing.assert_array_equal(given.scores, scores[rows, exits])
    np.testing.assert_array_equal(given.costs, np.cumsum(info.costs)[exits])
    assert (exits < 2).any() == (point == 1)
