"""Training: phases, losses and rates by hand, frozen bits, and runs that are cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import make_data, make_model
from torch import Tensor, nn

from edgeexit.data.types import Augmentation, Samples, Splits
from edgeexit.errors import ArgumentError, CheckpointError, DataError, EdgeExitError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.training import EpochRecord, TrainConfig, load_checkpoint, train
from edgeexit.training.budget import macs_per_sample
from edgeexit.training.early_stopping import EarlyStopping, kept_epoch
from edgeexit.training.mixup import mixed_up
from edgeexit.training.schedule import learning_rate
from edgeexit.training.strategies import phases, shares

pytestmark = pytest.mark.usefixtures("one_thread")


SHORT = {"epochs": 4, "backbone_share": 0.5, "batch_size": 16, "learning_rate": 0.1}


def state(model: MultiExitModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plan(strategy: str, epochs: int = 50, unit: str = "epochs") -> list[tuple[str, int, float]]:
    listed = phases(
        shares(strategy, 0.4, 0.5),
        epochs=epochs,
        unit=unit,  # type: ignore[arg-type]
        learning_rate=0.2,
        steps_per_epoch=10,
        macs={"backbone": 90, "everything": 100, "heads": 40},
    )
    return [(p.name, p.num_steps, p.learning_rate) for p in listed]


def test_phases_share_epochs() -> None:
    assert plan("mixed") == [("backbone", 200, 0.2), ("everything", 300, 0.1)]
    assert plan("disjoint") == [("backbone", 200, 0.2), ("heads", 300, 0.1)]
    assert plan("joint") == [("everything", 500, 0.2)]
    assert plan("backbone=0.3, everything=0.5@0.25, heads=0.2") == [
        ("backbone", 150, 0.2),
        ("everything", 250, 0.05),
        ("heads", 100, 0.2),
    ]
    with pytest.raises(ArgumentError, match="an epoch for each of its phases"):
        TrainConfig(epochs=1)


def test_phases_share_computation() -> None:
    # 50 epochs of 10 steps at 100 MACs are 50,000: 20,000 pay for 222 steps of 90, 30,000 for 300
    # of 100 and for 750 of 40.
    assert plan("mixed", unit="macs") == [("backbone", 222, 0.2), ("everything", 300, 0.1)]
    assert plan("disjoint", unit="macs") == [("backbone", 222, 0.2), ("heads", 750, 0.1)]
    assert plan("joint", unit="macs") == [("everything", 500, 0.2)]


def test_macs_of_a_step() -> None:
    model = make_model()
    macs = macs_per_sample(model, torch.zeros(1, 3, 8, 8))
    stem, layer1 = 64 * 3 * 9 * 8, 2 * 64 * 8 * 9 * 8
    layer2 = 16 * 8 * 9 * 8 * 2 + 16 * 8 * 8  # two 3 x 3 and the shortcut, at 4 x 4 positions
    layer3 = 4 * 8 * 9 * 8 * 2 + 4 * 8 * 8
    backbone, heads_macs = stem + layer1 + layer2 + layer3 + 8 * 3, 2 * 8 * 3
    assert macs == {
        "backbone": 3 * backbone,
        "everything": 3 * (backbone + heads_macs),
        "heads": backbone + 3 * heads_macs,
    }


def test_a_budget_of_macs_is_spent(tmp_path: Path) -> None:
    options = {**SHORT, "strategy": "disjoint", "budget": "macs"}
    train(make_model(), make_data(), output=tmp_path, **options)
    run = json.loads((tmp_path / "run.json").read_text())
    macs = macs_per_sample(make_model(), torch.zeros(1, 3, 8, 8))
    full = 4 * 3 * 16 * macs["everything"]  # epochs, batches, samples
    assert run["spent_macs"] == run["budget_macs"]
    assert 0 <= full - run["budget_macs"] < 16 * (macs["backbone"] + macs["heads"])


def test_a_phase_may_come_twice(tmp_path: Path) -> None:
    """What was spent is counted by phase; their epochs alone do not tell two of a name apart."""
    strategy = "backbone=0.25,heads=0.25,backbone=0.5"
    train(make_model(), make_data(), output=tmp_path, **{**SHORT, "strategy": strategy})
    run = json.loads((tmp_path / "run.json").read_text())
    assert [phase["num_steps"] for phase in run["phases"]] == [3, 3, 6]
    assert run["spent_macs"] == run["budget_macs"]


def test_mixup_blends_with_the_neighbour() -> None:
    images, labels = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0, 1, 2])
    blended, others = mixed_up(images, labels, 0.75)
    assert blended.flatten().tolist() == [1.0, 0.75, 3.25]
    assert others.tolist() == [2, 0, 1]


def test_rates() -> None:
    assert learning_rate("cosine", 0.4, 0, 100) == 0.4
    assert learning_rate("cosine", 0.4, 50, 100) == pytest.approx(0.2)
    assert learning_rate("one_cycle", 0.4, 4, 100) == pytest.approx(0.1)
    assert learning_rate("one_cycle", 0.4, 20, 100) == pytest.approx(0.4)
    assert learning_rate("one_cycle", 0.4, 60, 100) == pytest.approx(0.2)


def test_frozen_means_unchanged_bits() -> None:
    model = make_model()
    train(model, make_data(), **{**SHORT, "strategy": "mixed", "epochs": 2})
    before = state(model)

    class Watch:
        def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
            self.at_start = state(model)

        def step(self) -> None: ...

        def epoch(self, record: EpochRecord) -> None: ...

    watch = Watch()
    train(model, make_data(), progress=watch, **{**SHORT, "strategy": "disjoint"})
    after = state(model)
    moved = {name for name in after if not torch.equal(after[name], watch.at_start[name])}
    assert moved
    assert all(name.startswith("heads.") for name in moved)  # batch-norm statistics included
    moved_before = {name for name in before if not torch.equal(before[name], watch.at_start[name])}
    assert all(name.startswith("backbone.") for name in moved_before)  # phase 1 leaves heads alone


def test_one_step_equals_plain_pytorch() -> None:
    """One epoch of one full batch against SGD written out."""
    data = make_data(16)
    data = Splits(**{**vars(data), "augmentation": Augmentation(0, False)})
    model, twin = make_model(), make_model()
    train(model, data, strategy="joint", epochs=1, batch_size=16, learning_rate=0.1,
          schedule="cosine", weight_decay=0.0)  # fmt: skip
    twin.train()
    images = (torch.from_numpy(data.train.images).permute(0, 3, 1, 2).float() - 128) / 128
    losses = [
        torch.nn.functional.cross_entropy(z, torch.from_numpy(data.train.labels))
        for z in twin(images)
    ]
    (sum(losses) / 3).backward()
    with torch.no_grad():
        for p in twin.parameters():
            p -= 0.1 * 1.9 * p.grad  # Nesterov's first step: gradient plus momentum times gradient
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        # The samples come in another order: sums differ in their last bits.
        assert torch.allclose(a, b, atol=1e-6), name


class Flat(nn.Module):
    """Two convolutions and a linear layer over all positions, which it reaches with a view."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.views = views
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.last = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.last(x.view(x.size(0), -1) if self.views else x.flatten(1))


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"method": "partially_masked"}])
def test_a_network_may_view_its_feature_maps(options: dict[str, str]) -> None:
    trained = []
    for views in (False, True):
        torch.manual_seed(0)
        example = torch.zeros(1, 3, 8, 8)
        model = attach_exits(Flat(views), {"first": heads.Pooled()}, example=example)
        log = train(model, make_data(), **SHORT, **options)
        assert len(model.eval()(example)) == 2  # and so it can after training
        trained.append(log[-1].loss)
    assert trained[0] == pytest.approx(trained[1], rel=0.02)  # sums in another order


@pytest.mark.parametrize("strategy", ["disjoint", "joint", "mixed"])
@pytest.mark.parametrize("cut_after", [1, 2, 3])
def test_a_run_that_is_cut_short_resumes_to_the_same_bits(
    strategy: str, cut_after: int, tmp_path: Path
) -> None:
    class Cut:
        seen = 0

        def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None: ...

        def step(self) -> None: ...

        def epoch(self, record: EpochRecord) -> None:
            self.seen += 1
            if self.seen == cut_after:
                raise KeyboardInterrupt

    options = {**SHORT, "strategy": strategy, "mixup": 0.2}
    whole = make_model()
    log = train(whole, make_data(), **options)
    with pytest.raises(KeyboardInterrupt):
        train(make_model(), make_data(), output=tmp_path, progress=Cut(), **options)
    resumed = make_model(seed=1)  # whatever it starts with, the state replaces it
    resumed_log = train(resumed, make_data(), output=tmp_path, **options)
    assert same(state(whole), state(resumed))
    assert [r.loss for r in resumed_log] == [r.loss for r in log]
    loaded = make_model(seed=2)
    load_checkpoint(str(tmp_path), loaded)
    assert same(state(whole), state(loaded))


def test_kill_minus_nine_resumes_to_the_same_bits(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "from test_training import *\n"
        "import os, signal\n"
        "class Kill:\n"
        "    count = 0\n"
        "    def phase(self, *a): pass\n"
        "    def epoch(self, r): pass\n"
        "    def step(self):\n"
        "        Kill.count += 1\n"
        "        if Kill.count == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "train(make_model(), make_data(), output=folder, progress=Kill(), **SHORT)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    whole, resumed = make_model(), make_model(seed=1)
    train(whole, make_data(), **SHORT)
    train(resumed, make_data(), output=tmp_path, **SHORT)
    assert same(state(whole), state(resumed))


def test_early_stopping_waits_for_the_last_head() -> None:
    stopping = EarlyStopping(2, (), ())
    history = [(0.5, 0.5), (0.6, 0.5), (0.6, 0.5), (0.6, 0.6), (0.6, 0.6), (0.6, 0.6)]
    kept = [stopping.improved(accuracy) for accuracy in history[:-1]]
    assert kept == [True, True, False, True, False]
    assert not stopping.stop  # the first head has waited three epochs, the second only one
    stopping.improved(history[-1])
    assert stopping.stop


def test_early_stopping_spends_less_and_says_so(tmp_path: Path) -> None:
    log = train(make_model(), make_data(), strategy="joint", epochs=30, batch_size=16, patience=1,
                learning_rate=1e-9, output=tmp_path)  # fmt: skip
    assert len(log) < 30
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["spent_macs"] * 30 == report["budget_macs"] * len(log)


PATIENT = {"strategy": "mixed", "backbone_share": 0.5, "epochs": 30, "batch_size": 16,
           "learning_rate": 0.02, "patience": 2}  # fmt: skip
"""Both phases end early: the first after 7 of 15 epochs, the second after 7."""


def test_early_stopping_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Cut where a head has waited and where weights are kept that are not the last ones."""

    class Cut:
        def __init__(self, after: int) -> None:
            self.left = after

        def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None: ...

        def step(self) -> None: ...

        def epoch(self, record: EpochRecord) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    whole = make_model()
    log = train(whole, make_data(), **PATIENT)
    assert [record.phase for record in log] == ["backbone"] * 7 + ["everything"] * 7
    for after in (6, 9, 13):
        folder = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            train(make_model(), make_data(), output=folder, progress=Cut(after), **PATIENT)
        resumed = make_model(1)
        resumed_log = train(resumed, make_data(), output=folder, **PATIENT)
        assert [r.accuracy for r in resumed_log] == [r.accuracy for r in log]
        assert same(state(resumed), state(whole))


def test_early_stopping_keeps_the_weights_of_the_last_improvement() -> None:
    """Where accuracy falls afterwards: the last weights are worse."""
    model = make_model()
    snapshots: list[dict[str, torch.Tensor]] = []

    class Watch:
        def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None: ...

        def step(self) -> None: ...

        def epoch(self, record: EpochRecord) -> None:
            snapshots.append(state(model))

    log = train(model, falling(), progress=Watch(), strategy="backbone=1", epochs=30,
                batch_size=16, learning_rate=0.02, patience=3)  # fmt: skip
    accuracy = [record.accuracy[0] for record in log]
    best = accuracy.index(max(accuracy))
    assert len(log) == best + 4 < 30
    assert accuracy[-1] < accuracy[best]
    assert same(state(model), snapshots[best])
    assert not same(state(model), snapshots[-1])
    assert kept_epoch(log, patience=3) is log[best]
    assert kept_epoch(log, patience=None) is log[-1]


def falling() -> Splits:
    """The calibration split has the labels of an untrained network: training unlearns them."""
    data = make_data()
    images = (torch.from_numpy(data.train.images).permute(0, 3, 1, 2).float() - 128) / 128
    model = make_model().eval()
    with torch.no_grad():
        labels = model.backbone(images).argmax(1).numpy()
    calibration = Samples(data.calibration.images, labels)
    return Splits(**{**vars(data), "calibration": calibration})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epoch": 3}, ArgumentError, "unknown training option"),
        ({"strategy": "all"}, ArgumentError, r"(?s)unknown strategy.*disjoint, joint, mixed"),
        ({"epochs": 0}, ArgumentError, "epochs must be positive"),
        ({"backbone_share": 1.0}, ArgumentError, "backbone_share is out of range"),
        ({"label_smoothing": -0.1}, ArgumentError, "label_smoothing is out of range"),
        ({"patience": 0}, ArgumentError, "patience must be at least 1"),
        ({"mixup": -1.0}, ArgumentError, "must not be negative"),
        ({"batch_size": 64}, DataError, "smaller than one batch"),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, object], error: type[EdgeExitError], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(make_model(), make_data(), **{**SHORT, **options})


def test_classes_must_match() -> None:
    data = Splits(**{**vars(make_data()), "class_names": ("a", "b")})
    with pytest.raises(DataError, match=r"(?s)another number of classes.*3 classes.*2 classes"):
        train(make_model(), data, **SHORT)


def test_one_class_is_nothing_to_learn() -> None:
    backbone = ResNet((1, 1, 1), (8, 8, 8), in_channels=3, num_classes=1)
    model = attach_exits(backbone, {"layer1": heads.Pooled()}, example=torch.zeros(1, 3, 8, 8))
    given = make_data().train
    samples = Samples(given.images, given.labels * 0)
    parts = dict.fromkeys(("train", "calibration", "test"), samples)
    data = Splits(**{**vars(make_data()), **parts, "class_names": ("a",)})
    with pytest.raises(DataError, match=r"(?s)nothing to classify.*2 classes.*1 in 'three-col"):
        train(model, data, **SHORT)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train(make_model(), make_data(), output=tmp_path, **SHORT)
    with pytest.raises(CheckpointError, match="epochs: 4 -> 5"):
        train(make_model(), make_data(), output=tmp_path, **{**SHORT, "epochs": 5})


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    train(make_model(), make_data(), output=tmp_path, **SHORT)
    path = tmp_path / "resume.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(make_model(), make_data(), output=tmp_path, **SHORT)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    train(make_model(), make_data(), output=tmp_path, **SHORT)
    backbone = ResNet((1, 1, 1), (16, 8, 8), in_channels=3, num_classes=3)
    other = attach_exits(
        backbone,
        {"layer1": heads.Pooled(), "layer2": heads.Pooled()},
        example=torch.zeros(1, 3, 8, 8),
    )
    with pytest.raises(CheckpointError, match="a tensor has another shape"):
        load_checkpoint(tmp_path, other)
    with pytest.raises(CheckpointError, match="no weights file"):
        load_checkpoint(tmp_path / "nowhere", other)


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Two gloo processes share each batch; batch norm sees half of it, so losses agree loosely."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}\n"
        "from test_training import *\n"
        f"train(make_model(), make_data(), output=Path({str(tmp_path)!r}), **SHORT)\n"
        "import torch.distributed as dist; dist.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--standalone", str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    two, one = make_model(seed=1), make_model()
    load_checkpoint(tmp_path, two)
    log = train(one, make_data(), **SHORT)
    from edgeexit.training.checkpoint import read_state
    from edgeexit.training.loop import _fingerprint

    fingerprint = _fingerprint(two, make_data())
    there = read_state(tmp_path, TrainConfig(**SHORT), fingerprint, [(2, 3), (2, 3)])
    assert there is not None
    assert len(there.log) == len(log) == 4
    # Noise of batch norm over 8 instead of 16 samples; a wrong gradient share is far outside.
    assert there.log[-1].loss == pytest.approx(log[-1].loss, rel=0.15)
