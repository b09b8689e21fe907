"""What a method is: a loss over the exits, and what it changes in the network before and after.

A strategy says which phases run; a method says what one optimizer step minimises in each of them. A
method is a frozen dataclass of its options, so that a checkpoint can name it word for word. The
loop owns everything else: batches, rates, the optimizer, precision, processes and checkpoints.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from edgeexit.nn.model import MultiExitModel
from edgeexit.training.strategies import PhaseName

Batches: TypeAlias = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Goes over the training split once, without augmentation: float32 images and int64 labels."""


@dataclass(frozen=True)
class Step:
    """What a method sees of one optimizer step.

    Attributes:
        module: Maps ``images`` to the logits of the exits in ``exits``, as the phase prepared it
            (compiled, or shared out between processes). It is called once in a step.
        model: The network itself.
        phase: Which phase this is.
        exits: Indices of the exits whose logits ``module`` returns.
        images: float32 ``[N, channels, height, width]``, augmented.
        labels: int64 ``[N]``.
        progress: float32 scalar in [0, 1): the share of the phase's steps that is done. A tensor on
            the device, so that a captured step follows it.
        generator: A CPU generator that is a function of seed, phase, epoch and step alone; None in
            a captured step, whose method must not ask for one.
        cross_entropy: float ``[N, num_classes]`` logits -> float ``[N]`` losses in nats, one for
            each sample, label smoothing and mixup included.
    """

    module: Callable[[Tensor], tuple[Tensor, ...]]
    model: MultiExitModel
    phase: PhaseName
    exits: range
    images: Tensor
    labels: Tensor
    progress: Tensor
    generator: torch.Generator | None
    cross_entropy: Callable[[Tensor], Tensor]


class Method(abc.ABC):
    """The defaults: the network stays as it is, exits leave by confidence.

    Attributes:
        rule: The rule of decision that the method was made for, as the compiler names it.
        capturable: Whether a step is the same sequence of operations each time, with no number
            read back from the device: such a step can be captured once and replayed on a GPU.
        accumulates: Whether a batch may be computed in parts.
    """

    rule: ClassVar[str] = "confidence"
    capturable: ClassVar[bool] = True
    accumulates: ClassVar[bool] = True

    def rebuild(self, model: MultiExitModel) -> None:  # noqa: B027  a hook
        """Changes a fresh network in place, before it is trained or its weights are loaded."""

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:  # noqa: B027  a hook
        """Changes the network in place before a phase; must hold when a run resumes there.

        What it or `loss` adds to the network, `take_off` removes.
        """

    @abc.abstractmethod
    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The scalar that a step minimises, in nats, and the logits of ``step.exits``."""

    def take_off(self, model: MultiExitModel) -> None:  # noqa: B027  a hook
        """Leaves the network as `rebuild` leaves a fresh one, but for its weights.

        Called after the last phase, and wherever a run ends before: nothing may be there yet.
        """

    def finish(self, model: MultiExitModel, batches: Batches) -> None:  # noqa: B027  a hook
        """Computes in place what the trained network still lacks, once `take_off` is done."""
