"""Numerical rank: how many directions the activations of a layer make use of.

The rank is the number of singular values above ``threshold`` times the largest one, of the matrix
with one row for each sample. It is divided by the most that the matrix could have, min(N, D). Small
networks often have all of that; the effective rank, which weighs singular values instead of
counting them, then still tells layers apart.

Source: Masarczyk et al. 2023, "The Tunnel Effect: Building Data Representations in Deep Neural
Networks", for counting singular values above 1e-3 of the largest; Kubaty et al. 2025 (arXiv
2407.14320v2) for comparing training strategies by it; Roy and Vetterli 2007, "The Effective Rank: A
Measure of Effective Dimensionality", definition 1. Deviation: feature maps are averaged down to
4 x 4 positions (tokens to 16) before they are flattened, so that one sample size suits all layers;
averaging can only lower a rank. The matrix is not centred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeexit.nn.model import MultiExitModel
from edgeexit.training.diagnostics.layers import collect, find_layers, pooled
from edgeexit.training.diagnostics.sample import Counts, Floats, Sample, Tick, device_of, no_tick


@dataclass(frozen=True, eq=False)
class NumericalRank:
    """Ranks of the backbone's activations.

    Attributes:
        layers: Names, in the order of computation.
        rank: int64 ``[num_layers]``.
        num_features: int64 ``[num_layers]``: columns of the matrix, D.
        normalised: float64 ``[num_layers]``: rank / min(N, D).
        effective: float64 ``[num_layers]``: exp of the entropy of the singular values, as shares of
            their sum.
        threshold: A singular value counts if it is above this times the largest.
        side: Maps are averaged down to this many positions in height and width.
        split: Where the sample came from.
        num_samples: Rows of the matrix, N.
    """

    layers: tuple[str, ...]
    rank: Counts
    num_features: Counts
    normalised: Floats
    effective: Floats
    threshold: float
    side: int
    split: str
    num_samples: int


def numerical_rank(
    model: MultiExitModel,
    sample: Sample,
    *,
    threshold: float = 1e-3,
    side: int = 4,
    tick: Tick = no_tick,
) -> NumericalRank:
    """Counts the singular values of every layer's activations, in evaluation mode.

    Args:
        model: The network.
        sample: What it is run on; take at least as many samples as the widest layer has features,
            or the sample bounds the rank.
        threshold: In (0, 1).
        side: Maps are averaged down to this many positions in height and width.
        tick: Hears of every batch.
    """
    layers = find_layers(model, sample.images[:1].to(device_of(model)))
    found = collect(model, sample, layers, lambda value: pooled(value, side), tick=tick)
    values = [torch.linalg.svdvals(matrix.double()) for matrix in found]
    rank = np.array([rank_of(each, threshold) for each in values], np.int64)
    width = np.array([matrix.shape[1] for matrix in found], np.int64)
    return NumericalRank(
        layers=tuple(layer.name for layer in layers),
        rank=rank,
        num_features=width,
        normalised=rank / np.minimum(len(sample), width),
        effective=np.array([effective_rank_of(each) for each in values], np.float64),
        threshold=threshold,
        side=side,
        split=sample.split,
        num_samples=len(sample),
    )


def rank_of(values: Tensor, threshold: float) -> int:
    """How many singular values are above ``threshold`` times the largest; 0 if all are zero."""
    return int((values > threshold * values.max()).sum())


def effective_rank_of(values: Tensor) -> float:
    """The exponential of the entropy of singular values as shares; 0 if all are zero."""
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
