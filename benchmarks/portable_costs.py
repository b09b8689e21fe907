"""Fits what plain C kernels cost, in instructions: the table in kernels/portable_costs.py.

    python benchmarks/portable_costs.py [--core m4 ...] [MODEL.tflite ...]

One program has every step: those of the single-op files of the tests, of more depthwise kernels,
and of the models named. It runs under QEMU, which counts each call; weights that are not negative
are then fitted to the counts by least squares. Prints a row for each amount with a column for each
core, and the errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from edgeexit.backends.c import CProgram, single_exit
from edgeexit.backends.c.emit import emit
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.kernels.portable_costs import CORES, amounts
from edgeexit.backends.c.legalize import program_from_file
from edgeexit.backends.c.plan import plan
from edgeexit.backends.c.program import Buffer, Copy, Program, ProgramSegment, Step
from edgeexit.backends.c.select import choose
from edgeexit.profiling.qemu.profile import profile_qemu

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "backend"))
from test_c_portable import op_program, residual_programs
from tflite_ops import VALID, cases, conv

INPUT_BYTES = 1024
# Between absolute and relative errors: small steps count, and do not rule.
POWER = 0.75


def programs(models: Sequence[Path]) -> Iterator[tuple[str, Program]]:
    for name, content in cases():
        yield name, op_program(content)[0]
    rng = np.random.default_rng(1)
    for kernel in ((5, 5), (1, 3), (3, 1), (7, 7), (2, 2)):
        for channels in (8, 32):
            name = f"depthwise_{kernel[0]}{kernel[1]}_{channels}"
            pair = (channels, channels)
            yield name, op_program(conv(rng, (9, 9), pair, kernel, depthwise=True))[0]
            valid = conv(rng, (9, 9), pair, kernel, padding=VALID, depthwise=True)
            yield f"{name}_valid", op_program(valid)[0]
    yield from residual_programs().items()
    for path in models:
        yield f"model_{path.stem}", program_from_file(path.read_bytes(), path.name)


def joined(parts: Iterator[tuple[str, Program]]) -> Program:
    """All programs after each other; what each reads is copied from the one input."""
    buffers = [Buffer("input", (1, INPUT_BYTES), 1.0, 0)]
    steps: list[Step] = []

    def copy(name: str, output: int, count: int) -> Copy:
        return Copy(
            name=name,
            inputs=(0,),
            output=output,
            extents=(1, 1, 1, count),
            input_start=0,
            input_strides=(0, 0, 0, 1),
            output_start=0,
            output_strides=(0, 0, 0, 1),
            fill=3,
        )

    for name, program in parts:
        base = len(buffers)
        buffers.extend(program.buffers)
        count = min(INPUT_BYTES, program.buffers[program.input].num_bytes)
        steps.append(copy(f"{name}_feed", base + program.input, count))
        steps.extend(
            replace(
                step,
                name=f"{name}_{step.name}",
                inputs=tuple(base + buffer for buffer in step.inputs),
                output=base + step.output,
            )
            for step in program.steps
        )
    buffers.append(Buffer("answer", (1,), 1.0, 0))
    steps.append(copy("answer", len(buffers) - 1, 1))
    segment = ProgramSegment(tuple(steps), len(buffers) - 1)
    return Program(tuple(buffers), 0, (segment,))


def counted(program: Program, core: str) -> dict[str, float]:
    generic = Core("generic", dsp=False, mve=False, cost="generic")
    choices = choose(program, generic, kernel_sets=("portable",))
    implementations = tuple(choice.implementation for choice in choices)
    planned = plan(program, implementations)
    emission = emit(program, implementations, planned, single_exit("costs"))
    sample = np.random.default_rng(0).integers(-128, 128, (1, INPUT_BYTES)).astype(np.int8)
    made = CProgram(program, choices, planned, emission)
    report = profile_qemu(made, core, sample, num_counted=1)
    return {layer.name: float(layer.instructions) for layer in report.layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", action="append", choices=CORES)
    parser.add_argument("models", nargs="*", type=Path)
    options = parser.parse_args()
    cores = options.core or CORES
    columns = {}
    for core in cores:
        program = joined(programs(options.models))
        work = [
            {"call": 1} | {f"{type(s).__name__}.{k}": v for k, v in amounts(s, program).items()}
            for s in program.steps
        ]
        names = sorted({name for each in work for name in each})
        counts = counted(program, core)
        target = np.array([counts[step.name] for step in program.steps])
        matrix = np.array([[each.get(name, 0) for name in names] for each in work], float)
        weight = target**-POWER
        fitted, _ = nnls(matrix * weight[:, None], target * weight, maxiter=10_000)
        columns[core] = dict(zip(names, fitted, strict=True))
        errors = np.abs(matrix @ fitted / target - 1)
        real = [s.name.startswith("model_") and s.macs > 0 for s in program.steps]
        for title, chosen in (("all steps", errors), ("layers of models", errors[real])):
            if chosen.size:
                print(f"# {core}, {title}: mean {chosen.mean():.1%}, largest {chosen.max():.1%}")
    for name in columns[cores[0]]:
        values = ", ".join(f"{round(columns[core][name], 2)}" for core in cores)
        print(f'    "{name}": ({values}),')


if __name__ == "__main__":
    main()
