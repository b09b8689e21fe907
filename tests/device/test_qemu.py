"""Programs on emulated cores: they boot, answer what numpy computes, and are counted exactly."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import hand_model
import numpy as np
import pytest

from edgeexit.errors import ArgumentError, EngineError, EngineNotInstalledError
from edgeexit.profiling.qemu.build import Firmware, build_firmware
from edgeexit.profiling.qemu.count import count_runs, count_segments
from edgeexit.profiling.qemu.elf import read_elf
from edgeexit.profiling.qemu.machines import MACHINES, machine
from edgeexit.profiling.qemu.run import run_firmware
from edgeexit.profiling.qemu.sections import measure_flash
from edgeexit.profiling.qemu.stack import worst_stack

CORES = [name for name in MACHINES if name != "host"]
NEEDED = ("arm-none-eabi-gcc", "qemu-system-arm", "gcc")
pytestmark = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
    for tool in NEEDED
]
SAMPLES = hand_model.inputs(40)
FOLDERS: list[str] = []


@cache
def firmware(core: str, trouble: str = "") -> Firmware:
    FOLDERS.append(mkdtemp(prefix="edgeexit-test-"))
    return build_firmware(hand_model.emission(trouble), machine(core), Path(FOLDERS[-1]))


@pytest.fixture(scope="module", autouse=True)
def _leave_no_folders():
    yield
    for folder in FOLDERS:
        shutil.rmtree(folder)


# ------------------------------------------------------------------ running


@pytest.mark.parametrize("core", [*CORES, "host"])
def test_every_core_boots_and_answers_as_numpy_does(core: str) -> None:
    outputs = run_firmware(firmware(core), SAMPLES)
    expected = hand_model.expected_logits(SAMPLES)
    np.testing.assert_array_equal(outputs.logits, expected)
    np.testing.assert_array_equal(outputs.labels, expected.argmax(axis=2))
    ordered = np.sort(expected.astype(int), axis=2)
    np.testing.assert_array_equal(outputs.scores, ordered[..., -1] - ordered[..., -2])
    np.testing.assert_array_equal(outputs.costs, np.tile([10, 15], (len(SAMPLES), 1)))
    np.testing.assert_array_equal(outputs.exits, np.tile([0, 1], (len(SAMPLES), 1)))


@pytest.mark.parametrize("core", ["m4", "host"])
def test_a_run_stops_at_the_exit_that_is_sure(core: str) -> None:
    every = run_firmware(firmware(core), SAMPLES)
    leaves = np.where(every.scores[:, 0] >= hand_model.THRESHOLD, 0, 1)
    assert 0 < leaves.mean() < 1
    rows = np.arange(len(SAMPLES))
    run = run_firmware(firmware(core), SAMPLES, mode="run", point=1)
    np.testing.assert_array_equal(run.exits, leaves)
    np.testing.assert_array_equal(run.logits, every.logits[rows, leaves])
    np.testing.assert_array_equal(run.labels, every.labels[rows, leaves])
    np.testing.assert_array_equal(run.costs, every.costs[rows, leaves])
    never = run_firmware(firmware(core), SAMPLES, mode="run", point=0)
    assert (never.exits == 1).all()


# ------------------------------------------------------------------ counting


@pytest.mark.parametrize("core", CORES)
def test_counts_are_exact_and_repeatable(core: str) -> None:
    counts, outputs = count_segments(firmware(core), SAMPLES[:3])
    short, long = (counts.layers[0][:, layer] for layer in range(2))
    # Per round a loop has four instructions; what is around it differs by a few between layers.
    assert (abs(long - short - 4 * (hand_model.ROUNDS[1] - hand_model.ROUNDS[0])) < 10).all()
    assert (abs(short - 4 * hand_model.ROUNDS[0]) < 30).all()
    assert counts.calls == (("spin_kernel", "spin_kernel", "mix_kernel"),
                            ("trouble_kernel", "mix_kernel"))  # fmt: skip
    for index in range(2):
        np.testing.assert_array_equal(counts.layers[index].sum(axis=1), counts.segments[:, index])
    assert (counts.steps > counts.segments + counts.decisions).all()
    assert (counts.decisions > 0).all()

    again, _ = count_segments(firmware(core), SAMPLES[:3])
    each, _ = count_segments(firmware(core), SAMPLES[:3], count_each=True)
    for other in (again, each):
        for name in ("segments", "decisions", "steps"):
            np.testing.assert_array_equal(getattr(counts, name), getattr(other, name))
        for mine, theirs in zip(counts.layers, other.layers, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(outputs.logits, hand_model.expected_logits(SAMPLES[:3]))


def test_a_round_more_is_four_instructions_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = count_segments(firmware("m4"), SAMPLES[:1])
    monkeypatch.setattr(hand_model, "ROUNDS", (1007, 3000))
    folder = Path(mkdtemp(prefix="edgeexit-test-"))
    FOLDERS.append(str(folder))
    longer = build_firmware(hand_model.emission(), machine("m4"), folder)
    after, _ = count_segments(longer, SAMPLES[:1])
    assert after.layers[0][0, 0] - before.layers[0][0, 0] == 4 * 7
    assert after.segments[0, 0] - before.segments[0, 0] == 4 * 7
    np.testing.assert_array_equal(after.segments[:, 1], before.segments[:, 1])


def test_runs_are_counted_to_their_exit() -> None:
    counts, _ = count_segments(firmware("m4"), SAMPLES)
    totals, outputs = count_runs(firmware("m4"), SAMPLES, point=1)
    steps = np.cumsum(counts.steps, axis=1)[np.arange(len(SAMPLES)), outputs.exits]
    # ee_run calls what ee_step is made of, and begins and ends a sample.
    assert (abs(totals - steps) < 150).all()


def test_blocks_add_up_to_the_total(tmp_path: Path) -> None:
    outputs = run_firmware(firmware("m55"), SAMPLES[:2], marks=[], blocks=tmp_path / "blocks.txt")
    rows = [line.split() for line in (tmp_path / "blocks.txt").read_text().splitlines()]
    total = sum(int(instructions) * int(times) for _, instructions, times in rows)
    assert total == outputs.total_instructions
    assert len(outputs.counts) == 0


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize("core", CORES)
def test_flash_is_counted_once(core: str) -> None:
    flash = measure_flash(firmware(core))
    sections = read_elf(firmware(core).elf).sections
    stored = sum(s.size for s in sections if s.allocated and s.stored)
    parts = {part.name: part.bytes for part in flash.parts}
    assert sum(parts.values()) == stored
    assert flash.total_bytes == stored - parts["harness"]
    # Four structs of one number each.
    assert parts["parameters"] == 16
    assert 500 < parts["runtime"] < 4096
    assert {unit.name for unit in flash.units} >= {"ee_model.c", "kernels.c", "ee_runtime.c"}


def test_weights_are_told_from_other_constants() -> None:
    files = dict(hand_model.emission().files)
    files["ee_model.c"] = (
        files["ee_model.c"]
        .replace(
            "static void segment_0",
            "static const int8_t op_9_weights[200] = {1};\n"
            "static const int8_t *volatile keep = op_9_weights;\n"
            "static void segment_0",
        )
        .replace("trouble_kernel(&op_0, a,", "trouble_kernel(&op_0, keep,")
    )
    folder = Path(mkdtemp(prefix="edgeexit-test-"))
    FOLDERS.append(str(folder))
    emission = hand_model.Emission("ee_model_hand", files, (), ())
    flash = measure_flash(build_firmware(emission, machine("m4"), folder))
    assert {part.name: part.bytes for part in flash.parts}["weights"] == 200


@pytest.mark.parametrize("core", CORES)
def test_the_bound_of_the_stack_holds(core: str) -> None:
    deep = firmware(core, "volatile int8_t frame[600]; frame[0] = 1; frame[599] = frame[0];")
    painted = run_firmware(deep, SAMPLES[:2], mode="run").stack_bytes
    stack = worst_stack(deep, painted)
    assert painted is not None
    assert stack.worst_bytes is not None
    assert 600 < painted <= stack.worst_bytes < painted + 64
    assert stack.path[-1].function == "trouble_kernel"
    assert stack.path[-1].bytes >= 600
    assert sum(frame.bytes for frame in stack.path) == stack.worst_bytes


@pytest.mark.parametrize(
    ("trouble", "where"),
    [
        ("if (input[0] == 1) trouble_kernel(op, input, output, scratch);", "trouble_kernel"),
        ("volatile int8_t a[(uint8_t)input[0] + 1]; a[0] = 1;", "trouble_kernel"),
    ],
)
def test_a_stack_without_a_bound_is_said_to_have_none(trouble: str, where: str) -> None:
    # Calls that end a function stay calls, or GCC would make a loop of the recursion.
    emission = hand_model.emission(f'{trouble} __asm__ volatile("");')
    folder = Path(mkdtemp(prefix="edgeexit-test-"))
    FOLDERS.append(str(folder))
    built = build_firmware(
        emission, machine("m4"), folder, flags=["-fno-optimize-sibling-calls", "-O1"]
    )
    stack = worst_stack(built)
    assert stack.worst_bytes is None
    assert stack.unbounded == (where,)


def test_a_call_through_a_pointer_reaches_what_has_an_address() -> None:
    files = dict(hand_model.emission("calls[(uint8_t)input[0] & 1u]();").files)
    files["kernels.c"] = files["kernels.c"].replace(
        "void spin_kernel(",
        "static void flat(void) {}\n"
        "static void deep(void) { volatile int8_t a[500]; a[0] = 1; }\n"
        "static void (*const calls[2])(void) = {flat, deep};\n"
        "void spin_kernel(",
        1,
    )
    folder = Path(mkdtemp(prefix="edgeexit-test-"))
    FOLDERS.append(str(folder))
    emission = hand_model.Emission("ee_model_hand", files, (), ())
    stack = worst_stack(build_firmware(emission, machine("m4"), folder))
    assert stack.unbounded == ()
    assert stack.path[-1].function == "deep"
    assert stack.worst_bytes is not None
    assert stack.worst_bytes > 500


def test_the_host_measures_no_stack() -> None:
    assert run_firmware(firmware("host"), SAMPLES[:1]).stack_bytes is None


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("trouble", "problem"),
    [
        ("output[64] = 1;", "wrote outside of the arena"),
        ("output[-1] = 1;", "wrote outside of the arena"),
        ("*(volatile uint32_t *)0xf0000000u = 1;", "a fault ended it: HardFault"),
    ],
)
def test_a_kernel_that_writes_where_it_must_not(trouble: str, problem: str) -> None:
    with pytest.raises(EngineError, match=problem):
        run_firmware(firmware("m4", trouble), SAMPLES[:1], timeout_s=20)


@pytest.mark.parametrize("core", CORES)
def test_a_stack_that_is_too_small(core: str) -> None:
    fill = "volatile int8_t frame[33 << 10]; for (int i = 0; i < 33 << 10; i++) frame[i] = 1;"
    with pytest.raises(EngineError, match=r"ran out of stack|a fault ended it"):
        run_firmware(firmware(core, fill), SAMPLES[:1], timeout_s=20)


def test_a_program_that_does_not_end() -> None:
    with pytest.raises(EngineError, match="took too long") as caught:
        run_firmware(firmware("m4", "for (;;) {}"), SAMPLES[:1], timeout_s=2)
    assert "at most 2 s" in str(caught.value)


def test_sources_that_do_not_compile_or_link(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"kernels\.c does not compile") as caught:
        build_firmware(hand_model.emission("no C"), machine("m4"), tmp_path)
    assert "kernels.c" in str(caught.value.given)
    with pytest.raises(EngineError, match="cannot be linked for m4"):
        build_firmware(hand_model.emission("extern void f(void); f();"), machine("m4"), tmp_path)


def test_a_program_beyond_the_memory_of_the_machine(tmp_path: Path) -> None:
    large = "static int8_t big[5 << 20]; big[(uint8_t)input[0]] = 1; output[40] = big[0];"
    with pytest.raises(EngineError, match="cannot be linked") as caught:
        build_firmware(hand_model.emission(large), machine("m4"), tmp_path)
    assert "overflowed" in str(caught.value.given)


def test_a_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineNotInstalledError, match="arm-none-eabi-gcc is not") as caught:
        build_firmware(hand_model.emission(), machine("m4"), tmp_path)
    assert "apt-get install gcc-arm-none-eabi" in str(caught.value.hint)
    with pytest.raises(EngineNotInstalledError, match="gcc is not"):
        build_firmware(hand_model.emission(), machine("host"), tmp_path)


def test_a_missing_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = firmware("m4")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineNotInstalledError, match="qemu-system-arm is not") as caught:
        run_firmware(built, SAMPLES[:1])
    assert "apt-get install qemu-system-arm" in str(caught.value.hint)


def test_an_emulator_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = firmware("m4")
    old = tmp_path / "qemu-system-arm"
    old.write_text("#!/bin/sh\necho 'QEMU emulator version 4.1.0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EngineError, match="cannot be used") as caught:
        count_segments(built, SAMPLES[:1])
    assert "version 4.1.0" in str(caught.value.given)


def test_samples_and_cores_are_checked() -> None:
    with pytest.raises(ArgumentError, match="quantized already"):
        run_firmware(firmware("m4"), np.zeros((1, 8), np.float32))
    with pytest.raises(ArgumentError, match="in an emulator only"):
        run_firmware(firmware("host"), SAMPLES, marks=[])
    with pytest.raises(ArgumentError, match="no emulated machine") as caught:
        machine("m5")
    assert "m55" in str(caught.value)
    with pytest.raises(EngineError, match="refused the model or the operating point"):
        run_firmware(firmware("m4"), SAMPLES, mode="run", point=2)


def test_objects_come_out_of_the_cache(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "cache")]
    for folder in folders[:2]:
        folder.mkdir()
        build_firmware(hand_model.emission(), machine("m4"), folder, cache=folders[2])
    kept = sorted(path.name for path in folders[2].iterdir())
    assert kept
    assert {path.rsplit(".")[1] for path in kept} == {"ci", "o"}
    assert (folders[0] / "firmware.elf").read_bytes() == (folders[1] / "firmware.elf").read_bytes()
    # An object that is spoilt shows that it is read.
    for path in folders[2].glob("*.o"):
        path.write_bytes(b"")
    with pytest.raises(EngineError, match="cannot be linked"):
        build_firmware(hand_model.emission(), machine("m4"), folders[1], cache=folders[2])
