"""What does C for microcontrollers cost, and is it TFLite-Micro to the byte?

The shipped ResNet-8 without early exits and the four networks of MLPerf Tiny, on emulated cores and
on the host, with every kernel set and with the one that the compiler picks. Real TFLite-Micro
answers the same inputs. Instructions are exact and emulated; no figure is a time. ``packed`` has no
pooling or softmax on every core: plain C stands in, as it does in ``cmsis_nn`` for additions.
bakenn (PyPI) is compiled and counted beside. Counts of TFLite-Micro with CMSIS-NN on Cortex-M55 and
its arenas were counted elsewhere: its sources are not in a package.

The chain of three exits then runs test images at ``balanced`` on Cortex-M4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mcu_bakenn
import numpy as np
from figures import arguments
from mcu_chain import NUM_IMAGES, chain_figures
from mcu_jobs import Job, Result, run_jobs
from mcu_networks import NUM_INPUTS, Network, networks, tflm_answers
from rich import box
from rich.console import Console
from rich.table import Table
from shipped import compiled_bundle

from edgeexit import data
from edgeexit.backends.c import CHAIN_INPUT, CProgram, Link, build, single_exit
from edgeexit.backends.c.cmsis_nn_sources import CmsisNn, find_cmsis_nn
from edgeexit.backends.c.kernels.base import Core
from edgeexit.errors import EngineNotInstalledError
from edgeexit.profiling.qemu.toolchain import emulator, tool_version
from edgeexit.targets import load_target

CORES = ("m4", "m7", "m55")
SETS = ("picked", "portable", "cmsis_nn", "packed")
PLACES = (*CORES, "host")
NUM_QUICK = 5
# What was promised.
BARS = {
    ("resnet8", "m4"): 22e6,
    ("resnet8", "m55"): 3.7e6,
    ("ds_cnn", "m55"): 1.3e6,
    ("vww", "m55"): 5.0e6,
}
ARENA_BARS = {"resnet8": 34 * 1024}
TFLM_INSTRUCTIONS = {"resnet8": 4_615_249, "ds_cnn": 1_727_134, "vww": 6_585_703}
TFLM_ARENA_BYTES = {"resnet8": 55_984, "ds_cnn": 24_272, "vww": 103_680}
RUNTIME_BARS = {"flash_bytes": 4096, "decision_instructions": 300}
# Networks that other tables call by the same name: both are ResNet-8.
TWINS = {"mlperf_ic": "resnet8"}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{NUM_QUICK} inputs, for a look")
    options = parser.parse_args()
    library = find_cmsis_nn()
    if library is None:
        raise EngineNotInstalledError("CMSIS-NN is missing", hint="pip install 'edgeexit[mcu]'")
    splits = data.load("cifar10")
    num_inputs = NUM_QUICK if options.quick else NUM_INPUTS
    num_images = NUM_QUICK if options.quick else NUM_IMAGES
    with compiled_bundle(splits) as bundle:
        given = networks(bundle, splits, num_inputs)
        figures = measure(given, library)
        figures |= chain_figures(bundle, splits, library, num_images)
    title = f"C on emulated microcontrollers, {num_inputs} inputs each"
    if options.quick:
        title += " (--quick: not the figures of a release)"
    show(title, figures)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(given: list[Network], library: CmsisNn) -> dict[str, Any]:
    """Figures of ``models``."""
    jobs: list[Job] = []
    programs: dict[tuple[str, ...], CProgram] = {}
    refusals: dict[str, str] = {}
    for network in given:
        for place in PLACES:
            for name in SETS:
                key = (network.name, place, name)
                programs[key] = compiled(network, place, name, library)
                jobs.append(
                    Job(key, programs[key].emission, place, network.inputs, network.expected)
                )
        try:
            jobs += bakenn_jobs(network, library)
        except mcu_bakenn.CannotCompileError as exc:
            refusals[network.name] = str(exc)
    results = run_jobs(jobs, library)
    return {
        "tools": {
            "compiler": "arm-none-eabi-gcc, kernels -O3",
            "emulator": tool_version(emulator()),
        },
        "models": {
            network.name: model_figures(network, programs, results, refusals.get(network.name))
            for network in given
        },
    }


def core_of(place: str) -> Core:
    """A core to compile for; C for no core in particular on the host."""
    if place == "host":
        return Core("generic", dsp=False, mve=False, cost="generic")
    core = load_target(f"cortex-{place}").core
    assert core is not None
    return core


def compiled(network: Network, place: str, name: str, library: CmsisNn) -> CProgram:
    """A network in C. On the host, ``packed`` is the DSP set, whose C form runs anywhere."""
    core = core_of("m4" if place == "host" and name == "packed" else place)
    sets = None if name == "picked" else (name,)
    return build(
        [network.content],
        [[Link(CHAIN_INPUT)]],
        single_exit(network.name),
        core,
        kernel_sets=sets,
        cmsis_nn=library.root,
    )


def bakenn_jobs(network: Network, library: CmsisNn) -> list[Job]:
    """bakenn's C with CMSIS-NN and without, against TFLite-Micro on the same file."""
    content = mcu_bakenn.simplified(network.content)
    inputs = network.inputs[:NUM_QUICK]
    expected = tflm_answers(content, inputs, network.name)
    jobs = []
    for name, overlay in (("bakenn", True), ("bakenn_portable", False)):
        emission = mcu_bakenn.emission(network.name, content, library, overlay=overlay)
        for place in mcu_bakenn.CORES if overlay else CORES:
            key = (network.name, place, name)
            jobs.append(Job(key, emission, place, inputs, expected, mcu_bakenn.FLAGS))
    return jobs


def model_figures(
    network: Network,
    programs: Mapping[tuple[str, ...], CProgram],
    results: Mapping[tuple[str, ...], Result],
    refusal: str | None,
) -> dict[str, Any]:
    """Figures of one network."""
    ours = {(place, name): results[network.name, place, name] for place in PLACES for name in SETS}
    picked = {place: programs[network.name, place, "picked"] for place in CORES}
    macs = sum(step.macs for step in picked["m4"].program.steps)
    figures: dict[str, Any] = {
        "num_inputs": len(network.inputs),
        "bytes_equal": all(result.mismatches == 0 for result in ours.values()),
        "mismatches": {
            f"{place}.{name}": result.mismatches
            for (place, name), result in ours.items()
            if result.mismatches
        },
        "macs": macs,
        "arena_bytes": max(program.plan.arena_bytes for program in picked.values()),
        "tflm_m55_instructions": TFLM_INSTRUCTIONS.get(TWINS.get(network.name, network.name)),
        "tflm_arena_bytes": TFLM_ARENA_BYTES.get(TWINS.get(network.name, network.name)),
    }
    for place in CORES:
        result, program = ours[place, "picked"], picked[place]
        assert result.instructions is not None
        column: dict[str, Any] = {
            "instructions": result.instructions,
            "instructions_per_mac": result.instructions / macs,
            "portable": ours[place, "portable"].instructions,
            "cmsis_nn": ours[place, "cmsis_nn"].instructions,
            "packed": ours[place, "packed"].instructions,
            "arena_bytes": program.plan.arena_bytes,
            "arena_lower_bound_bytes": program.plan.lower_bound_bytes,
            "stack_bytes": result.stack_bytes,
            "flash": result.flash,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "kernel_set": layer.kernel_set,
                    "function": layer.function,
                    "macs": layer.macs,
                    "instructions": count,
                    "instructions_per_mac": count / layer.macs if layer.macs else None,
                    "predicted": layer.instructions,
                }
                for layer, count in zip(program.layers, result.layers, strict=True)
            ],
        }
        for name in ("bakenn", "bakenn_portable"):
            other = results.get((network.name, place, name))
            column[name] = other.instructions if other else None
            if other is None:
                column[f"{name}_reason"] = refusal or "its overlay has no profile for this core"
            else:
                column[f"{name}_bytes_equal"] = other.mismatches == 0
        figures[place] = column
    return figures


def show(title: str, figures: Mapping[str, Any]) -> None:
    """Prints the table: instructions of one inference, and what they are held to."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    columns = ("picked", "portable", "cmsis_nn", "packed", "bakenn", "per MAC", "at most", "TFLM")
    table.add_column("network, core")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("arena", justify="right")
    for name, model in figures["models"].items():
        for place in CORES:
            core = model[place]
            bar = BARS.get((name, place))
            tflm = model["tflm_m55_instructions"] if place == "m55" else None
            table.add_row(
                f"{name} {place}",
                _judged(core["instructions"], bar),
                *(_number(core[column]) for column in ("portable", "cmsis_nn", "packed", "bakenn")),
                f"{core['instructions_per_mac']:.2f}",
                _number(bar),
                _number(tflm),
                _judged(core["arena_bytes"], ARENA_BARS.get(name)),
            )
        worst = max(model["mismatches"].values(), default=0)
        equal = f"[red]{worst} DIFFER[/]" if worst else "equal"
        table.add_row(f"{name} bytes", equal, end_section=True)
    runtime, chain = figures["runtime"], figures["chain"]
    for key, bar in RUNTIME_BARS.items():
        table.add_row(f"runtime {key}", _judged(runtime[key], bar))
    table.add_row("chain, exits equal", str(chain["exits_equal"]))
    table.add_row("chain, instructions", _number(chain["balanced_instructions"]))
    table.add_row("static, instructions", _number(chain["static_instructions"]))
    table.add_row("chain / static", f"{chain['balanced_instructions_ratio']:.3f}")
    Console(highlight=False, width=150).print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{np.round(value):,.0f}"


def _judged(value: float, bar: float | None) -> str:
    if bar is None:
        return _number(value)
    return f"[{'green' if value <= bar else 'red'}]{_number(value)}[/]"


if __name__ == "__main__":
    main()
