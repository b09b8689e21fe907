"""A run that begins like another one takes its first phases over, and ends with the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import make_data, make_model

from edgeexit.errors import CheckpointError
from edgeexit.training import EpochRecord, train
from edgeexit.training import loop as loop_module

OPTIONS: dict[str, Any] = {"epochs": 5, "backbone_share": 0.4, "batch_size": 16}


def run(folder: Path, strategy: str, **more: Any) -> tuple[EpochRecord, ...]:
    options = OPTIONS | {"strategy": strategy} | more
    return train(make_model(), make_data(), output=folder, **options)


def without_seconds(log: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in log]


@pytest.fixture
def mixed(tmp_path: Path, one_thread: None) -> Path:
    run(tmp_path / "mixed", "mixed")
    return tmp_path / "mixed"


def test_it_ends_with_the_same_bits(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(tmp_path / "whole", "disjoint")
    trained: list[str] = []
    epoch = loop_module._Run.one_epoch

    def watched(self: Any, index: int, *rest: Any) -> EpochRecord:
        trained.append(self.plan[index].name)
        return epoch(self, index, *rest)

    monkeypatch.setattr(loop_module._Run, "one_epoch", watched)
    log = run(tmp_path / "part", "disjoint", reuse=mixed)
    assert trained == ["heads"] * 3
    assert without_seconds(log) == without_seconds(wanted)
    for name in (
        "weights.safetensors",
        "phases/0_backbone.safetensors",
        "phases/1_heads.safetensors",
    ):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    reports = [
        json.loads((tmp_path / name / "run.json").read_bytes()) for name in ("part", "whole")
    ]
    for report in reports:
        del report["log"]
    assert reports[0] == reports[1]


def test_without_a_folder_of_its_own_and_with_other_rates(mixed: Path, tmp_path: Path) -> None:
    slower = {"strategy": "mixed", "second_phase_rate": 0.5, **OPTIONS}
    weights = []
    for options in (slower, {**slower, "reuse": mixed}):
        model = make_model()
        train(model, make_data(), **options)
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_all_phases_may_be_taken_over(mixed: Path, tmp_path: Path) -> None:
    run(tmp_path / "again", "mixed", reuse=mixed)
    weights = "weights.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (mixed / weights).read_bytes()


def test_its_own_state_comes_first(mixed: Path, tmp_path: Path) -> None:
    run(tmp_path / "own", "disjoint", reuse=mixed)
    run(tmp_path / "own", "disjoint", reuse=tmp_path / "nowhere")  # finished: nothing is looked at


def test_a_method_that_adds_to_the_network(tmp_path: Path, one_thread: None) -> None:
    method = {"method": "l2w_den", "method_options": {"hidden": 4}}
    run(tmp_path / "mixed", "mixed", **method)
    run(tmp_path / "whole", "mixed", second_phase_rate=0.5, **method)
    run(tmp_path / "part", "mixed", second_phase_rate=0.5, reuse=tmp_path / "mixed", **method)
    weights = [tmp_path / name / "weights.safetensors" for name in ("whole", "part")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def damaged(mixed: Path) -> None:
    (mixed / "run.json").write_text('{"config": 3}')


def of_an_older_version(mixed: Path) -> None:
    report = json.loads((mixed / "run.json").read_bytes())
    del report["fingerprint"]
    (mixed / "run.json").write_text(json.dumps(report))


def unfinished(mixed: Path) -> None:
    (mixed / "run.json").unlink()


def without_its_weights(mixed: Path) -> None:
    (mixed / "phases" / "0_backbone.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "options", "wanted"),
    [
        (None, {"seed": 1}, "seed: 0 -> 1"),
        (None, {"batch_size": 8}, "batch_size: 16 -> 8"),
        (None, {"backbone_share": 0.6}, "num_steps"),
        (None, {"strategy": "joint"}, "everything"),
        (damaged, {}, "cannot be read"),
        (unfinished, {}, "cannot be read"),
        (of_an_older_version, {}, "fingerprint: None"),
        (without_its_weights, {}, "no weights file"),
    ],
)
def test_what_is_refused(
    change: Any, options: dict[str, Any], wanted: str, mixed: Path, tmp_path: Path
) -> None:
    if change is not None:
        change(mixed)
    output = tmp_path / "refused"
    with pytest.raises(CheckpointError, match=wanted):
        run(output, **{"strategy": "disjoint", "reuse": mixed, **options})
    assert not (output / "resume.safetensors").exists()
