"""The training loop: phases, epochs, batches; it resumes after a kill to the same result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD

from edgeexit.data.types import Splits
from edgeexit.errors import ArgumentError, DataError, TrainingError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.onednn import convolutions_of, sound_convolutions
from edgeexit.nn.weights_file import weights_bytes
from edgeexit.training.batches import (
    DeviceSamples,
    EpochOrder,
    epoch_order,
    num_batches,
    settle_memory_format,
    to_device,
    training_samples,
)
from edgeexit.training.budget import macs_per_sample
from edgeexit.training.checkpoint import (
    EpochRecord,
    RunState,
    by_phase,
    damaged_state,
    phase_end,
    read_state,
    write_state,
    write_whole,
)
from edgeexit.training.config import TrainConfig
from edgeexit.training.early_stopping import EarlyStopping
from edgeexit.training.methods import Method, create
from edgeexit.training.modes import phase_module, set_modes
from edgeexit.training.progress import Progress, silent
from edgeexit.training.reuse import take_over
from edgeexit.training.schedule import learning_rate
from edgeexit.training.step import PhaseStep, Sums
from edgeexit.training.strategies import Phase, phases

EVALUATION_BATCH = 500


def run_training(
    model: MultiExitModel,
    data: Splits,
    config: TrainConfig,
    *,
    output: Path | None,
    reuse: Path | None = None,
    progress: Progress = silent,
) -> tuple[EpochRecord, ...]:
    """`edgeexit.training.train` with its options checked: see there."""
    _check_data(model, data)
    AcceleratorState._reset_state()  # it refuses another precision than a run before had
    accelerator = Accelerator(mixed_precision=config.precision)
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise ArgumentError(
            "fp16 needs a GPU", wanted="precision no or bf16 on a CPU", given="precision='fp16'"
        )
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise ArgumentError(
            "a batch cannot be shared evenly",
            wanted=f"batch_size divisible by {parts} (processes times accumulate)",
            given=f"batch_size={config.batch_size}",
        )
    method = create(config.method, config.method_options)
    if config.accumulate > 1 and not method.accumulates:
        raise ArgumentError(
            f"method {config.method!r} needs whole batches",
            wanted="accumulate=1",
            given=f"accumulate={config.accumulate}",
            hint="lower the batch size instead",
        )
    method.rebuild(model)
    with sound_convolutions(convolutions_of(model), accelerator.device):
        run = _Run(model, data, config, method, output, accelerator, progress)
        return run.from_start_to_end(reuse)


class _Run:
    """One run: what stays the same from its first batch to its last."""

    def __init__(
        self,
        model: MultiExitModel,
        data: Splits,
        config: TrainConfig,
        method: Method,
        output: Path | None,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.model = model
        self.data = data
        self.config = config
        self.method = method
        self.output = output
        self.accelerator = accelerator
        self.progress = progress
        self.frozen = [p for p in model.parameters() if not p.requires_grad]
        self.frozen_norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            and any(True for _ in module.parameters())
            and not any(p.requires_grad for p in module.parameters())
        ]
        self.fingerprint = _fingerprint(model, data)
        memory_format = settle_memory_format(model, data.image_shape, accelerator.device)
        self.train_split = training_samples(
            data.train,
            data.preprocessing,
            accelerator.device,
            memory_format,
            batch_size=config.batch_size,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        self.watched = to_device(
            data.calibration, data.preprocessing, accelerator.device, memory_format
        )
        self.steps = num_batches(self.train_split, config.batch_size)
        self.macs = macs_per_sample(model, self.train_split.real(self.train_split.images[:1]))
        self.plan = phases(
            config.phase_shares,
            epochs=config.epochs,
            unit=config.budget,
            learning_rate=config.learning_rate,
            steps_per_epoch=self.steps,
            macs=self.macs,
        )

    def from_start_to_end(self, reuse: Path | None) -> tuple[EpochRecord, ...]:
        """All phases and what comes after; a run that fails leaves its network like one that ends.

        It can be trained again then, and nothing is taken for frozen that a phase has frozen.
        """
        try:
            state = self._all_phases(reuse)
        finally:
            self.method.take_off(self.model)
            self.model.requires_grad_(True)
            self._keep_frozen()
        return self._finish(state)

    def _all_phases(self, reuse: Path | None) -> RunState:
        state = None
        if self.output is not None:
            state = read_state(self.output, self.config, self.fingerprint, self._lengths())
        if state is None and reuse is not None:
            state = self._reused(reuse)
        state = state or RunState(0, 0, 0, (), (), (), {})
        for index in range(min(state.phase, len(self.plan) - 1), len(self.plan)):
            self.method.start_phase(self.model, self.plan[index].name)
            if state.tensors:
                self._load(state)
            if index == state.phase:
                state = self.one_phase(index, self.plan[index], state)
        return state

    def _finish(self, state: RunState) -> tuple[EpochRecord, ...]:
        self._share_weights()
        self.method.finish(self.model, self._unaugmented)
        if self.output is not None and self.accelerator.is_main_process:
            write_whole(self.output / "weights.safetensors", weights_bytes(self.model))
            report = json.dumps(self._report(state.log), indent=1)
            write_whole(self.output / "run.json", (report + "\n").encode())
        self.accelerator.wait_for_everyone()
        return state.log

    def _lengths(self) -> list[tuple[int, int]]:
        """Epochs and steps of each phase, and of an epoch at most."""
        return [(-(-p.num_steps // self.steps), min(self.steps, p.num_steps)) for p in self.plan]

    def _keep_frozen(self) -> None:
        """What its owner froze before the training stays as it was, statistics included."""
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        for norm in self.frozen_norms:
            norm.eval()

    def _load(self, state: RunState) -> None:
        try:
            self.model.load_state_dict(_part(state.tensors, "model"))
        except RuntimeError as exc:
            raise damaged_state(self.output, str(exc).splitlines()[-1].strip()) from exc

    def _reused(self, run: Path) -> RunState:
        self.method.start_phase(self.model, self.plan[0].name)
        log = take_over(
            run, self.output if self.accelerator.is_main_process else None,
            self.model, self.plan, self.config, self._identity(),
        )  # fmt: skip
        tensors = _tensors(self.model, {}, None)
        return self.save(RunState(len(by_phase(log)), 0, 0, log, (), (), tensors))

    def save(self, state: RunState) -> RunState:
        if self.output is not None and self.accelerator.is_main_process:
            write_state(self.output, self.config, self.fingerprint, state)
        return state

    def one_phase(self, index: int, phase: Phase, state: RunState) -> RunState:
        self._share_weights()
        set_modes(self.model, phase.name)
        self._keep_frozen()
        module = phase_module(self.model, phase.name)
        config = self.config
        schedule = (config.schedule, phase.learning_rate)
        step = PhaseStep(
            self.model,
            module,
            phase,
            rates=[learning_rate(*schedule, n, phase.num_steps) for n in range(phase.num_steps)],
            method=self.method,
            config=config,
            samples=self.train_split,
            augmentation=self.data.augmentation,
            epoch=self.order(index, 0),
            accelerator=self.accelerator,
        )
        _restore_momentum(step.optimizer, _part(state.tensors, "optimizer"), self.output)
        stopping = EarlyStopping(config.patience, state.best, state.waited)
        num_epochs = -(-phase.num_steps // self.steps)
        self.progress.phase(phase.name, num_epochs, self.steps, state.epoch)
        for epoch in range(state.epoch, num_epochs):
            if stopping.stop:
                break
            record = self.one_epoch(index, epoch, step, state)
            kept = _part(state.tensors, "kept")
            if stopping.improved(record.accuracy):
                kept = {name: value.clone() for name, value in self.model.state_dict().items()}
            log = (*state.log, record)
            tensors = _tensors(self.model, kept, step.optimizer)
            state = self.save(
                RunState(index, epoch + 1, 0, log, stopping.best, stopping.waited, tensors)
            )
            self.progress.epoch(record)
        kept = _part(state.tensors, "kept")
        if config.patience is not None and kept:
            self.model.load_state_dict(kept)
        if self.output is not None and self.accelerator.is_main_process:
            write_whole(phase_end(self.output, index, phase.name), weights_bytes(self.model))
        tensors = _tensors(self.model, {}, None)
        return self.save(RunState(index + 1, 0, 0, state.log, (), (), tensors))

    def order(self, index: int, epoch: int) -> EpochOrder:
        return epoch_order(
            self.train_split,
            self.data.augmentation,
            batch_size=self.config.batch_size,
            mixup=self.config.mixup,
            seed=(self.config.seed, index, epoch),
        )

    def one_epoch(self, index: int, epoch: int, step: PhaseStep, state: RunState) -> EpochRecord:
        config, phase, start = self.config, self.plan[index], time.perf_counter()
        set_modes(self.model, phase.name)
        self._keep_frozen()
        first = epoch * self.steps
        num_steps = min(self.steps, phase.num_steps - first)
        step.start_epoch(self.order(index, epoch), epoch, state.step)
        if state.step:
            self._restore_sums(step.sums, state.tensors)
        with step.running():
            filled = self.train_split.filled((config.seed, index, epoch), state.step)
            for done, _ in zip(range(state.step, num_steps), filled, strict=False):
                step(first + done, (config.seed, index, epoch, done))
                self.progress.step()
                if config.checkpoint_steps and (done + 1) % config.checkpoint_steps == 0:
                    self._save_within(index, epoch, done + 1, step, state)
        sums = self._all_sums(step.sums)
        self._check_finite(sums.loss, phase, epoch)
        part = phase_module(self.model, phase.name)
        return EpochRecord(
            phase=phase.name,
            epoch=epoch,
            num_epochs=-(-phase.num_steps // self.steps),
            learning_rate=step.rates[first + num_steps - 1],
            loss=float(sums.loss) / num_steps,
            train_accuracy=tuple(
                round(float(c) / (num_steps * config.batch_size), 6) for c in sums.correct
            ),
            accuracy=self._agreed(evaluate(part, self.watched, len(step.exits))),
            seconds=round(time.perf_counter() - start, 3),
        )

    def _save_within(
        self, index: int, epoch: int, done: int, step: PhaseStep, state: RunState
    ) -> None:
        """A checkpoint in the middle of an epoch: the sums so far go with it."""
        sums = self._all_sums(step.sums)
        self._check_finite(sums.loss, self.plan[index], epoch)
        tensors = _tensors(self.model, _part(state.tensors, "kept"), step.optimizer)
        tensors |= {"sums.loss": sums.loss.cpu(), "sums.correct": sums.correct.cpu()}
        self.save(RunState(index, epoch, done, state.log, state.best, state.waited, tensors))

    def _check_finite(self, loss: Tensor, phase: Phase, epoch: int) -> None:
        """Before a state is written, so that what is kept can be gone back to."""
        moving = [p for p in self.model.parameters() if p.requires_grad]
        finite = {
            "loss": bool(loss.isfinite()),
            "weights": all(bool(p.isfinite().all()) for p in moving),
        }
        if not all(finite.values()):
            raise TrainingError(
                "the training has diverged",
                wanted="a loss and weights that are finite numbers",
                given="not finite: " + ", ".join(name for name, ok in finite.items() if not ok),
                where=f"phase {phase.name!r}, epoch {epoch + 1}",
                hint="start again in another folder with a lower learning_rate",
            )

    def _share_weights(self) -> None:
        """All processes go on with the first one's network: a phase syncs what it moves alone."""
        if self.accelerator.num_processes == 1:
            return
        for value in self.model.state_dict().values():
            value.copy_(broadcast(value.contiguous()))

    def _agreed(self, accuracy: tuple[float, ...]) -> tuple[float, ...]:
        """The first process's: each has batch-norm statistics of its own, and all stop together."""
        if self.accelerator.num_processes == 1:
            return accuracy
        shared = torch.tensor(accuracy, dtype=torch.float64, device=self.accelerator.device)
        return tuple(broadcast(shared).tolist())

    def _all_sums(self, sums: Sums) -> Sums:
        """Over all processes."""
        return Sums(self.accelerator.reduce(sums.loss), self.accelerator.reduce(sums.correct))

    def _restore_sums(self, sums: Sums, tensors: dict[str, Tensor]) -> None:
        if self.accelerator.is_main_process:  # they hold the shares of all processes
            sums.loss.copy_(tensors["sums.loss"])
            sums.correct.copy_(tensors["sums.correct"])

    def _unaugmented(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.train_split.unaugmented(EVALUATION_BATCH)

    def _device_name(self) -> str:
        device = self.accelerator.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def _identity(self) -> dict[str, object]:
        """What a run must share with another, beside options, to train the same weights."""
        return {
            "fingerprint": self.fingerprint,
            "trained_with": {"torch": torch.__version__, "device": self._device_name()},
        }

    def _report(self, log: tuple[EpochRecord, ...]) -> dict[str, object]:
        """What ``run.json`` says: the configuration, what was planned and spent, and the log."""
        sample = [phase.num_steps * self.config.batch_size for phase in self.plan]
        planned = [count * self.macs[p.name] for count, p in zip(sample, self.plan, strict=True)]
        spent = 0
        for phase, records in zip(self.plan, by_phase(log), strict=False):
            for record in records:
                steps = min(self.steps, phase.num_steps - record.epoch * self.steps)
                spent += steps * self.config.batch_size * self.macs[phase.name]
        return {
            "config": dataclasses.asdict(self.config),
            "phases": [dataclasses.asdict(phase) for phase in self.plan],
            **self._identity(),
            "budget_macs": sum(planned),
            "spent_macs": spent,
            "log": [dataclasses.asdict(record) for record in log],
        }


def evaluate(model: nn.Module, samples: DeviceSamples, num_exits: int) -> tuple[float, ...]:
    """Accuracy of every exit on a split, in evaluation mode; the model's mode is restored.

    Args:
        model: Maps images to the logits of its exits.
        samples: The split.
        num_exits: How many exits that are.

    Returns:
        One number in [0, 1] for each exit.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    correct = torch.zeros(num_exits, dtype=torch.int64, device=samples.labels.device)
    with torch.no_grad():
        for start in range(0, len(samples.labels), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            logits = model(samples.real(samples.images[part]))
            correct += (torch.stack(logits).argmax(2) == samples.labels[part]).sum(1)
    for module, training in modes:
        module.training = training
    return tuple(c / len(samples.labels) for c in correct.tolist())


def _tensors(
    model: MultiExitModel, kept: dict[str, Tensor], optimizer: SGD | None
) -> dict[str, Tensor]:
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


def _restore_momentum(optimizer: SGD, momentum: dict[str, Tensor], folder: Path | None) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {str(position): parameter.shape for position, parameter in enumerate(parameters)}
    for position, value in momentum.items():
        if shapes.get(position) != value.shape:
            raise damaged_state(folder, f"no parameter for optimizer.{position}")
        parameter = parameters[int(position)]
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)


def _fingerprint(model: MultiExitModel, data: Splits) -> str:
    """Names a run's model and data, so that a state is not continued with others."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    facts = [
        *(sorted(shapes.items()), list(model.attach_points)),
        *(data.name, len(data.train), len(data.calibration)),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _check_data(model: MultiExitModel, data: Splits) -> None:
    if len(data.class_names) < 2:
        raise DataError(
            "there is nothing to classify",
            wanted="2 classes or more",
            given=f"{len(data.class_names)} in {data.name!r}",
        )
    if len(data.class_names) != model.num_classes:
        raise DataError(
            "the data has another number of classes than the model",
            wanted=f"{model.num_classes} classes",
            given=f"{len(data.class_names)} classes in {data.name!r}",
            hint=f"create the model with num_classes={len(data.class_names)}",
        )
    if len(data.calibration) == 0:
        raise DataError("the calibration split is empty", where=data.name)
