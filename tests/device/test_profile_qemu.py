"""Bundles on emulated cores: the answers that numpy expects, and a report that adds up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from backend import tiny_chain

from edgeexit import profile
from edgeexit.backends.c import build
from edgeexit.backends.c.from_bundle import program_inputs, static_inputs
from edgeexit.cli.app import main
from edgeexit.errors import ArgumentError, TargetError
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.run import run_firmware
from edgeexit.runtime.bundle import Bundle, open_bundle
from edgeexit.targets import load_target

NEEDED = ("arm-none-eabi-gcc", "qemu-system-arm", "gcc")
pytestmark = [
    pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
    for tool in NEEDED
]
TARGETS = ("cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
RAW = tiny_chain.images(24)
LOGITS = tiny_chain.expected_logits(RAW)
POINTS = {"static": (256, 256, 0), "balanced": (4, 6, 0)}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tiny_chain.write_bundle(
        tmp_path / "tiny.eexit", tiny_chain.tflite_files(), rule="margin", points=POINTS
    )
    return open_bundle(folder)


def expected_exits() -> np.ndarray:
    """int64 [num]: margins by hand."""
    ordered = np.sort(LOGITS.astype(int), axis=2)
    sure = (ordered[..., -1] - ordered[..., -2]) >= np.array(POINTS["balanced"])
    return sure.argmax(axis=1)


@pytest.mark.parametrize("name", TARGETS)
def test_the_chain_answers_as_numpy_does(bundle: Bundle, name: str, tmp_path: Path) -> None:
    target = load_target(name)
    assert target.core is not None
    assert target.emulator is not None
    program = build(*program_inputs(bundle), target.core, kernel_sets=target.kernel_sets)
    firmware = build_firmware(program.emission, machine(target.emulator.machine), tmp_path)
    inputs = (RAW.astype(int) - 128).astype(np.int8)
    np.testing.assert_array_equal(run_firmware(firmware, inputs).logits, LOGITS)
    run = run_firmware(firmware, inputs, mode="run", point=1)
    np.testing.assert_array_equal(run.exits, expected_exits())


def test_a_report_adds_up(bundle: Bundle) -> None:
    labels = LOGITS[:, 2].argmax(axis=1)
    report = profile(bundle, RAW, labels, on="qemu", target="nucleo-l4r5zi")
    chain, exits = report.chain, expected_exits()
    assert (report.target, report.cost_profile) == ("nucleo-l4r5zi", "1v8")
    assert [sample.exit for sample in chain.samples] == exits.tolist()
    answers = LOGITS[np.arange(len(RAW)), exits].argmax(axis=1)
    assert [sample.label for sample in chain.samples] == answers.tolist()
    assert chain.accuracy == pytest.approx((answers == labels).mean())
    assert [leaving.num_samples for leaving in chain.exits] == np.bincount(exits).tolist()
    assert chain.mean_instructions == np.mean([s.instructions for s in chain.samples])
    for segment in chain.segments:
        of_layers = [layer.instructions for layer in chain.layers if layer.segment == segment.index]
        assert sum(of_layers) == pytest.approx(segment.instructions)
    steps = sum(s.instructions + s.overhead_instructions for s in chain.segments)
    assert steps == pytest.approx(chain.full_instructions)
    assert report.static is not None
    ratio = chain.mean_instructions / report.static.mean_instructions
    assert report.instructions_ratio == pytest.approx(ratio)
    # Modelled, by hand: cycles per instruction over clock, times power.
    costs = load_target("nucleo-l4r5zi").cost_profile()
    assert costs is not None
    assert costs.power_mw is not None
    assert chain.mean_cost is not None
    assert chain.mean_cost.energy_uj is not None
    time_us = chain.mean_instructions * costs.cycles_per_instruction.high / costs.clock_hz * 1e6
    assert chain.mean_cost.latency_us.high == pytest.approx(time_us)
    assert chain.mean_cost.energy_uj.high == pytest.approx(time_us * costs.power_mw.high / 1e3)
    assert chain.stack.worst_bytes is not None
    assert chain.stack.painted_bytes is not None
    assert chain.stack.painted_bytes <= chain.stack.worst_bytes


def test_the_command(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "images.npz"
    np.savez(data, **{
        f"{split}_{what}": value
        for split in ("train", "test")
        for what, value in (("images", RAW), ("labels", LOGITS[:, 2].argmax(axis=1)))
    })  # fmt: skip
    words = ["profile", str(bundle.path), "--data", str(data), "--on", "qemu", "--limit", "8"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--target", "cortex-m4"])
    shown = capsys.readouterr()
    assert left.value.code == 0, shown.err
    assert "8 samples of" in shown.out
    for text in ("Cortex-M4F", "By layer", "By segment", "arena", "stack of ee_run: bound"):
        assert text in shown.out
    with pytest.raises(SystemExit) as left:
        main([*words, "--target", "nucleo-l4r5zi", "--json"])
    shown = capsys.readouterr()
    assert left.value.code == 0, shown.err
    told = json.loads(shown.out)
    assert told["chain"]["num_samples"] == 8
    assert told["dataset"] == f"{data}/test"
    assert told["chain"]["mean_cost"]["latency_us"]["mid"] > 0
    assert told["chain"]["mean_cost"]["source"] == "modelled"


def test_what_cannot_be_profiled(bundle: Bundle) -> None:
    with pytest.raises(TargetError, match="no core that QEMU can emulate") as caught:
        profile(bundle, RAW, on="qemu", target="host")
    assert "--target" in str(caught.value.hint)
    with pytest.raises(ArgumentError, match="no such operating point"):
        profile(bundle, RAW, on="qemu", target="cortex-m4", operating_point="frugal")
    with pytest.raises(ArgumentError, match="differ in length"):
        profile(bundle, RAW, np.zeros(3, np.int64), on="qemu", target="cortex-m4")
    with pytest.raises(ArgumentError, match="has to be counted"):
        profile(bundle, RAW, on="qemu", target="cortex-m4", num_counted=0)


def test_the_static_network_is_a_chain_of_one(bundle: Bundle) -> None:
    parts = static_inputs(bundle)
    assert parts is not None
    assert len(parts[0]) == 1
    assert [point.name for point in parts[2].points] == ["static"]
