"""Collusion: are the exits of an ensemble different where it helps, or only on training data?

The ensemble at exit k averages the probabilities of exits 0 to k. Its cross-entropy is the mean
cross-entropy of its members minus their diversity, which is never negative. Members that are
trained jointly on the ensemble's loss can raise their diversity on training data without any use
elsewhere: the sign of that is a diversity that shrinks, and an ensemble that no longer beats its
best member, on data that was not trained on. Hence everything is measured on both splits.

Source: Jeffares et al. 2023, "Joint Training of Deep Ensembles Fails Due to Learner Collusion",
arXiv 2301.11323, section 3 for the decomposition into mean loss and diversity and section 4 for the
diagnosis. Deviations: the members are the exits of one network, which differ in depth and share
layers; and pairwise disagreement and the correlation of errors, which need no ensemble, are given
beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeexit.training.diagnostics.sample import Counts, Floats, log_softmax, right


@dataclass(frozen=True, eq=False)
class Collusion:
    """Diversity of the exits on one split.

    Attributes:
        exits: Names of the exits.
        disagreement: float64 ``[num_exits, num_exits]``: the rate of different answers.
        error_correlation: float64 ``[num_exits, num_exits]``: Pearson's, of being wrong; NaN where
            an exit is always right or always wrong.
        loss: float64 ``[num_exits]``: cross-entropy of each exit, in nats.
        accuracy: float64 ``[num_exits]``: of each exit.
        ensemble_loss: float64 ``[num_exits]``: of the ensemble of exits 0 to k, in nats.
        ensemble_accuracy: float64 ``[num_exits]``: of the ensemble of exits 0 to k.
        diversity: float64 ``[num_exits]``: mean loss of exits 0 to k minus the loss of their
            ensemble, in nats.
        gain: float64 ``[num_exits]``: accuracy of the ensemble of exits 0 to k minus that of exit
            k alone.
        split: Where the sample came from.
        num_samples: Its size.
    """

    exits: tuple[str, ...]
    disagreement: Floats
    error_correlation: Floats
    loss: Floats
    accuracy: Floats
    ensemble_loss: Floats
    ensemble_accuracy: Floats
    diversity: Floats
    gain: Floats
    split: str
    num_samples: int


def collusion(exits: tuple[str, ...], logits: Floats, labels: Counts, *, split: str) -> Collusion:
    """Measures how different the exits are, and what their ensemble makes of it.

    Args:
        exits: Names of the exits.
        logits: float64 ``[num_exits, N, num_classes]``.
        labels: int64 ``[N]``.
        split: Where the sample came from.
    """
    count = len(labels)
    answers = logits.argmax(-1)
    correct = right(logits, labels)
    logs = log_softmax(logits)
    members = np.arange(1, len(exits) + 1)
    averaged = np.exp(logs).cumsum(0) / members[:, None, None]
    loss = -logs[:, np.arange(count), labels].mean(1)
    # A probability may be too small for a float: its logarithm is then that of the smallest one.
    smallest = np.finfo(np.float64).tiny
    ensemble_loss = -np.log(np.maximum(averaged[:, np.arange(count), labels], smallest)).mean(1)
    accuracy = correct.mean(1)
    ensemble_accuracy = right(averaged, labels).mean(1)
    return Collusion(
        exits=exits,
        disagreement=(answers[:, None] != answers[None]).mean(-1),
        error_correlation=_correlation(~correct),
        loss=loss,
        accuracy=accuracy,
        ensemble_loss=ensemble_loss,
        ensemble_accuracy=ensemble_accuracy,
        diversity=loss.cumsum() / members - ensemble_loss,
        gain=ensemble_accuracy - accuracy,
        split=split,
        num_samples=count,
    )


def _correlation(wrong: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    centred = wrong - wrong.mean(1, keepdims=True)
    products = centred @ centred.T
    lengths = np.sqrt(products.diagonal())
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = products / np.outer(lengths, lengths)
    return found
