from __future__ import annotations

import dataclasses

import pytest

from edgeexit.errors import ArgumentError
from edgeexit.profiling.cost_model import model_time_energy
from edgeexit.targets import CostProfile, Span, list_targets, load_target

PROFILE = CostProfile(
    name="bench",
    supply="1.8 V",
    clock_hz=100_000_000,
    cycles_per_instruction=Span(1.0, 1.5, 2.0),
    time_source="by hand.",
    power_mw=Span(10.0, 20.0, 40.0),
    power_source="by hand too.",
)

# MLPerf Tiny, closed division: latency in ms and energy in uJ for IC, KWS, VWW, AD.
PUBLISHED = {
    ("nucleo-l4r5zi", "1v8"): [(165.1, 6919), (43.2, 1820), (88.9, 3895), (5.26, 203)],
    ("nucleo-l4r5zi", "smps"): [(165.7, 5496), (43.4, 1431), (89.4, 3030), (4.79, 160)],
    ("nucleo-u575zi-q", "1v8-smps"): [(111.1, 2579), (29.1, 656), (59.3, 1355), (3.43, 81.9)],
    ("nucleo-u385rg-q", "1v8"): [(182.4, 966), (48.3, 245), (98.7, 519), (5.41, 31.8)],
    ("nucleo-h7a3zi-q", "3v-smps"): [(40.8, 5090), (11.3, 1376), (23.8, 2965), (1.23, 166)],
}


def test_by_hand() -> None:
    # 2 M instructions: 2, 3, 4 M cycles; at 100 MHz 20, 30, 40 ms; times 10, 20, 40 mW.
    made = model_time_energy(2_000_000, PROFILE)
    assert made.cycles == Span(2e6, 3e6, 4e6)
    assert dataclasses.astuple(made.latency_us) == pytest.approx((20_000, 30_000, 40_000))
    assert made.energy_uj is not None
    assert dataclasses.astuple(made.energy_uj) == pytest.approx((200, 600, 1600))
    assert made.source == ("100 MHz, 1.8 V. Cycles per instruction: by hand. Power: by hand too.")


def test_no_power_no_energy() -> None:
    made = model_time_energy(10, dataclasses.replace(PROFILE, power_mw=None, power_source=None))
    assert made.energy_uj is None
    assert made.source.endswith("by hand.")


def test_nothing_costs_nothing() -> None:
    assert model_time_energy(0, PROFILE).latency_us == Span(0.0, 0.0, 0.0)


@pytest.mark.parametrize("instructions", [-1, float("nan"), float("inf")])
def test_no_number_of_instructions(instructions: float) -> None:
    with pytest.raises(ArgumentError, match=r"instructions=(-1|nan|inf)"):
        model_time_energy(instructions, PROFILE)


@pytest.mark.parametrize("key", PUBLISHED, ids="-".join)
def test_shipped_powers_are_those_of_the_published_results(key: tuple[str, str]) -> None:
    profile = load_target(key[0]).cost_profile(key[1])
    assert profile is not None
    assert profile.power_mw is not None
    powers = [energy_uj / latency_ms for latency_ms, energy_uj in PUBLISHED[key]]
    wanted = min(powers), sum(powers) / len(powers), max(powers)
    # Three digits.
    assert dataclasses.astuple(profile.power_mw) == pytest.approx(wanted, rel=2e-3)
    # As the model's docstring says.
    assert powers == pytest.approx([wanted[1]] * 4, rel=0.1)
    # What was published lies within what the profile says of that latency.
    for latency_ms, energy_uj in PUBLISHED[key]:
        assert (
            profile.power_mw.low * 0.998 <= energy_uj / latency_ms <= 1.002 * profile.power_mw.high
        )


def test_ratios_between_cores_lie_in_their_spans() -> None:
    # Cycles of one stack for the same models: X-CUBE-AI 9.0 in v1.2, M4 against M33 and M7.
    m4 = load_target("nucleo-l4r5zi").cost_profile()
    assert m4 is not None
    for other, key in (("nucleo-u575zi-q", "1v8-smps"), ("nucleo-h7a3zi-q", "3v-smps")):
        profile = load_target(other).cost_profile(key)
        assert profile is not None
        cpi, base = profile.cycles_per_instruction, m4.cycles_per_instruction
        rows = zip(PUBLISHED[other, key], PUBLISHED["nucleo-l4r5zi", "1v8"], strict=True)
        ratios = [a[0] * profile.clock_hz / (b[0] * m4.clock_hz) for a, b in rows]
        assert cpi.low == pytest.approx(base.low * min(ratios), abs=0.02)
        assert cpi.mid == pytest.approx(base.mid * sum(ratios) / 4, abs=0.02)
        assert cpi.high == pytest.approx(base.high * max(ratios), abs=0.02)


def test_every_board_has_a_profile() -> None:
    boards = [target for target in list_targets() if target.limits]
    assert len(boards) == 6
    for board in boards:
        profile = board.cost_profile()
        assert profile is not None
        assert profile.clock_hz == board.clock_hz
        assert model_time_energy(1e6, profile).latency_us.mid > 0
