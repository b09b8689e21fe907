"""The training loop: phases, epochs, batches; it resumes after a kill to the same result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD

from edgeexit.data.types import Splits
from edgeexit.errors import ArgumentError, DataError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import weights_bytes
from edgeexit.training.batches import DeviceSamples, num_batches, to_device, training_batches
from edgeexit.training.checkpoint import (
    EpochRecord,
    RunState,
    read_state,
    write_state,
    write_whole,
)
from edgeexit.training.config import TrainConfig
from edgeexit.training.losses import mean_cross_entropy, mixed_up
from edgeexit.training.modes import decayed_groups, phase_module, set_modes, trained_exits
from edgeexit.training.progress import Progress, silent
from edgeexit.training.schedule import learning_rate
from edgeexit.training.strategies import Phase, phases

EVALUATION_BATCH = 500


def run_training(
    model: MultiExitModel,
    data: Splits,
    config: TrainConfig,
    *,
    output: Path | None,
    progress: Progress = silent,
) -> tuple[EpochRecord, ...]:
    """`edgeexit.training.train` with its options checked: see there."""
    _check_data(model, data)
    accelerator = Accelerator(mixed_precision=config.precision)
    if config.batch_size % accelerator.num_processes:
        raise ArgumentError(
            "a batch cannot be shared evenly",
            wanted=f"batch_size divisible by {accelerator.num_processes} processes",
            given=f"batch_size={config.batch_size}",
        )
    run = _Run(model, data, config, output, accelerator, progress)
    return run.all_phases()


class _Run:
    """One run: what stays the same from its first batch to its last."""

    def __init__(
        self,
        model: MultiExitModel,
        data: Splits,
        config: TrainConfig,
        output: Path | None,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.data = data
        self.config = config
        self.output = output
        self.accelerator = accelerator
        self.progress = progress
        self.fingerprint = _fingerprint(model, data)
        self.train_split = to_device(data.train, data.preprocessing, accelerator.device)
        self.watched = to_device(data.calibration, data.preprocessing, accelerator.device)
        self.steps = num_batches(self.train_split, config.batch_size)

    def all_phases(self) -> tuple[EpochRecord, ...]:
        plan = phases(self.config)
        state = RunState(0, 0, (), (), (), {})
        if self.output is not None:
            state = read_state(self.output, self.config, self.fingerprint) or state
        if state.tensors:
            self.model.load_state_dict(_part(state.tensors, "model"))
        for index in range(state.phase, len(plan)):
            state = self.one_phase(index, plan[index], state)
        if self.output is not None and self.accelerator.is_main_process:
            log = [dataclasses.asdict(record) for record in state.log]
            content = {"config": dataclasses.asdict(self.config), "log": log}
            write_whole(self.output / "weights.safetensors", weights_bytes(self.model))
            write_whole(self.output / "run.json", (json.dumps(content, indent=1) + "\n").encode())
        self.accelerator.wait_for_everyone()
        return state.log

    def save(self, state: RunState) -> RunState:
        if self.output is not None and self.accelerator.is_main_process:
            write_state(self.output, self.config, self.fingerprint, state)
        return state

    def one_phase(self, index: int, phase: Phase, state: RunState) -> RunState:
        set_modes(self.model, phase.name)
        module = phase_module(self.model, phase.name)
        optimizer = SGD(
            decayed_groups(module, self.config.weight_decay),
            lr=phase.learning_rate,
            momentum=self.config.momentum,
            nesterov=self.config.momentum > 0,
        )
        prepared, prepared_optimizer = self.accelerator.prepare(module, optimizer)
        if self.config.compile:
            prepared = torch.compile(prepared)
        _restore_momentum(optimizer, _part(state.tensors, "optimizer"))
        stopper = _Stopper(self.config.patience, state.best, state.waited)
        kept = _part(state.tensors, "kept")
        self.progress.phase(phase.name, phase.epochs, self.steps, state.epoch)
        for epoch in range(state.epoch, phase.epochs):
            if stopper.stop:
                break
            record = self.one_epoch(index, phase, epoch, prepared, prepared_optimizer)
            if stopper.improved(record.accuracy):
                kept = {name: value.clone() for name, value in self.model.state_dict().items()}
            log = (*state.log, record)
            tensors = _tensors(self.model, kept, optimizer)
            state = self.save(
                RunState(index, epoch + 1, log, stopper.best, stopper.waited, tensors)
            )
            self.progress.epoch(record)
        if self.config.patience is not None and kept:
            self.model.load_state_dict(kept)
        return self.save(RunState(index + 1, 0, state.log, (), (), _tensors(self.model, {}, None)))

    def one_epoch(
        self,
        index: int,
        phase: Phase,
        epoch: int,
        prepared: Callable[[Tensor], tuple[Tensor, ...]],
        optimizer: SGD,
    ) -> EpochRecord:
        config, start = self.config, time.perf_counter()
        set_modes(self.model, phase.name)
        exits = trained_exits(self.model, phase.name)
        correct = torch.zeros(len(exits), dtype=torch.int64, device=self.accelerator.device)
        total_loss = torch.zeros((), device=self.accelerator.device)
        seen, rate = 0, 0.0
        batches = training_batches(
            self.train_split,
            self.data.augmentation,
            batch_size=config.batch_size,
            seed=(config.seed, index, epoch),
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        shares = _mixup_shares(config, (config.seed, index, epoch), self.steps)
        for step, (images, labels) in enumerate(batches):
            rate = learning_rate(
                config.schedule,
                phase.learning_rate,
                epoch * self.steps + step,
                phase.epochs * self.steps,
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            with self.accelerator.autocast():
                loss, logits = _loss(prepared, images, labels, config, shares[step])
            optimizer.zero_grad()
            self.accelerator.backward(loss)
            optimizer.step()
            with torch.no_grad():
                total_loss += loss.detach()
                correct += torch.stack([(z.argmax(1) == labels).sum() for z in logits])
            seen += len(labels)
            self.progress.step()
        watched = evaluate(self.model, self.watched)
        return EpochRecord(
            phase=phase.name,
            epoch=epoch,
            num_epochs=phase.epochs,
            learning_rate=rate,
            loss=float(total_loss) / self.steps,
            train_accuracy=tuple(round(float(c) / seen, 6) for c in correct),
            accuracy=tuple(watched[k] for k in exits),
            seconds=round(time.perf_counter() - start, 3),
        )


class _Stopper:
    """Early stopping: a head is done after ``patience`` epochs without improvement.

    Source: Kubaty et al. 2025, section 3: weights are kept when any head improves, and the phase
    ends when every head has run out of patience.
    """

    def __init__(
        self, patience: int | None, best: tuple[float, ...], waited: tuple[int, ...]
    ) -> None:
        self.patience, self.best, self.waited = patience, best, waited

    @property
    def stop(self) -> bool:
        return self.patience is not None and bool(self.waited) and min(self.waited) >= self.patience

    def improved(self, accuracy: tuple[float, ...]) -> bool:
        if self.patience is None:
            return False
        best = self.best or (-1.0,) * len(accuracy)
        waited = self.waited or (0,) * len(accuracy)
        better = tuple(now > then for now, then in zip(accuracy, best, strict=True))
        self.best = tuple(map(max, accuracy, best))
        self.waited = tuple(0 if b else w + 1 for b, w in zip(better, waited, strict=True))
        return any(better)


def evaluate(model: MultiExitModel, samples: DeviceSamples) -> tuple[float, ...]:
    """Accuracy of every exit on a split, in evaluation mode; the model's mode is restored.

    Returns:
        One number in [0, 1] for each exit.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    correct = [0] * len(model.exit_names)
    with torch.no_grad():
        for start in range(0, len(samples.labels), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            logits = model(samples.real(samples.images[part]))
            for k, z in enumerate(logits):
                correct[k] += int((z.argmax(1) == samples.labels[part]).sum())
    for module, training in modes:
        module.training = training
    return tuple(c / len(samples.labels) for c in correct)


def _loss(
    prepared: Callable[[Tensor], tuple[Tensor, ...]],
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    share: float | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    smoothing = config.label_smoothing
    if share is None:
        logits = prepared(images)
        return mean_cross_entropy(logits, labels, label_smoothing=smoothing), logits
    blended, others = mixed_up(images, labels, share)
    logits = prepared(blended)
    own = mean_cross_entropy(logits, labels, label_smoothing=smoothing)
    other = mean_cross_entropy(logits, others, label_smoothing=smoothing)
    return share * own + (1 - share) * other, logits


def _mixup_shares(config: TrainConfig, seed: tuple[int, ...], num_steps: int) -> list[float | None]:
    if not config.mixup:
        return [None] * num_steps
    draws = np.random.default_rng((*seed, 1)).beta(config.mixup, config.mixup, num_steps)
    return [float(draw) for draw in draws]


def _tensors(model: nn.Module, kept: dict[str, Tensor], optimizer: SGD | None) -> dict[str, Tensor]:
    """Copies of everything that a resumed run needs, under the names of `RunState`."""
    named = {f"model.{name}": value for name, value in model.state_dict().items()}
    named |= {f"kept.{name}": value for name, value in kept.items()}
    for position, entry in (optimizer.state_dict()["state"] if optimizer else {}).items():
        if entry.get("momentum_buffer") is not None:
            named[f"optimizer.{position}"] = entry["momentum_buffer"]
    return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "."
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def _restore_momentum(optimizer: SGD, momentum: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for position, value in momentum.items():
        parameter = parameters[int(position)]
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)


def _fingerprint(model: MultiExitModel, data: Splits) -> str:
    """Names a run's model and data, so that a state is not continued with others."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    facts = [sorted(shapes.items()), data.name, len(data.train), len(data.calibration)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _check_data(model: MultiExitModel, data: Splits) -> None:
    if len(data.class_names) != model.num_classes:
        raise DataError(
            "the data has another number of classes than the model",
            wanted=f"{model.num_classes} classes",
            given=f"{len(data.class_names)} classes in {data.name!r}",
            hint=f"create the model with num_classes={len(data.class_names)}",
        )
    if len(data.calibration) == 0:
        raise DataError("the calibration split is empty", where=data.name)
