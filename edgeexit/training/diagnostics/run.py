"""Diagnoses a training run by what it left in its folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from edgeexit.data.types import Splits
from edgeexit.errors import CheckpointError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import read_weights
from edgeexit.training.diagnostics.report import Progress, diagnose, silent
from edgeexit.training.diagnostics.results import Diagnostics
from edgeexit.training.diagnostics.settings import Settings


def diagnose_run(
    folder: Path,
    model: MultiExitModel,
    splits: Splits,
    output: Path,
    *,
    settings: Settings | None = None,
    progress: Progress = silent,
) -> Diagnostics:
    """Diagnoses a run that has just ended, and compares the ends of its phases.

    The ends are ``FOLDER/phases/NUMBER_PHASE.safetensors``; the last three are compared. Where they
    are missing, or are of a network that the training method changed afterwards, the summary says
    so, and the trained network is diagnosed alone.

    Args:
        folder: The run's folder.
        model: The trained network; not changed.
        splits: What it was trained on.
        output: The folder to make; one that is there is replaced.
        settings: How much is looked at.
        progress: Hears of every step.

    Raises:
        DataError: As `diagnose`.
        StorageError: ``output`` cannot be written.
        ModuleNotFoundError: matplotlib is not installed (extra ``report``).
    """
    networks, reason = phase_ends(folder, model)
    if not networks:
        networks = {folder.resolve().name: model}
    names = list(networks)
    first, other, third = (*networks.values(), None, None)[:3]
    assert first is not None
    return diagnose(
        first,
        splits,
        output,
        other=other,
        third=third,
        names=names,
        settings=settings,
        replace=True,
        left_out={} if reason is None else {"mode_connectivity": reason},
        progress=progress,
    )


def phase_ends(folder: Path, model: MultiExitModel) -> tuple[dict[str, MultiExitModel], str | None]:
    """The networks at the ends of the last phases of a run, at most three.

    Args:
        folder: The run's folder.
        model: The trained network; not changed.

    Returns:
        Name of the phase's file -> the network at its end, the last phase first, and None; or
        nothing, and the reason why there is nothing to compare.
    """
    paths = sorted(
        (folder / "phases").glob("*_*.safetensors"), key=lambda p: int(p.stem.partition("_")[0])
    )
    paths = paths[-1:-4:-1]
    if len(paths) < 2:
        return {}, f"the run left the ends of {len(paths)} phases; there is nothing to compare"
    try:
        networks = {path.stem: with_weights(model, path) for path in paths}
    except CheckpointError as exc:
        return {}, f"the end of a phase is not of this network: {exc.problem}"
    if not _differ(list(networks.values())):
        return {}, "two phases ended with the same weights"
    if not _same_state(next(iter(networks.values())), model):
        return {}, "the method changed the network after its last phase"
    return networks, None


def with_weights(model: MultiExitModel, path: Path) -> MultiExitModel:
    """A copy of a network with the weights of a safetensors file.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
    """
    made = copy.deepcopy(model)
    read_weights(path, made)
    return made


def _same_state(one: MultiExitModel, other: MultiExitModel) -> bool:
    """Whether all parameters and buffers are equal."""
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def _differ(networks: Sequence[MultiExitModel]) -> bool:
    """Whether no two of them have the same parameters."""
    states = [
        torch.cat([p.detach().reshape(-1) for p in network.parameters()]) for network in networks
    ]
    return not any(torch.equal(a, b) for place, a in enumerate(states) for b in states[place + 1 :])
