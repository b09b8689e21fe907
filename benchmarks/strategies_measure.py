"""What one trained network is worth at a budget.

Thresholds are chosen on the calibration split, for the highest accuracy whose mean cost fits 25,
50, 75 and 100 % of the reference's MACs, or any cost; accuracies and what was really spent are of
the test split. The reference is the full backbone with its last exit alone. What a chain spends
includes its heads, so a network that leaves nowhere early does not fit 100 %. A network with a
single exit has one accuracy, and holds it at every budget that it fits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
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
