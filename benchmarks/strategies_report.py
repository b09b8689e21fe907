"""What trained networks are worth beside each other: averaged over seeds, compared, as tables.

``std`` is over seeds alone. It does not hold that the test images are a sample too: of 10,000, an
accuracy of 85 % has a standard deviation of 0.36 points, most of which networks that are compared
on the same images share.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text
from strategies_measure import BUDGETS, Measured

from edgeexit.cli.output import table


@dataclass(frozen=True)
class Run:
    """A measured network and what it was trained as; ``budget_macs`` is what training it took."""

    model: str
    dataset: str
    strategy: str
    seed: int
    budget_macs: int
    measured: Measured


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


def compare(runs: Iterable[Run], base: str) -> list[dict[str, Any]]:
    """How far each strategy is above ``base``, seed by seed.

    Networks of one seed began with the same weights and saw the same images in the same order, so
    the difference of two of them says more than the difference of two means.

    Returns:
        Dicts with ``model``, ``dataset``, ``precision``, ``strategy``, ``base``, the ``seeds`` that
        both have, and ``accuracy``: budget -> None where one of them does not fit it, else
        ``per_seed`` (the differences), their ``mean`` and ``std`` (None for one seed), and
        ``stds``, the first in units of the second.
    """
    found: dict[tuple[str, str, str], dict[str, dict[int, Measured]]] = {}
    for run in runs:
        group = found.setdefault((run.model, run.dataset, run.measured.precision), {})
        group.setdefault(run.strategy, {})[run.seed] = run.measured
    differences = []
    for (model, dataset, precision), group in found.items():
        for strategy, measured in group.items():
            seeds = sorted(measured.keys() & group.get(base, {}).keys())
            if strategy == base or not seeds:
                continue
            pairs = [(measured[seed], group[base][seed]) for seed in seeds]
            differences.append(
                {
                    "model": model,
                    "dataset": dataset,
                    "precision": precision,
                    "strategy": strategy,
                    "base": base,
                    "seeds": seeds,
                    "accuracy": {name: _difference(pairs, name) for name in BUDGETS},
                }
            )
    return differences


def _difference(
    pairs: Sequence[tuple[Measured, Measured]], budget: str
) -> dict[str, float | list[float] | None] | None:
    per_seed = []
    for first, second in pairs:
        a, b = first.budgets[budget], second.budgets[budget]
        if a is None or b is None:
            return None
        per_seed.append(a.accuracy - b.accuracy)
    spread = _spread(per_seed)
    mean, std = spread["mean"], spread["std"]
    stds = mean / std if mean is not None and std else None
    return {"per_seed": per_seed, "mean": mean, "std": std, "stds": stds}


# ------------------------------------------------------------------ for people


def tables(
    rows: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> list[Table]:
    """For people: three tables for each model, data set and precision.

    Accuracies at a budget, the best in bold; those of each exit alone; and how far strategies are
    above the one they are compared with. All in per cent, mean ± standard deviation over seeds; a
    budget that nobody fits is left out.

    Args:
        rows: From ``aggregate``.
        differences: From ``compare``.
    """
    compared = _grouped(differences)
    made = []
    for key, group in _grouped(rows).items():
        model, dataset, precision = key
        name = f"{model} on {dataset}, {precision}"
        made += [
            _table(f"{name}: test accuracy in % by share of the MACs", group, _at_budgets(group)),
            _table(f"{name}: test accuracy in % of each exit alone", group, _of_exits(group)),
        ]
        if key in compared:
            title = f"{name}: points above {compared[key][0]['base']} (* for every seed)"
            made.append(_table(title, compared[key], _at_budgets(compared[key], sign="+")))
    return made


def _grouped(
    rows: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["dataset"], row["precision"]), []).append(row)
    return groups


def _table(
    title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[Text]]
) -> Table:
    made = table(title, "strategy", "seeds", *columns)
    made.padding = (0, 0, 0, 0)  # or three seeds do not fit into 80 characters
    for column in made.columns[1:]:
        column.no_wrap = True
    for row, *cells in zip(rows, *columns.values(), strict=True):
        made.add_row(Text(row["strategy"]), str(len(row["seeds"])), *cells)
    return made


def _at_budgets(rows: Sequence[Mapping[str, Any]], sign: str = "") -> dict[str, list[Text]]:
    columns = {}
    for name in BUDGETS:
        spreads = [row["accuracy"][name] for row in rows]
        means = [spread["mean"] for spread in spreads if spread]
        if not means:
            continue
        best = None if sign else max(means)
        columns["any" if name == "inf" else f"{name} %"] = [
            Text(_percent(spread, sign), style="bold" if spread["mean"] == best else "")
            if spread
            else Text("–")
            for spread in spreads
        ]
    return columns


def _of_exits(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Text]]:
    """The last exits of all rows are in one column: a network without early exits has no other."""
    accuracies = [row["exit_accuracy"] for row in rows]
    most = max(map(len, accuracies))
    return {
        "last" if from_last == 1 else f"exit {most - from_last}": [
            Text(f"{100 * each[-from_last]:.2f}" if from_last <= len(each) else "–")
            for each in accuracies
        ]
        for from_last in range(most, 0, -1)
    }


def _percent(spread: Mapping[str, Any], sign: str) -> str:
    text = f"{round(100 * spread['mean'], 2) + 0:{sign}.2f}"  # + 0: no -0.00
    if spread["std"] is not None:
        text += f" ±{100 * spread['std']:.2f}"
        per_seed = spread.get("per_seed")
        if per_seed is not None:
            all_agree = min(per_seed) > 0 or max(per_seed) < 0
            text += "*" if all_agree else " "
    return text
