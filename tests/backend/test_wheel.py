"""The wheel in an empty environment with one engine runs a bundle, and brings nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeexit import data
from edgeexit.compiler.pipeline import compile_model
from edgeexit.nn import zoo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "resnet8.eexit"
    model = zoo.create("resnet8", pretrained="cifar10")
    compile_model(model, data=data.load("cifar10"), output=path, backends=("tflite",))
    return path


def test_data_files_ship_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for wanted in (
        "edgeexit/_resources/targets/host.toml",
        "edgeexit/_resources/calibration/cifar10.toml",
        "edgeexit/nn/weights/resnet8-cifar10.safetensors",
        "edgeexit/nn/weights/resnet8-cifar10.json",
        "edgeexit/nn/weights/resnet20-cifar10.safetensors",
        "edgeexit/py.typed",
    ):
        assert wanted in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.slow
def test_an_empty_environment_with_litert_runs_a_bundle(
    wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    _run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    binaries = tmp_path / "venv" / "bin"
    install = [str(binaries / "python"), "-m", "pip", "install", "-q"]
    _run(*install, "-c", str(ROOT / "constraints.txt"), f"edgeexit[litert] @ {wheel.as_uri()}")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(100) % 10)
    printed = _run(
        *(str(binaries / "edgeexit"), "run", str(bundle)),
        *("--data", str(tmp_path / "mine.npz"), "--split", "train", "--json"),
    )
    figures = json.loads(printed)
    assert sum(exit["rate"] for exit in figures["exits"]) == pytest.approx(1)
    listed = _run(str(binaries / "python"), "-m", "pip", "list", "--format=freeze")
    installed = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert not installed & {"torch", "nncf", "executorch", "tensorflow", "litert-torch"}


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
