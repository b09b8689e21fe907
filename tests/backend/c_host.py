"""Builds emitted programs for the host and runs them; for the tests of every kernel set.

Models are built together: kernels are compiled once, and one executable holds them all. Everything
is compiled with warnings as errors. ``c_host_main.c`` is the program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.backends.c.chain import ChainInfo, single_exit
from edgeexit.backends.c.emit import RUNTIME_SOURCES, Emission, emit
from edgeexit.backends.c.kernels.base import Core, Implementation
from edgeexit.backends.c.plan import Plan, plan
from edgeexit.backends.c.program import Buffer, Copy, Program, ProgramSegment
from edgeexit.backends.c.select import KERNEL_SETS, select

Int8 = NDArray[np.int8]

RUNTIME = Path(__file__).parents[2] / "runtime"
MAIN = Path(__file__).parent / "c_host_main.c"
WARNINGS = (
    "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow",
    "-Wstrict-prototypes", "-Werror",
)  # fmt: skip
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GENERIC = Core("generic", dsp=False, mve=False, cost="generic")
COMPILERS = [
    pytest.param(
        name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is missing")
    )
    for name in ("gcc", "clang")
]
"""Parameters of tests that build with each compiler."""


@dataclass(frozen=True)
class Model:
    """An emitted program, and where its parts lie in the arena."""

    program: Program
    implementations: tuple[Implementation, ...]
    plan: Plan
    emission: Emission
    outputs: tuple[int, ...]
    """For each segment, the buffer that ``Host.outputs`` gives."""


@dataclass(frozen=True)
class Decisions:
    """What ``ee_run`` answered: int64 [num_samples] each."""

    labels: NDArray[np.int64]
    exits: NDArray[np.int64]
    scores: NDArray[np.int64]
    costs: NDArray[np.int64]


def make(
    program: Program,
    *,
    core: Core = GENERIC,
    kernel_sets: Sequence[str] = KERNEL_SETS,
    cmsis_nn: Path | None = None,
    chain: ChainInfo | None = None,
    name: str = "test",
) -> Model:
    """Selects, plans and emits ``program``; a chain of one exit unless ``chain`` says otherwise.

    A program without ``chain`` may have more outputs than an exit may have classes.
    """
    outputs = tuple(segment.logits for segment in program.segments)
    if chain is None:
        program = _with_answer(program)
    implementations = select(program, core, kernel_sets=kernel_sets, cmsis_nn=cmsis_nn)
    planned = plan(program, implementations)
    emission = emit(program, implementations, planned, chain or single_exit(name))
    return Model(program, implementations, planned, emission, outputs)


class Host:
    """An executable that holds ``models`` under their keys.

    Args:
        models: What to build; keys can be file names.
        folder: An existing folder for everything that is made.
        compiler: ``gcc`` or ``clang``.
        sanitize: With address and undefined behaviour sanitizers. The arena then ends where its
            allocation ends.
        flags: More flags for all files, after all others: ``-m32``, definitions, includes.
        cmsis_nn: The root of CMSIS-NN's sources, if models use them.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        folder: Path,
        *,
        compiler: str = "gcc",
        sanitize: bool = True,
        flags: Sequence[str] = (),
        cmsis_nn: Path | None = None,
    ) -> None:
        self.models = dict(models)
        self.executable = folder / f"host-{compiler}"
        objects = folder / f"objects-{compiler}"
        objects.mkdir()
        checks = SANITIZERS if sanitize else ()
        include = [f"-I{RUNTIME / part}" for part in ("include", "src", "src/kernels")]
        library = []
        if cmsis_nn is not None:
            include += [f"-isystem{cmsis_nn / 'Include'}", f"-isystem{cmsis_nn}"]
        common = [compiler, *WARNINGS, *include]
        jobs: list[list[str]] = []

        def compile_later(source: Path, name: str, *options: str) -> None:
            built = objects / f"{name}.o"
            library.append(built)
            jobs.append([*common, *options, *flags, "-c", str(source), "-o", str(built)])

        needed = {source for model in self.models.values() for source in model.emission.sources}
        for source in (*RUNTIME_SOURCES, *sorted(needed)):
            place, _, file = source.rpartition(":")
            if place:
                assert cmsis_nn is not None, source
                found = next(cmsis_nn.rglob(file))
                # Not ours to mend: warnings, and what sanitizers find.
                compile_later(found, file, "-O1", "-w", "-Wno-error")
            else:
                compile_later(RUNTIME / "src" / source, source.replace("/", "-"), "-O1", *checks)
        # Constants and calls: nothing in it is worth a sanitizer's or an optimizer's time.
        for key, model in self.models.items():
            (folder / key).mkdir(exist_ok=True)
            for name, content in model.emission.files.items():
                (folder / key / name).write_text(content)
            compile_later(folder / key / "ee_model.c", f"model-{key}", "-O0")
        table = folder / "models.c"
        table.write_text(self._table())
        compile_later(table, "models", "-O0")
        compile_later(MAIN, "main", "-O1", *checks)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_execute, jobs))
        _execute([compiler, *checks, *flags, *map(str, library), "-o", str(self.executable)])

    def _table(self) -> str:
        """C that finds a model by its key; it also shows that the headers do not clash."""
        symbols = {key: model.emission.symbol for key, model in self.models.items()}
        assert len(set(symbols.values())) == len(symbols), "each model needs a chain's name"
        return "\n".join(
            [
                '#include "edgeexit.h"',
                *(f'#include "{key}/ee_model.h"' for key in symbols),
                "typedef struct { const char *key; const ee_model *model; } named;",
                "extern const named models[];",
                "const named models[] = {",
                *(f'    {{"{key}", &{symbol}}},' for key, symbol in symbols.items()),
                "    {NULL, NULL}};",
                "",
            ]
        )

    def outputs(self, key: str, inputs: Int8) -> tuple[Int8, ...]:
        """Runs all segments on each sample.

        Args:
            key: Which model.
            inputs: int8 [num_samples, ...] with as many elements as the program's input.

        Returns:
            For each segment, int8 [num_samples, num_bytes] of its output.
        """
        model = self.models[key]
        places = [
            (model.plan.offsets[buffer], model.program.buffers[buffer].num_bytes)
            for buffer in model.outputs
        ]
        arguments = [f"{offset}:{size}" for offset, size in places]
        raw = self._run([key, "outputs", *arguments], inputs)
        rows = np.frombuffer(raw, np.int8).reshape(len(inputs), -1)
        ends = np.cumsum([size for _, size in places])
        return tuple(np.split(rows, ends[:-1], axis=1))

    def decisions(self, key: str, inputs: Int8, point: int = 0) -> Decisions:
        """Runs ``ee_run`` on each sample at an operating point."""
        raw = self._run([key, "decisions", str(point)], inputs)
        columns = np.frombuffer(raw, np.uint32).reshape(len(inputs), 4).astype(np.int64).T
        return Decisions(*columns)

    def _run(self, arguments: Sequence[str], inputs: Int8) -> bytes:
        assert inputs.dtype == np.int8
        done = subprocess.run(
            [str(self.executable), *arguments],
            input=np.ascontiguousarray(inputs).tobytes(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def run_program(
    program: Program,
    inputs: Int8,
    folder: Path,
    *,
    core: Core = GENERIC,
    kernel_sets: Sequence[str] = KERNEL_SETS,
    cmsis_nn: Path | None = None,
    compiler: str = "gcc",
    sanitize: bool = True,
    flags: Sequence[str] = (),
) -> Int8:
    """Output of the last segment: int8 [num_samples, num_bytes]; arguments as in ``Host``."""
    model = make(program, core=core, kernel_sets=kernel_sets, cmsis_nn=cmsis_nn)
    host = Host(
        {"test": model},
        folder,
        compiler=compiler,
        sanitize=sanitize,
        flags=flags,
        cmsis_nn=cmsis_nn,
    )
    return host.outputs("test", inputs)[-1]


def _with_answer(program: Program) -> Program:
    """Exits that answer with one byte, copied from the output, which stays where it is."""
    buffers, segments = list(program.buffers), []
    for segment in program.segments:
        copy = Copy(
            name=f"answer_{len(buffers)}",
            inputs=(segment.logits,),
            output=len(buffers),
            extents=(1, 1, 1, 1),
            input_start=0,
            input_strides=(0, 0, 0, 0),
            output_start=0,
            output_strides=(0, 0, 0, 0),
        )
        segments.append(ProgramSegment((*segment.steps, copy), len(buffers)))
        buffers.append(Buffer(copy.name, (1,), 1.0, 0))
    return Program(tuple(buffers), program.input, tuple(segments))


def _execute(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
