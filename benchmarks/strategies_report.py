"""What trained networks are worth at a budget: measured for a run, averaged over seeds, compared.

Thresholds are chosen on the calibration split, for the highest accuracy whose mean cost fits 25,
50, 75 and 100 % of the reference's MACs, or any cost; accuracies and what was really spent are of
the test split. The reference is the full backbone with its last exit alone. What a chain spends
includes its heads, so a network that leaves nowhere early does not fit 100 %. A network with a
single exit has one accuracy, and holds it at every budget that it fits.

``std`` is over seeds alone. It does not hold that the test images are a sample too: of 10,000, an
accuracy of 85 % has a standard deviation of 0.36 points, most of which networks that are compared
on the same images share.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.fx import GraphModule

from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.cost import macs_of
from edgeexit.compiler.export import export
from edgeexit.compiler.pipeline import compile_model
from edgeexit.compiler.samples import real_batches
from edgeexit.data.types import Samples, Splits
from edgeexit.exits import float_scores
from edgeexit.exits.budget import best_within_budget
from edgeexit.exits.search import evaluate
from edgeexit.nn.model import MultiExitModel, example_logits
from edgeexit.nn.weights_file import read_weights
from edgeexit.runtime.decision import RULES, batch_scores
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import Session, all_logits
from edgeexit.training.checkpoint import write_whole

Precision = Literal["float", "int8"]

BUDGETS: dict[str, float | None] = {"25": 0.25, "50": 0.5, "75": 0.75, "100": 1.0, "inf": None}
"""Name of a budget -> share of the reference's MACs, None where cost is no concern."""
ENGINE = "litert"
_FORMAT = 1  # of measured-*.json; another one is measured again


@dataclass(frozen=True)
class AtBudget:
    """What thresholds of one budget do on the test split; ``macs`` is the mean per image."""

    accuracy: float
    macs: float
    exit_rates: tuple[float, ...]
    calibration_accuracy: float


@dataclass(frozen=True)
class Measured:
    """One trained network in one precision.

    ``exit_accuracy`` is on the test split if all images left there, ``exit_macs`` what that costs.
    ``budgets`` has None where even the first exit costs more. ``engine`` gave the logits.
    """

    precision: Precision
    engine: str
    exit_accuracy: tuple[float, ...]
    exit_macs: tuple[int, ...]
    static_macs: int
    reference_macs: int
    budgets: dict[str, AtBudget | None]


@dataclass(frozen=True)
class Run:
    """A measured network and what it was trained as; ``budget_macs`` is what training it took."""

    model: str
    dataset: str
    strategy: str
    seed: int
    budget_macs: int
    measured: Measured


# ------------------------------------------------------------------ one network


def measure_run(
    folder: Path,
    create: Callable[[], nn.Module],
    splits: Splits,
    *,
    precision: Precision,
    reference_macs: int | None = None,
) -> Measured:
    """What a finished run is worth; from ``measured-PRECISION.json`` if its weights are the same.

    Args:
        folder: Holds ``weights.safetensors``; the file of what was measured appears there whole.
        create: Makes the network, untrained, as it was trained; not called where all is known.
        splits: The data.
        precision: ``float`` or ``int8``.
        reference_macs: As for ``measure``.
    """
    weights = folder / "weights.safetensors"
    key = {
        "format": _FORMAT,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "data": [splits.name, *(len(part) for part in splits.parts().values())],
        "reference_macs": reference_macs,
    }
    path = folder / f"measured-{precision}.json"
    known = _read(path, key)
    if known is not None:
        return known
    model = create()
    read_weights(weights, model)
    measured = measure(model, splits, precision=precision, reference_macs=reference_macs)
    content = {"key": key, "measured": asdict(measured)}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return measured


def measure(
    model: nn.Module,
    splits: Splits,
    *,
    precision: Precision,
    reference_macs: int | None = None,
) -> Measured:
    """What a network is worth at each budget.

    Args:
        model: A `MultiExitModel`, or a plain network, which then has one exit.
        splits: Thresholds come from ``calibration``, accuracies from ``test``.
        precision: ``float``: the network as it is, in PyTorch. ``int8``: compiled, in LiteRT.
        reference_macs: What budgets are shares of; the network's own backbone if None.
    """
    network = model
    if not hasattr(model, "exit_names"):
        network = MultiExitModel(model, {}, splits.num_classes)
    look = _in_float if precision == "float" else _in_int8
    seen = look(network, splits)  # type: ignore[arg-type]
    reference = seen.static_macs if reference_macs is None else reference_macs
    costs = seen.exit_macs
    budgets: dict[str, AtBudget | None] = {}
    for name, share in BUDGETS.items():
        chosen = best_within_budget(
            *seen.calibration,
            costs,
            None if share is None else share * reference,
            never=seen.never,
            always=seen.always,
        )
        if chosen is None:
            budgets[name] = None
            continue
        result = evaluate(*seen.test, costs, chosen.thresholds)
        budgets[name] = AtBudget(result.accuracy, result.cost, result.exit_rates, chosen.accuracy)
    return Measured(
        precision=precision,
        engine=seen.engine,
        exit_accuracy=tuple(seen.test[1].mean(axis=0).tolist()),
        exit_macs=costs,
        static_macs=seen.static_macs,
        reference_macs=reference,
        budgets=budgets,
    )


@dataclass(frozen=True)
class _Seen:
    """Scores and correctness, [num_samples, num_exits] each, of two splits; and what exits cost."""

    engine: str
    calibration: tuple[NDArray[np.int64], NDArray[np.bool_]]
    test: tuple[NDArray[np.int64], NDArray[np.bool_]]
    exit_macs: tuple[int, ...]
    static_macs: int
    never: int
    always: int


def _in_float(model: MultiExitModel, splits: Splits) -> _Seen:
    device = next(model.parameters()).device

    def look(samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        batches = [
            torch.stack(example_logits(model, batch.to(device)), dim=1).float().cpu().numpy()
            for batch in real_batches(samples, splits.preprocessing)
        ]
        logits = np.concatenate(batches)
        return float_scores.confidence_scores(logits), _correct(logits, samples)

    exit_macs, static_macs = network_macs(model, splits.image_shape)
    return _Seen(
        f"torch {torch.__version__.split('+')[0]}",
        look(splits.calibration),
        look(splits.test),
        exit_macs,
        static_macs,
        float_scores.NEVER,
        float_scores.ALWAYS,
    )


def _in_int8(model: MultiExitModel, splits: Splits) -> _Seen:
    with tempfile.TemporaryDirectory() as folder:
        bundle = compile_model(
            model, data=splits, output=Path(folder, "network.eexit"), backends=("tflite",)
        )
        manifest = bundle.manifest
        limits = RULES[manifest.decision.rule]
        sign = 1 if limits.exits_below else -1

        with Session(bundle, engine=ENGINE) as session:

            def look(samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
                inputs = quantize_input(samples.images, manifest.input)
                logits = all_logits(session.engine, manifest.segments, inputs)
                return sign * batch_scores(logits, manifest.decision), _correct(logits, samples)

            return _Seen(
                ENGINE,
                look(splits.calibration),
                look(splits.test),
                tuple(np.cumsum([segment.macs for segment in manifest.segments]).tolist()),
                manifest.static_macs,
                sign * limits.never,
                sign * limits.always,
            )


def _correct(logits: NDArray[Any], samples: Samples) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = logits.argmax(axis=2) == samples.labels[:, np.newaxis]
    return right


def network_macs(
    model: MultiExitModel, image_shape: tuple[int, int, int]
) -> tuple[tuple[int, ...], int]:
    """What leaving at each exit costs, and the backbone alone, as a bundle's manifest counts it.

    Args:
        model: The network.
        image_shape: Height, width and channels.
    """
    height, width, channels = image_shape
    module = canonicalize(export(model, (channels, height, width))).module
    num_exits = len(model.exit_names)

    def macs_up_to(exits: slice) -> int:
        graph = copy.deepcopy(module.graph)
        output = graph.output_node()
        output.args = (tuple(output.args[0][exits]),)  # type: ignore[index]
        graph.eliminate_dead_code()
        return macs_of(GraphModule(module, graph))

    return (
        tuple(macs_up_to(slice(k + 1)) for k in range(num_exits)),
        macs_up_to(slice(num_exits - 1, None)),
    )


def _read(path: Path, key: Mapping[str, object]) -> Measured | None:
    """What was measured before, unless of something else, or damaged: then it is done again."""
    try:
        content = json.loads(path.read_bytes())
        if content["key"] != key:
            return None
        return measured_of(content["measured"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured_of(fields: Mapping[str, Any]) -> Measured:
    """What `dataclasses.asdict` and JSON made of a `Measured`, back again."""
    budgets = {
        name: AtBudget(**(found | {"exit_rates": tuple(found["exit_rates"])})) if found else None
        for name, found in fields["budgets"].items()
    }
    tuples = {name: tuple(fields[name]) for name in ("exit_accuracy", "exit_macs")}
    return Measured(**(dict(fields) | tuples | {"budgets": budgets}))


# ------------------------------------------------------------------ many networks


def aggregate(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One row for each model, data set, strategy and precision, in the order of their first run.

    Returns:
        Dicts with ``model``, ``dataset``, ``strategy``, ``precision``, ``num_seeds``, ``seeds``,
        ``budget_macs``, ``accuracy`` (budget -> ``mean`` and ``std``, or None where not all seeds
        fit it), ``spent_macs`` (budget -> mean per test image), ``exit_accuracy``, ``exit_macs``
        and ``reference_macs``. ``std`` is the sample standard deviation over seeds, None for one.
    """
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        key = (run.model, run.dataset, run.strategy, run.measured.precision)
        groups.setdefault(key, []).append(run)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, str, str, str], group: Sequence[Run]) -> dict[str, Any]:
    model, dataset, strategy, precision = key
    measured = [run.measured for run in group]
    seeds = [run.seed for run in group]
    facts = {(run.budget_macs, run.measured.exit_macs, run.measured.reference_macs)
             for run in group}  # fmt: skip
    if len(facts) != 1 or len(set(seeds)) != len(seeds):
        raise ValueError(f"runs of {key} differ in more than their seed: {seeds}, {facts}")
    accuracy: dict[str, dict[str, float | None] | None] = {}
    spent: dict[str, float | None] = {}
    for name in BUDGETS:
        found = [each.budgets[name] for each in measured]
        fitting = [each for each in found if each is not None]
        fits = len(fitting) == len(found)
        accuracy[name] = _spread([each.accuracy for each in fitting]) if fits else None
        spent[name] = statistics.fmean(each.macs for each in fitting) if fits else None
    return {
        "model": model,
        "dataset": dataset,
        "strategy": strategy,
        "precision": precision,
        "num_seeds": len(group),
        "seeds": sorted(seeds),
        "budget_macs": group[0].budget_macs,
        "accuracy": accuracy,
        "spent_macs": spent,
        "exit_accuracy": np.mean([each.exit_accuracy for each in measured], axis=0).tolist(),
        "exit_macs": list(measured[0].exit_macs),
        "reference_macs": measured[0].reference_macs,
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def compare(rows: Iterable[Mapping[str, Any]], a: str, b: str) -> list[dict[str, Any]]:
    """How far strategy ``a`` is above ``b``, for each model, data set and precision that has both.

    Returns:
        Dicts with ``model``, ``dataset``, ``precision``, ``a``, ``b`` and ``accuracy``: budget ->
        ``difference`` of the means, ``pooled_std`` of the seeds (None where no strategy has two),
        and ``stds``, the first in units of the second; None where one of them does not fit.
    """
    found: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        group = (row["model"], row["dataset"], row["precision"])
        found.setdefault(group, {})[row["strategy"]] = row
    return [
        {
            "model": model,
            "dataset": dataset,
            "precision": precision,
            "a": a,
            "b": b,
            "accuracy": {name: _difference(group[a], group[b], name) for name in BUDGETS},
        }
        for (model, dataset, precision), group in found.items()
        if a in group and b in group
    ]


def _difference(
    a: Mapping[str, Any], b: Mapping[str, Any], budget: str
) -> dict[str, float | None] | None:
    first, second = a["accuracy"][budget], b["accuracy"][budget]
    if first is None or second is None:
        return None
    difference = first["mean"] - second["mean"]
    degrees = a["num_seeds"] + b["num_seeds"] - 2
    pooled = None
    if degrees:
        squares = sum(
            (row["num_seeds"] - 1) * (spread["std"] or 0.0) ** 2
            for row, spread in ((a, first), (b, second))
        )
        pooled = math.sqrt(squares / degrees)
    return {
        "difference": difference,
        "pooled_std": pooled,
        "stds": difference / pooled if pooled else None,
    }


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """For people: one table for each model, data set and precision; the best at a budget is bold.

    Accuracies are in per cent, mean ± standard deviation over seeds; a dash stands where even the
    cheapest exit costs more.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["dataset"], row["precision"]), []).append(row)
    return [_table(key, group) for key, group in groups.items()]


def _table(key: tuple[str, str, str], rows: Sequence[Mapping[str, Any]]) -> Table:
    model, dataset, precision = key
    title = f"{model} on {dataset}, {precision}: test accuracy in % at a share of the MACs"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("strategy")
    table.add_column("seeds", justify="right")
    for name in BUDGETS:
        table.add_column("unbounded" if name == "inf" else f"{name} %", justify="right")
    table.add_column("exits alone", justify="right")
    best = {
        name: max((row["accuracy"][name]["mean"] for row in rows if row["accuracy"][name]),
                  default=None)
        for name in BUDGETS
    }  # fmt: skip
    for row in rows:
        cells = [Text(row["strategy"]), Text(str(row["num_seeds"]))]
        for name in BUDGETS:
            spread = row["accuracy"][name]
            is_best = spread is not None and spread["mean"] == best[name]
            cells.append(Text(_percent(spread), style="bold" if is_best else ""))
        cells.append(Text(" / ".join(f"{100 * value:.1f}" for value in row["exit_accuracy"])))
        table.add_row(*cells)
    return table


def _percent(spread: Mapping[str, float | None] | None) -> str:
    if spread is None or spread["mean"] is None:
        return "–"
    mean = f"{100 * spread['mean']:.2f}"
    return mean if spread["std"] is None else f"{mean} ± {100 * spread['std']:.2f}"
