"""Gradient dominance: how much of the training gradient is each exit's, layer by layer.

With g_k the gradient of exit k's mean cross-entropy and g the sum of all g_k, the share of exit k
is <g_k, g> / <g, g>: the part of the step along g that exit k asks for. Shares of one layer sum to
one. A negative share is a conflict: the step along g makes that exit worse.

Source: our definition of what Kubaty et al. 2025 ("How to Train Your Multi-Exit Model?", arXiv
2407.14320v2) call gradient dominance. Deviations: the share is normalised to sum to one over exits,
and comes from one fixed sample without augmentation instead of from the steps of a run. That the
loss is the mean and not the sum of the exits' losses scales all g_k alike and changes no share.
Where what combines the exits lets no gradient through (ZTW), the heads' own logits are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.onednn import convolutions_of, sound_convolutions
from edgeexit.training.diagnostics.sample import (
    Floats,
    Sample,
    Tick,
    batches,
    device_of,
    evaluating,
    no_tick,
)

Mode = Literal["evaluation", "training"]
Answers = Literal["network", "heads"]


@dataclass(frozen=True, eq=False)
class GradientDominance:
    """Shares of the exits in the gradient.

    A share is NaN where the gradient of all exits together is zero.

    Attributes:
        exits: Names of the exits.
        layers: Names of the modules that own parameters, backbone first, then heads.
        in_backbone: bool ``[num_layers]``.
        shares: float64 ``[num_layers, num_exits]``.
        whole: float64 ``[num_exits]``: shares over all parameters.
        backbone: float64 ``[num_exits]``: shares over the backbone's parameters, for which the
            exits compete.
        norms: float64 ``[num_layers, num_exits]``: ||g_k||, in nats per unit of weight.
        cosines: float64 ``[num_exits, num_exits]``: between the g_k over the backbone.
        mode: Whether batch norm used its running statistics (evaluation) or the batch's.
        answers: Whose logits the losses are taken of: the network's, or those of its heads before
            they are combined.
        split: Where the sample came from.
        num_samples: Its size.
        batch_size: Of the forward passes; matters in training mode only.
    """

    exits: tuple[str, ...]
    layers: tuple[str, ...]
    in_backbone: np.ndarray[tuple[int], np.dtype[np.bool_]]
    shares: Floats
    whole: Floats
    backbone: Floats
    norms: Floats
    cosines: Floats
    mode: Mode
    answers: Answers
    split: str
    num_samples: int
    batch_size: int


def gradient_dominance(
    model: MultiExitModel,
    sample: Sample,
    *,
    mode: Mode = "evaluation",
    batch_size: int = 250,
    tick: Tick = no_tick,
) -> GradientDominance:
    """Measures the gradient of every exit as if everything were trained, frozen or not.

    The network is left as it was: no weights, gradients, statistics or modes change.

    Args:
        model: The network.
        sample: What the loss is taken over.
        mode: Evaluation is a function of weights and sample alone. Training is what an optimizer
            step sees: batch norm uses each batch's statistics, and dropout is drawn.
        batch_size: Of the forward passes.
        tick: Hears of every batch.
    """
    owners = _owners(model)
    names = list(owners)
    parameters = [p for name in names for p in owners[name]]
    exits = tuple(model.exit_names)
    total: list[list[Tensor]] = [[torch.zeros_like(p) for p in parameters] for _ in exits]
    with (
        sound_convolutions(convolutions_of(model), device_of(model)),
        _everything_trained(model, mode),
        _reaching_the_backbone(model, sample) as answers,
    ):
        for done, (images, labels) in enumerate(batches(sample, batch_size, model)):
            losses = [
                F.cross_entropy(z, labels, reduction="sum") for z in model(images)[: len(exits)]
            ]
            for k, loss in enumerate(losses):
                found = torch.autograd.grad(
                    loss / len(sample),
                    parameters,
                    retain_graph=k + 1 < len(losses),
                    allow_unused=True,
                )
                for place, gradient in zip(total[k], found, strict=True):
                    if gradient is not None:
                        place += gradient
            tick(done + 1, -(-len(sample) // batch_size))
    products = _products(total, [len(owners[name]) for name in names])
    inside = np.array([name.startswith("backbone") for name in names], bool)
    shared = products[inside].sum(0)
    norms = np.sqrt(products.diagonal(axis1=1, axis2=2))
    lengths = np.sqrt(shared.diagonal())
    return GradientDominance(
        exits=exits,
        layers=tuple(name.removeprefix("backbone.") for name in names),
        in_backbone=inside,
        shares=np.array([_shares(product) for product in products]).reshape(len(names), len(exits)),
        whole=_shares(products.sum(0)),
        backbone=_shares(shared),
        norms=norms,
        cosines=_divide(shared, np.outer(lengths, lengths)),
        mode=mode,
        answers=answers,
        split=sample.split,
        num_samples=len(sample),
        batch_size=batch_size,
    )


def _owners(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Module name -> the parameters that it owns itself; a shared one belongs to its first."""
    seen: set[int] = set()
    found: dict[str, list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen |= {id(p) for p in own}
        if own:
            found[name] = own
    return found


@contextmanager
def _everything_trained(model: nn.Module, mode: Mode) -> Iterator[None]:
    frozen = [p for p in model.parameters() if not p.requires_grad]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with evaluating(model), torch.enable_grad():
        model.train(mode == "training")
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for name, value in model.named_buffers():
                value.copy_(buffers[name])


@contextmanager
def _reaching_the_backbone(model: MultiExitModel, sample: Sample) -> Iterator[Answers]:
    """Takes off what combines the exits while the block runs, if it cuts the gradient."""
    combine = model.combine
    if combine is None or _depends_on_backbone(model, sample):
        yield "network"
        return
    model.combine = None
    try:
        yield "heads"
    finally:
        model.combine = combine


def _depends_on_backbone(model: MultiExitModel, sample: Sample) -> bool:
    with evaluating(model):
        answers = model(sample.images[:1].to(device_of(model)))
        found = torch.autograd.grad(
            torch.stack([z.sum() for z in answers]).sum(),
            list(model.backbone.parameters()),
            allow_unused=True,
        )
    return any(gradient is not None for gradient in found)


def _products(total: list[list[Tensor]], counts: list[int]) -> Floats:
    """<g_j, g_k> of every layer: float64 ``[num_layers, num_exits, num_exits]``."""
    found, start = [], 0
    for count in counts:
        rows = [
            torch.cat([g.reshape(-1) for g in gradients[start : start + count]]).double()
            for gradients in total
        ]
        stacked = torch.stack(rows)
        found.append((stacked @ stacked.T).cpu().numpy())
        start += count
    num_exits = len(total)
    return np.array(found, np.float64).reshape(len(counts), num_exits, num_exits)


def _shares(products: Floats) -> Floats:
    return _divide(products.sum(1), products.sum())


def _divide(above: Floats, below: Floats | float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = np.where(np.asarray(below) == 0, np.nan, above / below)
    return quotient
