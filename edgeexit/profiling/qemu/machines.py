"""The emulated machines: one for each core that QEMU knows, and the host itself.

QEMU enforces neither the size of a memory nor the time an access takes, so a machine stands for its
core and for nothing else of a board.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from edgeexit.errors import ArgumentError


@dataclass(frozen=True)
class Machine:
    """Where a core is emulated, and how its code is compiled.

    ``name`` is the core. ``emulator`` holds QEMU's arguments; it is empty for the host, where the
    program runs natively. ``linker_script`` is a file of ``runtime/ports/qemu``.
    """

    name: str
    description: str
    emulator: tuple[str, ...]
    flags: tuple[str, ...]
    linker_script: str | None

    @property
    def is_host(self) -> bool:
        """Whether programs for it run natively."""
        return not self.emulator


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "m0plus",
            "Cortex-M0 (the instructions of a Cortex-M0+), on a microbit with more memory",
            (
                *("-M", "microbit"),
                *("-global", "nrf51-soc.flash-size=4194304"),
                *("-global", "nrf51-soc.sram-size=4194304"),
            ),
            ("-mcpu=cortex-m0plus", "-mthumb"),
            "microbit.ld",
        ),
        Machine(
            "m4",
            "Cortex-M4F, on an mps2-an386",
            ("-M", "mps2-an386"),
            ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
            "mps2.ld",
        ),
        Machine(
            "m7",
            "Cortex-M7F, on an mps2-an500",
            ("-M", "mps2-an500"),
            ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
            "mps2.ld",
        ),
        Machine(
            "m33",
            "Cortex-M33F, on an mps2-an505",
            ("-M", "mps2-an505"),
            ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
            "an505.ld",
        ),
        Machine(
            "m55",
            "Cortex-M55 with MVE, on an mps3-an547",
            ("-M", "mps3-an547"),
            ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"),
            "an547.ld",
        ),
        Machine("host", "this machine", (), (), None),
    )
}


def machine(name: str) -> Machine:
    """The machine that stands for a core.

    Args:
        name: A core (``m0plus``, ``m4``, ``m7``, ``m33``, ``m55``), or ``host``.

    Raises:
        ArgumentError: No machine is known for it.
    """
    if name in MACHINES:
        return MACHINES[name]
    near = difflib.get_close_matches(name, MACHINES, n=1)
    raise ArgumentError(
        "there is no emulated machine for this core",
        wanted=f"one of {', '.join(MACHINES)}",
        given=repr(name),
        hint=f"did you mean {near[0]}?" if near else None,
    )
