"""What the diagnostics leave on disk: a CSV for each, and one JSON of the numbers that matter.

Every CSV starts with the column ``model``. A number that does not exist is an empty field in CSV
and null in JSON.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeexit.training.diagnostics.collusion import Collusion
from edgeexit.training.diagnostics.confidence import Confidence
from edgeexit.training.diagnostics.gradient_dominance import GradientDominance
from edgeexit.training.diagnostics.mode_connectivity import Line, Plane
from edgeexit.training.diagnostics.mutual_information import MutualInformation
from edgeexit.training.diagnostics.numerical_rank import NumericalRank
from edgeexit.training.diagnostics.overthinking import Overthinking

Result: TypeAlias = (
    GradientDominance
    | NumericalRank
    | MutualInformation
    | Confidence
    | Overthinking
    | Collusion
    | Line
    | Plane
)
Row: TypeAlias = Sequence[object]

_COLUMNS: dict[type, tuple[str, ...]] = {
    GradientDominance: ("layer", "exit", "share", "gradient_norm"),
    NumericalRank: ("layer", "rank", "num_features", "normalised", "effective_rank"),
    MutualInformation: (
        "layer",
        "information_nats",
        "shuffled_nats",
        "lower_bound_nats",
        "explained_variance",
    ),
    Confidence: ("exit", "confidence_from", "confidence_to", "num_right", "num_wrong"),
    Overthinking: ("earlier_exit", "later_exit", "overthinking", "underthinking"),
    Collusion: ("split", "exit", "other_exit", "disagreement", "error_correlation"),
    Line: ("position", "exit", "loss_nats", "accuracy"),
    Plane: ("x", "y", "exit", "loss_nats", "accuracy"),
}


def csv_of(results: Sequence[tuple[str, Result]]) -> bytes:
    """A CSV of results of one kind.

    Args:
        results: Name of a model (or of two, for what lies between them) and what was found there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", *_COLUMNS[type(results[0][1])]))
    for model, result in results:
        writer.writerows((model, *map(_field, row)) for row in _rows(result))
    return text.getvalue().encode()


def json_of(summary: object) -> bytes:
    """Anything made of dataclasses, mappings, sequences, arrays and numbers, as JSON."""
    return (json.dumps(plain(summary), indent=1, allow_nan=False) + "\n").encode()


def plain(value: object) -> Any:
    """``value`` made of what JSON knows; a NaN becomes None, floats keep six digits."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _field(value: object) -> object:
    found = plain(value)
    return "" if found is None else found


def _rows(result: Result) -> Iterator[Row]:
    match result:
        case GradientDominance():
            yield from _dominance_rows(result)
        case NumericalRank():
            ranks = (result.rank, result.num_features, result.normalised, result.effective)
            yield from zip(result.layers, *ranks, strict=True)
        case MutualInformation():
            bounds = (result.shuffled, result.lower_bound, result.explained)
            yield from zip(result.layers, result.information, *bounds, strict=True)
        case Confidence():
            for k, name in enumerate(result.exits):
                counts = (result.num_right[k], result.num_wrong[k])
                for row in zip(result.edges[:-1], result.edges[1:], *counts, strict=True):
                    yield (name, *row)
        case Overthinking():
            for i, earlier in enumerate(result.exits):
                for j in range(i + 1, len(result.exits)):
                    rates = (result.overthinking[i, j], result.underthinking[i, j])
                    yield (earlier, result.exits[j], *rates)
        case Collusion():
            for i, name in enumerate(result.exits):
                for j in range(i + 1, len(result.exits)):
                    numbers = (result.disagreement[i, j], result.error_correlation[i, j])
                    yield (result.split, name, result.exits[j], *numbers)
        case Line():
            for i, position in enumerate(result.positions):
                for k, name in enumerate(result.exits):
                    yield (position, name, result.loss[i, k], result.accuracy[i, k])
        case Plane():
            for i, y in enumerate(result.y):
                for j, x in enumerate(result.x):
                    for k, name in enumerate(result.exits):
                        yield (x, y, name, result.loss[i, j, k], result.accuracy[i, j, k])


def _dominance_rows(result: GradientDominance) -> Iterator[Row]:
    for k, name in enumerate(result.exits):
        yield ("(all parameters)", name, result.whole[k], None)
        yield ("(backbone)", name, result.backbone[k], None)
    for i, layer in enumerate(result.layers):
        for k, name in enumerate(result.exits):
            yield (layer, name, result.shares[i, k], result.norms[i, k])
