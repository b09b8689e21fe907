"""Fixtures that several tests share: a bundle that is valid in every respect but cannot be run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeexit.runtime.decision import exp_table
from edgeexit.runtime.manifest import SCHEMA_VERSION, to_json
from edgeexit.types import (
    ArtifactSpec,
    DecisionSpec,
    FileSpec,
    InputSpec,
    Manifest,
    OperatingPoint,
    SegmentSpec,
    TensorSpec,
)

ALWAYS = 2**32 - 1


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests that compare bits: two threads add sums up in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    """A two-exit bundle for 4 x 4 grey images and three classes; its artifacts are not programs."""
    files = {"segments/0.tflite": b"zero", "segments/1.tflite": b"one", "static.tflite": b"static"}
    golden = io.BytesIO()
    np.savez(golden, inputs=np.zeros((1, 4, 4, 1), np.int8))
    folder = tmp_path / "tiny.eexit"
    for path, content in (*files.items(), ("golden.npz", golden.getvalue())):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "manifest.json").write_bytes(to_json(_manifest(files, golden.getvalue())))
    return folder


def _manifest(files: dict[str, bytes], golden: bytes) -> Manifest:
    image = TensorSpec("image", (1, 4, 4, 1), 1 / 128, 0, "NHWC")
    cut = TensorSpec("layer1", (1, 2, 2, 8), 0.05, -128, "NHWC")
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        target="host",
        num_classes=3,
        class_names=("ant", "bee", "cat"),
        static_macs=3000,
        static_num_parameters=300,
        input=InputSpec(image, "uint8", (128.0,), (1 / 128,), True),
        segments=(
            SegmentSpec(0, "layer1", (image,), (cut,), _logits("early"), 1100, 110),
            SegmentSpec(1, "final", (cut,), (), _logits("late"), 2000, 200),
        ),
        decision=DecisionSpec("confidence", (exp_table(0.1), exp_table(0.1))),
        points={
            "tflite": (
                _point("static", 0, 0.0, 3000.0),
                _point("balanced", 70_000, 0.75, 1600.0),
            )
        },
        artifacts=tuple(
            ArtifactSpec("tflite", path, _sha256(content), len(content), segment, None, "NHWC")
            for (path, content), segment in zip(files.items(), (0, 1, None), strict=True)
        ),
        firmware=None,
        golden=FileSpec("golden.npz", _sha256(golden), len(golden)),
        tools={"edgeexit": "0.1.0"},
    )


def _logits(name: str) -> TensorSpec:
    return TensorSpec(name, (1, 3), 0.1, 0)


def _point(name: str, threshold: int, rate: float, macs: float) -> OperatingPoint:
    return OperatingPoint(
        name=name,
        thresholds=(threshold, ALWAYS),
        accuracy=0.875,
        exit_rates=(rate, 1 - rate),
        macs=macs,
        macs_saved=1 - macs / 3000,
        dataset="tiny/calibration",
        num_samples=64,
        engine="litert",
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
