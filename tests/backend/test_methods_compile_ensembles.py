"""Networks whose exits share what they know, in int8: earlier logits and states cross the cuts."""

from __future__ import annotations

from pathlib import Path

import c_host
import numpy as np
import program_reference
import pytest
import torch
import torch.nn.functional as F
from networks import IMAGE, NUM_CLASSES, samples, splits

from edgeexit.backends.c import ChainInfo, ChainPoint, build, links_of
from edgeexit.compiler.pipeline import compile_model
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.session import Session
from edgeexit.training.methods import Step, create
from edgeexit.training.modes import decayed_groups, phase_module, set_modes, trained_exits
from edgeexit.types import DecisionSpec

NUM_SAMPLES = 32
NAMES = ("ztw", "gpf", "e2cm")


def trained(name: str) -> MultiExitModel:
    """A small network after some steps on what it is later compiled with."""
    torch.manual_seed(0)
    backbone = ResNet((1, 1, 1), (8, 8, 16), num_classes=NUM_CLASSES)
    at = {"layer1": heads.Pooled(), "layer2": heads.Pooled()}
    model = attach_exits(backbone, at, example=torch.zeros(1, *IMAGE))
    method = create(name)
    method.rebuild(model)
    given = samples(NUM_SAMPLES)
    images = (torch.from_numpy(given.images).permute(0, 3, 1, 2).float() - 128) / 128
    labels = torch.from_numpy(given.labels)
    set_modes(model, "everything")
    optimizer = torch.optim.SGD(decayed_groups(model, 1e-4), lr=0.1, momentum=0.9)
    for _ in range(20):
        loss, _ = method.loss(
            Step(
                module=phase_module(model, "everything"),
                model=model,
                phase="everything",
                exits=trained_exits(model, "everything"),
                images=images,
                labels=labels,
                progress=torch.zeros(()),
                generator=None,
                cross_entropy=lambda z: F.cross_entropy(z, labels, reduction="none"),
            )
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    method.finish(model, lambda: [(images, labels)])
    return model


@pytest.fixture(scope="module", params=NAMES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compile_model(
        trained(request.param),
        data=splits(NUM_SAMPLES),
        output=tmp_path_factory.mktemp("bundles") / f"{request.param}.eexit",
        backends=("tflite",),
        num_range_samples=16,
    )


def test_what_crosses_the_cuts(bundle: Bundle) -> None:
    received = [
        sorted(tensor.shape for tensor in segment.inputs) for segment in bundle.manifest.segments
    ]
    logits = (1, NUM_CLASSES)
    assert (
        received
        == {
            # The exits so far; features of the backbone otherwise.
            "ztw": [[(1, 16, 16, 3)], [logits, (1, 16, 16, 8)], [logits, logits, (1, 8, 8, 8)]],
            # The state of the exit before, and from there on the sum of those before it.
            "gpf": [[(1, 16, 16, 3)], [(1, 16, 16, 8), (1, 32)], [logits, (1, 8, 8, 8), (1, 32)]],
            "e2cm": [[(1, 16, 16, 3)], [(1, 16, 16, 8)], [(1, 8, 8, 8)]],
        }[bundle.manifest.name]
    )


def test_litert_agrees_with_the_graph(bundle: Bundle) -> None:
    golden = bundle.golden()
    logits = golden["logits_tflite"]
    # Steps of a logit by which XNNPACK rounds otherwise, carried on from exit to exit.
    assert np.abs(golden["logits"].astype(np.int32) - logits).max() <= 2
    assert (golden["logits"].argmax(2) == logits.argmax(2)).mean() >= 0.9
    session = Session(bundle, "litert")
    for row, exit_index, answers in zip(
        golden["inputs"], golden["exits_tflite"], logits, strict=True
    ):
        result = session.run((row.astype(np.int16) + 128).astype(np.uint8))
        assert result.exit == exit_index
        assert result.label == answers[exit_index].argmax()


def test_c_agrees_with_the_graph(
    bundle: Bundle, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    segments = bundle.manifest.segments
    files = [(bundle.path / "segments" / f"{k}.tflite").read_bytes() for k in range(len(segments))]
    chain = ChainInfo("shared", DecisionSpec("margin", ()), (ChainPoint("early", (40, 40, 0)),))
    built = build(files, links_of(segments), chain, c_host.GENERIC)
    model = c_host.Model(
        built.program,
        built.implementations,
        built.plan,
        built.emission,
        tuple(segment.logits for segment in built.program.segments),
    )
    golden = bundle.golden()
    given = np.stack(
        c_host.Host({"shared": model}, tmp_path, sanitize=False).outputs(
            "shared", golden["inputs"]
        ),
        axis=1,
    )
    expected = [program_reference.logits(built.program, image) for image in golden["inputs"]]
    np.testing.assert_array_equal(given, expected)
    assert np.abs(golden["logits"].astype(np.int32) - given).max() <= 2


def test_int8_answers_as_the_network_does(bundle: Bundle) -> None:
    """Against the float network: what the quantizer loses, all exits together."""
    model = trained(bundle.manifest.name).eval()
    golden = bundle.golden()
    images = torch.from_numpy(golden["inputs"].astype(np.float32)).permute(0, 3, 1, 2) / 128
    with torch.no_grad():
        wanted = torch.stack(model(images), 1)
    scales = np.array([segment.logits.scale for segment in bundle.manifest.segments])
    zeros = np.array([segment.logits.zero_point for segment in bundle.manifest.segments])
    given = (golden["logits"] - zeros[:, None].astype(np.int32)) * scales[:, None]
    off = np.abs(given - wanted.numpy()).max(axis=(0, 2)) / np.ptp(wanted.numpy(), axis=(0, 2))
    assert off.max() < 0.1, off
