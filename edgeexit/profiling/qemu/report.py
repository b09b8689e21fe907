"""What a profile under QEMU says.

Instructions are exact and measured: the emulator executes them. Times and energies are modelled
from them (see `cost_model`) and are None where the target has no cost profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeexit.profiling.qemu.sections import Flash
from edgeexit.profiling.qemu.stack import Stack
from edgeexit.targets import Span


@dataclass(frozen=True)
class Cost:
    """Time and energy; see `QemuReport.cost_source`."""

    latency_us: Span
    energy_uj: Span | None
    source: Literal["modelled"] = "modelled"


@dataclass(frozen=True)
class QemuLayer:
    """One step and its kernel; ``instructions`` is the mean of the counted samples.

    ``instructions_per_mac`` is None where nothing is multiplied.
    """

    segment: int
    name: str
    kind: str
    kernel_set: str
    function: str
    macs: int
    instructions: float
    instructions_per_mac: float | None
    cost: Cost | None


@dataclass(frozen=True)
class QemuSegment:
    """One segment: ``instructions`` of its layers, and of what follows them.

    ``decision_instructions`` are those of the exit's rule; ``overhead_instructions`` are all of
    ``ee_step`` that is not the segment, the decision included. Means of the counted samples.
    """

    index: int
    macs: int
    instructions: float
    decision_instructions: float
    overhead_instructions: float
    cost: Cost | None


@dataclass(frozen=True)
class QemuExit:
    """The samples that left at one exit: their share, how many were right, and their mean cost.

    ``instructions`` is of ``ee_run``, None if no sample left here.
    """

    index: int
    num_samples: int
    rate: float
    accuracy: float | None
    instructions: float | None
    cost: Cost | None


@dataclass(frozen=True)
class QemuSample:
    """One sample: what ``ee_run`` answered, and the instructions that it took."""

    label: int
    exit: int
    instructions: int


@dataclass(frozen=True)
class QemuReport:
    """A program on an emulated core.

    ``mean_instructions`` is over all samples, each run to the exit that answered.
    ``full_instructions`` is the mean of the counted samples with every segment run;
    ``instructions_per_mac`` divides it by ``macs``, the program's multiplications.
    ``cost_source`` says what times and energies are modelled from, at which clock and supply.
    """

    model: str
    core: str
    machine: str
    compiler: str
    emulator: str
    num_samples: int
    num_counted: int
    accuracy: float | None
    macs: int
    mean_instructions: float
    full_instructions: float
    instructions_per_mac: float | None
    mean_cost: Cost | None
    full_cost: Cost | None
    cost_source: str | None
    exits: tuple[QemuExit, ...]
    segments: tuple[QemuSegment, ...]
    layers: tuple[QemuLayer, ...]
    flash: Flash
    arena_bytes: int
    arena_lower_bound_bytes: int
    stack: Stack
    samples: tuple[QemuSample, ...]


@dataclass(frozen=True)
class QemuProfile:
    """A bundle on an emulated target, beside its network without early exits.

    ``dataset`` says what the samples are, with their split. ``instructions_ratio`` is the chain's
    mean over that of ``static``: below one, the exits pay.
    ``cost_profile`` names the profile that times and energies are modelled from, and ``note`` says
    how the emulated core differs from the target's.
    """

    bundle: str
    target: str
    operating_point: str
    dataset: str | None
    cost_profile: str | None
    note: str | None
    chain: QemuReport
    static: QemuReport | None
    instructions_ratio: float | None
