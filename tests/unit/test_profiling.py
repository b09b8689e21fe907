"""Profiles with a clock that only the (fake) sessions move, so that every number is known."""

from __future__ import annotations

import gc
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgeexit.cli.output import jsonable
from edgeexit.cli.profile import show_report
from edgeexit.errors import ArgumentError, DataError
from edgeexit.profiling import host, profile
from edgeexit.profiling.report import Report, measured
from edgeexit.runtime.bundle import Bundle, open_bundle
from edgeexit.types import Result

CHAIN_NS = (100, 300)
STATIC_NS = 200
SEGMENT_NS = (90, 180)


class World:
    """What the fake sessions did, in order, and what time it is."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []
        self.collector_ran = False

    def clock(self) -> int:
        return self.now


def fake_session(world: World) -> type:
    class Session:
        """Leaves at the exit that the first pixel names, with the label that the second names."""

        def __init__(self, bundle: Bundle, *, static: bool = False, **_: Any) -> None:
            self.static, self.operating_point = static, "balanced"

        def run(self, raw: np.ndarray[Any, Any], timings: bool = False) -> Result:
            leave, label = int(raw[0, 0, 0]), int(raw[0, 1, 0])
            world.calls.append("static" if self.static else "timed" if timings else "chain")
            world.collector_ran |= gc.isenabled() and timings
            world.now += STATIC_NS if self.static else CHAIN_NS[leave]
            times = SEGMENT_NS[: leave + 1] if timings else ()
            return Result(label, 1 if self.static else leave, 0.9, times)

    return Session


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(host, "Session", fake_session(world))
    monkeypatch.setattr(host, "perf_counter_ns", world.clock)
    return world


def images(*exits_and_labels: tuple[int, int]) -> np.ndarray[Any, Any]:
    made = np.zeros((len(exits_and_labels), 4, 4, 1), np.uint8)
    made[:, 0, :2, 0] = exits_and_labels
    return made


FOUR = images((0, 0), (0, 1), (0, 2), (1, 0))
LABELS = np.array([0, 1, 0, 0])


def without_static(bundle: Bundle) -> Bundle:
    chain_only = tuple(a for a in bundle.manifest.artifacts if a.segment is not None)
    return Bundle(bundle.path, replace(bundle.manifest, artifacts=chain_only))


def test_numbers_by_hand(world: World, bundle_folder: Path) -> None:
    report = profile(bundle_folder, FOUR, LABELS, warmup=3, rounds=2)
    assert report.chain.num_runs == 8
    assert report.chain.mean_ns == pytest.approx((3 * 100 + 300) / 4)
    assert report.chain.p50_ns == 100
    assert report.chain.p99_ns == 300
    assert report.static is not None
    assert report.static.mean_ns == report.static.p95_ns == STATIC_NS
    assert report.p50_ratio == pytest.approx(0.5)
    assert report.mean_ratio == pytest.approx(0.75)
    assert report.accuracy == pytest.approx(0.75)
    # Segments of 1,100 and 2,000 MACs: three samples stop after the first.
    assert report.macs == pytest.approx((3 * 1100 + 3100) / 4)
    assert report.macs_saved == pytest.approx(1 - 1600 / 3000)

    first, last = report.exits
    assert (first.name, first.num_samples, first.rate, first.macs) == ("layer1", 3, 0.75, 1100)
    assert first.accuracy == pytest.approx(2 / 3)
    assert (last.name, last.num_samples, last.accuracy, last.macs) == ("final", 1, 1.0, 3100)
    assert last.latency is not None
    assert last.latency.p50_ns == 300

    early, late = report.segments
    assert early.latency is not None
    assert late.latency is not None
    assert (early.latency.num_runs, early.latency.p50_ns) == (8, 90)
    assert (late.latency.num_runs, late.latency.p50_ns) == (2, 180)
    assert {early.latency.source, report.chain.source} == {"measured"}
    assert not world.collector_ran


def shown(report: Report) -> str:
    out = Console(width=200, file=io.StringIO())
    show_report(out, report)
    return out.file.getvalue()  # type: ignore[attr-defined]


def test_a_report_names_its_samples(world: World, bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    report = profile(bundle, FOUR, LABELS, dataset="grey/test", rounds=1)
    assert jsonable(report)["dataset"] == "grey/test"
    turns = "one by one, 1 rounds in turns with the network without early exits, after 50"
    assert f"4 samples of grey/test {turns} warm-up runs" in shown(report)
    report = profile(without_static(bundle), FOUR, rounds=1)
    assert report.dataset is None
    assert "4 samples one by one, 1 rounds, after 50 warm-up runs" in shown(report)


def test_chain_and_static_take_turns_and_turns_change(world: World, bundle_folder: Path) -> None:
    profile(bundle_folder, FOUR[:2], rounds=2, warmup=0)
    end_to_end = world.calls[4:12]  # after the two passes that collect answers
    assert end_to_end == ["chain", "static"] * 2 + ["static", "chain"] * 2
    assert world.calls[12:] == ["timed"] * 4


def test_progress_is_told_between_passes(world: World, bundle_folder: Path) -> None:
    told: list[tuple[int, int, int]] = []
    profile(
        bundle_folder,
        FOUR,
        rounds=2,
        warmup=0,
        progress=lambda _, done, total: told.append((done, total, len(world.calls))),
    )
    # The answers, two passes of both networks, two by segment; four samples each.
    assert told == [(0, 5, 0), (1, 5, 8), (2, 5, 16), (3, 5, 24), (4, 5, 28)]


def test_what_is_missing_is_none(world: World, bundle_folder: Path) -> None:
    report = profile(without_static(open_bundle(bundle_folder)), FOUR[:3], warmup=0, rounds=1)
    assert report.static is report.static_accuracy is report.p50_ratio is report.mean_ratio is None
    assert report.accuracy is None
    assert report.exits[1].num_samples == 0
    assert report.exits[1].latency is report.exits[1].accuracy is report.segments[1].latency is None


def test_device_says_what_ran(world: World, bundle_folder: Path) -> None:
    device = profile(bundle_folder, FOUR, rounds=1, num_threads=2).device
    assert (device.transport, device.engine, device.num_threads) == ("host", "litert", 2)
    assert device.engine_version is not None


def test_collector_is_as_it_was(world: World, bundle_folder: Path) -> None:
    gc.disable()
    try:
        profile(bundle_folder, FOUR, rounds=1)
        assert not gc.isenabled()
    finally:
        gc.enable()
    profile(bundle_folder, FOUR, rounds=1)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"num_threads": 0}, "num_threads must be at least 1"),
        ({"warmup": -1}, "warmup must not be negative"),
        ({"samples": FOUR[:0]}, "samples must be at least 1"),
        ({"labels": LABELS[:2]}, r"differ in length(.|\n)*wanted: 4 labels"),
        ({"on": "toaster"}, r"on 'toaster'(.|\n)*wanted: on='host'"),
        ({"target": "m4"}, r"(?s)host does not take target.*wanted: on='qemu'.*target='m4'"),
        ({"cost_profile": "1v8"}, "host does not take cost_profile"),
        ({"num_counted": 3}, "host does not take num_counted"),
        ({"cmsis_nn": Path("x")}, "host does not take cmsis_nn"),
        ({"on": "qemu", "engine": "litert"}, r"(?s)qemu does not take engine.*wanted: on='host'"),
        ({"on": "qemu", "num_threads": 1}, "qemu does not take num_threads"),
        ({"on": "qemu", "warmup": 0}, r"(?s)qemu does not take warmup.*given: warmup=0"),
        ({"on": "qemu", "rounds": 5}, "qemu does not take rounds"),
    ],
)
def test_bad_arguments(
    world: World, bundle_folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        profile(**{"bundle": bundle_folder, "samples": FOUR, **options})


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_of_other_classes(world: World, bundle_folder: Path, label: int) -> None:
    with pytest.raises(DataError, match=r"(?s)other classes.*wanted: 0 to 2"):
        profile(bundle_folder, FOUR, np.array([0, 1, 2, label]))


def test_percentiles_by_hand() -> None:
    latency = measured(range(1, 102))
    assert (latency.p50_ns, latency.p95_ns, latency.p99_ns) == (51, 96, 100)
