"""Takes over the first phases of another run, where this run would only repeat them.

Two runs whose strategies begin alike, such as mixed and disjoint with the same share for the
backbone, train the same weights up to where they part, to the bit. Whoever compares what comes
after has to train that part once only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeexit.errors import CheckpointError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import read_weights
from edgeexit.training.checkpoint import EpochRecord, RunState, record_of, write_whole
from edgeexit.training.config import TrainConfig
from edgeexit.training.strategies import Phase

_MAY_DIFFER = {
    "strategy", "epochs", "budget", "backbone_share", "second_phase_rate", "checkpoint_steps",
}  # fmt: skip
"""Options that say which phases there are, which is compared itself, or that change nothing."""

_MAX_REPORT_BYTES = 1 << 26


def reused_state(
    run: Path,
    model: MultiExitModel,
    plan: Sequence[Phase],
    config: TrainConfig,
    identity: Mapping[str, Any],
) -> RunState:
    """The state after the first phases that a finished run has in common with this one.

    Args:
        run: The folder of the finished run.
        model: Its weights become those at the end of these phases.
        plan: The phases of this run.
        config: The options of this run.
        identity: ``fingerprint`` and ``trained_with`` as this run's ``run.json`` will hold them.

    Raises:
        CheckpointError: The run is not finished, is damaged, or has nothing in common with this.
    """
    path = run / "run.json"
    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            raise ValueError("it is too large")
        report = json.loads(path.read_bytes())
        options = dict(report["config"])
        phases = [Phase(**phase) for phase in report["phases"]]
        records = _by_phase([record_of(entry) for entry in report["log"]])
        known = {key: report.get(key) for key in identity}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        IndexError,
    ) as exc:
        raise CheckpointError(
            "the run whose phases are wanted cannot be read",
            wanted="the folder of a finished run, with its run.json",
            given=exc,
            where=run,
            hint="let that run finish, or train without reuse",
        ) from exc
    mine = {**dataclasses.asdict(config), **identity}
    theirs = {**options, **known}
    differing = [
        f"{key}: {theirs.get(key)!r} -> {value!r}"
        for key, value in mine.items()
        if key not in _MAY_DIFFER and theirs.get(key) != value
    ]
    count = 0
    while count < min(len(plan), len(phases)) and plan[count] == phases[count]:
        count += 1
    count = min(count, len(records))
    if differing or not count:
        raise CheckpointError(
            "this run does not begin like the one whose phases are wanted",
            wanted="the same model, data, machine and options, and the same first phase",
            given="; ".join(differing) or f"first {phases[:1]} there, {list(plan[:1])} here",
            where=run,
            hint="make the options agree, or train without reuse",
        )
    read_weights(_weights_of(run, phases, count - 1), model)
    tensors = {
        f"model.{name}": value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
    log = tuple(record for part in records[:count] for record in part)
    return RunState(count, 0, 0, log, (), (), tensors)


def copy_phases(run: Path, output: Path, plan: Sequence[Phase], count: int) -> None:
    """Leaves the ends of the first ``count`` phases in ``output``, as if they were trained there.

    Raises:
        StorageError: ``output`` cannot be written.
    """
    for index in range(count):
        end = _weights_of(run, plan, index)
        write_whole(output / "phases" / end.name, end.read_bytes())


def _weights_of(run: Path, phases: Sequence[Phase], index: int) -> Path:
    return run / "phases" / f"{index}_{phases[index].name}.safetensors"


def _by_phase(log: Sequence[EpochRecord]) -> list[list[EpochRecord]]:
    """The log of each phase; a strategy may have a phase twice, so its name does not tell."""
    parts: list[list[EpochRecord]] = []
    for record in log:
        if record.epoch == 0:
            parts.append([])
        parts[-1].append(record)
    return parts
