"""``edgeexit diagnose``: what the exits of a trained network do to each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeexit.cli.models import load_trained
from edgeexit.cli.output import data_option, emit, json_option, percent, progress, table
from edgeexit.errors import ArgumentError

if TYPE_CHECKING:
    from rich.console import Console

    from edgeexit.data.types import Splits
    from edgeexit.nn.model import MultiExitModel
    from edgeexit.training.diagnostics import Diagnosis, Diagnostics


@click.command(
    name="diagnose",
    epilog="\b\nExamples:\n"
    "  edgeexit diagnose resnet8 --weights cifar10 --data cifar10 -o diagnostics\n"
    "  edgeexit diagnose runs/mixed --against runs/joint --against runs/disjoint \\\n"
    "    --data cifar10 -o diagnostics",
)
@click.argument("model", metavar="CHECKPOINT")
@data_option
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for plots, tables and summary.",
)
@click.option("--weights", metavar="DATASET", help="Weights that ship with a zoo network.")
@click.option(
    "--against",
    multiple=True,
    metavar="CHECKPOINT",
    help="Another trained network of the same kind, or a .safetensors file of its weights; may be "
    "given twice.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Images of each split; half of it at each point between networks.",
)
@click.option(
    "--line-points", type=click.IntRange(min=2), default=21, show_default=True, help="On the line."
)
@click.option(
    "--plane-points",
    type=click.IntRange(min=2),
    default=11,
    show_default=True,
    help="About how many on the plane's longer side.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of samples and directions.",
)
@click.option("--overwrite", is_flag=True, help="Replace diagnostics that are there already.")
@json_option
def command(
    model: str,
    source: str,
    output: Path,
    weights: str | None,
    against: tuple[str, ...],
    samples: int,
    line_points: int,
    plane_points: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Diagnose the trained network CHECKPOINT, alone or against one or two others.

    CHECKPOINT is a folder made by edgeexit train, a network of the zoo with --weights, or
    package.module:function. Written are, each with a table beside its plot: gradient dominance,
    numerical rank, mutual information, confidence, over- and underthinking, collusion, and, with
    --against, mode connectivity. The test split is not looked at.
    """
    if len(against) > 2:
        raise ArgumentError(
            "a plane goes through three networks at most",
            wanted="--against once or twice",
            given=f"{len(against)} times",
        )
    with progress() as report:
        report("load data and networks", 0, 0)
        from edgeexit import data
        from edgeexit.training.diagnostics import Settings, diagnose
        from edgeexit.training.diagnostics.report import check_output

        check_output(output, overwrite)
        splits = data.load(source, progress=report)
        first = load_trained(
            model,
            weights=weights,
            num_classes=splits.num_classes,
            in_channels=splits.image_shape[2],
            image_size=splits.image_shape[:2],
        )
        others = [_other(name, first, splits) for name in against]
        names = _names([model, *against])
        found = diagnose(
            first,
            splits,
            output,
            other=others[0] if others else None,
            third=others[1] if len(others) > 1 else None,
            names=names,
            settings=Settings(
                num_samples=samples,
                num_landscape_samples=max(1, samples // 2),
                num_statistics=max(1, samples // 2),
                num_line_points=line_points,
                num_plane_points=plane_points,
                seed=seed,
            ),
            replace=overwrite,
            progress=report,
        )
    emit(_facts(found, output), as_json=as_json, show=lambda out: _show(out, found, names, output))


def _other(name: str, first: MultiExitModel, splits: Splits) -> MultiExitModel:
    if name.endswith(".safetensors"):
        from edgeexit.training.diagnostics import with_weights

        return with_weights(first, Path(name))
    return load_trained(
        name,
        weights=None,
        num_classes=splits.num_classes,
        in_channels=splits.image_shape[2],
        image_size=splits.image_shape[:2],
    )


def _names(given: list[str]) -> list[str]:
    """Short names for plots: the last part of a path, with a number where two are the same."""
    short = [Path(name).name.removesuffix(".safetensors") or name for name in given]
    return [
        f"{name} {place + 1}" if short.count(name) > 1 else name for place, name in enumerate(short)
    ]


def _facts(found: Diagnostics, output: Path) -> dict[str, object]:
    from edgeexit.training.diagnostics.results import summary_of
    from edgeexit.training.diagnostics.write import plain

    return {
        "output": output,
        "models": [plain(summary_of(diagnosis)) for diagnosis in found.diagnoses],
        "barrier_nats": None if found.line is None else plain(found.line.barrier),
        "left_out": dict(found.left_out),
        "files": found.files,
    }


def _show(out: Console, found: Diagnostics, names: list[str], output: Path) -> None:
    for diagnosis in found.diagnoses:
        out.print(_table(diagnosis))
        change = diagnosis.overthinking
        out.print(
            f"  any exit is right on {percent(change.oracle_accuracy)}; an earlier one, and the "
            f"last not, on {percent(change.destructive)}"
        )
    if found.line is not None:
        rows = table(f"On the line from {names[0]} to {names[1]}", "exit", "barrier", "lowest")
        for k, name in enumerate(found.line.exits):
            lowest = percent(float(found.line.accuracy[:, k].min()))
            rows.add_row(name, f"{found.line.barrier[k]:.3f} nats", lowest)
        out.print(rows)
    for what, why in found.left_out.items():
        out.print(f"left out: {what.replace('_', ' ')}: {why}")
    out.print(f"plots, tables and summary are in {output}")


def _table(diagnosis: Diagnosis) -> object:
    sure, ensembles = diagnosis.confidence, diagnosis.collusion[-1]
    rows = table(
        f"{diagnosis.model}: {sure.num_samples:,} images of the {sure.split} split",
        *("exit", "accuracy", "confidence", "share of gradient", "ensemble's gain"),
    )
    for k, name in enumerate(sure.exits):
        rows.add_row(
            name,
            percent(float(sure.accuracy[k])),
            percent(float(sure.mean_confidence[k])),
            percent(float(diagnosis.gradient_dominance.backbone[k])),
            f"{100 * ensembles.gain[k]:+.2f} pp",
        )
    return rows
