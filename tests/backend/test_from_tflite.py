"""Files of others, compiled as chains with one exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import pytest
import tiny_chain
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tflite_ops import Builder

from edgeexit.cli.app import main
from edgeexit.compiler import firmware
from edgeexit.compiler.from_tflite import compile_tflite
from edgeexit.errors import ArgumentError, DataError, LoweringError, StorageError
from edgeexit.runtime.session import Session


def classifier(*, ends: str = "int8", num_classes: int = 5) -> bytes:
    """A linear layer on 6 numbers, with ends of a type; if float, the result has three axes."""
    random = np.random.default_rng(1)
    b = Builder()
    raw = None if ends == "int8" else b.tensor((1, 6), dtype=ends, **_scale(ends))
    source = b.tensor((1, 6), 0.1, 3)
    if raw is not None:
        b.op("QUANTIZE", [raw], [source], "QuantizeOptions")
    values = random.integers(-127, 128, (num_classes, 6)).astype(np.int8)
    weight = b.tensor(values.shape, 0.02, data=values)
    row = b.tensor((1, num_classes), 0.3, -5)
    b.op("FULLY_CONNECTED", [source, weight, -1], [row], "FullyConnectedOptions")
    last = row
    if ends == "float32":
        wide = b.tensor((1, num_classes, 1), 0.3, -5)
        sizes = b.tensor((3,), dtype="int32", data=np.array([1, num_classes, 1], np.int32))
        b.op("RESHAPE", [row, sizes], [wide], "ReshapeOptions")
        last = b.tensor((1, num_classes, 1), dtype="float32")
        b.op("DEQUANTIZE", [wide], [last], "DequantizeOptions")
    return b.finish([source if raw is None else raw], [last])


def with_softmax(form: str = "row", beta: float = 1.0) -> bytes:
    """The linear layer and a softmax, with what converters place around it."""
    b = Builder()
    source = b.tensor((1, 6), 0.1, 3)
    values = np.random.default_rng(1).integers(-127, 128, (5, 6)).astype(np.int8)
    row = b.tensor((1, 5), 0.05, -5)
    weight = b.tensor(values.shape, 0.02, data=values)
    b.op("FULLY_CONNECTED", [source, weight, -1], [row], "FullyConnectedOptions")

    def reshaped(tensor: int, shape: tuple[int, ...], *scale: float) -> int:
        result = b.tensor(shape, *scale)
        b.op("RESHAPE", [tensor, b.numbers(list(shape))], [result], "ReshapeOptions")
        return result

    wide = (1, 1, 1, 5)
    before = row if form in ("row", "uint8", "float32") else reshaped(row, wide, 0.05, -5)
    before = reshaped(before, (1, 5), 0.05, -5) if form == "before" else before
    last = b.tensor(wide if form == "around" else (1, 5), 1 / 256, -128)
    b.op("SOFTMAX", [before], [last], "SoftmaxOptions", beta=beta)
    if form == "around":
        last = reshaped(last, (1, 5), 1 / 256, -128)
    if form in ("uint8", "float32"):
        inner, last = last, b.tensor((1, 5), *((1 / 256, 0) if form == "uint8" else ()), dtype=form)
        kind = "QUANTIZE" if form == "uint8" else "DEQUANTIZE"
        b.op(kind, [inner], [last], f"{kind.capitalize()}Options")
    return b.finish([source], [last])


def _scale(dtype: str) -> dict[str, float | int]:
    return {"scale": 0.1, "zero_point": 131} if dtype == "uint8" else {}


def status(*words: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    return stopped.value.code or 0


@pytest.mark.parametrize("ends", ["int8", "uint8", "float32"])
def test_the_ends_become_int8(ends: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(classifier(ends=ends))
    bundle = compile_tflite(path, target="cortex-m4", output=tmp_path / "model.eexit")
    manifest = bundle.manifest
    (segment,) = manifest.segments
    assert (segment.inputs[0].shape, segment.inputs[0].zero_point) == ((1, 6), 3)
    assert (segment.logits.shape, segment.logits.zero_point) == ((1, 5), -5)
    assert (segment.macs, segment.num_parameters) == (30, 35)
    assert manifest.points["tflite"][0].accuracy is None
    assert manifest.firmware is not None
    assert manifest.firmware.layers[0].kind == "FullyConnected"
    # The weights by hand: what the model computes on its own grid of integers.
    golden = bundle.golden()
    weights = np.random.default_rng(1).integers(-127, 128, (5, 6))
    exact = (golden["inputs"].astype(int) - 3) @ weights.T * (0.1 * 0.02 / 0.3) - 5
    difference = np.clip(exact, -128, 127) - golden["logits_tflite"][:, 0]
    assert np.abs(difference).max() <= 0.51


def test_a_session_runs_it_and_is_its_own_static_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(classifier())
    bundle = compile_tflite(path, output=tmp_path / "model.eexit")
    assert bundle.manifest.firmware is None  # the host runs no C
    raw = np.array([0.3, -1.0, 2.0, 0.0, 0.7, -2.0], np.float32)
    for engine in ("litert", "litert_reference"):
        chain, static = Session(bundle, engine), Session(bundle, engine, static=True)
        assert static.run(raw) == chain.run(raw) == static.run_batch(raw[None])[0]
        assert chain.run(raw).exit == 0
    assert status("inspect", str(bundle.path)) == 0
    assert "Operating points, tflite: made without data" in capsys.readouterr().out


def test_a_chain_of_one_is_run_and_profiled_without_early_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = tmp_path / "model.tflite", tmp_path / "data.npz"
    ops = [("FULLY_CONNECTED", ["image"], "logits", tiny_chain.HEADS[0])]
    path.write_bytes(tiny_chain.tflite(["image"], ops, ["logits"]))
    images = tiny_chain.images(80).astype(np.float32) - 128
    np.savez(data, images=images, labels=np.arange(80) % 4)
    bundle = compile_tflite(path, output=tmp_path / "model.eexit")

    def told(*words: str) -> Any:
        assert status(words[0], str(bundle.path), "--data", str(data), *words[1:], "--json") == 0
        return json.loads(capsys.readouterr().out)

    chain, static = told("run"), told("run", "--static")
    assert (chain.pop("operating_point"), static.pop("operating_point")) == ("static", None)
    assert chain == static
    report = told("profile", "--rounds", "1", "--warmup", "0")
    assert report["static_accuracy"] == report["accuracy"] == chain["accuracy"]
    assert report["static"]["num_runs"] == report["num_samples"]


@pytest.mark.parametrize("form", ["row", "before", "around", "uint8", "float32"])
def test_confidences_are_those_of_the_last_softmax(form: str, tmp_path: Path) -> None:
    content = with_softmax(form)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    bundle = compile_tflite(path, target="cortex-m4", output=tmp_path / "model.eexit")
    assert bundle.manifest.firmware is not None
    assert {layer.kind for layer in bundle.manifest.firmware.layers} == {"FullyConnected"}
    session = Session(bundle, "litert_reference")
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    seen = set()
    for sample in bundle.golden()["inputs"]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample[None])
        interpreter.invoke()
        given = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        shares = given if form == "float32" else (given.astype(int) + 128 * (form != "uint8")) / 256
        result = session.run((sample.astype(np.float32) - 3) * np.float32(0.1))
        assert abs(result.confidence - shares.max()) <= 1 / 256
        assert shares[result.label] == shares.max()
        seen.add(round(result.confidence, 1))
    assert len(seen) > 2  # not always sure


def test_a_softmax_with_a_factor(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(with_softmax(beta=2.0))
    with pytest.raises(LoweringError, match=r"(?s)softmax multiplies.*beta=2.0"):
        compile_tflite(tmp_path / "model.tflite", output=tmp_path / "model.eexit")


def test_what_took_part_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(classifier())
    told: list[str] = []

    def tools(target: str, name: str, **options: Any) -> dict[str, str]:
        bundle = compile_tflite(
            path, target=target, output=tmp_path / name, **options,
            progress=lambda line, done, total: told.append(line),
        )  # fmt: skip
        return bundle.manifest.tools

    theirs = tmp_path / "CMSIS-NN"
    for folder in ("Include", "Source"):
        (theirs / folder).mkdir(parents=True)
    header = theirs / "Include" / "arm_nnfunctions.h"
    header.write_text("/* $Revision:    V.11.2.0 */")
    assert set(tools("host", "host")) == {"edgeexit", "numpy", "ai-edge-litert"}
    given = tools("cortex-m4", "m4", cmsis_nn=theirs)
    assert given["cmsis-nn"] == "arm_nnfunctions.h V.11.2.0"
    header.write_text("")
    given = tools("cortex-m4", "m4_odd", cmsis_nn=theirs)
    assert given["cmsis-nn"] == "arm_nnfunctions.h without a version"
    assert not any("CMSIS-NN" in line for line in told)
    monkeypatch.setattr(firmware, "find_cmsis_nn", lambda folder: None)
    assert tools("cortex-m4", "m4_none")["cmsis-nn"] == "not found"
    assert told[-1].startswith("emit C: CMSIS-NN is not found")


def test_numbers_are_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(classifier())
    bundle = compile_tflite(path, output=tmp_path / "model.eexit")
    assert status("run", str(bundle.path), "picture.png") == 1
    told = capsys.readouterr().err
    for text in ("does not take pictures", "given: float32 [1, 6]", "an .npz file with --data"):
        assert text in told


def test_a_bundle_needs_a_plain_name(tmp_path: Path) -> None:
    path, output = tmp_path / "model.tflite", tmp_path / "my model.eexit"
    path.write_bytes(classifier())
    with pytest.raises(ArgumentError, match=r"(?s)cannot have this name.*'my model'.*--name"):
        compile_tflite(path, output=output)
    assert not output.exists()
    assert compile_tflite(path, output=output, name="mine").manifest.name == "mine"


def test_what_is_refused(tmp_path: Path) -> None:
    path, output = tmp_path / "model.tflite", tmp_path / "out.eexit"
    with pytest.raises(DataError, match="cannot be read"):
        compile_tflite(path, output=output)
    path.write_bytes(b"not a model")
    with pytest.raises(LoweringError):
        compile_tflite(path, output=output)
    path.write_bytes(classifier(num_classes=1))
    with pytest.raises(LoweringError, match="not one number for each class"):
        compile_tflite(path, output=output)
    output.mkdir()
    path.write_bytes(classifier())
    with pytest.raises(StorageError, match="exists already"):
        compile_tflite(path, output=output)
    assert list(output.iterdir()) == []
    assert status("compile", str(path), "--data", "cifar10", "-o", str(tmp_path / "b")) == 1
    assert status("compile", "resnet8", "-o", str(tmp_path / "b")) == 1


def repacked(change: Callable[[Any], object]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(classifier(), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_metadata(model: Any) -> None:
    entry = schema.MetadataT()
    entry.name, entry.buffer = "NAME OF META", 0
    model.metadata = [entry]


def with_dead_op(model: Any) -> None:
    dead = schema.OperatorT()
    dead.opcodeIndex, dead.inputs, dead.outputs = 0, [], []
    model.subgraphs[0].operators.append(dead)


def with_odd_names(model: Any) -> None:
    for tensor in model.subgraphs[0].tensors:
        tensor.name = "sequential/" * 30


def test_what_does_not_run_is_not_looked_at(tmp_path: Path) -> None:
    damaged = repacked(with_metadata).replace(b"NAME OF META", b"\xffAME OF META")
    for place, content in enumerate([damaged, repacked(with_dead_op), repacked(with_odd_names)]):
        (tmp_path / "model.tflite").write_bytes(content)
        bundle = compile_tflite(
            tmp_path / "model.tflite", output=tmp_path / f"m{place}.eexit", target="cortex-m4"
        )
        assert bundle.manifest.segments[0].logits.name == "logits_0"
        Session(bundle.path, engine="litert").run(bundle.golden()["inputs"][0].astype(np.float32))
