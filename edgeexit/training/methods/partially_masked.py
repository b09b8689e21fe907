"""Partially masked training: a low-rank core in each weight, which can be split off and used alone.

A kernel ``W``, as a matrix ``[outputs, inputs x positions]``, is the sum of its core, the leading
``r`` terms of its singular value decomposition, and the rest. In a share of the steps the rest is
masked in all layers at once, so that the core alone has to classify; in the others the whole
network trains. Afterwards the network is a plain one, nothing was added to it, and `split_core`
makes a second, smaller network of the cores: a convolution to ``r`` channels and a 1 x 1
convolution from there, instead of one large convolution.

Sources. No paper describes exactly this; the parts are from:

- Xu et al. 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", arXiv 2004.14566:
  the truncated decomposition of the current weights is trained in some steps and the full weights
  in the others. There the truncation replaces the weights; here the rest is masked and comes back.
- Horvath et al. 2024, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition", arXiv
  2308.14929: small ranks are nested in large ones by sampling the rank, an ordered dropout. There
  the factors are the parameters and the rank of one layer is sampled; here the weights are, and all
  layers are masked together, since one core is what is split off.
- Yu and Huang 2019, "Universally Slimmable Networks and Improved Training Techniques", arXiv
  1903.05134: networks that share weights need batch-norm statistics of their own, which are
  computed after training.

The gradient of a masked step is projected on the tangent space of the matrices of rank ``r`` at the
core: core and rest do not exchange places within a step (the exact derivative of a truncation has
terms in one over the differences of singular values, and no bound).

Not factored: grouped convolutions, an exit's last layer, and layers whose factors would cost as
much as they do. Phase "heads" masks nothing, since a frozen backbone has the batch-norm statistics
of the whole network: a core with early exits wants a strategy with phase "everything".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Batches, Method, Step
from edgeexit.training.strategies import PhaseName


@dataclass(frozen=True)
class PartiallyMasked(Method):
    """Mean loss over exits, of the whole network or of its core.

    Attributes:
        rank_share: Rank of a core over the full rank of its weight, in (0, 1).
        probability: Share of the steps in which the rest is masked, in [0, 1].
    """

    capturable: ClassVar[bool] = False

    rank_share: float = 0.25
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            ArgumentError: One is out of range.
        """
        _check_rank_share(self.rank_share)
        if not 0 <= self.probability <= 1:
            raise ArgumentError(
                "probability is out of range",
                wanted="0 <= probability <= 1",
                given=f"probability={self.probability}",
            )

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:
        """Gives each layer with a core a switch ``masked``; names and values stay."""
        for layer, rank in chosen_layers(model, self.rank_share).values():
            layer.__class__ = _MaskedConv2d if isinstance(layer, nn.Conv2d) else _MaskedLinear
            layer.rank, layer.masked = rank, False  # type: ignore[assignment]

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        masked = step.phase != "heads" and bool(
            torch.rand((), generator=step.generator) < self.probability
        )
        logits = _masked_pass(step) if masked else step.module(step.images)
        return torch.stack([step.cross_entropy(z).mean() for z in logits]).mean(), logits

    def take_off(self, model: MultiExitModel) -> None:
        """Takes the switches away."""
        for layer in _masked_layers(model):
            plain: type[nn.Module] = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
            layer.__class__ = plain  # type: ignore[assignment]
            del layer.rank, layer.masked


def split_core(
    model: MultiExitModel, rank_share: float, batches: Batches | None = None
) -> MultiExitModel:
    """The core as a network of its own, with the same exits; it compiles like any other.

    Its weights can be saved, and loaded into the core that is split off a fresh model.

    Args:
        model: A network that was trained by `PartiallyMasked`; it is left as it is.
        rank_share: As in training.
        batches: The training split, for the batch-norm statistics of the core; None leaves those of
            the whole network, with which the core is not accurate.

    Returns:
        A new model in evaluation mode: each layer with a core became two, a convolution to the rank
        and a 1 x 1 convolution, or two linear layers.

    Raises:
        ArgumentError: ``rank_share`` is out of range.
    """
    _check_rank_share(rank_share)
    core = copy.deepcopy(model)
    for name, (layer, rank) in chosen_layers(core, rank_share).items():
        parent, _, child = name.rpartition(".")
        setattr(core.get_submodule(parent), child, _factored(layer, rank))
    core.eval()
    norms = [module for module in core.modules() if isinstance(module, _BatchNorm)]
    if batches is not None and norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        with torch.no_grad():
            for images, _ in batches():
                core(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    return core


def chosen_layers(
    model: MultiExitModel, rank_share: float
) -> dict[str, tuple[nn.Conv2d | nn.Linear, int]]:
    """The layers that have a core, by name, and its rank; see the module for which have none."""
    chosen: dict[str, tuple[nn.Conv2d | nn.Linear, int]] = {}
    for name, layer in model.named_modules():
        if type(layer) in (nn.Conv2d, _MaskedConv2d):
            suitable = cast(nn.Conv2d, layer).groups == 1
        elif type(layer) in (nn.Linear, _MaskedLinear):
            suitable = cast(nn.Linear, layer).out_features != model.num_classes
        else:
            continue
        weight = cast(Tensor, layer.weight)
        outputs, inputs = len(weight), weight[0].numel()
        rank = max(1, round(rank_share * min(outputs, inputs)))
        if suitable and rank * (outputs + inputs) < outputs * inputs:
            chosen[name] = (cast("nn.Conv2d | nn.Linear", layer), rank)
    return chosen


def core_of(weight: Tensor, rank: int) -> Tensor:
    """The core of a weight: its best approximation of a rank, as a matrix of its outputs.

    Args:
        weight: float ``[outputs, ...]``.
        rank: Rank of the result.

    Returns:
        float, in the shape of ``weight``; its gradient is projected as the module says.
    """
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.flatten(1)
        with torch.no_grad():
            # The eigenvectors of the smaller product: several times quicker than a decomposition.
            if len(matrix) <= matrix.shape[1]:
                left = torch.linalg.eigh(matrix @ matrix.T)[1][:, -rank:]
                right = F.normalize(matrix.T @ left, dim=0)
            else:
                right = torch.linalg.eigh(matrix.T @ matrix)[1][:, -rank:]
                left = F.normalize(matrix @ right, dim=0)
        core: Tensor = left @ (left.T @ matrix)
        # What is added is zero, and lets the gradient move the core's rows as well as its columns.
        core = core + (matrix - core) @ right @ right.T
        return core.reshape(weight.shape)


class _MaskedConv2d(nn.Conv2d):
    rank: int
    masked: bool

    def forward(self, x: Tensor) -> Tensor:
        weight = core_of(self.weight, self.rank) if self.masked else self.weight
        return cast(Tensor, self._conv_forward(x, weight, self.bias))


class _MaskedLinear(nn.Linear):
    rank: int
    masked: bool

    def forward(self, x: Tensor) -> Tensor:
        weight = core_of(self.weight, self.rank) if self.masked else self.weight
        return F.linear(x, weight, self.bias)


def _masked_layers(model: MultiExitModel) -> list[_MaskedConv2d | _MaskedLinear]:
    return [m for m in model.modules() if isinstance(m, _MaskedConv2d | _MaskedLinear)]


def _masked_pass(step: Step) -> tuple[Tensor, ...]:
    """The core's logits; running statistics stay those of the whole network."""
    layers = _masked_layers(step.model)
    norms = [module for module in step.model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for layer in layers:
            layer.masked = True
        for norm in norms:
            norm.momentum = 0.0
        return step.module(step.images)
    finally:
        for layer in layers:
            layer.masked = False
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _factored(layer: nn.Conv2d | nn.Linear, rank: int) -> nn.Sequential:
    matrix = layer.weight.detach().flatten(1)
    left, scale, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    # The singular values go to the second layer: what is between the two then has channels of one
    # scale, which is what a quantizer with one step size for all channels wants.
    second_weight, first_weight = left[:, :rank] * scale[:rank], right[:rank]
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        first: nn.Module = nn.Conv2d(
            layer.in_channels,
            rank,
            cast(tuple[int, int], layer.kernel_size),
            cast(tuple[int, int], layer.stride),
            cast("str | tuple[int, int]", layer.padding),
            cast(tuple[int, int], layer.dilation),
            padding_mode=layer.padding_mode,
        )
        second: nn.Module = nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias)
    else:
        first = nn.Linear(layer.in_features, rank)
        second = nn.Linear(rank, layer.out_features, bias=has_bias)
    pair = nn.Sequential(first, second).to(matrix)
    with torch.no_grad():
        # A bias, though of zeros: LiteRT has no int8 convolution without one.
        cast(nn.Parameter, first.bias).zero_()
        for part, value in ((first, first_weight), (second, second_weight)):
            weight = cast(nn.Parameter, part.weight)
            weight.copy_(value.reshape(weight.shape))
        if layer.bias is not None:
            cast(nn.Parameter, second.bias).copy_(layer.bias)
    return pair


def _check_rank_share(rank_share: float) -> None:
    if not 0 < rank_share < 1:
        raise ArgumentError(
            "rank_share is out of range",
            wanted="0 < rank_share < 1",
            given=f"rank_share={rank_share}",
        )
