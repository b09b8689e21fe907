"""Mutual information between a layer's features and the label, in nats.

Estimator: nearest neighbours in a discrete-continuous pair. For sample i with N_i samples of its
class, d_i is the distance to its k-th nearest neighbour of the same class and m_i the number of
samples of any class within it; then I = psi(N) + psi(k) - <psi(N_i)> - <psi(m_i)>. Feature maps are
averaged down to 4 x 4 positions (tokens to 16), flattened, and projected on their first principal
components: neighbours mean little in many dimensions.

Its bias: information in components that are not kept is missed, so the value is that of the reduced
features, which for early layers can be half of what there is. How much the reduction misses shows
beside the lower bound that an exit gives: a layer knows at least H(Y) minus the cross-entropy of
the exit that reads it, on data that was not trained on. For two Gaussian classes in 16 dimensions
and 2,000 samples the estimate was found 0.02 to 0.05 nats too low where classes overlap, and exact
where they do not; the tests repeat that. Noise may take it below 0 or above H(Y); nothing is
clipped. ``shuffled`` is the same estimate with labels at random, of which the truth is 0.

Source: Ross 2014, "Mutual Information between Discrete and Continuous Data Sets", PLoS ONE 9(2).
Deviation: distances are Euclidean over several dimensions instead of one; the volume of the ball
cancels in the same way. Barber and Agakov 2003, "The IM Algorithm", for the lower bound. Kubaty et
al. 2025 (arXiv 2407.14320v2) compare strategies by mutual information as well; estimator and pair
of variables are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeexit.errors import DataError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.diagnostics.layers import collect, find_layers, pooled
from edgeexit.training.diagnostics.sample import (
    Floats,
    Sample,
    Tick,
    device_of,
    log_softmax,
    logits_of,
    no_tick,
)

_ROWS = 500
"""Rows of the matrix of distances that are held at a time."""


@dataclass(frozen=True, eq=False)
class MutualInformation:
    """Estimates for the backbone's activations.

    Attributes:
        layers: Names, in the order of computation.
        information: float64 ``[num_layers]``, in nats.
        shuffled: float64 ``[num_layers]``: the same with labels at random, in nats.
        lower_bound: float64 ``[num_layers]``, in nats; NaN where no exit reads the layer, and where
            exits are combined, for then an answer knows more than its layer.
        explained: float64 ``[num_layers]``: share of the variance that the kept components carry.
        label_entropy: H(Y) of the sample in nats, the most that there is to know.
        estimator: Its name.
        num_neighbours: k.
        num_components: Principal components that are kept, at most.
        side: Maps are averaged down to this many positions in height and width.
        split: Where the sample came from.
        num_samples: Its size.
    """

    layers: tuple[str, ...]
    information: Floats
    shuffled: Floats
    lower_bound: Floats
    explained: Floats
    label_entropy: float
    estimator: str
    num_neighbours: int
    num_components: int
    side: int
    split: str
    num_samples: int


def mutual_information(
    model: MultiExitModel,
    sample: Sample,
    *,
    num_neighbours: int = 3,
    num_components: int = 16,
    side: int = 4,
    seed: int = 0,
    tick: Tick = no_tick,
) -> MutualInformation:
    """Estimates I(features; label) for every layer, in evaluation mode.

    Args:
        model: The network.
        sample: What it is run on. Each class needs more than ``num_neighbours`` samples; those of
            smaller classes are left out.
        num_neighbours: k.
        num_components: Principal components to keep.
        side: Maps are averaged down to this many positions in height and width.
        seed: Of the shuffled labels.
        tick: Hears of every batch.

    Raises:
        DataError: Fewer than two classes have enough samples.
    """
    layers = find_layers(model, sample.images[:1].to(device_of(model)))
    found = collect(model, sample, layers, lambda value: pooled(value, side), tick=tick)
    generator = torch.Generator().manual_seed(seed)
    mixed = sample.labels[torch.randperm(len(sample), generator=generator)]
    information, shuffled, explained = [], [], []
    for features in found:
        reduced, share = principal_components(features, num_components)
        information.append(information_of(reduced, sample.labels, num_neighbours))
        shuffled.append(information_of(reduced, mixed, num_neighbours))
        explained.append(share)
    share_of_class = torch.bincount(sample.labels).double() / len(sample)
    entropy = float(-torch.special.xlogy(share_of_class, share_of_class).sum())
    names = tuple(layer.name for layer in layers)
    return MutualInformation(
        layers=names,
        information=np.array(information, np.float64),
        shuffled=np.array(shuffled, np.float64),
        lower_bound=entropy - _losses(model, sample, names),
        explained=np.array(explained, np.float64),
        label_entropy=entropy,
        estimator="Ross 2014, nearest neighbours on principal components",
        num_neighbours=num_neighbours,
        num_components=num_components,
        side=side,
        split=sample.split,
        num_samples=len(sample),
    )


def _losses(model: MultiExitModel, sample: Sample, layers: tuple[str, ...]) -> Floats:
    """Cross-entropy in nats of the exit that reads each layer, NaN where there is none."""
    losses = np.full(len(layers), np.nan)
    if model.combine is not None:
        return losses
    logs = log_softmax(logits_of(model, sample))
    told = -logs[:, np.arange(len(sample)), sample.labels.numpy()].mean(1)
    for place, loss in zip((*model.attach_points, layers[-1]), told, strict=True):
        if place in layers:
            losses[layers.index(place)] = loss
    return losses


def principal_components(features: Tensor, num_components: int) -> tuple[Tensor, float]:
    """Projects centred features on the directions of the largest variance.

    Args:
        features: float ``[N, num_features]``.
        num_components: How many to keep, at most.

    Returns:
        float64 ``[N, kept]``, not whitened, and the share of the variance that is kept (1 if there
        is none).
    """
    centred = features.double() - features.double().mean(0)
    variance, directions = torch.linalg.eigh(centred.T @ centred)
    kept = min(num_components, len(variance))
    total = float(variance.sum())
    share = float(variance[-kept:].sum()) / total if total > 0 else 1.0
    return centred @ directions[:, -kept:].flip(1), share


def information_of(features: Tensor, labels: Tensor, num_neighbours: int = 3) -> float:
    """Ross's estimate of I(features; labels) in nats.

    Args:
        features: float64 ``[N, num_features]``.
        labels: int64 ``[N]``; classes with no more than ``num_neighbours`` samples are left out.
        num_neighbours: k.

    Raises:
        DataError: Fewer than two classes are left.
    """
    sizes = torch.bincount(labels)
    keep = sizes[labels] > num_neighbours
    features, labels = features[keep], labels[keep]
    if int((sizes > num_neighbours).sum()) < 2:
        raise DataError(
            "mutual information needs classes with enough samples",
            wanted=f"two classes with more than {num_neighbours} samples each",
            given=f"class sizes {sizes.tolist()}",
            hint="take a larger sample",
        )
    within = torch.empty(len(labels), dtype=torch.float64)
    for start in range(0, len(labels), _ROWS):
        rows = slice(start, start + _ROWS)
        # Exact differences: the quick form of the distance loses digits where points are close.
        distance = torch.cdist(
            features[rows], features, compute_mode="donot_use_mm_for_euclid_dist"
        )
        other_class = labels[rows, None] != labels[None]
        # The nearest of the same class is the sample itself, at distance zero.
        same = distance.masked_fill(other_class, float("inf"))
        radius = same.kthvalue(num_neighbours + 1, dim=1).values
        # Those that are closer, with the sample itself in the place of the k-th neighbour; a tie at
        # distance zero (a copy of the sample) counts too.
        within[rows] = (distance < radius[:, None]).sum(1).clamp_min(num_neighbours).double()
    psi = torch.special.digamma
    count = torch.tensor(float(len(labels)), dtype=torch.float64)
    neighbours = torch.tensor(float(num_neighbours), dtype=torch.float64)
    of_class = sizes[labels].double()
    return float(psi(count) + psi(neighbours) - psi(of_class).mean() - psi(within).mean())
