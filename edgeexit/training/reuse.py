"""Takes over the first phases of another run, where this run would only repeat them.

Two runs whose strategies begin alike, such as mixed and disjoint with the same share for the
backbone, train the same weights up to where they part, to the bit. Whoever compares what comes
after has to train that part once only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from edgeexit.errors import CheckpointError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import read_weights, weights_bytes
from edgeexit.training.checkpoint import (
    UNREADABLE,
    EpochRecord,
    by_phase,
    phase_end,
    record_of,
    write_whole,
)
from edgeexit.training.config import TrainConfig
from edgeexit.training.strategies import Phase

_MAY_DIFFER = {
    "strategy", "epochs", "budget", "backbone_share", "second_phase_rate", "checkpoint_steps",
}  # fmt: skip
"""Options that say which phases there are, which is compared itself, or that change nothing."""

_MAX_REPORT_BYTES = 1 << 26


def take_over(
    run: Path,
    output: Path | None,
    model: MultiExitModel,
    plan: Sequence[Phase],
    config: TrainConfig,
    identity: Mapping[str, Any],
) -> tuple[EpochRecord, ...]:
    """Takes over the first phases that a finished run has in common with this one.

    Args:
        run: The folder of the finished run.
        output: The folder of this run, which gets the weights at the end of each of these phases.
        model: Its weights become those at the end of the last of them.
        plan: The phases of this run.
        config: The options of this run.
        identity: ``fingerprint`` and ``trained_with`` as this run's ``run.json`` will hold them.

    Returns:
        The log of these phases.

    Raises:
        CheckpointError: The run is not finished, is damaged, or has nothing in common with this.
        StorageError: ``output`` cannot be written.
    """
    path = run / "run.json"
    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            raise ValueError("it is too large")
        report = json.loads(path.read_bytes())
        theirs = {**report["config"], **{key: report.get(key) for key in identity}}
        phases = [Phase(**phase) for phase in report["phases"]]
        logs = by_phase([record_of(entry) for entry in report["log"]])
    except UNREADABLE as exc:
        raise CheckpointError(
            "the run whose phases are wanted cannot be read",
            wanted="the folder of a finished run, with its run.json",
            given=exc,
            where=run,
            hint="let that run finish, or train without reuse",
        ) from exc
    differing = [
        f"{key}: {theirs.get(key)!r} -> {value!r}"
        for key, value in {**dataclasses.asdict(config), **identity}.items()
        if key not in _MAY_DIFFER and theirs.get(key) != value
    ]
    trios = zip(plan, phases, logs, strict=False)
    common = list(takewhile(lambda trio: trio[0] == trio[1], trios))
    if differing or not common:
        raise CheckpointError(
            "this run does not begin like the one whose phases are wanted",
            wanted="the same model, data, machine and options, and the same first phase",
            given="; ".join(differing) or f"first {phases[:1]} there, {list(plan[:1])} here",
            where=run,
            hint="make the options agree, or train without reuse",
        )
    for index, (phase, _, _) in enumerate(common):
        read_weights(phase_end(run, index, phase.name), model)
        if output is not None:
            write_whole(phase_end(output, index, phase.name), weights_bytes(model))
    return tuple(record for _, _, log in common for record in log)
