"""Measures a bundle on this machine, beside the same network without early exits.

Chain and static network take turns on every sample, and who begins changes with every round, so
that a busy machine or a warming processor slows both alike. End-to-end times are taken without
timers inside; segment times come from rounds of their own. The garbage collector rests meanwhile.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError, DataError
from edgeexit.profiling.report import Device, ExitProfile, Report, SegmentProfile, measured
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.engines import ENGINES, engine_info, needed_artifacts
from edgeexit.runtime.session import Session
from edgeexit.types import Result


def profile_host(
    bundle: Bundle,
    samples: NDArray[np.uint8] | NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    engine: str = "litert",
    operating_point: str | None = None,
    dataset: str | None = None,
    num_threads: int = 1,
    warmup: int = 50,
    rounds: int = 5,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Profiles a bundle on the machine that runs this.

    Args:
        bundle: What to profile.
        samples: Raw images, ``[num_samples, height, width, channels]``. Every one is run on its
            own, as a device would; how early it leaves decides the times, so take them from the
            split that the report shall speak of.
        labels: int64 ``[num_samples]``; without them the report has no accuracy.
        engine: What executes the segments.
        operating_point: One of the bundle's points; ``balanced``, or the first, if None.
        dataset: What the report calls the samples: a data set and its split.
        num_threads: Threads that the engine may use.
        warmup: Runs of each network before anything is measured.
        rounds: How often every sample is measured, end to end and then by segment.
        progress: Told what is being done, how many passes over the samples are done, and how many
            there are; never while a time is taken.

    Returns:
        A report whose times are all measured.

    Raises:
        ArgumentError: A number is not positive, or samples and labels differ in length.
        DataError: A label is none of the bundle's classes.
        EngineError: The engine is missing or failed.
    """
    for name, value in (
        ("rounds", rounds),
        ("num_threads", num_threads),
        ("samples", len(samples)),
    ):
        if value < 1:
            raise ArgumentError(f"{name} must be at least 1", given=f"{name}={value}")
    if warmup < 0:
        raise ArgumentError("warmup must not be negative", given=f"{warmup=}")
    if labels is not None and len(labels) != len(samples):
        raise ArgumentError(
            "samples and labels differ in length",
            wanted=f"{len(samples)} labels",
            given=f"{len(labels)} labels",
        )
    num_classes = bundle.manifest.num_classes
    if labels is not None and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            "the labels are of other classes than the bundle's",
            wanted=f"0 to {num_classes - 1}",
            given=f"{labels.min()} to {labels.max()}",
        )

    def tell(num_done: int) -> None:
        if progress is not None:
            progress("profile on host", num_done, 1 + 2 * rounds)

    tell(0)
    chain = Session(bundle, engine=engine, operating_point=operating_point, num_threads=num_threads)
    static = _static_session(bundle, engine, num_threads)
    for index in range(warmup):
        sample = samples[index % len(samples)]
        chain.run(sample)
        if static is not None:
            static.run(sample)

    # results[i] is the same in every round: an engine that is asked twice answers twice the same.
    results = [chain.run(sample) for sample in samples]
    static_results = None if static is None else [static.run(sample) for sample in samples]
    with _no_garbage_collection():
        chain_ns: list[list[int]] = [[] for _ in samples]
        static_ns: list[int] = []
        for turn in range(rounds):
            tell(1 + turn)
            _end_to_end(chain, static, samples, turn, chain_ns, static_ns)
        segment_ns: list[list[int]] = [[] for _ in bundle.manifest.segments]
        for turn in range(rounds):
            tell(1 + rounds + turn)
            _by_segment(chain, samples, segment_ns)

    manifest = bundle.manifest
    macs = np.cumsum([segment.macs for segment in manifest.segments])
    mean_macs = float(np.mean([macs[result.exit] for result in results]))
    chain_latency = measured([t for times in chain_ns for t in times])
    static_latency = measured(static_ns) if static_ns else None
    return Report(
        bundle=manifest.name,
        operating_point=str(chain.operating_point),
        dataset=dataset,
        device=_device(engine, num_threads),
        num_samples=len(samples),
        warmup=warmup,
        rounds=rounds,
        accuracy=_accuracy(results, labels),
        static_accuracy=None if static_results is None else _accuracy(static_results, labels),
        macs=mean_macs,
        static_macs=manifest.static_macs,
        macs_saved=1 - mean_macs / manifest.static_macs,
        chain=chain_latency,
        static=static_latency,
        p50_ratio=chain_latency.p50_ns / static_latency.p50_ns if static_latency else None,
        mean_ratio=chain_latency.mean_ns / static_latency.mean_ns if static_latency else None,
        segments=tuple(
            SegmentProfile(
                segment.index,
                segment.exit_name,
                segment.macs,
                measured(times) if times else None,
            )
            for segment, times in zip(manifest.segments, segment_ns, strict=True)
        ),
        exits=tuple(
            _exit_profile(index, segment.exit_name, int(macs[index]), results, labels, chain_ns)
            for index, segment in enumerate(manifest.segments)
        ),
    )


def _static_session(bundle: Bundle, engine: str, num_threads: int) -> Session | None:
    """The network without early exits, or None where the bundle does not carry it."""
    if not needed_artifacts(bundle.manifest, engine_info(engine).backend, static=True):
        return None
    return Session(bundle, engine=engine, num_threads=num_threads, static=True)


def _end_to_end(
    chain: Session,
    static: Session | None,
    samples: NDArray[Any],
    turn: int,
    chain_ns: list[list[int]],
    static_ns: list[int],
) -> None:
    """Adds times from raw image to answer: the chain's by sample, the static network's flat."""
    for index, sample in enumerate(samples):
        if static is None:
            chain_ns[index].append(_time(chain, sample))
        elif turn % 2:
            static_ns.append(_time(static, sample))
            chain_ns[index].append(_time(chain, sample))
        else:
            chain_ns[index].append(_time(chain, sample))
            static_ns.append(_time(static, sample))


def _time(session: Session, sample: NDArray[Any]) -> int:
    start = perf_counter_ns()
    session.run(sample)
    return perf_counter_ns() - start


def _by_segment(chain: Session, samples: NDArray[Any], segment_ns: list[list[int]]) -> None:
    """Adds the times of each segment."""
    for sample in samples:
        for index, spent in enumerate(chain.run(sample, timings=True).segment_ns):
            segment_ns[index].append(spent)


def _exit_profile(
    index: int,
    name: str,
    macs: int,
    results: Sequence[Result],
    labels: NDArray[np.int64] | None,
    chain_ns: Sequence[Sequence[int]],
) -> ExitProfile:
    left = [sample for sample, result in enumerate(results) if result.exit == index]
    times = [time for sample in left for time in chain_ns[sample]]
    return ExitProfile(
        index=index,
        name=name,
        num_samples=len(left),
        rate=len(left) / len(results),
        accuracy=None
        if labels is None
        else _accuracy([results[sample] for sample in left], labels[left]),
        macs=macs,
        latency=measured(times) if times else None,
    )


def _accuracy(results: Sequence[Result], labels: NDArray[np.int64] | None) -> float | None:
    if labels is None or not results:
        return None
    return float(np.mean([r.label == label for r, label in zip(results, labels, strict=True)]))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _device(engine: str, num_threads: int) -> Device:
    package = ENGINES[engine].module.partition(".")[0]
    distributions = importlib.metadata.packages_distributions().get(package)
    return Device(
        transport="host",
        cpu=_cpu_name(),
        num_cpus=os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        engine=engine,
        engine_version=importlib.metadata.version(distributions[0]) if distributions else None,
        num_threads=num_threads,
    )


def _cpu_name() -> str | None:
    """The processor's name as Linux gives it, which is not everywhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None
