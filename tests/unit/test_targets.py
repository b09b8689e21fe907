from __future__ import annotations

from pathlib import Path

import pytest

from edgeexit.backends.c.kernels.base import Core
from edgeexit.errors import TargetError
from edgeexit.profiling.qemu.machines import MACHINES
from edgeexit.targets import (
    CostProfile,
    Emulator,
    Limits,
    Span,
    Toolchain,
    list_targets,
    load_target,
)

BOARD = """
name = "bench"
description = "A board on the bench"
system = "none"
architectures = ["armv7e-m"]
[engines]
tflite = "litert_reference"
[c]
kernel_sets = ["packed", "portable"]
[core]
name = "cortex-m4"
cost = "m4"
dsp = true
mve = false
clock_hz = 80_000_000
[limits]
flash_bytes = 1_000_000
ram_bytes = 100_000
reserved_flash_bytes = 10_000
reserved_ram_bytes = 0
[toolchain]
prefix = "arm-none-eabi-"
cflags = ["-mcpu=cortex-m4"]
[emulator]
machine = "m4"
[[cost_profile]]
name = "slow"
supply = "1.8 V"
clock_hz = 40_000_000
cycles_per_instruction = [1, 1.25, 1.5]
time_source = "measured"
power_mw = [3.0, 4.0, 5.0]
power_source = "measured too"
[[cost_profile]]
name = "fast"
supply = "3 V"
clock_hz = 80_000_000
cycles_per_instruction = [1.5, 1.5, 1.5]
time_source = "measured"
"""

GOOD = """
name = "bench"
description = "A board on the bench"
system = "Linux"
architectures = ["aarch64"]
[engines]
tflite = "litert_reference"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "bench.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_host_ships_and_takes_both_backends() -> None:
    host = load_target("host")
    assert host.backends == ("tflite", "executorch")
    assert host.engines == {"tflite": "litert", "executorch": "executorch"}
    assert host in list_targets()


def test_shipped_files_are_called_what_they_describe() -> None:
    assert all(load_target(target.name) == target for target in list_targets())


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, GOOD))
    assert (target.name, target.backends) == ("bench", ("tflite",))
    assert target.engines["tflite"] == "litert_reference"


def test_a_board(tmp_path: Path) -> None:
    board = load_target(write(tmp_path, BOARD))
    assert (board.kernel_sets, board.emits_c) == (("packed", "portable"), True)
    assert board.core == Core("cortex-m4", dsp=True, mve=False, cost="m4")
    assert board.limits == Limits(1_000_000, 100_000, 10_000, 0)
    assert (board.limits.model_flash_bytes, board.limits.arena_bytes) == (990_000, 100_000)
    assert board.toolchain == Toolchain("arm-none-eabi-", ("-mcpu=cortex-m4",))
    assert board.emulator == Emulator("m4", None)
    slow, fast = board.cost_profiles
    assert slow == board.cost_profile() == board.cost_profile("slow")
    assert slow == CostProfile(
        name="slow",
        supply="1.8 V",
        clock_hz=40_000_000,
        cycles_per_instruction=Span(1.0, 1.25, 1.5),
        time_source="measured",
        power_mw=Span(3.0, 4.0, 5.0),
        power_source="measured too",
    )
    assert fast.power_mw is None
    with pytest.raises(TargetError, match=r"no cost profile 'quick'(.|\n)*slow, fast"):
        board.cost_profile("quick")


def test_host_takes_no_c_and_has_no_profile() -> None:
    host = load_target("host")
    assert (host.emits_c, host.core, host.limits, host.cost_profile()) == (False, None, None, None)


def test_shipped_microcontrollers_are_whole() -> None:
    for target in list_targets():
        if target.name == "host":
            continue
        assert target.emits_c
        assert target.engines == {"tflite": "litert_reference"}
        assert target.core is not None
        assert (target.limits is None) == (target.clock_hz is None) == (not target.cost_profiles)
        if target.emulator is not None:
            assert target.emulator.machine == target.core.cost
            assert target.toolchain is not None
            assert target.toolchain.cflags[0] == MACHINES[target.core.cost].flags[0]


def test_unknown_target_names_near_ones() -> None:
    with pytest.raises(TargetError, match=r"no target 'hots'(.|\n)*did you mean host"):
        load_target("hots")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "bench"', "", "has no name"),
        ('name = "bench"', "name = 3", "name has the wrong type(.|\n)*given: 3"),
        ('name = "bench"', 'name = ""', "not empty"),
        ('["aarch64"]', "[]", "architectures has the wrong type"),
        ('["aarch64"]', "[7]", "architectures has the wrong type"),
        ("tflite =", "tflight =", "unknown backend(.|\n)*'tflight'"),
        ('"litert_reference"', "1", "engines.tflite has the wrong type"),
        ('"litert_reference"', '"litert_referenz"', "no such engine"),
        ('"litert_reference"', '"executorch"', "does not run"),
        ('tflite = "litert_reference"', "", "no backend"),
        ("system =", "sistem =", "no system"),
        ('name = "bench"', 'name = "bench"\nflash_kib = 3', "unknown key 'flash_kib'"),
        ("[engines]", "[engines", "not TOML"),
        ('name = "bench"', f'name = "{"b" * 201}"', "cannot hold name"),
        ('name = "bench"', 'name = "my\\nbench"', "cannot hold name"),
        ('name = "bench"', f"name = {'1' * 5000}", "not TOML"),
        ('name = "bench"', f"name = 0x{'f' * 5000}", "name has the wrong type(.|\n)*thousands"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TargetError, match=message) as caught:
        load_target(path)
    assert "bench.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"packed", ', '"paked", ', "c.kernel_sets has an unknown value(.|\n)*'paked'"),
        ('cost = "m4"', 'cost = "m5"', "core.cost has an unknown value(.|\n)*m33"),
        ("dsp = true", "dsp = 1", "core.dsp(.|\n)*true or false"),
        ("mve = false", "", "no core.mve"),
        ("80_000_000\n[limits]", "0\n[limits]", "core.clock_hz(.|\n)*at least 1"),
        ("80_000_000\n[limits]", "true\n[limits]", "core.clock_hz(.|\n)*an integer"),
        ("flash_bytes = 1_", "flash_size = 1_", "no limits.flash_bytes"),
        ("ram_bytes = 100", "ram_byte = 1\nram_bytes = 100", "unknown key 'limits.ram_byte'"),
        ("reserved_ram_bytes = 0", "reserved_ram_bytes = -1", "reserved_ram_bytes(.|\n)*least 0"),
        ("ram_bytes = 0", "ram_bytes = 100_000", "reserves more than it has"),
        ("[limits]", "[[limits]]", "limits has the wrong type(.|\n)*a table"),
        (
            '[toolchain]\nprefix = "arm-none-eabi-"\ncflags = ["-mcpu=cortex-m4"]\n',
            "",
            r"\[core\] and \[toolchain\]",
        ),
        ('"litert_reference"', '"litert"', "would not decide like the engine"),
        ('machine = "m4"', 'machine = "generic"', "emulator.machine has an unknown value"),
        ("[1, 1.25, 1.5]", "[1, 0.9, 1.5]", r"cost_profile\[0\].cycles(.|\n)*in order"),
        ("[1, 1.25, 1.5]", "[0, 1, 2]", "positive"),
        ("[1, 1.25, 1.5]", "[1, 2, inf]", "low, mid, high"),
        ("[1, 1.25, 1.5]", "[1, 2]", "low, mid, high"),
        ("[1, 1.25, 1.5]", f"[1, 2, 1{'0' * 400}]", "low, mid, high"),
        ("flash_bytes = 1_000_000", f"flash_bytes = {1 << 54}", "flash_bytes(.|\n)*most 2.53"),
        ('"cortex-m4"', '"cortex\\tm4"', "cannot hold core.name"),
        ("power_mw = [3.0, 4.0, 5.0]", "", r"no cost_profile\[0\].power_mw"),
        ('power_source = "measured too"', "", r"no cost_profile\[0\].power_source"),
        ('name = "fast"', 'name = "fast"\nname2 = 1', r"unknown key 'cost_profile\[1\].name2'"),
        ('name = "fast"', 'name = "slow"', "two cost profiles(.|\n)*slow"),
    ],
)
def test_what_is_wrong_with_a_board_is_said(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in BOARD
    path = write(tmp_path, BOARD.replace(old, new))
    with pytest.raises(TargetError, match=message):
        load_target(path)


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot be read(.|\n)*No such file"):
        load_target(tmp_path / "absent.toml")
    path = write(tmp_path, "#" * (1 << 20) + GOOD)
    with pytest.raises(TargetError, match="too large"):
        load_target(path)
