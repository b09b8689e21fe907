"""How ``edgeexit profile --on qemu`` shows its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeexit.cli.output import count, line, number_of_samples, percent, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgeexit.profiling.qemu.report import Cost, QemuProfile, QemuReport
    from edgeexit.targets import Span


def show_qemu(out: Console, profile: QemuProfile) -> None:
    """Prints a profile as tables."""
    chain = profile.chain
    out.print(
        line(
            (profile.bundle, "bold"),
            f" at {profile.operating_point} for {profile.target}: {chain.machine}",
        )
    )
    out.print(f"{chain.emulator.partition(' (')[0]}, {chain.compiler}")
    if profile.note:
        out.print(profile.note)
    out.print(
        f"{number_of_samples(chain.num_samples, profile.dataset)}, {chain.num_counted} of them "
        "layer by layer; instructions are measured and exact"
        + (f", times and energies are modelled ({profile.cost_profile})" if chain.mean_cost else "")
    )
    _show_whole(out, profile)
    _show_exits(out, chain)
    _show_segments(out, chain)
    _show_layers(out, chain)
    _show_memory(out, chain)
    if chain.cost_source:
        out.print(f"Modelled from: {chain.cost_source}")


def _show_whole(out: Console, profile: QemuProfile) -> None:
    rows = table("From quantized input to answer", "", *_COSTS, "per MAC", "accuracy")
    chain, static = profile.chain, profile.static
    rows.add_row(
        "early exits",
        *_costs(chain.mean_instructions, chain.mean_cost),
        "-",
        percent(chain.accuracy),
    )
    rows.add_row(
        "early exits, all segments",
        *_costs(chain.full_instructions, chain.full_cost),
        _ratio(chain.instructions_per_mac),
        "-",
    )
    if static is not None:
        rows.add_row(
            "no early exits",
            *_costs(static.full_instructions, static.full_cost),
            _ratio(static.instructions_per_mac),
            "-",
        )
    out.print(rows)
    if profile.instructions_ratio is not None:
        out.print(f"with early exits: instructions x {profile.instructions_ratio:.3f}")


def _show_exits(out: Console, chain: QemuReport) -> None:
    rows = table("By exit: the samples that leave there", "", "rate", "accuracy", *_COSTS)
    for leaving in chain.exits:
        rows.add_row(
            str(leaving.index),
            percent(leaving.rate),
            percent(leaving.accuracy),
            *_costs(leaving.instructions, leaving.cost),
        )
    out.print(rows)


def _show_segments(out: Console, chain: QemuReport) -> None:
    rows = table("By segment", "", "MACs", *_COSTS, "decision", "with bookkeeping")
    for segment in chain.segments:
        rows.add_row(
            str(segment.index),
            count(segment.macs),
            *_costs(segment.instructions, segment.cost),
            f"{segment.decision_instructions:,.0f}",
            f"{segment.overhead_instructions:,.0f}",
        )
    out.print(rows)


def _show_layers(out: Console, chain: QemuReport) -> None:
    rows = table(
        "By layer", "segment", "layer", "kernel", "MACs", "instructions", "per MAC", "time", left=3
    )
    for layer in chain.layers:
        rows.add_row(
            str(layer.segment),
            layer.name,
            layer.function,
            count(layer.macs),
            f"{layer.instructions:,.0f}",
            _ratio(layer.instructions_per_mac),
            "-" if layer.cost is None else _time(layer.cost.latency_us.mid),
        )
    out.print(rows)


def _show_memory(out: Console, chain: QemuReport) -> None:
    rows = table("Memory", "", "bytes")
    for part in chain.flash.parts:
        if part.name != "harness":
            rows.add_row(f"flash: {part.name}", f"{part.bytes:,}")
    rows.add_row("flash in all", f"{chain.flash.total_bytes:,}")
    rows.add_row("arena", f"{chain.arena_bytes:,}")
    rows.add_row("arena: no plan can need less than", f"{chain.arena_lower_bound_bytes:,}")
    rows.add_row("stack of ee_run: bound", _whole(chain.stack.worst_bytes))
    rows.add_row("stack of ee_run: seen", _whole(chain.stack.painted_bytes))
    out.print(rows)
    if chain.stack.unbounded:
        out.print(f"no bound, because of {', '.join(chain.stack.unbounded)}")
    out.print("deepest: " + ", ".join(f"{f.function} {f.bytes}" for f in chain.stack.path))


_COSTS = ("instructions", "time", "energy")


def _costs(instructions: float | None, cost: Cost | None) -> list[str]:
    return [
        "-" if instructions is None else f"{instructions:,.0f}",
        _span(cost.latency_us, 1e3, "us", "ms") if cost else "-",
        _span(cost.energy_uj, 1e3, "uJ", "mJ") if cost and cost.energy_uj else "-",
    ]


def _span(span: Span, step: float, small: str, large: str) -> str:
    factor, unit = (1 / step, large) if span.mid >= step else (1.0, small)
    low, mid, high = (value * factor for value in (span.low, span.mid, span.high))
    return f"{_digits(mid)} {unit} ({_digits(low)} to {_digits(high)})"


def _digits(number: float) -> str:
    """Three significant digits, which is more than a model knows."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _time(microseconds: float) -> str:
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:.2f} ms"
    return f"{microseconds:.1f} us"


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _whole(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
