"""Runs that fail or are interrupted, in a process that goes on: what they leave behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_training import make_data

from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.finetune import finetune
from edgeexit.compiler.quantize import quantize
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.training import EpochRecord, train
from edgeexit.training.diagnostics.gradient_dominance import gradient_dominance
from edgeexit.training.diagnostics.sample import draw_sample
from edgeexit.training.methods import METHODS, create

OPTIONS = {
    "strategy": "backbone=0.34,everything=0.33,heads=0.33",  # an epoch each, of two steps
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.1,
}


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def made() -> MultiExitModel:
    """With a block that a path may leave out, and a stem that its owner froze."""
    torch.manual_seed(0)
    backbone = ResNet((3, 1, 1), (8, 8, 8), in_channels=3, num_classes=3)
    at = {"layer1": heads.Pooled(), "layer2": heads.Pooled()}
    model = attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))
    model.backbone.get_submodule("stem").requires_grad_(False)
    return model


class Stop:
    """Raises once, in the first step of a phase."""

    def __init__(self, phase: str) -> None:
        self.wanted, self.now = phase, ""

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        self.now = name

    def step(self) -> None:
        if self.now == self.wanted:
            raise KeyboardInterrupt

    def epoch(self, record: EpochRecord) -> None: ...


def described(model: MultiExitModel) -> dict[str, object]:
    """Everything about a network but its numbers."""
    return {
        "moving": {name: p.requires_grad for name, p in model.named_parameters()},
        "state": list(model.state_dict()),
        "attributes": {name: list(vars(m)) for name, m in model.named_modules()},
        "classes": {name: type(m) for name, m in model.named_modules()},
        "hooks": [
            name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks
        ],
    }


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_leaves_a_network_that_can_be_trained_again(name: str) -> None:
    fresh = made()
    start = {key: value.clone() for key, value in fresh.state_dict().items()}
    torch.manual_seed(1)
    log = train(fresh, make_data(32), method=name, **OPTIONS)
    expected = made()
    create(name).rebuild(expected)
    for phase in ("backbone", "everything", "heads"):
        model = made()
        with pytest.raises(KeyboardInterrupt):
            train(model, make_data(32), method=name, progress=Stop(phase), **OPTIONS)
        assert described(model) == described(expected)
        model.load_state_dict(start, strict=False)
        torch.manual_seed(1)  # what `rebuild` draws
        again = train(model, make_data(32), method=name, **OPTIONS)
        assert [record.loss for record in again] == [record.loss for record in log]
        for key, value in fresh.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key


def narrow() -> None:
    """All backward passes of a network on which a convolution of oneDNN ends the process."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (300, 32, 32, 3)).astype(np.uint8)
    part = Samples(images, np.arange(300, dtype=np.int64) % 3)
    plain = Preprocessing((128.0,), (1 / 128,))
    data = Splits("noise", part, part, part, ("a", "b", "c"), plain, Augmentation(0, False))
    torch.manual_seed(0)
    backbone = ResNet((1, 1, 1), (4, 8, 16), in_channels=3, num_classes=3)
    at = {"layer2": heads.Pooled()}
    model = attach_exits(backbone, at, example=torch.zeros(1, 3, 32, 32))
    train(model, data, strategy="joint", epochs=1, batch_size=64)
    sample = draw_sample(part, plain, split="train", num_samples=300, seed=0)
    for _ in range(3):
        gradient_dominance(model, sample)
    exported = canonicalize(export(model.eval(), (3, 32, 32)))
    ranges = {"num_range_samples": 32, "num_compared_samples": 32}
    quantized = quantize(exported, part, plain, **ranges)
    finetune(quantized, data, epochs=2)


def test_no_convolution_damages_memory() -> None:
    script = (
        "import sys\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "from test_training_failures import narrow\n"
        "narrow()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
