"""What the diagnostics found, and the numbers of it that a summary holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeexit.training.diagnostics.collusion import Collusion
from edgeexit.training.diagnostics.confidence import Confidence
from edgeexit.training.diagnostics.gradient_dominance import GradientDominance
from edgeexit.training.diagnostics.mode_connectivity import Line, Plane
from edgeexit.training.diagnostics.mutual_information import MutualInformation
from edgeexit.training.diagnostics.numerical_rank import NumericalRank
from edgeexit.training.diagnostics.overthinking import Overthinking


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found in one network.

    ``collusion`` has two entries, for the training split and for the calibration split; all else
    comes from the calibration split, gradients excepted, which are those of training data.
    ``mutual_information`` is None where the sample has too few images of each class.
    """

    model: str
    gradient_dominance: GradientDominance
    numerical_rank: NumericalRank
    mutual_information: MutualInformation | None
    confidence: Confidence
    overthinking: Overthinking
    collusion: tuple[Collusion, Collusion]


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What `diagnose` found.

    Attributes:
        diagnoses: One for each network.
        line: Between the first two networks; None if there is one only.
        plane: Through the networks; None if there is one only.
        left_out: What could not be diagnosed -> why.
        files: What was written below the output folder.
    """

    diagnoses: tuple[Diagnosis, ...]
    line: Line | None
    plane: Plane | None
    left_out: Mapping[str, str]
    files: tuple[str, ...]


def summary_of(diagnosis: Diagnosis) -> dict[str, Any]:
    """The numbers of one network; curves and histograms are in the tables beside."""
    dominance, rank = diagnosis.gradient_dominance, diagnosis.numerical_rank
    information, sure = diagnosis.mutual_information, diagnosis.confidence
    change = diagnosis.overthinking
    return {
        "model": diagnosis.model,
        "exits": sure.exits,
        "num_samples": sure.num_samples,
        "accuracy": sure.accuracy,
        "gradient_dominance": {
            "definition": "<g_k, g> / <g, g>, g the sum of the exits' gradients",
            "mode": dominance.mode,
            "answers": dominance.answers,
            "split": dominance.split,
            "num_samples": dominance.num_samples,
            "all_parameters": dominance.whole,
            "backbone": dominance.backbone,
            "cosines": dominance.cosines,
        },
        "numerical_rank": {
            "threshold": rank.threshold,
            "positions": f"averaged down to {rank.side} x {rank.side}",
            "split": rank.split,
            "rank": dict(zip(rank.layers, rank.rank, strict=True)),
            "normalised": dict(zip(rank.layers, rank.normalised, strict=True)),
            "effective": dict(zip(rank.layers, rank.effective, strict=True)),
        },
        "mutual_information": None if information is None else _information(information),
        "confidence": {
            "split": sure.split,
            "mean": sure.mean_confidence,
            "expected_calibration_error": sure.calibration_error,
        },
        "overthinking": {
            "split": change.split,
            "right_then_wrong": change.overthinking,
            "wrong_then_right": change.underthinking,
            "an_earlier_right_and_the_last_wrong": change.destructive,
            "any_right": change.oracle_accuracy,
            "first_right": change.first_right,
        },
        "collusion": {found.split: _ensembles(found) for found in diagnosis.collusion},
    }


def summary_of_line(line: Line, plane: Plane, names: Sequence[str]) -> dict[str, Any]:
    """The numbers of mode connectivity between the first two of ``names``."""
    return {
        "between": names[:2],
        "plane_through": names[2] if plane.direction != "random" else "a random direction",
        "distance": line.distance,
        "split": line.split,
        "num_samples": line.num_samples,
        "num_batch_norm_samples": line.num_statistics,
        "exits": line.exits,
        "barrier_nats": line.barrier,
        "barrier_of_the_mean_nats": line.mean_barrier,
        "loss_at_the_ends_nats": line.loss[[0, -1]],
        "accuracy_at_the_ends": line.accuracy[[0, -1]],
        "lowest_accuracy": line.accuracy.min(0),
    }


def _information(found: MutualInformation) -> dict[str, Any]:
    return {
        "estimator": found.estimator,
        "num_neighbours": found.num_neighbours,
        "num_components": found.num_components,
        "positions": f"averaged down to {found.side} x {found.side}",
        "split": found.split,
        "label_entropy_nats": found.label_entropy,
        "nats": dict(zip(found.layers, found.information, strict=True)),
        "lower_bound_nats": dict(zip(found.layers, found.lower_bound, strict=True)),
        "nats_of_shuffled_labels": dict(zip(found.layers, found.shuffled, strict=True)),
    }


def _ensembles(found: Collusion) -> dict[str, Any]:
    return {
        "disagreement": found.disagreement,
        "error_correlation": found.error_correlation,
        "loss_nats": found.loss,
        "ensemble_loss_nats": found.ensemble_loss,
        "ensemble_accuracy": found.ensemble_accuracy,
        "diversity_nats": found.diversity,
        "gain": found.gain,
    }
