"""Runs that fail or are interrupted, in a process that goes on: what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_training import make_data

from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.training import EpochRecord, train
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
