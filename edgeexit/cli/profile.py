"""``edgeexit profile``: what a bundle costs, measured beside the network without early exits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeexit.cli.class_names import check_classes
from edgeexit.cli.ignored_options import refuse_given
from edgeexit.cli.output import (
    count,
    duration,
    emit,
    json_option,
    line,
    number_of_samples,
    percent,
    progress,
    table,
)
from edgeexit.cli.profile_qemu import show_qemu

if TYPE_CHECKING:
    from rich.console import Console

    from edgeexit.profiling.report import Latency, Report

_ON_HOST = ("engine", "threads", "warmup", "rounds")
_UNDER_QEMU = ("target", "cost_profile", "cmsis_nn")


@click.command(
    name="profile",
    epilog="\b\nExamples:\n  edgeexit profile resnet8.eexit --data cifar10 --on host --json\n"
    "  edgeexit profile resnet8.eexit --data cifar10 --on qemu --target nucleo-l4r5zi",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "source",
    required=True,
    metavar="SOURCE",
    help="What to run on: a name, an .npz file, a folder, or a .toml of a stream.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "calibration", "test"]),
    default="test",
    show_default=True,
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="How many samples at most.  [default: 500; 100 under qemu]",
)
@click.option(
    "--on",
    type=click.Choice(["host", "qemu"]),
    default="host",
    show_default=True,
    help="'host' is this machine, 'qemu' an emulated microcontroller.",
)
@click.option(
    "--engine", default="litert", show_default=True, help="On the host: what executes the segments."
)
@click.option("--point", help="The operating point: balanced, if there is one, by default.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=50, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often every sample is measured.",
)
@click.option("--target", metavar="NAME", help="Under qemu: the device; else the bundle's own.")
@click.option(
    "--cost-profile", metavar="NAME", help="Under qemu: what times and energies are modelled from."
)
@click.option(
    "--cmsis-nn",
    type=click.Path(path_type=Path),
    envvar="CMSIS_NN_PATH",
    metavar="DIR",
    help="Under qemu: CMSIS-NN's root; the extra 'mcu' brings one. [$CMSIS_NN_PATH]",
)
@json_option
def command(
    bundle: Path,
    source: str,
    split: str,
    limit: int | None,
    on: str,
    engine: str,
    point: str | None,
    threads: int,
    warmup: int,
    rounds: int,
    target: str | None,
    cost_profile: str | None,
    cmsis_nn: Path | None,
    as_json: bool,
) -> None:
    """Measure BUNDLE, sample by sample, beside its network without early exits.

    On the host: p50, p95 and p99 of each segment, of each exit and end to end. Under qemu: exact
    instructions of each layer, segment and decision, flash, arena and stack of the C program on an
    emulated core, and time and energy that are modelled from them.
    """
    from edgeexit import data
    from edgeexit.profiling import profile
    from edgeexit.runtime.bundle import open_bundle

    other, foreign = ("host", _ON_HOST) if on == "qemu" else ("qemu", _UNDER_QEMU)
    refuse_given(foreign, f"--on {on} does not take this option", wanted=f"--on {other}")
    opened = open_bundle(bundle)
    with progress(still=on == "host") as report:
        if limit is None:
            limit = 100 if on == "qemu" else 500
        splits = data.load(source, progress=report)
        check_classes(opened.manifest, splits.class_names, source)
        samples = splits.parts()[split][:limit]
        dataset = f"{source}/{split}"
        if on == "qemu":
            report("profile on qemu", 0, 0)
            emulated = profile(
                opened,
                samples.images,
                samples.labels,
                on="qemu",
                operating_point=point,
                dataset=dataset,
                target=target,
                cost_profile=cost_profile,
                cmsis_nn=cmsis_nn,
            )
        else:
            measured = profile(
                opened,
                samples.images,
                samples.labels,
                engine=engine,
                operating_point=point,
                dataset=dataset,
                num_threads=threads,
                warmup=warmup,
                rounds=rounds,
                progress=report,
            )
    # After the bars, which hold standard output while they are shown.
    if on == "qemu":
        emit(emulated, as_json=as_json, show=lambda out: show_qemu(out, emulated))
    else:
        emit(measured, as_json=as_json, show=lambda out: show_report(out, measured))


def show_report(out: Console, report: Report) -> None:
    """Prints a report as tables."""
    device = report.device
    out.print(
        line(
            (report.bundle, "bold"),
            f" at {report.operating_point} with {device.engine} {device.engine_version or ''}, "
            f"{device.num_threads} thread(s), on {device.transport}: "
            f"{device.cpu or 'unknown processor'} ({device.num_cpus} CPUs, {device.system})",
        )
    )
    turns = "" if report.static is None else " in turns with the network without early exits"
    out.print(
        f"{number_of_samples(report.num_samples, report.dataset)} one by one, {report.rounds} "
        f"rounds{turns}, after {report.warmup} warm-up runs; times are measured"
    )
    whole = table("From raw image to answer", *_TIMES, "accuracy", "MACs")
    whole.add_row(
        "early exits", *_times(report.chain), percent(report.accuracy), count(report.macs)
    )
    whole.add_row(
        "no early exits",
        *_times(report.static),
        percent(report.static_accuracy),
        count(report.static_macs),
    )
    out.print(whole)
    if report.p50_ratio is not None and report.mean_ratio is not None:
        out.print(
            f"with early exits: p50 x {report.p50_ratio:.3f}, mean x {report.mean_ratio:.3f}, "
            f"{percent(report.macs_saved)} of the MACs saved"
        )
    exits = table("By exit: the samples that leave there", *_TIMES, "rate", "accuracy", "MACs")
    for leaving in report.exits:
        exits.add_row(
            f"{leaving.index} {leaving.name}",
            *_times(leaving.latency),
            percent(leaving.rate),
            percent(leaving.accuracy),
            count(leaving.macs),
        )
    out.print(exits)
    segments = table(
        "By segment: kernels, decision and hand-over, timed in rounds of their own", *_TIMES, "MACs"
    )
    for segment in report.segments:
        segments.add_row(
            f"{segment.index} {segment.exit_name}", *_times(segment.latency), count(segment.macs)
        )
    out.print(segments)


_TIMES = ("", "p50", "p95", "p99", "mean")


def _times(latency: Latency | None) -> list[str]:
    if latency is None:
        return ["-"] * 4
    times = (latency.p50_ns, latency.p95_ns, latency.p99_ns, latency.mean_ns)
    return [duration(time) for time in times]
