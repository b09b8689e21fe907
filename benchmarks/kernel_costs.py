"""What do kernels cost, in instructions, and how well does a model of shapes predict it?

For each kernel set and core, one program has all layers of ``kernel_cases.py``. It runs under QEMU,
which counts every call; weights that are not negative are then fitted to the counts, by least
squares, for each function on its own. ``--write`` puts them into edgeexit/backends/c/costs.json,
by which the compiler chooses kernels and predicts instructions. Errors are relative, of the layers
that were counted, and of those among them that compute sums of products in known models;
``change`` is by how much predictions differ from those with the present file.

Tiny layers are off by more than large ones. Counts depend on the compiler; the present ones are
arm-none-eabi-gcc 12.2's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import arguments, publish
from kernel_cases import INPUT_BYTES, MODEL, dsp_layers, joined, mve_layers, ops
from numpy.typing import NDArray
from scipy.optimize import nnls

from edgeexit.backends.c.chain import single_exit
from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.c.emit import emit
from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.kernels.costs import CALLS, COSTS_PATH, Costs, Work, load_costs
from edgeexit.backends.c.plan import plan
from edgeexit.backends.c.program import Program
from edgeexit.backends.c.select import select
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import count_segments
from edgeexit.profiling.qemu.machines import machine
from edgeexit.targets import load_target

EVERY_CORE = ("m0plus", "m4", "m7", "m33", "m55")
DECIMALS = 3


@dataclass(frozen=True)
class KernelSet:
    """What is counted for a key of the costs.

    ``power`` of the count is what an error is divided by: at 1, small layers count as much as large
    ones; less keeps them from ruling where there are many.
    """

    name: str
    cores: tuple[str, ...]
    layers: Callable[[], Iterator[tuple[str, Program]]]
    power: float


SETS = {
    "portable": KernelSet("portable", EVERY_CORE, ops, 0.75),
    "cmsis_nn": KernelSet("cmsis_nn", EVERY_CORE, ops, 0.75),
    "dsp": KernelSet("packed", ("m4", "m7", "m33"), dsp_layers, 1.0),
    "mve": KernelSet("packed", ("m55",), mve_layers, 1.0),
}


@dataclass(frozen=True)
class Counted:
    """One call. ``of_model``: a layer of a known model, and one that multiplies and adds."""

    of_model: bool
    work: Work
    instructions: int


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kernels", action="append", choices=SETS, help="only these")
    parser.add_argument("--core", action="append", choices=EVERY_CORE, help="only these")
    parser.add_argument("--write", action="store_true", help=f"write {COSTS_PATH.name}")
    options = parser.parse_args()
    costs: Costs = json.loads(COSTS_PATH.read_text(encoding="utf-8"))
    figures: dict[str, dict[str, object]] = {}
    for key in options.kernels or SETS:
        program = joined(SETS[key].layers())
        figures[key] = {}
        for place in SETS[key].cores:
            if options.core and place not in options.core:
                continue
            core = load_target(f"cortex-{place}").core
            assert core is not None
            rows = [row for row in count(program, key, core, place) if row.work.costs == key]
            fitted = fit(rows, SETS[key].power)
            figures[key][place] = compared(rows, fitted, core)
            costs.setdefault(key, {})[place] = fitted
    if options.write:
        COSTS_PATH.write_text(as_text(costs), encoding="utf-8")
    publish("Instructions of kernels", figures, options.json)


def count(program: Program, key: str, core: Core, place: str) -> list[Counted]:
    """All steps of ``program``, with kernels of one set where it has any."""
    library = find_cmsis_nn()
    if library is None and key == "cmsis_nn":
        raise SystemExit("CMSIS-NN is not here: pip install 'edgeexit[mcu]'")
    root = library.root if library is not None else None
    implementations = select(program, core, kernel_sets=(SETS[key].name,), cmsis_nn=root)
    emission = emit(program, implementations, plan(program, implementations), single_exit("costs"))
    sample = np.random.default_rng(0).integers(-128, 128, (1, INPUT_BYTES)).astype(np.int8)
    with tempfile.TemporaryDirectory() as folder:
        firmware = build_firmware(emission, machine(place), Path(folder), cmsis_nn=root)
        counts, _ = count_segments(firmware, sample)
    return [
        Counted(step.name.startswith(MODEL) and step.macs > 0, implementation.work, int(number))
        for step, implementation, number in zip(
            program.steps, implementations, counts.layers[0][0], strict=True
        )
        if implementation.work is not None
    ]


def fit(rows: list[Counted], power: float) -> dict[str, dict[str, float]]:
    """Function -> weights."""
    fitted = {}
    for function in sorted({row.work.function for row in rows}):
        mine = [row for row in rows if row.work.function == function]
        names = sorted({name for row in mine for name, n in row.work.amounts.items() if n})
        matrix = np.array(
            [[1, *(row.work.amounts.get(name, 0) for name in names)] for row in mine], float
        )
        target = np.array([row.instructions for row in mine], float)
        # Columns of one size, without which the solver stops early.
        scale = matrix.max(axis=0)
        weight = target**-power
        found, _ = nnls(matrix / scale * weight[:, None], target * weight, maxiter=10_000)
        weights = (found / scale).tolist()
        fitted[function] = {
            name: round(value, DECIMALS)
            for name, value in sorted(zip([CALLS, *names], weights, strict=True))
        }
    return fitted


def compared(rows: list[Counted], fitted: dict[str, dict[str, float]], core: Core) -> object:
    """How far predictions are from counts, and from the present predictions."""
    target = np.array([row.instructions for row in rows], float)
    found = np.array([predicted(row.work, fitted[row.work.function]) for row in rows])
    of_models = np.array([row.of_model for row in rows])
    errors = np.abs(found / target - 1)
    figures: dict[str, object] = {"num_layers": len(rows)} | errors_of("all", errors)
    if of_models.any():
        figures |= errors_of("models", errors[of_models])
    if core.cost in load_costs().get(rows[0].work.costs, {}):
        present = [row.work.instructions(core) for row in rows]
        known = np.array([number is not None for number in present])
        before = np.array([number for number in present if number is not None])
        change = np.abs(found[known] / before - 1)
        figures |= {"num_layers_without_present": int((~known).sum())} | errors_of("change", change)
    return figures


def predicted(work: Work, weights: dict[str, float]) -> float:
    return weights[CALLS] + sum(weights[name] * n for name, n in work.amounts.items() if n)


def errors_of(name: str, errors: NDArray[np.float64]) -> dict[str, object]:
    return {f"{name}_mean": float(errors.mean()), f"{name}_largest": float(errors.max())}


def as_text(costs: Costs) -> str:
    """JSON with a line for each function."""
    text = json.dumps(costs, indent=2, sort_keys=True)
    for cores in costs.values():
        for functions in cores.values():
            for weights in functions.values():
                long = json.dumps(weights, indent=2, sort_keys=True).replace("\n", "\n" + " " * 6)
                text = text.replace(long, json.dumps(weights, sort_keys=True))
    return text + "\n"


if __name__ == "__main__":
    main()
