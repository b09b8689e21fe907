"""Turns counted instructions into time and energy, as spans: both are modelled, never measured.

    cycles  = instructions * cycles_per_instruction
    latency = cycles / clock_hz
    energy  = power_mw * latency

Source: the form is read off the published results of MLPerf Tiny (closed division, v1.1 to v1.3).
For one board, clock, supply and stack, energy over latency is within 10 % of its mean for each of
its four models, so that power is a constant of these four; the stack moves the latency up to 3.4
times, so that instructions are counted for the program itself and not taken from another one.

The ends of a span are those of its factors multiplied, low with low and high with high. They bound
what the profile allows and are no confidence interval.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeexit.errors import ArgumentError
from edgeexit.targets import CostProfile, Span


@dataclass(frozen=True)
class Modelled:
    """What a run costs on a device according to a profile.

    ``latency_us`` is in microseconds. ``energy_uj`` is in microjoules, None where the profile has
    no power. ``source`` says what the spans rest on.
    """

    cycles: Span
    latency_us: Span
    energy_uj: Span | None
    source: str


def model_time_energy(instructions: float, profile: CostProfile) -> Modelled:
    """Time and energy of a run of so many instructions.

    Args:
        instructions: Counted on the profile's core; a mean over inputs may have a fraction.
        profile: Of the target that the instructions were counted for.

    Raises:
        ArgumentError: ``instructions`` is negative or no number.
    """
    if not 0 <= instructions < float("inf"):
        raise ArgumentError(
            "a run has a number of instructions",
            wanted="a finite number, not below zero",
            given=f"instructions={instructions!r}",
        )
    cycles = _scaled(profile.cycles_per_instruction, instructions)
    latency_us = _scaled(cycles, 1e6 / profile.clock_hz)
    power = profile.power_mw
    # A milliwatt for a microsecond is a nanojoule.
    energy_uj = power and Span(
        power.low * latency_us.low / 1e3,
        power.mid * latency_us.mid / 1e3,
        power.high * latency_us.high / 1e3,
    )
    sources = (
        f"{profile.clock_hz / 1e6:g} MHz, {profile.supply}.",
        f"Cycles per instruction: {profile.time_source}",
        f"Power: {profile.power_source}" if profile.power_source else "",
    )
    return Modelled(cycles, latency_us, energy_uj, " ".join(filter(None, sources)))


def _scaled(span: Span, factor: float) -> Span:
    return Span(span.low * factor, span.mid * factor, span.high * factor)
