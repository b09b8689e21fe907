"""What the benchmark of strategies measures, averages and draws."""

from __future__ import annotations

import importlib
import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGE, network, pieces, splits
from rich.console import Console
from torch import nn

from edgeexit.data.types import Samples
from edgeexit.nn.weights_file import weights_bytes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def benchmark(name: str) -> Any:
    sys.path.insert(0, str(BENCHMARKS))  # as `scripts/bench` has it
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


measuring, report = benchmark("strategies_measure"), benchmark("strategies_report")
plot, runs = benchmark("strategies_plot"), benchmark("strategies_runs")


class Small(nn.Module):
    """A network with no exit but its end: 16 x 16 x 3 -> 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(torch.relu(self.conv(x)).mean((2, 3)))
        return logits


SMALL_MACS = 8 * 8 * 4 * 27 + 4 * 5


# ------------------------------------------------------------------ costs


@pytest.mark.parametrize("name", ["ensemble", "two_scale"])
def test_macs_are_those_that_a_bundle_states(name: str) -> None:
    channels, height, width = IMAGE
    made = pieces(name)
    exit_macs, static_macs = measuring.network_macs(made.model, (height, width, channels))
    assert list(exit_macs) == np.cumsum([s.spec.macs for s in made.segments]).tolist()
    assert static_macs == made.static.spec.macs


# ------------------------------------------------------------------ one network


def test_float_against_a_count_by_hand() -> None:
    model, data = network("residual"), splits()
    measured = measuring.measure(model, data, precision="float")
    images = torch.from_numpy((data.test.images.astype(np.float32) - 128) / 128)
    with torch.no_grad():
        logits = [z.double() for z in model(images.permute(0, 3, 1, 2))]
    right = [(z.argmax(1).numpy() == data.test.labels) for z in logits]
    assert measured.exit_accuracy == pytest.approx([r.mean() for r in right])
    assert measured.reference_macs == measured.static_macs
    # Calibration and test are the same samples here, so all that is free can be tried.
    sure = [z.softmax(1).amax(1).numpy() for z in logits]
    cost = measured.exit_macs
    for name, share in measuring.BUDGETS.items():
        best = None
        for first in [2.0, *sure[0]]:
            for second in [2.0, *sure[1]]:
                exits = np.where(sure[0] >= first, 0, np.where(sure[1] >= second, 1, 2))
                macs = np.mean([cost[k] for k in exits])
                accuracy = np.mean([right[k][i] for i, k in enumerate(exits)])
                if share is None or macs <= share * measured.static_macs:
                    best = accuracy if best is None else max(best, accuracy)
        given = measured.budgets[name]
        assert (given is None) == (best is None)
        if given is not None:
            assert given.accuracy == given.calibration_accuracy == pytest.approx(best)
            assert share is None or given.macs <= share * measured.static_macs
            assert sum(given.exit_rates) == pytest.approx(1)
            assert given.macs == pytest.approx(np.dot(given.exit_rates, cost))
    assert any(found is None for found in measured.budgets.values())  # or None is not tried here


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_thresholds_know_nothing_of_the_test_split(precision: str) -> None:
    """Other labels there change what is found there, and not a threshold."""
    model, data = network("residual"), splits()
    others = Samples(data.test.images, (data.test.labels + 1) % 5)
    same = measuring.measure(model, data, precision=precision)
    other = measuring.measure(model, replace(data, test=others), precision=precision)
    assert other.exit_accuracy != same.exit_accuracy
    for name, found in same.budgets.items():
        if found is None:
            assert other.budgets[name] is None
            continue
        # The images of both splits are the same, and so is where they leave.
        assert other.budgets[name].calibration_accuracy == found.calibration_accuracy
        assert other.budgets[name].exit_rates == found.exit_rates
        assert other.budgets[name].macs == found.macs
        assert other.budgets[name].accuracy != found.accuracy
        assert found.calibration_accuracy == found.accuracy


def test_the_network_is_left_as_it_was() -> None:
    model = network("mobile").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measuring.measure(model, splits(), precision="float")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_network_with_one_exit_holds_its_accuracy_where_it_fits(precision: str) -> None:
    torch.manual_seed(0)
    measured = measuring.measure(
        Small(), splits(), precision=precision, reference_macs=2 * SMALL_MACS
    )
    assert measured.exit_macs == (SMALL_MACS,)
    assert measured.static_macs == SMALL_MACS
    (accuracy,) = measured.exit_accuracy
    found = {name: at and (at.accuracy, at.macs) for name, at in measured.budgets.items()}
    fits = (accuracy, float(SMALL_MACS))
    assert found == {"25": None, "50": fits, "75": fits, "100": fits, "inf": fits}


def test_what_was_measured_is_kept_until_the_weights_change(tmp_path: Path) -> None:
    made = []

    def create() -> nn.Module:
        made.append(Small())
        return made[-1]

    def measure(**changed: Any) -> Any:
        wanted = {"precision": "float", "reference_macs": 10 * SMALL_MACS} | changed
        return measuring.measure_run(tmp_path, create, splits(), **wanted)

    def train(seed: int) -> None:
        torch.manual_seed(seed)
        (tmp_path / "weights.safetensors").write_bytes(weights_bytes(Small()))

    train(0)
    first = measure()
    assert measure() == first
    assert len(made) == 1
    path = tmp_path / "measured-float.json"
    assert [file.name for file in tmp_path.glob("measured-*")] == [path.name]

    train(1)
    assert measure() != first
    assert len(made) == 2
    assert measure(reference_macs=20 * SMALL_MACS).reference_macs == 20 * SMALL_MACS
    assert len(made) == 3

    # Half a file, another form, no JSON: measured again, never believed.
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "[]", "{}", json.dumps({"key": 1})):
        path.write_text(damaged)
        measure(reference_macs=20 * SMALL_MACS)
        assert path.read_text() == whole


def test_a_training_of_another_table_is_not_measured_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was cut short resumes or is refused by the training itself."""
    monkeypatch.setattr(runs.data, "load", lambda name: splits())
    folder, results = tmp_path / "run", tmp_path / "rows"
    job = runs.Job("resnet8", "toy", "mixed 40 %", 0)

    def finish(epochs: int) -> None:
        config = asdict(runs.TrainConfig(**runs.options(job, splits(), epochs)))
        content = {"config": config, "budget_macs": 1, "trained_with": {}, "log": []}
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps(content))
        (folder / "weights.safetensors").write_bytes(weights_bytes(runs.build(job, splits())))

    def run_job() -> None:
        runs.run_job(job, folder, results, 3, lambda name, text: None)

    monkeypatch.setattr(runs, "PRECISIONS", ("float",))
    finish(epochs=4)
    with pytest.raises(SystemExit, match=r"epochs: 4 -> 3.*--runs and --results"):
        run_job()
    assert not results.exists()
    finish(epochs=3)
    run_job()
    (row,) = results.iterdir()
    assert json.loads(row.read_text())["epochs"] == 3
    with pytest.raises(SystemExit, match=r"table of 3 epochs.*--runs and --results"):
        runs.check_row(row, 4)


# ------------------------------------------------------------------ many networks


def measured(accuracies: dict[str, float | None], *, macs: tuple[int, ...] = (40, 110)) -> Any:
    budgets = {
        name: value
        and measuring.AtBudget(
            value, 95.0 if name == "inf" else min(95.0, float(name)), (0.5, 0.5), value
        )
        for name, value in accuracies.items()
    }
    return measuring.Measured("float", "torch", (0.5,) * len(macs), macs, 100, 100, budgets)


def run(strategy: str, seed: int, at_50: float, at_100: float, **facts: Any) -> Any:
    accuracies = {"25": None, "50": at_50, "75": 0.75, "100": at_100, "inf": 0.9}
    return report.Run("net", "toy", strategy, seed, 1000, measured(accuracies, **facts))


RUNS = [
    run("mixed", 1, 0.70, 0.80),
    run("mixed", 0, 0.72, 0.82),
    run("mixed", 2, 0.74, 0.84),
    run("joint [x]", 0, 0.60, 0.83),
    run("joint [x]", 1, 0.64, 0.83),
    report.Run("net", "toy", "static", 0, 1000, measured(
        {"25": None, "50": None, "75": 0.8, "100": 0.8, "inf": 0.8}, macs=(60,))),
]  # fmt: skip


def test_rows_by_hand() -> None:
    mixed, joint, static = report.aggregate(RUNS)
    assert set(mixed) == {
        "model", "dataset", "strategy", "precision", "num_seeds", "seeds", "budget_macs",
        "accuracy", "spent_macs", "exit_accuracy", "exit_macs", "reference_macs",
    }  # fmt: skip
    assert (mixed["model"], mixed["dataset"], mixed["strategy"]) == ("net", "toy", "mixed")
    assert (mixed["num_seeds"], mixed["seeds"], mixed["budget_macs"]) == (3, [0, 1, 2], 1000)
    assert mixed["accuracy"]["25"] is None
    # Sample standard deviation of -2, 0, 2: sqrt(8 / 2).
    assert mixed["accuracy"]["50"] == pytest.approx({"mean": 0.72, "std": 0.02})
    # Of -2, 2: sqrt(8 / 1).
    assert joint["accuracy"]["50"] == pytest.approx({"mean": 0.62, "std": 0.02 * 2**0.5})
    assert joint["accuracy"]["100"] == pytest.approx({"mean": 0.83, "std": 0.0})
    assert static["accuracy"]["75"] == {"mean": 0.8, "std": None}
    assert mixed["spent_macs"] == {"25": None, "50": 50, "75": 75, "100": 95, "inf": 95}
    assert json.loads(json.dumps([mixed, joint, static])) == [mixed, joint, static]


def test_a_budget_that_one_seed_misses_has_no_mean() -> None:
    other = replace(RUNS[0].measured, budgets=RUNS[0].measured.budgets | {"50": None})
    (row,) = report.aggregate([RUNS[1], replace(RUNS[0], measured=other)])
    assert row["accuracy"]["50"] is None
    assert row["accuracy"]["100"]["mean"] == pytest.approx(0.81)


@pytest.mark.parametrize("other", [{"seed": 0}, {"seed": 5, "budget_macs": 7}])
def test_runs_that_are_no_repetitions_are_refused(other: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="more than their seed"):
        report.aggregate([RUNS[1], replace(RUNS[0], **other)])


def test_differences_seed_by_seed_by_hand() -> None:
    found, static = report.compare(RUNS, "joint [x]")
    assert (found["strategy"], found["base"], found["precision"]) == ("mixed", "joint [x]", "float")
    assert found["seeds"] == [0, 1]  # the third has no partner
    at_50, at_100 = found["accuracy"]["50"], found["accuracy"]["100"]
    # In points: 72 - 60 and 70 - 64, whose sample standard deviation is sqrt(9 + 9).
    assert at_50["per_seed"] == pytest.approx([0.12, 0.06])
    assert (at_50["mean"], at_50["std"]) == pytest.approx((0.09, 18**0.5 / 100))
    assert at_50["stds"] == pytest.approx(9 / 18**0.5)
    # 82 - 83 and 80 - 83.
    assert at_100["per_seed"] == pytest.approx([-0.01, -0.03])
    assert at_100["stds"] == pytest.approx(-2 / 2**0.5)
    assert found["accuracy"]["25"] is None
    same = {"per_seed": [0, 0], "mean": 0, "std": 0, "stds": None}
    assert found["accuracy"]["75"] == same

    assert static["accuracy"]["50"] is None
    one_seed = static["accuracy"]["100"]
    assert one_seed["per_seed"] == [one_seed["mean"]] == pytest.approx([-0.03])
    assert one_seed["std"] is one_seed["stds"] is None
    assert report.compare(RUNS, "another") == []
    assert report.compare([RUNS[2], *RUNS[3:]], "joint [x]") == [static]  # no seed in common


def shown(runs: list[Any], base: str, width: int) -> tuple[str, str]:
    """What the tables are on a terminal, as text and as HTML."""
    console = Console(
        width=width, record=True, force_terminal=True, markup=False, file=io.StringIO()
    )
    for table in report.tables(report.aggregate(runs), report.compare(runs, base)):
        console.print(table)
    return console.export_text(clear=False), console.export_html(inline_styles=True)


def test_tables_by_hand() -> None:
    text, _ = shown(RUNS, "joint [x]", 80)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # Nobody fits 25 %, so that no column says so.
    assert [line for line in lines if line.startswith(("strategy", "mixed", "static"))] == [
        "strategy seeds 50 % 75 % 100 % any",
        "mixed 3 72.00 ±2.00 75.00 ±0.00 82.00 ±2.00 90.00 ±0.00",
        "static 1 – 80.00 80.00 80.00",
        "strategy seeds exit 0 last",
        "mixed 3 50.00 50.00",
        "static 1 – 50.00",
        "strategy seeds 50 % 75 % 100 % any",
        "mixed 2 +9.00 ±4.24* +0.00 ±0.00 -2.00 ±1.41* +0.00 ±0.00",
        "static 1 – +5.00 -3.00 -10.00",
    ]
    assert "net on toy, float: points above joint [x] (* for every seed)" in lines
    assert not any("points above" in line for line in shown(RUNS, "another", 80)[0].splitlines())


def test_a_table_of_three_seeds_fits_a_terminal() -> None:
    runs = [
        report.Run("resnet20", "fashion-mnist", strategy, seed, 1000, RUNS[seed].measured)
        for strategy in ("joint", "mixed 20 %, half rate", "static, 3/4 of the channels")
        for seed in range(3)
    ]
    text, _ = shown(runs, "joint", 80)
    assert "…" not in text
    assert text.count("resnet20 on fashion-mnist, float: ") == 3
    titles = [line.strip() for line in text.splitlines() if line.startswith("resnet20")]
    assert titles[0].endswith("by share of the MACs")
    assert titles[2].endswith("(* for every seed)")


def test_the_table_shows_the_best_in_bold() -> None:
    _, html = shown(RUNS, "another", 160)
    bold = [part.split("<")[0] for part in html.split('font-weight: bold">')[1:]]
    # mixed at 50 %, static at 75 %, joint at 100 %, and two that share the best unbounded.
    assert sorted(cell.strip() for cell in bold if "." in cell) == [
        "72.00 ±2.00", "80.00", "83.00 ±0.00", "90.00 ±0.00", "90.00 ±0.00",
    ]  # fmt: skip
    assert "joint [x]" in html
    assert "–" in html


def test_the_plot_has_a_line_for_each_strategy_and_a_point_for_a_static_network() -> None:
    pictures = plot.plots(report.aggregate(RUNS))
    assert list(pictures) == ["strategies-net-toy-float.svg"]
    (text,) = pictures.values()
    root = ElementTree.fromstring(text)
    tag = "{http://www.w3.org/2000/svg}"
    lines = root.findall(f"{tag}polyline")
    assert len(lines) == 2
    # 50, 75 and 100 %; unbounded spends as much as 100 % but is more accurate.
    assert [len(line.attrib["points"].split()) for line in lines] == [4, 4]
    hints = [title.text for title in root.iter(f"{tag}title")]
    assert "mixed, budget 50 %: 72.00 % ± 2.00 at 50.0 % of the MACs" in hints
    assert any(hint.startswith("static, one exit: 80.00 %") for hint in hints if hint)
    assert plot.plots([]) == {}
