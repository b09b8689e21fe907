"""Fits what CMSIS-NN costs, in instructions: the table in kernels/cmsis_nn_costs.py.

    python benchmarks/cmsis_nn_costs.py [MODEL.tflite ...]

As portable_costs.py does it, with the same steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from portable_costs import INPUT_BYTES, POWER, joined, programs
from scipy.optimize import nnls

from edgeexit.backends.c import CProgram, single_exit
from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.c.emit import emit
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.kernels.cmsis_nn_costs import CORES, amounts
from edgeexit.backends.c.plan import plan
from edgeexit.backends.c.program import Program
from edgeexit.backends.c.select import choose
from edgeexit.profiling.qemu.profile import profile_qemu
from edgeexit.targets import load_target


def counted(program: Program, place: str, core: Core) -> dict[str, tuple[str, float]]:
    """For each step: the set that ran it, and its instructions."""
    library = find_cmsis_nn()
    assert library is not None
    choices = choose(program, core, kernel_sets=("cmsis_nn",), cmsis_nn=library.root)
    implementations = tuple(choice.implementation for choice in choices)
    planned = plan(program, implementations)
    emission = emit(program, implementations, planned, single_exit("costs"))
    sample = np.random.default_rng(0).integers(-128, 128, (1, INPUT_BYTES)).astype(np.int8)
    made = CProgram(program, choices, planned, emission)
    report = profile_qemu(made, place, sample, num_counted=1)
    return {layer.name: (layer.kernel_set, layer.instructions) for layer in report.layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    options = parser.parse_args()
    columns: dict[str, dict[str, float]] = {}
    for place in CORES:
        core = load_target(f"cortex-{place}").core
        assert core is not None
        program = joined(programs(options.models))
        counts = counted(program, place, core)
        steps = [step for step in program.steps if counts[step.name][0] == "cmsis_nn"]
        work = [amounts(step, program, core) for step in steps]
        names = sorted({name for each in work for name in each})
        target = np.array([counts[step.name][1] for step in steps])
        matrix = np.array([[each.get(name, 0) for name in names] for each in work], float)
        weight = target**-POWER
        fitted, _ = nnls(matrix * weight[:, None], target * weight, maxiter=10_000)
        columns[place] = dict(zip(names, fitted, strict=True))
        errors = np.abs(matrix @ fitted / target - 1)
        real = np.array([step.name.startswith("model_") for step in steps])
        for title, chosen in (("all steps", errors), ("layers of models", errors[real])):
            if chosen.size:
                print(f"# {place}, {title}: mean {chosen.mean():.1%}, largest {chosen.max():.1%}")
        for index in np.argsort(-errors * real)[:4]:
            print("#", steps[index].name, work[index], target[index], (matrix @ fitted)[index])
    for name in sorted({name for column in columns.values() for name in column}):
        values = ", ".join(f"{round(columns[place].get(name, 0.0), 2)}" for place in CORES)
        print(f'    "{name}": ({values}),')


if __name__ == "__main__":
    main()
