"""L2W-DEN: a small network learns how much each sample counts at each exit.

At run time an easy sample leaves early and never meets the later exits; the mean of all losses
trains every exit on every sample nevertheless. Here a weight network reads a sample's losses at all
exits and moves its weight at each exit a little away from one. It is meta-learned: the network
takes a pseudo step on one half of a batch with the weighted loss, and the loss of the other half,
where each sample counts only at the exit where it would leave, is differentiated through that step.

Source: Han et al. 2022, "Learning to Weight Samples for Dynamic Early-exiting Networks", arXiv
2209.08310, section 3; where the paper leaves a choice, the authors' published training code: the
perturbation is a tanh minus its mean over the batch and its exits, exit k of K is left by a share
proportional to q^k, the most confident first, and the meta loss is the sum over exits of the mean
over the samples that leave there. Deviations:

- A batch is one step of the optimizer. The published code takes two, one on each half; here the
  halves change places from one meta step to the next.
- The pseudo step is plain gradient descent at a rate of its own, without momentum or weight decay:
  a method does not see the optimizer. Adam is blind to the scale that this gives the meta gradient.
- Losses are averaged over exits, not summed, so that a learning rate means what it means elsewhere.
- The weight network starts with every weight at one, and the same in every run.
- Phase "backbone" has one exit and nothing to weigh: the mean loss. In phase "heads" the final exit
  does not move: samples that leave there do not count, and its loss is given as zero.

Cost of a meta step: two passes over half a batch, and the derivative of a backward pass. For
ResNet-8 on a CPU it takes 2.7 times as long as the step it precedes, and 0.4 times with
``pseudo="heads"``; ``interval`` makes it rarer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step
from edgeexit.training.strategies import PhaseName

WEIGHT_DECAY = 1e-4
"""L2 penalty on the weight network, as the published code has it."""


class WeightNetwork(nn.Module):
    """One hidden layer from a sample's losses to a number in (-1, 1) for each exit; and its Adam.

    It lives in the model as ``method_state`` while the model is trained, so that a checkpoint holds
    it. Everything is a buffer: no other optimizer moves it and no process averages it.

    Args:
        num_exits: Exits of the model, K.
        hidden: Width of the hidden layer, H.
    """

    def __init__(self, num_exits: int, hidden: int) -> None:
        super().__init__()
        self.shapes = ((hidden, num_exits), (hidden,), (num_exits, hidden), (num_exits,))
        self.sizes = [math.prod(shape) for shape in self.shapes]
        values = torch.zeros(sum(self.sizes))
        # The hidden layer as nn.Linear draws it; the layer after it stays zero.
        drawn = self.sizes[0] + self.sizes[1]
        generator = torch.Generator().manual_seed(0)
        values[:drawn].uniform_(-(num_exits**-0.5), num_exits**-0.5, generator=generator)
        self.register_buffer("values", values)
        self.register_buffer("first_moment", torch.zeros_like(values))
        self.register_buffer("second_moment", torch.zeros_like(values))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    def forward(self, losses: Tensor, values: Tensor) -> Tensor:
        """Losses ``[N, K]`` and all weights ``[H K + H + K H + K]`` -> ``[N, K]`` in (-1, 1)."""
        parts = torch.split(values, self.sizes)
        one, two, three, four = (p.reshape(s) for p, s in zip(parts, self.shapes, strict=True))
        return torch.tanh(F.linear(F.relu(F.linear(losses, one, two)), three, four))

    def update(self, gradient: Tensor, rate: float) -> None:
        """One step of Adam, at its usual constants."""
        values, first, second, count = (
            cast(Tensor, getattr(self, name))
            for name in ("values", "first_moment", "second_moment", "num_updates")
        )
        with torch.no_grad():
            gradient = gradient + WEIGHT_DECAY * values
            count += 1
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            spread = (second / (1 - 0.999**count)).sqrt() + 1e-8
            values -= rate * (first / (1 - 0.9**count)) / spread


@dataclass(frozen=True)
class L2WDEN(Method):
    """Sample weights that are learned by the loss after a pseudo step.

    Attributes:
        epsilon: How far a weight may move from one: by less than ``2 * epsilon``; below one half,
            every weight is positive. In (0, 1).
        exit_ratio: q: an exit is left by q times as many samples as the exit before. Positive;
            below one most leave early.
        hidden: Width of the weight network.
        interval: Steps from one meta step to the next.
        meta_rate: Adam's rate for the weight network; it falls to zero over the phase as a cosine.
        pseudo_rate: Rate of the pseudo step.
        pseudo: What the pseudo step moves: ``everything`` that the phase trains, or ``heads``: the
            early heads and the last linear layer of the backbone.
    """

    capturable: ClassVar[bool] = False
    accumulates: ClassVar[bool] = False

    epsilon: float = 0.3
    exit_ratio: float = 0.75
    hidden: int = 500
    interval: int = 1
    meta_rate: float = 1e-4
    pseudo_rate: float = 0.1
    pseudo: str = "everything"

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            ArgumentError: One is out of range.
        """
        if not 0 < self.epsilon < 1:
            raise ArgumentError(
                "epsilon is out of range",
                wanted="0 < epsilon < 1",
                given=f"epsilon={self.epsilon}",
            )
        for name in ("exit_ratio", "hidden", "interval", "meta_rate", "pseudo_rate"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ArgumentError(f"{name} must be positive", given=f"{name}={value}")
        if self.pseudo not in ("everything", "heads"):
            raise ArgumentError(
                "unknown extent of the pseudo step",
                wanted="everything, heads",
                given=f"pseudo={self.pseudo!r}",
            )

    def start_phase(self, model: MultiExitModel, phase: PhaseName) -> None:
        """Adds ``model.method_state`` where it is missing.

        A run that resumes calls this before it loads its checkpoint, in which that is.

        Raises:
            ArgumentError: Several processes train the model.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world = torch.distributed.get_world_size()
            if world > 1:
                raise ArgumentError(
                    "method 'l2w_den' runs in one process",
                    wanted="1 process",
                    given=f"{world} processes",
                    hint="the pseudo step needs whole batches; start it without torchrun",
                )
        if not hasattr(model, "method_state"):
            network = WeightNetwork(len(model.exit_names), self.hidden)
            model.add_module("method_state", network.to(next(model.parameters()).device))

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        if step.phase == "backbone":
            logits = step.module(step.images)
            return torch.stack([step.cross_entropy(z).mean() for z in logits]).mean(), logits
        network = cast(WeightNetwork, step.model.method_state)
        num_steps = cast(Tensor, network.num_steps)
        turn, rest = divmod(int(num_steps), self.interval)
        if rest == 0 and len(step.images) > 1:
            self._learn(step, network, swapped=turn % 2 == 1)
        num_steps += 1
        logits = step.module(step.images)
        losses = torch.stack([step.cross_entropy(z) for z in logits], 1)
        with torch.no_grad():
            weights = self.weights(network, cast(Tensor, network.values), losses, step.exits)
        return (weights * losses).mean(), logits

    def take_off(self, model: MultiExitModel) -> None:
        """Takes the weight network away."""
        if hasattr(model, "method_state"):
            del model.method_state

    def weights(
        self, network: WeightNetwork, values: Tensor, losses: Tensor, exits: range
    ) -> Tensor:
        """How much each sample counts at each exit; the mean of it is one.

        Args:
            network: The weight network.
            values: Its weights.
            losses: float ``[N, len(exits)]``, in nats; no gradient flows into them.
            exits: Which exits they belong to; the others' losses are given as zero.

        Returns:
            float ``[N, len(exits)]``.
        """
        num_exits = network.shapes[3][0]
        given = F.pad(losses.detach(), (exits.start, num_exits - exits.stop)).to(values.dtype)
        raw = cast(Tensor, network(given, values))[:, exits.start : exits.stop]
        return 1 + self.epsilon * (raw - raw.mean())

    def meta_loss(
        self, step: Step, network: WeightNetwork, values: Tensor, train: slice, meta: slice
    ) -> Tensor:
        """The loss of samples at the exits where they leave, after a step on other samples.

        Args:
            step: The step; ``module`` is not called.
            network: The weight network.
            values: Its weights; the result can be differentiated by them.
            train: The samples of the pseudo step.
            meta: The samples whose loss is returned.

        Returns:
            A scalar, in nats.
        """
        model, exits = step.model, step.exits
        fixed = {name: value.detach() for name, value in model.named_parameters()}
        buffers = {name: value.clone() for name, value in model.named_buffers()}

        def losses_of(moved: dict[str, Tensor], part: slice) -> tuple[list[Tensor], Tensor]:
            state = {**fixed, **buffers, **moved}
            logits = functional_call(model, state, (step.images[part],))[exits.start : exits.stop]
            # The targets are those of the whole batch, in its order.
            after = len(step.images) - part.stop
            whole = [step.cross_entropy(F.pad(z, (0, 0, part.start, after))) for z in logits]
            return list(logits), torch.stack([loss[part] for loss in whole], 1)

        moving = {
            name: fixed[name].clone().requires_grad_() for name in _moved_names(model, self.pseudo)
        }
        _, losses = losses_of(moving, train)
        weighted = (self.weights(network, values, losses, exits) * losses).mean()
        gradients = torch.autograd.grad(
            weighted, list(moving.values()), create_graph=True, materialize_grads=True
        )
        stepped = {
            name: value - self.pseudo_rate * gradient
            for (name, value), gradient in zip(moving.items(), gradients, strict=True)
        }
        logits, losses = losses_of(stepped, meta)
        with torch.no_grad():
            confidence = torch.stack([z.softmax(1).amax(1) for z in logits], 1)
            leaves = leaving_exits(confidence, exit_shares(len(model.exit_names), self.exit_ratio))
        at = leaves[:, None] == torch.arange(exits.start, exits.stop, device=leaves.device)
        return ((losses * at).sum(0) / at.sum(0).clamp_min(1)).sum()

    def _learn(self, step: Step, network: WeightNetwork, swapped: bool) -> None:
        half = len(step.images) // 2
        parts = (slice(0, half), slice(half, len(step.images)))
        train, meta = parts[::-1] if swapped else parts
        values = cast(Tensor, network.values).clone().requires_grad_()
        # Full precision and no fused attention: both are differentiated twice.
        with (
            torch.autocast(step.images.device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            loss = self.meta_loss(step, network, values, train, meta)
            (gradient,) = torch.autograd.grad(loss, values)
        falling = 0.5 * (1 + math.cos(math.pi * float(step.progress)))
        network.update(gradient, self.meta_rate * falling)


def exit_shares(num_exits: int, ratio: float) -> tuple[float, ...]:
    """The share of samples that leaves at each exit: ``ratio`` to the power of its place."""
    powers = [ratio**k for k in range(num_exits)]
    return tuple(power / sum(powers) for power in powers)


def leaving_exits(confidence: Tensor, shares: Sequence[float]) -> Tensor:
    """Where each sample leaves if each exit lets its share go, the most confident first.

    Args:
        confidence: float ``[N, E]``, at the exits that let samples go; one more than ``E`` may
            exist.
        shares: For each exit, the share of all samples that leaves there; the last takes the rest.

    Returns:
        int64 ``[N]``: an index into ``shares``.
    """
    num_samples = len(confidence)
    last = len(shares) - 1
    exits = torch.full((num_samples,), last, device=confidence.device)
    for k, share in enumerate(shares[:last]):
        count = math.floor(num_samples * share + 1e-9)
        here = confidence[:, k].masked_fill(exits != last, -1)
        exits[here.argsort(descending=True, stable=True)[:count]] = k
    return exits


def _moved_names(model: MultiExitModel, pseudo: str) -> list[str]:
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    if pseudo == "everything":
        return names
    linear = [n for n, module in model.backbone.named_modules() if isinstance(module, nn.Linear)]
    starts = ("heads.", *(f"backbone.{name}." for name in linear[-1:]))
    return [name for name in names if name.startswith(starts)]
