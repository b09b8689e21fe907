"""``edgeexit profile``: what a bundle costs, measured beside the network without early exits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeexit.cli.output import count, duration, emit, json_option, percent, progress, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgeexit.profiling.report import Latency, Report


@click.command(
    name="profile",
    epilog="\b\nExample:\n  edgeexit profile resnet8.eexit --data cifar10 --on host --json",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "source",
    required=True,
    metavar="SOURCE",
    help="What to run on: a name, an .npz file or a folder of class folders.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "calibration", "test"]),
    default="test",
    show_default=True,
)
@click.option("--limit", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--on", default="host", show_default=True, help="The device; 'host' is this machine.")
@click.option("--engine", default="litert", show_default=True, help="What executes the segments.")
@click.option("--point", default="balanced", show_default=True, help="The operating point.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=50, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often every sample is measured.",
)
@json_option
def command(
    bundle: Path,
    source: str,
    split: str,
    limit: int,
    on: str,
    engine: str,
    point: str,
    threads: int,
    warmup: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Measure BUNDLE: p50, p95 and p99 of each segment, of each exit and end to end.

    Every sample is run on its own, in turns with the network without early exits.
    """
    from edgeexit import data
    from edgeexit.profiling import profile

    with progress() as report:
        samples = data.load(source, progress=report).parts()[split][:limit]
        report(f"profile on {on}", 0, 0)
        result = profile(
            bundle,
            samples.images,
            samples.labels,
            on=on,
            engine=engine,
            operating_point=point,
            num_threads=threads,
            warmup=warmup,
            rounds=rounds,
        )
    emit(result, as_json=as_json, show=lambda out: show_report(out, result))


def show_report(out: Console, report: Report) -> None:
    """Prints a report as tables."""
    device = report.device
    out.print(
        f"[bold]{report.bundle}[/bold] at {report.operating_point} with {device.engine} "
        f"{device.engine_version or ''}, {device.num_threads} thread(s), on {device.transport}: "
        f"{device.cpu or 'unknown processor'} ({device.num_cpus} CPUs, {device.system})"
    )
    out.print(
        f"{report.num_samples:,} samples one by one, {report.rounds} rounds in turns with the "
        f"network without early exits, after {report.warmup} warm-up runs; times are measured"
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
