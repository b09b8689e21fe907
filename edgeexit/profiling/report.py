"""What a profile says. A missing number is None, never zero; a figure says where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Source = Literal["measured", "modelled"]


@dataclass(frozen=True)
class Latency:
    """The distribution of a time over ``num_runs`` runs, in nanoseconds."""

    source: Source
    num_runs: int
    mean_ns: float
    p50_ns: float
    p95_ns: float
    p99_ns: float


@dataclass(frozen=True)
class Device:
    """Where the numbers are from."""

    transport: str
    cpu: str | None
    num_cpus: int | None
    system: str
    engine: str
    engine_version: str | None
    num_threads: int


@dataclass(frozen=True)
class SegmentProfile:
    """One segment, on the samples that reached it.

    ``latency`` holds its kernels, its decision and the copies to the next segment. The timers add
    to it, so that segments sum up to more than the whole that was timed without them.
    """

    index: int
    exit_name: str
    macs: int
    latency: Latency | None


@dataclass(frozen=True)
class ExitProfile:
    """The samples that left at one exit.

    ``rate`` is their share of all samples, ``accuracy`` the share of them that was right, ``macs``
    what one of them costs, and ``latency`` their time from raw image to answer.
    """

    index: int
    name: str
    num_samples: int
    rate: float
    accuracy: float | None
    macs: int
    latency: Latency | None


@dataclass(frozen=True)
class Report:
    """A profile of one bundle with one engine at one operating point.

    ``chain`` and ``static`` are times from raw image to answer, of the early-exit chain and of the
    network without early exits, over the same samples. ``p50_ratio`` and ``mean_ratio`` are chain
    over static: below one, the exits pay. ``dataset`` says what the samples are, with their split.
    """

    bundle: str
    operating_point: str
    dataset: str | None
    device: Device
    num_samples: int
    warmup: int
    rounds: int
    accuracy: float | None
    static_accuracy: float | None
    macs: float
    static_macs: int
    macs_saved: float
    chain: Latency
    static: Latency | None
    p50_ratio: float | None
    mean_ratio: float | None
    segments: tuple[SegmentProfile, ...]
    exits: tuple[ExitProfile, ...]


def measured(times_ns: Sequence[int]) -> Latency:
    """Summarises wall-clock times, of which there must be at least one."""
    p50, p95, p99 = np.percentile(times_ns, (50, 95, 99))
    return Latency(
        source="measured",
        num_runs=len(times_ns),
        mean_ns=float(np.mean(times_ns)),
        p50_ns=float(p50),
        p95_ns=float(p95),
        p99_ns=float(p99),
    )
