"""Builds a program for an emulated core, runs samples on it, and puts all counts together."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import CProgram
from edgeexit.errors import ArgumentError
from edgeexit.profiling.cost_model import model_time_energy
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.count import Counts, count_runs, count_segments
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.report import (
    Cost,
    QemuExit,
    QemuLayer,
    QemuReport,
    QemuSample,
    QemuSegment,
)
from edgeexit.profiling.qemu.run import Outputs
from edgeexit.profiling.qemu.sections import measure_flash
from edgeexit.profiling.qemu.stack import worst_stack
from edgeexit.profiling.qemu.toolchain import emulator, tool_version
from edgeexit.targets import CostProfile


def profile_qemu(
    program: CProgram,
    core: str,
    inputs: NDArray[np.int8],
    labels: NDArray[np.int64] | None = None,
    *,
    point: int = 0,
    cost_profile: CostProfile | None = None,
    num_counted: int = 3,
    cmsis_nn: Path | None = None,
    cache: Path | None = None,
    timeout_s: float = 900.0,
) -> QemuReport:
    """Profiles a C program.

    Args:
        program: What the C backend made, for the same core.
        core: The core that is emulated: a name in `MACHINES`.
        inputs: Quantized samples, int8 ``[n, ...]``. How early they leave decides the mean.
        labels: Their classes, int64 ``[n]``; without them no accuracy is reported.
        point: The number of the operating point that samples are run with.
        cost_profile: What times and energies are modelled from.
        num_counted: How many of the samples also run every segment, for counts by layer.
        cmsis_nn: CMSIS-NN's root; the extra ``mcu`` brings one.
        cache: A folder that keeps compiled kernels.
        timeout_s: How long each of the two runs may take.

    Raises:
        ArgumentError: The core has no emulated machine, or an argument does not fit.
        EngineNotInstalledError: The compiler or QEMU is missing.
        EngineError: The program does not compile, fails, or takes too long.
    """
    emulated = machine(core)
    if emulated.is_host:
        raise ArgumentError(
            "instructions are counted on an emulated core only", wanted="a core", given=repr(core)
        )
    if num_counted < 1:
        raise ArgumentError("at least one sample has to be counted", given=f"{num_counted=}")
    if labels is not None and len(labels) != len(inputs):
        raise ArgumentError(
            "samples and labels differ in length",
            wanted=f"{len(inputs)} labels",
            given=f"{len(labels)} labels",
        )
    # Before the compiler runs, which takes longer.
    qemu = emulator()
    with tempfile.TemporaryDirectory(prefix="edgeexit-firmware-") as folder:
        firmware = build_firmware(
            program.emission, emulated, Path(folder), cmsis_nn=cmsis_nn, cache=cache
        )
        counts, full = count_segments(firmware, inputs[:num_counted], timeout_s=timeout_s)
        instructions, answers = count_runs(firmware, inputs, point=point, timeout_s=timeout_s)
        flash = measure_flash(firmware)
        stack = worst_stack(firmware, max(full.stack_bytes or 0, answers.stack_bytes or 0))
        compiler = firmware.compiler
    macs = sum(step.macs for step in program.program.steps)
    full_instructions = float(counts.steps.sum(axis=1).mean())
    return QemuReport(
        model=program.emission.symbol,
        core=core,
        machine=emulated.description,
        compiler=compiler,
        emulator=tool_version(qemu),
        num_samples=len(inputs),
        num_counted=len(counts.steps),
        accuracy=_accuracy(answers.labels, labels),
        macs=macs,
        mean_instructions=float(instructions.mean()),
        full_instructions=full_instructions,
        instructions_per_mac=full_instructions / macs if macs else None,
        mean_cost=_cost(float(instructions.mean()), cost_profile),
        full_cost=_cost(full_instructions, cost_profile),
        cost_source=None if cost_profile is None else model_time_energy(0, cost_profile).source,
        exits=_exits(answers, instructions, labels, counts.steps.shape[1], cost_profile),
        segments=_segments(program, counts, cost_profile),
        layers=_layers(program, counts, cost_profile),
        flash=flash,
        arena_bytes=program.plan.arena_bytes,
        arena_lower_bound_bytes=program.plan.lower_bound_bytes,
        stack=stack,
        samples=tuple(
            QemuSample(int(label), int(left), int(count))
            for label, left, count in zip(answers.labels, answers.exits, instructions, strict=True)
        ),
    )


def _layers(
    program: CProgram, counts: Counts, profile: CostProfile | None
) -> tuple[QemuLayer, ...]:
    layers = program.layers
    called = [function for calls in counts.calls for function in calls]
    if called != [layer.function for layer in layers]:
        raise ArgumentError(
            "the program that ran is not the one that was compiled",
            wanted=f"calls of {[layer.function for layer in layers]}",
            given=f"calls of {called}",
        )
    means = np.concatenate([layer.mean(axis=0) for layer in counts.layers])
    return tuple(
        QemuLayer(
            segment=layer.segment,
            name=layer.name,
            kind=layer.kind,
            kernel_set=layer.kernel_set,
            function=layer.function,
            macs=layer.macs,
            instructions=float(mean),
            instructions_per_mac=float(mean) / layer.macs if layer.macs else None,
            cost=_cost(float(mean), profile),
        )
        for layer, mean in zip(layers, means, strict=True)
    )


def _segments(
    program: CProgram, counts: Counts, profile: CostProfile | None
) -> tuple[QemuSegment, ...]:
    overhead = counts.steps - counts.segments
    return tuple(
        QemuSegment(
            index=index,
            macs=sum(step.macs for step in segment.steps),
            instructions=float(counts.segments[:, index].mean()),
            decision_instructions=float(counts.decisions[:, index].mean()),
            overhead_instructions=float(overhead[:, index].mean()),
            cost=_cost(float(counts.segments[:, index].mean()), profile),
        )
        for index, segment in enumerate(program.program.segments)
    )


def _exits(
    answers: Outputs,
    instructions: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    num_exits: int,
    profile: CostProfile | None,
) -> tuple[QemuExit, ...]:
    exits = []
    for index in range(num_exits):
        left = answers.exits == index
        mean = float(instructions[left].mean()) if left.any() else None
        exits.append(
            QemuExit(
                index=index,
                num_samples=int(left.sum()),
                rate=float(left.mean()),
                accuracy=_accuracy(answers.labels[left], None if labels is None else labels[left]),
                instructions=mean,
                cost=None if mean is None else _cost(mean, profile),
            )
        )
    return tuple(exits)


def _accuracy(answers: NDArray[np.int64], labels: NDArray[np.int64] | None) -> float | None:
    return None if labels is None or not len(labels) else float((answers == labels).mean())


def _cost(instructions: float, profile: CostProfile | None) -> Cost | None:
    if profile is None:
        return None
    modelled = model_time_energy(instructions, profile)
    return Cost(modelled.latency_us, modelled.energy_uj)
