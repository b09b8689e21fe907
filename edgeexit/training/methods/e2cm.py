"""E2CM: the early exits are not trained; each prefers the class whose mean feature is nearest.

Source: Görmez et al. 2022, "E2CM: Early Exit via Class Means for Efficient Supervised and
Unsupervised Learning", arXiv 2103.01148, section III: class means over the training set, and the
softmax of negative distances, normalized, against a threshold.

With squared distances and one divisor T for each exit, ``-|x - m_c|^2 / T`` is
``(2 x m_c - |m_c|^2) / T`` plus a term that all classes share: one linear layer, and nothing that a
device would have to keep.

Deviations: means are of pooled features, so that they cost as little as the cheapest head; squared
distances in place of distances, and one divisor for each exit in place of one for each class (its
mean distance), without which there would be no linear layer. The divisor is the one that makes the
softmax most likely to give the labels of the training split: temperature scaling, see Guo et al.
2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeexit.errors import ArgumentError, DataError
from edgeexit.nn.ensembles import NearestMean
from edgeexit.nn.model import MultiExitModel, listening
from edgeexit.training.methods.base import Batches, Method, Step

MAX_FITTED_SAMPLES = 20_000
"""Samples, evenly spread over the training split, that the temperatures are fitted on."""

MAX_SPREAD = 10.0
"""Of logits, in nats: int8 that had to hold more could not tell a sure sample from a surer one."""


@dataclass(frozen=True)
class E2CM(Method):
    """The final exit's cross-entropy; class means once the backbone is trained.

    Nothing moves in phase "heads": its loss is zero, and its epochs are better spent elsewhere.
    Until the last phase is over the early exits' logits are zero.

    Attributes:
        temperature: What squared distances are divided by; 0 fits it at each exit.
    """

    temperature: float = 0.0

    def __post_init__(self) -> None:
        """Checks the option."""
        if not 0 <= self.temperature < math.inf:
            raise ArgumentError(
                "temperature must not be negative", given=f"temperature={self.temperature}"
            )

    def rebuild(self, model: MultiExitModel) -> None:
        """See `Method.rebuild`.

        Raises:
            ModelError: The model does not know the shapes of its features.
        """
        for k, shape in enumerate(model.feature_shapes):
            model.heads[k] = NearestMean(shape, model.num_classes)

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        logits = step.module(step.images)
        if step.phase == "heads":
            return torch.zeros((), device=step.images.device, requires_grad=True), logits
        return step.cross_entropy(logits[-1]).mean(), logits

    def finish(self, model: MultiExitModel, batches: Batches) -> None:
        """See `Method.finish`.

        Raises:
            DataError: A class has no sample in the training split.
        """
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad():
                counts = _set_means(model, batches)
                temperatures = [self.temperature] * len(model.heads)
                if not self.temperature:
                    stride = math.ceil(int(counts.sum()) / MAX_FITTED_SAMPLES)
                    temperatures = _fitted(model, batches, stride)
                for head, temperature in zip(model.heads, temperatures, strict=True):
                    for value in head.buffers():
                        value /= temperature
        finally:
            for module, training in modes:
                module.training = training


def _pooled(model: MultiExitModel, images: Tensor) -> list[Tensor]:
    """What the means are of, float ``[N, width]`` for each early exit."""
    with listening(model.backbone, model.attach_points) as features:
        model.backbone(images)
    return [
        head.pool(features[name])  # type: ignore[operator]
        for name, head in zip(model.attach_points, model.heads, strict=True)
    ]


def _set_means(model: MultiExitModel, batches: Batches) -> Tensor:
    """Sets all heads for a temperature of one; returns how many samples each class has."""
    sums: list[Tensor] = []
    counts = torch.zeros(model.num_classes, dtype=torch.int64)
    for images, labels in batches():
        features = [x.double() for x in _pooled(model, images)]
        if not sums:
            sums = [x.new_zeros(model.num_classes, x.shape[1]) for x in features]
        for total, x in zip(sums, features, strict=True):
            total.index_add_(0, labels, x)
        counts += torch.bincount(labels, minlength=model.num_classes).cpu()
    if not counts.all():
        raise DataError(
            "a class has no mean, because it has no sample in the training split",
            wanted="a sample of each class",
            given=f"none of class {int(counts.argmin())}",
        )
    for head, total in zip(model.heads, sums, strict=True):
        head.set_means(total / counts.to(total.device).unsqueeze(1), 1.0)  # type: ignore[operator]
    return counts


def _fitted(model: MultiExitModel, batches: Batches, stride: int) -> list[float]:
    """For each early exit the temperature with the least cross-entropy on each stride-th sample."""
    kept: list[list[Tensor]] = [[] for _ in model.heads]
    kept_labels: list[Tensor] = []
    seen = 0
    for images, labels in batches():
        picked = slice(-seen % stride, None, stride)
        seen += len(labels)
        kept_labels.append(labels[picked])
        for part, z in zip(kept, model(images[picked])[:-1], strict=True):
            part.append(z)
    labels = torch.cat(kept_labels)
    return [best_temperature(torch.cat(part), labels) for part in kept]


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits must be divided by for the least cross-entropy.

    That is convex in the inverse: its slope, E[sum_c p_c z_c - z_label], has one sign on each side.
    Where every sample is right, no temperature is cold enough; the divided logits' deviation from
    zero mean is then `MAX_SPREAD`. Where none helps it is a ten thousandth.

    Args:
        logits: float ``[N, num_classes]``.
        labels: int64 ``[N]``.
    """
    exact = logits.double()
    exact = exact - exact.mean(1, keepdim=True)
    spread = float(exact.square().mean().sqrt())
    if spread == 0:
        return 1.0
    right = exact.gather(1, labels.unsqueeze(1)).squeeze(1)
    low, high = math.log(spread / MAX_SPREAD), math.log(spread * 1e4)
    for _ in range(50):
        middle = (low + high) / 2
        guess = (torch.softmax(exact / math.exp(middle), 1) * exact).sum(1)
        if float((guess - right).mean()) > 0:  # too sure: hotter
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
