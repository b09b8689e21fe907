"""Emulations of ``scripts/bench mcu``: two at a time, and each result kept, so that a benchmark
that was interrupted goes on where it was.

A result is kept under a hash of everything that it follows from: the program, the sources of its
kernels and of the runtime, the inputs, and the versions of compiler and emulator.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeexit.backends.c.cmsis_nn_sources import CmsisNn
from edgeexit.backends.c.emit import Emission
from edgeexit.data import default_cache
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import count_segments
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.run import run_firmware
from edgeexit.profiling.qemu.sections import measure_flash
from edgeexit.profiling.qemu.toolchain import compiler, emulator, tool_version
from edgeexit.resources import resource_folder

NUM_COUNTED = 3
NUM_WORKERS = 2
_TIMEOUT_S = 3600.0


@dataclass(frozen=True, eq=False)
class Job:
    """A program, where it runs, and what it has to answer."""

    key: tuple[str, ...]
    emission: Emission
    core: str
    inputs: NDArray[np.int8]
    expected: NDArray[np.int8] | None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """``mismatches``: samples whose answer differs. The rest is None or empty on the host.

    ``instructions`` is the mean of the counted samples, segments only; ``layers`` by call.
    """

    num_samples: int
    mismatches: int
    instructions: float | None
    layers: tuple[float, ...]
    decisions: tuple[float, ...]
    flash: dict[str, int]
    stack_bytes: int | None


def run_jobs(jobs: Sequence[Job], library: CmsisNn) -> dict[tuple[str, ...], Result]:
    """Runs what is not in the cache yet."""
    with _progress() as progress, ThreadPoolExecutor(NUM_WORKERS) as pool:
        task = progress.add_task("emulating", total=len(jobs))
        running = {pool.submit(_cached, job, library): job for job in jobs}
        results = {}
        for future in as_completed(running):
            job = running[future]
            results[job.key] = future.result()
            progress.update(task, advance=1, description=" ".join(job.key))
    return results


def cached(key: str, make: Callable[[], dict[str, object]]) -> dict[str, object]:
    """A JSON object that is made once."""
    path = default_cache() / "bench" / "mcu" / f"{key}.json"
    if path.is_file():
        kept: dict[str, object] = json.loads(path.read_text())
        return kept
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{id(made)}")
    half.write_text(json.dumps(made))
    half.replace(path)
    return made


def digest(
    emission: Emission, core: str, library: CmsisNn, *more: bytes | NDArray[np.generic]
) -> str:
    """A hash of what a result follows from."""
    runtime = resource_folder("runtime")
    parts: list[bytes] = [core.encode(), tool_version(compiler(machine(core))).encode()]
    parts += [tool_version(emulator()).encode()]
    for name, content in sorted(emission.files.items()):
        parts += [name.encode(), content.encode()]
    sources = [*runtime.rglob("*.h"), *runtime.glob("src/*.c"), *runtime.glob("ports/qemu/*")]
    for source in emission.sources:
        place, _, name = source.rpartition(":")
        sources.append(library.sources[name] if place else runtime / "src" / source)
    parts += [path.read_bytes() for path in sorted(sources)]
    parts += [each if isinstance(each, bytes) else each.tobytes() for each in more]
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def _cached(job: Job, library: CmsisNn) -> Result:
    expected = b"" if job.expected is None else job.expected
    flags = " ".join(job.flags).encode()
    key = digest(job.emission, job.core, library, job.inputs, expected, flags)
    kept = cached(key, lambda: asdict(_run(job, library)))
    return Result(
        **{**kept, "layers": tuple(kept["layers"]), "decisions": tuple(kept["decisions"])}
    )  # type: ignore[arg-type]


def _run(job: Job, library: CmsisNn) -> Result:
    emulated = machine(job.core)
    with tempfile.TemporaryDirectory() as folder:
        firmware = build_firmware(
            job.emission,
            emulated,
            Path(folder),
            cmsis_nn=library.root,
            cache=default_cache() / "bench" / "objects",
            flags=job.flags,
        )
        outputs = run_firmware(firmware, job.inputs, timeout_s=_TIMEOUT_S)
        mismatches = 0
        if job.expected is not None:
            mismatches = int((outputs.logits[:, -1] != job.expected).any(axis=1).sum())
        if emulated.is_host:
            return Result(len(job.inputs), mismatches, None, (), (), {}, None)
        counts, _ = count_segments(firmware, job.inputs[:NUM_COUNTED], timeout_s=_TIMEOUT_S)
        flash = measure_flash(firmware)
    return Result(
        num_samples=len(job.inputs),
        mismatches=mismatches,
        instructions=float(counts.segments.sum(axis=1).mean()),
        layers=tuple(float(n) for layer in counts.layers for n in layer.mean(axis=0)),
        decisions=tuple(float(n) for n in counts.decisions.max(axis=0)),
        flash={part.name: part.bytes for part in flash.parts},
        stack_bytes=outputs.stack_bytes,
    )


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
