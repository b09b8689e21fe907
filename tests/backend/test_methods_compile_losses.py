"""Networks trained by methods that weigh losses or gradients, compiled and run in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeexit.compiler.pipeline import compile_model
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.errors import ArgumentError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel, example_logits
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.runtime.decision import RULES
from edgeexit.runtime.session import Session
from edgeexit.training import train
from edgeexit.training.methods import create

METHODS = (
    "sdn",
    "branchynet",
    "pbee",
    "self_distillation",
    "gradient_scaling",
    "gradient_equilibrium",
)


def make_splits(count: int = 60) -> Splits:
    """Three classes that differ in colour, so that few steps are enough."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(0, 120, (count, 8, 8, 3)).astype(np.uint8)
    images[np.arange(count), :, :, labels] += 100
    samples = Samples(images, labels)
    preprocessing = Preprocessing((128.0,), (1 / 128,))
    return Splits(
        "colours", samples, samples, samples, tuple("abc"), preprocessing, Augmentation(0, False)
    )


def real(splits: Splits) -> torch.Tensor:
    images = torch.from_numpy(splits.train.images).permute(0, 3, 1, 2).float()
    return (images - 128) / 128


def trained(name: str, splits: Splits) -> MultiExitModel:
    torch.manual_seed(0)
    backbone = ResNet((1, 1, 1), (8, 8, 8), in_channels=3, num_classes=3)
    at = {"layer1": heads.Pooled(), "layer2": heads.Pooled()}
    model = attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))
    strategy = "backbone=0.2,everything=0.4,heads=0.4"
    train(model, splits, method=name, strategy=strategy, epochs=20, batch_size=20)
    return model


@pytest.mark.parametrize("name", METHODS)
def test_it_runs_in_int8_as_it_was_trained(name: str, tmp_path: Path) -> None:
    splits, rule = make_splits(), create(name).rule
    model = trained(name, splits)
    bundle = compile_model(
        model,
        data=splits,
        output=tmp_path / "toy.eexit",
        backends=("tflite",),
        max_accuracy_drop=0.05,
        rule=rule,
    )
    assert bundle.manifest.decision.rule == rule
    session = Session(bundle, "litert")
    results = [session.run(image) for image in splits.train.images]
    floats = example_logits(model, real(splits))
    agree = [int(floats[r.exit][k].argmax()) == r.label for k, r in enumerate(results)]
    # Quantization may move a sample on the border of two classes, not more than one in 20.
    assert np.mean(agree) >= 0.95
    correct = [r.label == label for r, label in zip(results, splits.train.labels, strict=True)]
    assert np.mean(correct) >= 0.9
    if rule == "patience":
        exits_wait_for_each_other(session, splits)


def exits_wait_for_each_other(session: Session, splits: Splits) -> None:
    def answers(*thresholds: int) -> list[tuple[int, int]]:
        session.set_thresholds(thresholds)
        results = [session.run(image) for image in splits.train.images]
        return [(result.exit, result.label) for result in results]

    never, always = RULES["patience"].never, RULES["patience"].always
    first, second, last = (
        answers(always, always, always),
        answers(never, always, always),
        answers(never, never, always),
    )
    assert [{k for k, _ in each} for each in (first, second, last)] == [{0}, {1}, {2}]
    # Two exits in a row: at the second if it agrees with the first, else at the last.
    assert answers(never, 2, always) == [
        b if a[1] == b[1] else c for a, b, c in zip(first, second, last, strict=True)
    ]


def test_a_rule_that_a_bundle_cannot_hold(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = attach_exits(
        ResNet((1, 1, 1), (8, 8, 8), num_classes=3),
        {"layer1": heads.Pooled()},
        example=torch.zeros(1, 3, 8, 8),
    )
    with pytest.raises(ArgumentError, match=r"cannot decide by this rule[\s\S]*class_means"):
        compile_model(model, data=make_splits(), output=tmp_path / "toy.eexit", rule="class_means")
    assert list(tmp_path.iterdir()) == []
