"""One optimizer step of a phase: eager, or captured once as a CUDA graph and replayed.

A small network's step is some two hundred short kernels, and launching them from Python takes
longer than running them. A captured step is launched as a whole. For that everything which changes
from step to step lives in tensors on the device: where in the epoch it stands, the learning rate,
the share of the phase that is done. The eager step reads the same tensors, so there is one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from edgeexit.data.types import Augmentation
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.batches import DeviceSamples, EpochOrder, augmented
from edgeexit.training.config import TrainConfig
from edgeexit.training.methods import Method, Step
from edgeexit.training.mixup import mixed_up
from edgeexit.training.modes import decayed_groups, trained_exits
from edgeexit.training.strategies import Phase

NUM_WARM_UP_STEPS = 3
"""Eager steps before a capture, in which cuDNN chooses its algorithms and momentum comes to be."""


@dataclass(frozen=True)
class Sums:
    """Of an epoch so far: the losses of its steps (scalar), and hits, int64 for each exit."""

    loss: Tensor
    correct: Tensor


class PhaseStep:
    """The steps of one phase; call it once for each.

    Args:
        model: The network.
        module: What the phase runs of it; its parameters are those that move.
        phase: With its number of steps and its rate.
        rates: The learning rate of every step.
        method: What a step minimises.
        config: Of the run.
        samples: The training split on its device.
        augmentation: What is done to each image.
        epoch: Where the order of the present epoch is kept; `start_epoch` fills it.
        steps_per_epoch: Batches in an epoch.
        accelerator: Devices, processes and precision.
    """

    def __init__(
        self,
        model: MultiExitModel,
        module: nn.Module,
        phase: Phase,
        *,
        rates: Sequence[float],
        method: Method,
        config: TrainConfig,
        samples: DeviceSamples,
        augmentation: Augmentation,
        epoch: EpochOrder,
        accelerator: Accelerator,
    ) -> None:
        device = accelerator.device
        self.model, self.phase, self.method, self.config = model, phase, method, config
        self.samples, self.augmentation, self.epoch = samples, augmentation, epoch
        self.accelerator = accelerator
        self.exits = trained_exits(model, phase.name)
        self.captures = (
            config.capture
            and method.capturable
            and device.type == "cuda"
            and accelerator.num_processes == 1
            and config.precision != "fp16"  # its loss scale is decided on the host
        )
        self.rates = rates
        self.device_rates = torch.tensor(rates, dtype=torch.float32, device=device)
        self.rate = torch.zeros((), device=device)
        self.optimizer = SGD(
            decayed_groups(module, config.weight_decay),
            lr=self.rate if self.captures else 0.0,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            fused=True if self.captures else None,
        )
        self.prepared_optimizer: Optimizer = self.optimizer
        self.prepared: Callable[[Tensor], tuple[Tensor, ...]] = module
        if not self.captures:
            self.prepared, self.prepared_optimizer = _prepare(accelerator, module, self.optimizer)
        if config.compile:
            self.prepared = torch.compile(self.prepared)
        rank, world = accelerator.process_index, accelerator.num_processes
        self.lane = torch.arange(rank, config.batch_size, world, device=device)
        self.within = torch.zeros(1, dtype=torch.int64, device=device)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)
        self.sums = Sums(
            torch.zeros((), device=device),
            torch.zeros(len(self.exits), dtype=torch.int64, device=device),
        )
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(device) if self.captures else None  # type: ignore[no-untyped-call]
        self.num_warm = 0

    def start_epoch(self, order: EpochOrder, index: int, num_steps_done: int) -> None:
        """Goes to a place in the phase, with the sums at zero.

        Args:
            order: Of this epoch.
            index: Of this epoch, 0-based.
            num_steps_done: Steps of this epoch that are done already.
        """
        self.epoch.copy_(order)
        self.within.fill_(num_steps_done)
        self.done.fill_(index * len(order.mixup) + num_steps_done)
        self.sums.loss.zero_()
        self.sums.correct.zero_()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the steps of an epoch: captured ones run on a stream of their own."""
        if self.stream is None:
            yield
            return
        before = torch.cuda.current_stream()
        self.stream.wait_stream(before)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            before.wait_stream(self.stream)

    def __call__(self, number: int, seed: tuple[int, ...]) -> None:
        """Takes a step.

        Args:
            number: Of the step in its phase, 0-based.
            seed: Numbers that fix what the method draws.
        """
        if self.graph is not None:
            self.graph.replay()
            return
        generator = None
        if not self.captures:
            self._set_rate(self.rates[number])
            state = np.random.SeedSequence((*seed, 2)).generate_state(1, np.uint64)[0] >> 1
            generator = torch.Generator().manual_seed(int(state))
            # For a network that draws numbers itself, as dropout does: another draw in each
            # process, and the same in a run that resumes here.
            own = int(state) + self.accelerator.process_index
            torch.default_generator.manual_seed(own)  # torch.manual_seed asks every kind of device
            if self.accelerator.device.type == "cuda":
                torch.cuda.manual_seed(own)
        self._step(generator)
        self.num_warm += 1
        if self.captures and self.num_warm == NUM_WARM_UP_STEPS:
            self._capture()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _capture(self) -> None:
        assert self.stream is not None
        graph = torch.cuda.CUDAGraph()
        # Gradients that are made during the capture live in the graph's memory and are written
        # anew by each replay.
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=self.stream):
            self._step(None)
        self.graph = graph

    def _step(self, generator: torch.Generator | None) -> None:
        if self.captures:
            self.rate.copy_(self.device_rates.index_select(0, self.done).squeeze(0))
        self.prepared_optimizer.zero_grad(set_to_none=True)
        parts = self.config.accumulate
        for part in range(parts):
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.prepared):
                self._part(self.lane[part::parts], generator)
        self.prepared_optimizer.step()
        self.within += 1
        self.done += 1

    def _part(self, lane: Tensor, generator: torch.Generator | None) -> None:
        """Adds the gradients of this process's share of a batch, or of a part of it."""
        index = lane + self.within * self.config.batch_size
        images, labels = augmented(self.samples, self.augmentation, self.epoch, index)
        smoothing, mixup = self.config.label_smoothing, self.config.mixup
        others, share = labels, torch.ones(())
        if mixup:
            share = self.epoch.mixup.index_select(0, self.within).squeeze(0)
            images, others = mixed_up(images, labels, share)

        def cross_entropy(logits: Tensor) -> Tensor:
            own = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
            if not mixup:
                return own
            other = F.cross_entropy(logits, others, label_smoothing=smoothing, reduction="none")
            return share * own + (1 - share) * other

        with self._autocast():
            loss, logits = self.method.loss(
                Step(
                    module=self.prepared,
                    model=self.model,
                    phase=self.phase.name,
                    exits=self.exits,
                    images=images,
                    labels=labels,
                    progress=(self.done / self.phase.num_steps).squeeze(0),
                    generator=generator,
                    cross_entropy=cross_entropy,
                )
            )
        scaled = loss / self.config.accumulate
        if self.captures:
            scaled.backward()  # type: ignore[no-untyped-call]
        else:
            self.accelerator.backward(scaled)
        with torch.no_grad():
            self.sums.loss.add_(scaled.detach() / self.accelerator.num_processes)
            hits = torch.stack([z.detach() for z in logits]).argmax(2) == labels
            self.sums.correct.add_(hits.sum(1))

    def _autocast(self) -> Any:
        if not self.captures:
            return self.accelerator.autocast()
        if self.config.precision == "no":
            return contextlib.nullcontext()
        # A cache of cast weights must not outlive a captured step, in which it would be filled.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


def _prepare(
    accelerator: Accelerator, module: nn.Module, optimizer: SGD
) -> tuple[Callable[[Tensor], tuple[Tensor, ...]], Optimizer]:
    """`Accelerator.prepare`, but the module itself stays as it was.

    `prepare` has a module compute in the run's precision for good, between steps and after the run
    too. Steps have their precision from `PhaseStep._autocast`.
    """
    before = dict(vars(module))
    prepared, prepared_optimizer = accelerator.prepare(module, optimizer)
    for name in vars(module).keys() - before.keys():
        delattr(module, name)
    if "forward" in before:
        vars(module)["forward"] = before["forward"]
    return prepared, prepared_optimizer
