"""The whole compiler on a small network, with both backends."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import IMAGE, network, samples, splits
from torch import nn

from edgeexit.compiler.pipeline import compile_model
from edgeexit.data.types import Samples, Splits
from edgeexit.errors import (
    ArgumentError,
    DataError,
    EdgeExitError,
    ModelError,
    StorageError,
    TargetError,
)
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.session import Session

FOLDER = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[str]]:
    passes: list[str] = []
    bundle = compile_model(
        network("ensemble"),  # type: ignore[arg-type]
        data=splits(),
        output=tmp_path_factory.mktemp("bundles") / "toy.eexit",
        progress=lambda name, done, total: passes.append(f"{name} {done}/{total}"),
    )
    return bundle, passes


def test_the_passes(compiled: tuple[Bundle, list[str]]) -> None:
    assert compiled[1] == [
        "check 0/11",
        "export 1/11",
        "quantize 2/11",
        "partition 3/11",
        "lower to tflite 4/11",
        "verify tflite 5/11",
        "select for tflite 6/11",
        "select for tflite: accurate 6/11",
        "select for tflite: balanced 6/11",
        "select for tflite: frugal 6/11",
        "lower to executorch 7/11",
        "verify executorch 8/11",
        "select for executorch 9/11",
        "select for executorch: accurate 9/11",
        "select for executorch: balanced 9/11",
        "select for executorch: frugal 9/11",
        "write 10/11",
    ]


def test_the_manifest(compiled: tuple[Bundle, list[str]]) -> None:
    manifest = compiled[0].manifest
    assert manifest.name == "toy"
    assert manifest.input.raw_is_subtraction
    assert [segment.exit_name for segment in manifest.segments] == ["early0", "early1", "final"]
    assert set(manifest.points) == {"tflite", "executorch"}
    for backend, engine in (("tflite", "litert"), ("executorch", "executorch")):
        points = {point.name: point for point in manifest.points[backend]}
        assert list(points) == ["static", "accurate", "balanced", "frugal"]
        assert {point.engine for point in points.values()} == {engine}
        assert {point.dataset for point in points.values()} == {"toy/calibration"}
        assert points["balanced"].accuracy >= points["static"].accuracy - 0.01
        assert points["frugal"].macs <= points["balanced"].macs <= points["accurate"].macs
    assert manifest.tools.keys() >= {"edgeexit", "torch", "nncf", "executorch", "ai-edge-litert"}


@pytest.mark.parametrize("engine", ["litert", "executorch"])
def test_golden_vectors_come_out_again(compiled: tuple[Bundle, list[str]], engine: str) -> None:
    bundle = compiled[0]
    backend = {"litert": "tflite"}.get(engine, engine)
    golden = bundle.golden()
    assert golden["inputs"].dtype == golden["logits"].dtype == np.int8
    # Rounding, carried on from segment to segment; these are the logits of PyTorch.
    off = golden["logits"].astype(np.int32) - golden[f"logits_{backend}"]
    assert np.abs(off).max() <= 3
    session = Session(bundle, engine)
    for row, exit_index, logits in zip(
        golden["inputs"], golden[f"exits_{backend}"], golden[f"logits_{backend}"], strict=True
    ):
        result = session.run((row.astype(np.int16) + 128).astype(np.uint8))
        assert result.exit == exit_index
        assert result.label == logits[exit_index].argmax()


def test_the_same_bytes_in_a_quiet_process(
    compiled: tuple[Bundle, list[str]], tmp_path: Path
) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from networks import network, splits
from edgeexit.compiler.pipeline import compile_model
compile_model(network("ensemble"), data=splits(), output=sys.argv[2], name="toy")
"""
    output = tmp_path / "elsewhere" / "other.eexit"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER), str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert digests(output) == digests(compiled[0].path)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def with_calibration(**changes: Any) -> Splits:
    return replace(splits(), calibration=Samples(**{**vars(samples(8)), **changes}))


def not_a_number() -> np.ndarray[Any, Any]:
    images = samples(8).images.astype(np.float32)
    images[3, 1, 1, 0] = np.nan
    return images


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (
            {"data": with_calibration(images=np.zeros((0, 16, 16, 3), np.uint8),
                                      labels=np.zeros(0, np.int64))},
            DataError,
            "no samples",
        ),
        ({"data": with_calibration(images=samples(8).images[0])}, DataError, "number of axes"),
        (
            {"data": with_calibration(images=samples(8).images.astype(np.int32))},
            DataError,
            "wrong dtype",
        ),
        ({"data": with_calibration(images=not_a_number())}, DataError, "calibration split"),
        ({"data": with_calibration(labels=np.full(8, 5))}, DataError, "calibration split"),
        (
            {"data": replace(splits(), class_names=("a", "b"))},
            ModelError,
            "different classes",
        ),
        ({"backends": ("onnx",)}, ArgumentError, "unknown backend"),
        ({"backends": ()}, ArgumentError, "no backend was named"),
        ({"target": "toaster"}, TargetError, "no target 'toaster'"),
        ({"max_accuracy_drop": 1.5}, ArgumentError, "not a share"),
        ({"num_range_samples": 0}, ArgumentError, "ranges need samples"),
        (
            {"target": "cortex-m4", "backends": ("tflite",), "delegate": "cortex-m"},
            ArgumentError,
            "a backend that is not asked for",
        ),
        ({"target": "cortex-m4", "cmsis_nn": Path("/nowhere")}, ArgumentError, "not CMSIS-NN"),
        (
            {"data": with_calibration(images=np.zeros((8, 16, 16, 1), np.uint8))},
            EdgeExitError,
            "could not be captured",
        ),
    ],
)  # fmt: skip
def test_bad_input(
    changes: dict[str, Any], error: type[EdgeExitError], match: str, tmp_path: Path
) -> None:
    arguments = {"data": splits(), "output": tmp_path / "bad.eexit", **changes}
    with pytest.raises(error, match=match):
        compile_model(network("ensemble"), **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("a", "final", "final"), "(?s)same name.*exit 2.*'final'"),
        (("a", "b" * 201, "final"), "(?s)hold the name of this exit.*exit 1"),
        (("a", "b\n", "final"), "hold the name of this exit"),
        (tuple(f"exit{k}" for k in range(65)), "(?s)1 to 64 exits.*65 exits"),
    ],
)
def test_exits_that_a_bundle_cannot_hold(
    names: tuple[str, ...], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    model = network("ensemble")
    monkeypatch.setattr(type(model), "exit_names", names)
    with pytest.raises(ModelError, match=match):
        compile_model(
            model,  # type: ignore[arg-type]
            data=splits(),
            output=tmp_path / "toy.eexit",
            progress=lambda name, done, total: told.append(name),
        )
    assert told == ["check"]


def test_data_that_a_bundle_cannot_name(tmp_path: Path) -> None:
    data = replace(splits(), name="a" * 195)  # a manifest says which split too
    with pytest.raises(DataError, match="hold this name of the data"):
        compile_model(network("ensemble"), data=data, output=tmp_path / "toy.eexit")  # type: ignore[arg-type]


def test_a_folder_that_is_in_use(tmp_path: Path) -> None:
    output = tmp_path / "mine.eexit"
    output.mkdir()
    (output / "notes").write_text("keep me")
    with pytest.raises(StorageError, match="exists already"):
        compile_model(network("ensemble"), data=splits(), output=output)  # type: ignore[arg-type]
    assert (output / "notes").read_text() == "keep me"


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def press(name: str, done: int, total: int) -> None:
        if name == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_model(
            network("ensemble"),  # type: ignore[arg-type]
            data=splits(),
            output=tmp_path / "toy.eexit",
            backends=("tflite",),
            progress=press,
        )
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    model = network("mobile").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compile_model(
        model,  # type: ignore[arg-type]
        data=splits(),
        output=tmp_path / "toy.eexit",
        backends=("tflite",),
    )
    assert model.training
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert isinstance(model.stem, nn.Sequential)
    assert IMAGE == (3, 16, 16)
