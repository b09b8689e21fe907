"""Batches that are shared out: between processes, whose number may change, and between parts.

A network without batch norm has the same gradient however its batch is shared, but for the order
of sums; batch norm sees a share at a time, and changes with it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_training import make_data, make_model
from torch import Tensor, nn

from edgeexit.errors import ArgumentError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import weights_bytes
from edgeexit.training import EpochRecord, load_checkpoint, train

NUM_EPOCHS, NUM_STEPS = 6, 3
OPTIONS = {
    "strategy": "backbone=0.34,everything=0.33,heads=0.33",
    "epochs": NUM_EPOCHS,
    "batch_size": 16,
    "learning_rate": 0.1,
    "checkpoint_steps": 2,
}
ORDER_OF_SUMS = 1e-6
"""float32 sums over 16 samples in another order: 5e-8 measured in the weights after 18 steps."""
BATCH_NORM = 0.15
"""Relative difference of a loss: statistics over 8 samples are noisier than over 16. Gradients that
are summed where they should be averaged, or steps that are left out, are far outside."""
CUT_AFTER = (1, 2, 5)
"""Epochs before the one that is cut: one in each phase."""
AGENTS_SECONDS = 300
"""For what takes 6 s on two free cores."""
BFLOAT16 = 0.05
"""Relative difference of a loss: 8 bits of mantissa, 0.4 % in each operation."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": os.pathsep.join(  # where pytest finds tiny_training, and what it was given
        filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))
    ),
}


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """One thread; and a precision of one's own, which accelerate keeps for a whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(before)


class Plain(nn.Module):
    """Two convolutions, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.pool = heads.GlobalMean()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer2(self.layer1(x))))


def make_plain(seed: int = 0) -> MultiExitModel:
    torch.manual_seed(seed)
    return attach_exits(Plain(), {"layer1": heads.Pooled()}, example=torch.zeros(1, 3, 8, 8))


MODELS = {"plain": make_plain, "normed": make_model}


class Cut:
    """Ends a run in the last of an epoch's steps, behind its checkpoint."""

    def __init__(self, after_epochs: int) -> None:
        self.left = after_epochs * NUM_STEPS + NUM_STEPS

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None: ...

    def step(self) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def epoch(self, record: EpochRecord) -> None: ...


def cut(folder: Path, name: str, after_epochs: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(MODELS[name](), make_data(), output=folder, progress=Cut(after_epochs), **OPTIONS)


class Networks(Cut):
    """Keeps the backbone at each step of the phase heads."""

    def __init__(self, model: MultiExitModel) -> None:
        super().__init__(NUM_EPOCHS)
        self.model, self.now, self.seen = model, "", set[str]()

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        self.now = name

    def step(self) -> None:
        if self.now == "heads":
            self.seen.add(hash_of(self.model.backbone))


def hash_of(module: nn.Module) -> str:
    return hashlib.sha256(weights_bytes(module)).hexdigest()


def one_network(folder: Path, seed: int) -> None:
    """Leaves the hashes of the backbone in phase heads and of the network at the end."""
    model = make_model(seed)
    networks = Networks(model)
    train(model, make_data(), progress=networks, **OPTIONS)
    hashes = [*networks.seen, hash_of(model)]
    (folder / f"hashes-{seed}.json").write_text(json.dumps(hashes))


def two_processes(folder: Path) -> None:
    """What each of the two runs; all runs share one start of torch."""
    torch.set_num_threads(1)
    one_network(folder, seed=int(os.environ["RANK"]))
    for name, make in MODELS.items():
        for after_epochs in CUT_AFTER:
            train(make(1), make_data(), output=folder / f"{name}-one-{after_epochs}", **OPTIONS)
            cut(folder / f"{name}-two-{after_epochs}", name, after_epochs)
    train(make_plain(), make_data(), output=folder / "parts", accumulate=2, **OPTIONS)
    with pytest.raises(ArgumentError, match=r"(?s)shared evenly.*divisible by 8.*batch_size=12"):
        train(make_plain(), make_data(), **{**OPTIONS, "batch_size": 12, "accumulate": 4})
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both networks, cut in each epoch by one process or by two, continued by the other."""
    folder = tmp_path_factory.mktemp("runs")
    for name in MODELS:
        for after_epochs in CUT_AFTER:
            cut(folder / f"{name}-one-{after_epochs}", name, after_epochs)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", __file__, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == 0, done.stderr
    for name, make in MODELS.items():
        for after_epochs in CUT_AFTER:
            train(make(1), make_data(), output=folder / f"{name}-two-{after_epochs}", **OPTIONS)
        train(make(), make_data(), output=folder / f"{name}-whole", **OPTIONS)
    return folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["log"]
    return log


def weights_of(folder: Path, name: str) -> dict[str, Tensor]:
    model = MODELS[name](1)
    load_checkpoint(folder, model)
    return model.state_dict()


def farthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("first", ["one", "two"])
@pytest.mark.parametrize("after_epochs", CUT_AFTER)
def test_continued_by_another_number_of_processes(
    first: str, after_epochs: int, runs: Path
) -> None:
    whole, run = runs / "plain-whole", runs / f"plain-{first}-{after_epochs}"
    assert farthest(weights_of(whole, "plain"), weights_of(run, "plain")) < ORDER_OF_SUMS
    for expected, found in zip(log_of(whole), log_of(run), strict=True):
        # The sums of the epoch that was cut hold what both have done of it.
        assert found["loss"] == pytest.approx(expected["loss"], abs=ORDER_OF_SUMS)
        assert found["train_accuracy"] == expected["train_accuracy"]
        assert found["accuracy"] == expected["accuracy"]
        assert found["learning_rate"] == expected["learning_rate"]


@pytest.mark.parametrize("first", ["one", "two"])
@pytest.mark.parametrize("after_epochs", CUT_AFTER)
def test_continued_with_batch_norm(first: str, after_epochs: int, runs: Path) -> None:
    whole, run = runs / "normed-whole", runs / f"normed-{first}-{after_epochs}"
    weights = weights_of(run, "normed")
    assert all(torch.isfinite(value).all() for value in weights.values())
    for expected, found in zip(log_of(whole), log_of(run), strict=True):
        assert math.isfinite(found["loss"])
        assert found["loss"] == pytest.approx(expected["loss"], rel=BATCH_NORM)


def test_the_comparison_notices_another_batch_norm(runs: Path) -> None:
    one, two = (
        weights_of(runs / "normed-whole", "normed"),
        weights_of(runs / "normed-two-5", "normed"),
    )
    assert farthest(one, two) > 1000 * ORDER_OF_SUMS


def test_parts_and_processes_together(runs: Path) -> None:
    """Two processes, two parts each, against one batch."""
    whole, parts = weights_of(runs / "plain-whole", "plain"), weights_of(runs / "parts", "plain")
    assert farthest(whole, parts) < ORDER_OF_SUMS


def test_processes_train_one_network(runs: Path) -> None:
    """Whatever each began with: weights and running statistics are the first one's."""
    first, second = (json.loads((runs / f"hashes-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == 2  # one backbone in all of the phase, and the network
    assert first == second


def test_two_machines_train_like_two_processes(tmp_path: Path) -> None:
    """One process of each of two agents, both with local rank 0, is what two of one agent are."""
    data = make_data(200).test
    images = data.images.repeat(2, axis=1).repeat(2, axis=2)  # ResNet-8 takes no smaller ones
    np.savez(tmp_path / "colours.npz", images=images, labels=data.labels)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    at = ("--master-addr", "127.0.0.1", "--master-port", str(port))
    one = start_train(tmp_path, "one", "--standalone", "--nproc-per-node", "2")
    said = one.communicate()
    assert one.returncode == 0, said
    two = [start_train(tmp_path, "two", "--nnodes", "2", "--node-rank", n, *at) for n in "01"]
    try:
        heard = [each.communicate(timeout=AGENTS_SECONDS) for each in two]
    finally:
        for each in two:  # one that fails leaves the other waiting
            each.terminate()
    assert [each.returncode for each in two] == [0, 0], heard
    assert json.loads(heard[0][0])["exits"] == ["layer1", "layer2", "final"]
    assert heard[1][0] == ""  # the second one does not speak
    weights = [(tmp_path / run / "weights.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]


def start_train(folder: Path, output: str, *torchrun: str) -> subprocess.Popen[str]:
    """`edgeexit train` below an agent of torchrun."""
    command = ["train", "resnet8", "--data", "colours.npz", "--epochs", "3", "--batch-size", "32"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "edgeexit"),
            *(*command, "--json", "--output", output),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )


@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_a_batch_in_parts_is_one_batch(accumulate: int) -> None:
    whole, parts = make_plain(), make_plain()
    log = train(whole, make_data(), **OPTIONS)
    log_of_parts = train(parts, make_data(), accumulate=accumulate, **OPTIONS)
    assert farthest(whole.state_dict(), parts.state_dict()) < ORDER_OF_SUMS
    for expected, found in zip(log, log_of_parts, strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=ORDER_OF_SUMS)
        assert found.train_accuracy == expected.train_accuracy


def test_batch_norm_sees_a_part_at_a_time() -> None:
    whole, parts = make_model(), make_model()
    log = train(whole, make_data(), **OPTIONS)
    log_of_parts = train(parts, make_data(), accumulate=2, **OPTIONS)
    assert farthest(whole.state_dict(), parts.state_dict()) > 1000 * ORDER_OF_SUMS
    assert log_of_parts[-1].loss == pytest.approx(log[-1].loss, rel=BATCH_NORM)


def test_parts_must_be_equal() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)shared evenly.*divisible by 3.*batch_size=16"):
        train(make_plain(), make_data(), accumulate=3, **OPTIONS)


def test_bfloat16() -> None:
    model = make_model()
    log = train(model, make_data(), precision="bf16", **OPTIONS)
    AcceleratorState._reset_state(reset_partial_state=True)
    twin = make_model()
    expected = train(twin, make_data(), **OPTIONS)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert farthest(model.state_dict(), twin.state_dict()) > 1000 * ORDER_OF_SUMS  # it is another
    for a, b in zip(log, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=BFLOAT16)


def test_bfloat16_is_for_steps_alone() -> None:
    """Between steps and after them the network computes in float32, as a fresh one does."""
    model, seen = make_model(), set()
    fresh = make_model(1).to(memory_format=torch.channels_last)  # as training leaves it
    model.backbone.get_submodule("stem").register_forward_hook(
        lambda module, _, output: seen.add((module.training, output.dtype))
    )
    images = torch.rand(4, 3, 8, 8)
    for strategy in ("joint", OPTIONS["strategy"]):
        train(model, make_data(), precision="bf16", **{**OPTIONS, "strategy": strategy})
        assert vars(model).keys() == vars(fresh).keys()
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert all(map(torch.equal, model.eval()(images), fresh.eval()(images)))
    assert (True, torch.bfloat16) in seen
    assert (True, torch.float32) not in seen
    program = torch.export.export(model, (images,))
    assert not [node for node in program.graph.nodes if "_to_copy" in str(node.target)]


def test_bfloat16_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = {**OPTIONS, "precision": "bf16"}
    whole, resumed = make_model(), make_model(1)
    train(whole, make_data(), **options)
    with pytest.raises(KeyboardInterrupt):
        train(make_model(), make_data(), output=tmp_path, progress=Cut(2), **options)
    train(resumed, make_data(), output=tmp_path, **options)
    assert farthest(whole.state_dict(), resumed.state_dict()) == 0


def test_one_precision_after_another() -> None:
    for precision in ("no", "bf16", "no"):
        train(make_plain(), make_data(), precision=precision, **OPTIONS)


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]))
