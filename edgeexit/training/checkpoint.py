"""What a run leaves on disk.

    OUTPUT/
      resume.safetensors   weights, optimizer state and the log so far, rewritten at each checkpoint
      phases/              the weights at the end of each phase, such as 0_backbone.safetensors
      weights.safetensors  the weights, when the run is done
      run.json             configuration and log, when the run is done

The state of a run is one file, so that a kill at any moment leaves one checkpoint or the next and
never half of one: its JSON part travels in the safetensors header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgeexit.errors import ArgumentError, CheckpointError, StorageError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import read_weights
from edgeexit.training.config import TrainConfig
from edgeexit.training.methods import Method, create

FORMAT = 2

UNREADABLE = (
    SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError,
)  # fmt: skip
"""What parsing a damaged file of a run may raise."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of the log.

    ``loss`` is the mean training loss in nats; ``train_accuracy`` is measured on the augmented
    batches as they were trained on, ``accuracy`` on the calibration split. Both have one number for
    each exit that the phase trains, or for all exits. ``seconds`` is wall-clock time.
    """

    phase: str
    epoch: int
    num_epochs: int
    learning_rate: float
    loss: float
    train_accuracy: tuple[float, ...]
    accuracy: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class RunState:
    """Where a run stands: ``phase`` and ``epoch`` are the next ones to do, ``step`` the next step.

    ``best`` and ``waited`` belong to early stopping: the best accuracy of each head in this phase
    and how many epochs ago it was. ``tensors`` holds ``model.*``, ``kept.*`` (the weights that
    early stopping would go back to) and ``optimizer.*``; within an epoch ``sums.*`` too.
    """

    phase: int
    epoch: int
    step: int
    log: tuple[EpochRecord, ...]
    best: tuple[float, ...]
    waited: tuple[int, ...]
    tensors: dict[str, Tensor]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it there.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as exc:
        raise StorageError(
            "a file could not be written",
            given=exc,
            where=path,
            hint="free space or choose a folder",
        ) from exc
    finally:
        beside.unlink(missing_ok=True)


def phase_end(folder: Path, index: int, name: str) -> Path:
    """The file with the weights at the end of a phase."""
    return folder / "phases" / f"{index}_{name}.safetensors"


def by_phase(log: Sequence[EpochRecord]) -> list[list[EpochRecord]]:
    """The log of each phase; a strategy may have a phase twice, so its name does not tell.

    Raises:
        IndexError: It does not begin with a first epoch.
    """
    parts: list[list[EpochRecord]] = []
    for record in log:
        if record.epoch == 0:
            parts.append([])
        parts[-1].append(record)
    return parts


def write_state(folder: Path, config: TrainConfig, fingerprint: str, state: RunState) -> None:
    """Replaces ``resume.safetensors``."""
    header = {
        "format": FORMAT,
        "config": asdict(config),
        "fingerprint": fingerprint,
        "phase": state.phase,
        "epoch": state.epoch,
        "step": state.step,
        "log": [asdict(record) for record in state.log],
        "best": state.best,
        "waited": state.waited,
    }
    content = save(state.tensors, metadata={"edgeexit": json.dumps(header)})
    write_whole(folder / "resume.safetensors", content)


def read_state(
    folder: Path, config: TrainConfig, fingerprint: str, lengths: Sequence[tuple[int, int]]
) -> RunState | None:
    """The state of an interrupted run, or None where there is none.

    Args:
        folder: Of the run.
        config: Its options.
        fingerprint: Of its model and data.
        lengths: Epochs of each phase, and the most steps of one of them.

    Raises:
        CheckpointError: The file is damaged, or belongs to a run with other options, model or data.
    """
    path = folder / "resume.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["edgeexit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        log = tuple(record_of(entry) for entry in header["log"])
        written_as, options = header["format"], dict(header["config"])
        state = RunState(
            int(header["phase"]),
            int(header["epoch"]),
            int(header["step"]),
            log,
            tuple(map(float, header["best"])),
            tuple(map(int, header["waited"])),
            tensors,
        )
        same_kind = header["fingerprint"] == fingerprint
    except UNREADABLE as exc:
        raise damaged_state(folder, exc) from exc
    if written_as != FORMAT:
        raise CheckpointError(
            "the interrupted run was written by another version",
            wanted=f"format {FORMAT}",
            given=f"format {written_as!r}",
            where=path,
            hint="continue it with that version, or start it again in another folder",
        )
    wanted = asdict(config)
    if options != wanted or not same_kind:
        changed = [
            f"{key}: {options.get(key)!r} -> {wanted.get(key)!r}"
            for key in (*wanted, *(key for key in options if key not in wanted))
            if options.get(key) != wanted.get(key)
        ]
        raise CheckpointError(
            "the folder holds an interrupted run of another kind",
            wanted="the options, model and data of that run",
            given="; ".join(changed) or "another model or other data",
            where=path,
            hint="repeat its options, or choose another output folder",
        )
    num_epochs, num_steps = (*lengths, (0, 0))[min(max(state.phase, 0), len(lengths))]
    if not (
        0 <= state.phase <= len(lengths)
        and 0 <= state.epoch <= num_epochs
        and 0 <= state.step <= num_steps
        and (state.step == 0 or {"sums.loss", "sums.correct"} <= tensors.keys())
    ):
        raise damaged_state(
            folder, f"phase {state.phase}, epoch {state.epoch}, step {state.step} do not exist"
        )
    return state


def damaged_state(folder: Path | None, reason: object) -> CheckpointError:
    """What is said of a state that cannot be continued."""
    return CheckpointError(
        "the state of the interrupted run cannot be read",
        given=reason,
        where=None if folder is None else folder / "resume.safetensors",
        hint="delete it to start the run again",
    )


def record_of(entry: dict[str, Any]) -> EpochRecord:
    """A line of a log that was read from JSON; KeyError or TypeError if it is none."""
    record = EpochRecord(**{field.name: entry[field.name] for field in fields(EpochRecord)})
    return EpochRecord(
        **{
            **asdict(record),
            "train_accuracy": tuple(record.train_accuracy),
            "accuracy": tuple(record.accuracy),
        }
    )


def load_checkpoint(folder: Path | str, model: MultiExitModel) -> None:
    """Loads the weights of a finished run into a model that was built as it was for training.

    What the run's method adds to a network (``ztw``, ``gpf``, ``e2cm``) is added first.

    Raises:
        CheckpointError: The run is not finished, its ``run.json`` is damaged, or the weights do not
            fit.
    """
    folder = Path(folder)
    path = folder / "weights.safetensors"
    if not path.exists() and (folder / "resume.safetensors").exists():
        raise CheckpointError(
            "the run in this folder is not finished",
            where=folder,
            hint="run the same `edgeexit train` command again with --resume",
        )
    if (folder / "run.json").exists():
        _method_of(folder).rebuild(model)
    read_weights(path, model)


def _method_of(folder: Path) -> Method:
    """The method that a finished run was trained with."""
    path = folder / "run.json"
    try:
        config = json.loads(path.read_bytes())["config"]
        return create(config["method"], config["method_options"])
    except (*UNREADABLE, ArgumentError) as exc:
        raise CheckpointError(
            "the report of the run cannot be read",
            wanted="run.json as the training left it",
            given=exc,
            where=path,
            hint="copy the whole folder again, or train again",
        ) from exc
