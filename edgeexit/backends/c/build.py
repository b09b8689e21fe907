"""From ``.tflite`` files to C: the passes of the C backend, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeexit.backends.c.chain import ChainInfo
from edgeexit.backends.c.emit import Emission, emit, kept_features
from edgeexit.backends.c.kernels.base import Core, Implementation, Struct
from edgeexit.backends.c.legalize import Link, program_from_chain
from edgeexit.backends.c.plan import Plan, plan
from edgeexit.backends.c.program import Program
from edgeexit.backends.c.reader import read_model
from edgeexit.backends.c.select import KERNEL_SETS, Choice, choose


@dataclass(frozen=True)
class Layer:
    """A step as a report shows it.

    ``constant_bytes`` is the flash that its weights and other arrays take, where it shares them
    with no other step. ``instructions`` is None where the kernel was not counted on this core.
    """

    segment: int
    name: str
    kind: str
    macs: int
    kernel_set: str
    function: str
    scratch_bytes: int
    constant_bytes: int
    instructions: float | None
    reason: str


@dataclass(frozen=True)
class CProgram:
    """A chain as C, and everything that was decided on the way."""

    program: Program
    choices: tuple[Choice, ...]
    plan: Plan
    emission: Emission

    @property
    def implementations(self) -> tuple[Implementation, ...]:
        """How each step of ``program.steps`` runs."""
        return tuple(choice.implementation for choice in self.choices)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What each step of ``program.steps`` is, and takes."""
        placed = [
            (index, step)
            for index, segment in enumerate(self.program.segments)
            for step in segment.steps
        ]
        return tuple(
            Layer(
                segment=index,
                name=step.name,
                kind=type(step).__name__,
                macs=step.macs,
                kernel_set=choice.implementation.kernel_set,
                function=choice.implementation.function,
                scratch_bytes=choice.implementation.scratch_bytes,
                constant_bytes=_array_bytes(choice.implementation.parameters),
                instructions=choice.implementation.instructions,
                reason=choice.reason,
            )
            for (index, step), choice in zip(placed, self.choices, strict=True)
        )


def build(
    contents: Sequence[bytes],
    links: Sequence[Sequence[Link]],
    chain: ChainInfo,
    core: Core,
    *,
    kernel_sets: Sequence[str] | None = None,
    cmsis_nn: Path | None = None,
) -> CProgram:
    """Compiles a chain to C.

    Args:
        contents: A ``.tflite`` file for each segment.
        links: For each segment, where its inputs come from.
        chain: How its exits decide, and what it costs.
        core: What it runs on.
        kernel_sets: The sets to choose from; all by default. Plain C stands in for what they do
            not offer.
        cmsis_nn: Where CMSIS-NN's sources are; without them its set offers nothing.

    Raises:
        LoweringError: A file is damaged, holds something that the backend cannot say, or does not
            fit ``chain``.
        ArgumentError: A kernel set or a threshold is not usable.
    """
    models = [
        read_model(content, f"{chain.name}, segment {index}")
        for index, content in enumerate(contents)
    ]
    program = program_from_chain(models, links)
    # Before the plan, because kernels ask for scratch.
    choices = choose(
        program,
        core,
        kernel_sets=KERNEL_SETS if kernel_sets is None else kernel_sets,
        cmsis_nn=cmsis_nn,
    )
    implementations = tuple(choice.implementation for choice in choices)
    planned = plan(program, implementations, kept=kept_features(program, chain))
    emission = emit(program, implementations, planned, chain)
    return CProgram(program, choices, planned, emission)


def _array_bytes(struct: Struct) -> int:
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else _array_bytes(value)
        for value in struct.fields.values()
        if isinstance(value, np.ndarray | Struct)
    )
