"""Counts the instructions of segments, layers and decisions, exactly, without touching the program.

The plugin notes the count whenever the program passes one of a list of addresses. These are the
calls that the code makes, found in it:

- ``profile_all`` calls ``ee_step`` (or ``profile_run`` calls ``ee_run``);
- ``ee_step`` calls the model, whose ``run_segment`` calls ``segment_K``, and then ``ee_decide``;
- ``segment_K`` calls one kernel for each step, in order.

A call's instructions are those from its branch to the instruction that it returns to. A layer's are
those from its call to the next one's, so the arguments of a layer are counted with the layer before
it; the first also has what the segment does before it, and the last what it does afterwards. The
layers of a segment add up to the segment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import EngineError
from edgeexit.profiling.qemu.build import Firmware
from edgeexit.profiling.qemu.calls import Call, direct_calls
from edgeexit.profiling.qemu.elf import Elf, read_elf
from edgeexit.profiling.qemu.run import Outputs, run_firmware

_SEGMENT = re.compile(r"segment_(\d+)(\.\w+)*\Z")


@dataclass(frozen=True)
class Counts:
    """Instructions, of samples that each ran every segment. All are exact.

    ``segments``: int64 ``[n, num_exits]``. ``layers``: for each segment int64 ``[n, num_steps]``.
    ``decisions``: what ``ee_decide`` took. ``steps``: the whole call of ``ee_step``, which holds
    the segment, the decision, and the runtime's own bookkeeping. ``calls`` names the kernel of each
    layer.
    """

    segments: NDArray[np.int64]
    layers: tuple[NDArray[np.int64], ...]
    decisions: NDArray[np.int64]
    steps: NDArray[np.int64]
    calls: tuple[tuple[str, ...], ...]


def count_segments(
    firmware: Firmware,
    inputs: NDArray[np.int8],
    *,
    count_each: bool = False,
    timeout_s: float = 900.0,
) -> tuple[Counts, Outputs]:
    """Runs every segment on every sample and counts.

    Args:
        firmware: What to run; not the host's.
        inputs: int8 ``[n, ...]``.
        count_each: Counts at every instruction: slower, the same numbers.
        timeout_s: How long it may take.

    Raises:
        EngineNotInstalledError: QEMU is missing.
        EngineError: The program failed, or is not made of calls that can be told apart.
    """
    elf = read_elf(firmware.elf)
    marks = _Marks()
    marks.calls("step", _calls(elf, "profile_all", "ee_step"))
    marks.calls("decide", _calls(elf, "ee_step", "ee_decide"))
    layers: dict[int, list[str]] = {}
    for index, call in _segment_calls(elf):
        marks.calls(f"segment {index}", [call])
        assert call.target is not None
        kernels = direct_calls(elf, elf.functions[call.target])
        layers[index] = [kernel.target or "unknown" for kernel in kernels]
        for number, kernel in enumerate(kernels):
            marks.add(f"layer {index} {number}", kernel.address)
    outputs = run_firmware(
        firmware, inputs, mode="all", marks=marks.addresses, count_each=count_each,
        timeout_s=timeout_s,
    )  # fmt: skip
    num_exits = outputs.labels.shape[1]
    if sorted(layers) != list(range(num_exits)):
        raise EngineError(
            "the segments cannot be told apart in the program",
            wanted=f"calls of segment_0 to segment_{num_exits - 1}",
            given=f"calls of {sorted(layers)}",
            where=firmware.elf.name,
        )
    events = _Events(marks.names, outputs)
    counts = _Collected(len(inputs), [len(layers[k]) for k in range(num_exits)])
    for sample in range(len(inputs)):
        for k in range(num_exits):
            begin = events.take("step")
            start = events.take(f"segment {k}")
            bounds = [events.take(f"layer {k} {i}") for i in range(len(layers[k]))]
            end = events.take(f"segment {k} returned")
            decides = events.take("decide")
            counts.decisions[sample, k] = events.take("decide returned") - decides
            counts.steps[sample, k] = events.take("step returned") - begin
            counts.segments[sample, k] = end - start
            if bounds:
                counts.layers[k][sample] = np.diff([start, *bounds[1:], end])
    events.end()
    return (
        Counts(
            segments=counts.segments,
            layers=tuple(counts.layers),
            decisions=counts.decisions,
            steps=counts.steps,
            calls=tuple(tuple(layers[k]) for k in range(num_exits)),
        ),
        outputs,
    )


def count_runs(
    firmware: Firmware, inputs: NDArray[np.int8], *, point: int = 0, timeout_s: float = 900.0
) -> tuple[NDArray[np.int64], Outputs]:
    """Runs every sample to the exit that answers, and counts what ``ee_run`` took.

    Args:
        firmware: What to run; not the host's.
        inputs: int8 ``[n, ...]``.
        point: The number of an operating point.
        timeout_s: How long it may take.

    Returns:
        Instructions, int64 ``[n]``, and the answers.

    Raises:
        EngineNotInstalledError: QEMU is missing.
        EngineError: The program failed.
    """
    marks = _Marks()
    marks.calls("run", _calls(read_elf(firmware.elf), "profile_run", "ee_run"))
    outputs = run_firmware(
        firmware, inputs, mode="run", point=point, marks=marks.addresses, timeout_s=timeout_s
    )
    events = _Events(marks.names, outputs)
    totals = [-events.take("run") + events.take("run returned") for _ in range(len(inputs))]
    events.end()
    return np.array(totals, np.int64), outputs


class _Collected:
    """Arrays to fill."""

    def __init__(self, num_samples: int, num_layers: Sequence[int]) -> None:
        shape = (num_samples, len(num_layers))
        self.segments, self.decisions, self.steps = (np.zeros(shape, np.int64) for _ in range(3))
        self.layers = [np.zeros((num_samples, count), np.int64) for count in num_layers]


class _Marks:
    """Addresses, and what passing them means."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.addresses: list[int] = []

    def add(self, name: str, address: int) -> None:
        self.names.append(name)
        self.addresses.append(address)

    def calls(self, name: str, calls: Sequence[Call]) -> None:
        for call in calls:
            self.add(name, call.address)
            self.add(f"{name} returned", call.returns_to)


class _Events:
    """Passed marks, in order; of those with one count, which lie at one address, in any order.

    The address that a call returns to may be passed on other ways too, where the compiler has
    merged the ends of branches. Only the first passage after the call is its return.
    """

    def __init__(self, names: Sequence[str], outputs: Outputs) -> None:
        assert outputs.counts is not None
        self.events = [(names[int(mark)], int(count)) for mark, count in outputs.counts]
        self.at = 0

    def take(self, name: str) -> int:
        """The count of the next event, which has to be ``name``."""
        while self.at < len(self.events):
            end = self.at
            while end < len(self.events) and self.events[end][1] == self.events[self.at][1]:
                if self.events[end][0] == name:
                    self.events[end] = self.events[self.at]
                    self.at += 1
                    return self.events[end][1]
                end += 1
            if not self.events[self.at][0].endswith(" returned"):
                break
            self.at += 1
        raise EngineError(
            "the program did not run as it is written",
            wanted=name,
            given=self.events[self.at][0] if self.at < len(self.events) else "its end",
        )

    def end(self) -> None:
        left = [name for name, _ in self.events[self.at :] if not name.endswith(" returned")]
        if left:
            raise EngineError(
                "the program did not run as it is written", wanted="its end", given=left[0]
            )


def _calls(elf: Elf, caller: str, target: str) -> list[Call]:
    """Calls of ``target`` in ``caller`` or in parts that the compiler has split off it."""
    found = [
        call
        for symbol in elf.symbols
        if symbol.kind == "function" and symbol.name.partition(".")[0] == caller
        for call in direct_calls(elf, symbol)
        if call.target == target and not call.is_jump
    ]
    if not found:
        raise EngineError(
            f"{caller} does not call {target} in the program, so that nothing can be counted",
            wanted="a call",
            hint="build it with build_firmware",
        )
    return found


def _segment_calls(elf: Elf) -> list[tuple[int, Call]]:
    found = []
    for symbol in elf.symbols:
        if symbol.kind == "function" and symbol.file == "ee_model.c":
            for call in direct_calls(elf, symbol):
                name = _SEGMENT.match(call.target or "")
                if name and not call.is_jump:
                    found.append((int(name[1]), call))
    return found
