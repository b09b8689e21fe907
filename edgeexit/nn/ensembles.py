"""What exits share: modules that let an exit use what earlier exits know.

A combination sits behind the heads and sees all of them at once; that exit k reads nothing of a
later one is for it to keep. At inference it is made of linear layers, sums and products with
constants, so that it becomes ops of the segments: earlier logits or states cross the cuts.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.nn.heads import Pooled


class Combination(nn.Module, abc.ABC):
    """Logits of every exit -> those that the network answers with."""

    @abc.abstractmethod
    def forward(self, features: Sequence[Tensor], logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Combines the exits.

        Args:
            features: What each early head listens to, batch first.
            logits: Those of the early heads and of the backbone, float ``[N, num_classes]`` each.

        Returns:
            As many logits as there were, and in training mode whatever else a loss asks for.
        """


class CascadedEnsemble(Combination):
    """A weighted geometric mean of the predictions so far, each exit helped by the one before.

    Attributes:
        links: For each early exit after the first, a linear layer from its predecessor's logits.
        weights: For exit k and each exit j up to it, one number of at least ``SMALLEST_WEIGHT``.
        biases: One float ``[num_classes]`` for each exit.
    """

    SMALLEST_WEIGHT = 1 / 128
    """Positive, as a geometric mean wants it, and far enough from zero for a scale of its own."""

    def __init__(self, num_exits: int, num_classes: int) -> None:
        super().__init__()
        self.links = nn.ModuleList(
            [_silent_at_first(num_classes, num_classes) for _ in range(num_exits - 2)]
        )
        self.weights = nn.ModuleList(
            [
                nn.ParameterList(
                    [torch.tensor(1.0 if j == k else self.SMALLEST_WEIGHT) for j in range(k + 1)]
                )
                for k in range(num_exits)
            ]
        )
        self.biases = nn.ParameterList([torch.zeros(num_classes) for _ in range(num_exits)])

    def forward(self, features: Sequence[Tensor], logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See `Combination.forward`; in training mode the cascade's own logits come after."""
        cascade = list(logits)
        for k, link in enumerate(self.links, start=1):
            cascade[k] = cascade[k] + link(cascade[k - 1].detach())
        ensembles = []
        for weights, bias in zip(self.weights, self.biases, strict=True):
            parts = [z.detach() * w for z, w in zip(cascade, weights, strict=False)]  # type: ignore[call-overload]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            ensembles.append(total + bias)
        return (*ensembles, *cascade) if self.training else tuple(ensembles)

    def keep_weights_positive(self) -> None:
        """Moves weights that a step took below the smallest one back to it."""
        with torch.no_grad():
            for weight in self.weights.parameters():
                weight.clamp_(min=self.SMALLEST_WEIGHT)


class PastAndFuture(Combination):
    """Adds to each exit what earlier exits saw and what later ones are expected to see.

    A state is a short vector that an exit keeps of its feature: ReLU of a linear layer over the
    pooled feature. The final exit's state is the backbone's logits.

    Args:
        feature_shapes: For each early exit, the shape of its feature, batch first.
        num_classes: The number of classes.
        width: The length of a state.

    Attributes:
        states: Feature -> state, for each early exit.
        imputers: For each early exit but the first, what guesses its state from an earlier one.
        final_imputer: What guesses the backbone's logits from a state.
        merges: State -> what it adds to the logits of other exits, for each early exit. Zero at
            first: the final exit starts as the backbone's own.
    """

    def __init__(
        self, feature_shapes: Sequence[tuple[int, ...]], num_classes: int, width: int
    ) -> None:
        super().__init__()
        num_early = len(feature_shapes)
        self.states = nn.ModuleList(
            [nn.Sequential(Pooled().build(shape, width), nn.ReLU()) for shape in feature_shapes]
        )
        self.imputers = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(num_early - 1)]
        )
        self.final_imputer = nn.Linear(width, num_classes)
        self.merges = nn.ModuleList(
            [_silent_at_first(width, num_classes) for _ in range(num_early)]
        )

    def forward(self, features: Sequence[Tensor], logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """See `Combination.forward`; in training mode the imitation loss comes after.

        It is float ``[N]``: 1 - the cosine between a guessed and a real state, averaged over all
        pairs of an exit and a later one.
        """
        states = [state(x) for state, x in zip(self.states, features, strict=True)]
        exits, misses = [], []
        past: Tensor | None = None
        for k, state in enumerate(states):
            guesses = [imputer(state) for imputer in self.imputers[k:]]
            final = self.final_imputer(state)
            merged = logits[k] if past is None else logits[k] + past
            for merge, guess in zip(self.merges[k + 1 :], guesses, strict=True):
                merged = merged + merge(guess)
            exits.append(merged + final)
            own = self.merges[k](state)
            past = own if past is None else past + own
            if self.training:
                misses += [
                    1 - F.cosine_similarity(guess.float(), real.detach().float())
                    for guess, real in zip(
                        (*guesses, final), (*states[k + 1 :], logits[-1]), strict=True
                    )
                ]
        assert past is not None
        exits.append(logits[-1] + past)
        return (*exits, torch.stack(misses).mean(0)) if self.training else tuple(exits)


class NearestMean(nn.Module):
    """A head that prefers the class whose mean feature is nearest; it has no parameters.

    Args:
        feature_shape: Of what it listens to, batch first.
        num_classes: The number of classes.

    Attributes:
        pool: Feature -> float ``[N, width]``.
        weight: float ``[num_classes, width]``.
        bias: float ``[num_classes]``.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, feature_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        pool, linear = Pooled().build(feature_shape, num_classes).children()
        self.pool = pool
        self.register_buffer("weight", torch.zeros_like(linear.weight))  # type: ignore[arg-type]
        self.register_buffer("bias", torch.zeros(num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """The feature -> logits ``[N, num_classes]``."""
        return F.linear(self.pool(x), self.weight, self.bias)

    def set_means(self, means: Tensor, temperature: float) -> None:
        """Sets weight and bias such that the softmax is that of ``-|x - mean|^2 / temperature``.

        ``-|x - m_c|^2 = 2 x (m_c - m) - |m_c|^2`` plus terms that all classes share and the softmax
        drops. The mean ``m`` of all classes is taken off so that int8 weights hold differences
        between classes and nothing else.

        Args:
            means: float ``[num_classes, width]``, one row for each class.
            temperature: Positive.
        """
        exact = means.double()
        norms = exact.square().sum(1)
        self.weight.copy_(2 * (exact - exact.mean(0)) / temperature)
        self.bias.copy_((norms.mean() - norms) / temperature)


def _silent_at_first(num_inputs: int, num_outputs: int) -> nn.Linear:
    linear = nn.Linear(num_inputs, num_outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
