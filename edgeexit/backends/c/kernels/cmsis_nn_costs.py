"""Counted instructions of CMSIS-NN."""

from __future__ import annotations

from edgeexit.backends.c.kernels.base import Core
from edgeexit.backends.c.program import Program, Step


def count(step: Step, program: Program, core: Core) -> float | None:
    return None
