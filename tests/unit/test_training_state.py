"""What a run keeps, what it refuses to go on with, and what it leaves as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_training import make_data, make_model
from torch import Tensor, nn

from edgeexit.cli.app import main
from edgeexit.data.types import Splits
from edgeexit.errors import ArgumentError, CheckpointError, TrainingError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import read_weights
from edgeexit.training import EpochRecord, train
from edgeexit.training.budget import macs_per_sample
from edgeexit.training.diagnostics.run import phase_ends

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS: dict[str, Any] = {"epochs": 4, "backbone_share": 0.5, "batch_size": 16}


class Killed(Exception):
    pass


class KillAfter:
    """A progress that ends the run after an epoch."""

    def __init__(self, num_epochs: int) -> None:
        self.left = num_epochs

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        pass

    def step(self) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def with_dropout() -> MultiExitModel:
    model = make_model()
    model.backbone.pool = nn.Sequential(nn.Dropout(0.5), model.backbone.pool)  # type: ignore[operator]
    return model


def test_a_network_that_draws_numbers_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = with_dropout()
    train(whole, make_data(), **OPTIONS)
    with pytest.raises(Killed):
        train(with_dropout(), make_data(), output=tmp_path, progress=KillAfter(3), **OPTIONS)
    torch.manual_seed(12345)
    resumed = with_dropout()
    train(resumed, make_data(), output=tmp_path, **OPTIONS)
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.fc(self.block(tokens).mean(1))
        return logits


def test_attention_is_counted() -> None:
    image = torch.zeros(1, 3, 8, 8)
    model = attach_exits(Tokens(), {"patches": heads.Pooled()}, example=image)
    patches, projections, products, perceptron = 4 * 16 * 48, 4 * 4 * 16 * 16, 2 * 4 * 4 * 16, 4096
    backbone = patches + projections + products + perceptron + 16 * 3
    assert macs_per_sample(model, image)["backbone"] == 3 * backbone
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("strategy", ["disjoint", "joint"])
def test_what_was_frozen_before_stays(strategy: str) -> None:
    """Batch-norm statistics included; those of a layer that moves go on."""
    model = make_model()
    stem = model.backbone.get_submodule("stem").requires_grad_(False)
    next(model.backbone.get_submodule("layer1").parameters()).requires_grad_(False)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, make_data(), **OPTIONS, strategy=strategy)
    after = model.state_dict()
    assert frozen == [name for name, p in model.named_parameters() if not p.requires_grad]
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {*frozen, *(f"backbone.stem.{name}" for name in stem.state_dict())}


class Untouchable:
    """Stands for a split that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"{name} of the test split was asked for")

    def __len__(self) -> int:
        raise AssertionError("the length of the test split was asked for")

    def __getitem__(self, index: object) -> object:
        raise AssertionError(f"{index} of the test split was asked for")


@pytest.mark.parametrize("method", ["uniform", "e2cm"])  # one that finishes on data
def test_training_does_not_look_at_the_test_split(method: str, tmp_path: Path) -> None:
    data = make_data()
    hidden = Splits(**{**vars(data), "test": Untouchable()})
    options = {**OPTIONS, "patience": 1, "checkpoint_steps": 1, "method": method}
    with pytest.raises(Killed):
        train(make_model(), hidden, output=tmp_path / "a", progress=KillAfter(2), **options)
    train(make_model(), hidden, output=tmp_path / "a", **options)
    train(make_model(), hidden, output=tmp_path / "b", reuse=tmp_path / "a", **options)


@pytest.mark.parametrize("checkpoint_steps", [None, 1])
def test_a_loss_that_is_not_finite_ends_the_run(
    checkpoint_steps: int | None, tmp_path: Path
) -> None:
    options = {**OPTIONS, "learning_rate": 1e12, "checkpoint_steps": checkpoint_steps}
    with pytest.raises(TrainingError, match=r"(?s)diverged.*loss.*another folder.*lower learning"):
        train(make_model(), make_data(), output=tmp_path, **options)
    assert not (tmp_path / "run.json").exists()
    if checkpoint_steps is not None:
        kept = load_file(tmp_path / "resume.safetensors")
        assert all(bool(value.isfinite().all()) for value in kept.values())


def test_weights_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    """A step's loss is that of the weights before it: the last step's weights have none."""
    model = make_model()

    class Spoil(KillAfter):
        def step(self) -> None:
            next(model.parameters()).data.fill_(torch.inf)

    options = {"strategy": "joint", "epochs": 1, "batch_size": 16}
    with pytest.raises(TrainingError, match=r"(?s)diverged.*not finite: weights"):
        train(model, make_data(16), output=tmp_path, progress=Spoil(0), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"method": "l2w_den", "accumulate": 2}, "needs whole batches"),
        ({"seed": -1}, "seed is out of range"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive"),
        ({"weight_decay": float("nan")}, "weight_decay must not be negative"),
        ({"budget": "macs", "strategy": "sideways"}, "unknown strategy"),
    ],
)
def test_options_that_cannot_be_followed(options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ArgumentError, match=wanted):
        train(make_model(), make_data(), **{**OPTIONS, **options})


def test_exits_at_other_places_are_another_run(tmp_path: Path) -> None:
    def made(place: str) -> MultiExitModel:
        model = make_model()
        at = {place: heads.Pooled()}
        return attach_exits(model.backbone, at, example=torch.zeros(1, 3, 8, 8))

    train(made("layer1"), make_data(), output=tmp_path, **OPTIONS)
    with pytest.raises(CheckpointError, match="another kind"):
        train(made("layer2"), make_data(), output=tmp_path, **OPTIONS)


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Changes the header and the tensors of a state."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["edgeexit"])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={"edgeexit": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda h, t: h.update(config=3), "cannot be read"),
        (lambda h, t: h.update(config=None), "cannot be read"),
        (lambda h, t: h.update(phase=-3), "do not exist"),
        (lambda h, t: h.update(phase=7), "do not exist"),
        (lambda h, t: h.update(epoch=99), "do not exist"),
        (lambda h, t: h.update(step=1), "do not exist"),
        (lambda h, t: h.update(format=1), "another version"),
        (lambda h, t: h["config"].update(novel=1), "novel: 1 -> None"),
        (lambda h, t: t.pop("model.backbone.fc.weight"), "cannot be read"),
        (lambda h, t: t.update({"optimizer.77": torch.zeros(1)}), "no parameter"),
    ],
)
def test_a_damaged_state_is_refused(
    change: Callable[[dict[str, Any], dict[str, Tensor]], object], wanted: str, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(make_model(), make_data(), output=tmp_path, progress=KillAfter(1), **OPTIONS)
    edited(tmp_path / "resume.safetensors", change)
    with pytest.raises(CheckpointError, match=wanted):
        train(make_model(), make_data(), output=tmp_path, **OPTIONS)


def test_integer_weights_are_not_taken_for_float_ones(tmp_path: Path) -> None:
    model = make_model()
    state = {name: value.to(torch.int8) for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "int8.safetensors")
    with pytest.raises(CheckpointError, match="another type"):
        read_weights(tmp_path / "int8.safetensors", model)


def test_phases_are_not_compared_where_the_method_changed_their_end(tmp_path: Path) -> None:
    model = make_model()
    train(model, make_data(), output=tmp_path, method="e2cm", **OPTIONS)
    assert phase_ends(tmp_path, model) == (
        {},
        "the method changed the network after its last phase",
    )


def test_the_command_does_not_write_over_what_a_run_is_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(60) % 3)
    output = tmp_path / "run"
    words = ["--data", str(tmp_path / "noise.npz"), "-o", str(output)]
    words += ["--epochs", "1", "--batch-size", "16", "--strategy", "joint"]

    def run(*more: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["train", *more, *words])
        return "" if caught.value.code == 0 else capsys.readouterr().err

    assert run("resnet8") == ""
    before = (output / "model.json").read_bytes()
    assert "another network or method" in run("resnet20", "--resume")
    assert "another network or method" in run("resnet8", "--resume", "--method", "sdn")
    assert (output / "model.json").read_bytes() == before
    assert run("resnet8", "--resume") == ""
    refused = run("resnet8", "--resume", "--backbone-share", "0.5")
    assert "has no two phases" in refused
    assert "--backbone-share" in refused
