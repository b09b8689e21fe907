"""``edgeexit inspect``: what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeexit.cli.output import count, emit, json_option, jsonable, line, percent, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgeexit.runtime.bundle import Bundle
    from edgeexit.types import FirmwareSpec, InputSpec, Rule, TensorSpec


@click.command(name="inspect", epilog="\b\nExample:\n  edgeexit inspect resnet8.eexit --json")
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE holds: segments, tensors, operating points and files."""
    from edgeexit.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    emit(facts_of(opened), as_json=as_json, show=lambda out: show_bundle(out, opened))


def facts_of(bundle: Bundle) -> dict[str, Any]:
    """The manifest as JSON, with the folder; the decision's tables are left out for their size."""
    facts: dict[str, Any] = {"path": str(bundle.path), **jsonable(bundle.manifest)}
    facts["decision"] = {"rule": bundle.manifest.decision.rule}
    return facts


def show_bundle(out: Console, bundle: Bundle) -> None:
    """Prints the manifest as tables."""
    manifest = bundle.manifest
    num_parameters = sum(segment.num_parameters for segment in manifest.segments)
    macs = sum(segment.macs for segment in manifest.segments)
    out.print(line((manifest.name, "bold"), f" for {manifest.target}, in {bundle.path}"))
    out.print(
        f"input {_tensor(manifest.input.tensor)} from {_raw(manifest.input)}; "
        f"{manifest.num_classes} classes; rule {manifest.decision.rule}"
    )
    out.print(
        f"all segments: {count(macs)} MACs, {count(num_parameters)} parameters; without early "
        f"exits: {count(manifest.static_macs)} MACs, {count(manifest.static_num_parameters)} "
        "parameters"
    )
    segments = table("Segments", "", "exit", "takes", "hands on", "MACs", "parameters", left=4)
    for segment in manifest.segments:
        segments.add_row(
            str(segment.index),
            segment.exit_name,
            _tensors(segment.inputs),
            _tensors(segment.outputs),
            count(segment.macs),
            count(segment.num_parameters),
        )
    out.print(segments)

    for backend, points in manifest.points.items():
        first = points[0]
        how = f"chosen with {first.engine} on {first.num_samples:,} samples of {first.dataset}"
        rows = table(
            f"Operating points, {backend}: {how if first.num_samples else 'made without data'}",
            *(
                "name",
                "accuracy",
                "MACs saved",
                "leave at exit",
                f"{manifest.decision.rule} needed",
            ),
        )
        for point in points:
            rates = " / ".join(f"{100 * rate:.1f} %" for rate in point.exit_rates)
            thresholds = " / ".join(_threshold(manifest.decision.rule, t) for t in point.thresholds)
            rows.add_row(
                point.name, percent(point.accuracy), percent(point.macs_saved), rates, thresholds
            )
        out.print(rows)
        idle = [point.name for point in points[1:] if point.exit_rates[-1] == 1]
        if idle and first.num_samples and len(manifest.segments) > 1:
            least = percent(1 / first.num_samples)
            out.print(
                f"{', '.join(idle)}: no early exit kept the promise. On {first.num_samples:,} "
                f"samples none below {least} can be kept; more samples allow more."
            )

    if manifest.firmware is not None:
        _show_firmware(out, manifest.firmware)

    files = table("Files", "path", "backend", "implements", "bytes", left=3)
    for artifact in manifest.artifacts:
        static = artifact.segment is None
        part = "the network without early exits" if static else f"segment {artifact.segment}"
        method = f" ({artifact.method})" if artifact.method else ""
        files.add_row(artifact.path, artifact.backend, part + method, f"{artifact.num_bytes:,}")
    for source in manifest.firmware.files if manifest.firmware else ():
        files.add_row(source.path, "c", "the chain", f"{source.num_bytes:,}")
    files.add_row(manifest.golden.path, "", "golden vectors", f"{manifest.golden.num_bytes:,}")
    out.print(files)
    out.print("made with " + ", ".join(f"{k} {v}" for k, v in manifest.tools.items()))


def _show_firmware(out: Console, firmware: FirmwareSpec) -> None:
    constants = sum(layer.constant_bytes for layer in firmware.layers)
    layers = table(
        f"C for {firmware.core}: an arena of {firmware.arena_bytes:,} B, of which no plan can need "
        f"less than {firmware.lower_bound_bytes:,}; {constants:,} B of weights; instructions are "
        "modelled from counted costs",
        *("layer", "kernel", "MACs", "weights", "scratch", "instructions"),
        left=2,
    )
    for layer in firmware.layers:
        layers.add_row(
            layer.name,
            layer.function,
            count(layer.macs),
            f"{layer.constant_bytes:,}",
            f"{layer.scratch_bytes:,}",
            count(layer.instructions),
        )
    out.print(layers)


def _threshold(rule: Rule, threshold: int) -> str:
    from edgeexit.runtime.decision import ONE, RULES

    if threshold in (RULES[rule].never, RULES[rule].always):
        return "never" if threshold == RULES[rule].never else "always"
    return percent(ONE / threshold) if rule == "confidence" else str(threshold)


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(_tensor, specs)) or "-"


def _raw(spec: InputSpec) -> str:
    if spec.raw_is_subtraction:
        return "uint8, uint8 - 128"
    offset, multiplier = (
        ", ".join(f"{n:g}" for n in numbers) for numbers in (spec.offset, spec.multiplier)
    )
    return (
        f"{spec.raw_dtype}, (raw - offset) * multiplier, offset {offset}, multiplier {multiplier}, "
        f"scale {spec.tensor.scale:g}, zero point {spec.tensor.zero_point}"
    )


def _tensor(spec: TensorSpec) -> str:
    return "x".join(map(str, spec.shape))
