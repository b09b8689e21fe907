"""Trains multi-exit models: strategies, losses, loop and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeexit.data.types import Splits
from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.checkpoint import EpochRecord, load_checkpoint
from edgeexit.training.config import TrainConfig
from edgeexit.training.loop import run_training
from edgeexit.training.progress import Progress, silent

__all__ = ["EpochRecord", "Progress", "TrainConfig", "load_checkpoint", "train"]


def train(
    model: MultiExitModel,
    data: Splits,
    *,
    output: Path | str | None = None,
    reuse: Path | str | None = None,
    progress: Progress = silent,
    **options: Any,
) -> tuple[EpochRecord, ...]:
    """Trains a model in place.

    With ``output``, weights and log are left there, and a run that was killed continues where it
    stood when it is started again with the same options; one process resumes to the same bits.
    Under ``torchrun`` several processes share each batch (batch norm then sees a process's share).
    torch's own generator is seeded anew for each step.

    Args:
        model: What `attach_exits` or the zoo made.
        data: The training split is trained on, the calibration split is watched; the test split is
            not looked at.
        output: Folder of this run, or None to keep nothing.
        reuse: Folder of a finished run whose first phases this run would repeat; they are taken
            over from there and not trained again.
        progress: Hears of every batch and epoch.
        **options: Fields of `TrainConfig`, such as ``strategy="mixed"`` and ``epochs=50``.

    Returns:
        The log, a record for each epoch.

    Raises:
        ArgumentError: An option is unknown or out of range.
        DataError: The data does not fit the model.
        CheckpointError: ``output`` holds a run of another kind, or ``reuse`` a run that does not
            begin like this one.
        StorageError: ``output`` cannot be written.
    """
    known = TrainConfig.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ArgumentError(
            "unknown training option", wanted=", ".join(known), given=", ".join(unknown)
        )
    return run_training(
        model,
        data,
        TrainConfig(**options),
        output=None if output is None else Path(output),
        reuse=None if reuse is None else Path(reuse),
        progress=progress,
    )
