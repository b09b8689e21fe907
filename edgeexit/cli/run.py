"""``edgeexit run``: runs a bundle on a split of a data set, or on image files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeexit.cli.class_names import check_classes
from edgeexit.cli.ignored_options import refuse_given
from edgeexit.cli.output import count, emit, json_option, percent, progress, table
from edgeexit.errors import ArgumentError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from edgeexit.cli.output import Report
    from edgeexit.runtime.session import Session
    from edgeexit.types import Manifest, Result

_BATCH = 250


@click.command(
    name="run",
    epilog="\b\nExamples:\n"
    "  edgeexit run resnet8.eexit --data cifar10 --limit 1000\n"
    "  edgeexit run resnet8.eexit cat.png dog.png --point accurate",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data",
    "source",
    metavar="SOURCE",
    help="A name, an .npz file, a folder, or a .toml of a stream.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "calibration", "test"]),
    default="test",
    show_default=True,
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many samples.")
@click.option("--engine", default="litert", show_default=True, help="What executes the segments.")
@click.option("--point", help="The operating point: balanced, if there is one, by default.")
@click.option("--static", is_flag=True, help="Run the network without early exits instead.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@json_option
def command(
    bundle: Path,
    images: tuple[Path, ...],
    source: str | None,
    split: str,
    limit: int | None,
    engine: str,
    point: str | None,
    static: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Run BUNDLE on a split of a data set, or on IMAGES.

    Of a split it prints accuracy and how many samples leave at each exit; of an image its class,
    the exit that answered and how sure it was.
    """
    if (source is None) == (not images):
        raise click.UsageError("Give either --data or image files.")
    if images:
        refuse_given(("split", "limit"), "images have no splits", wanted="--data SOURCE")
    if static:
        refuse_given(("point",), "the network without early exits has no points", "no --static")
    from edgeexit.runtime.session import Session

    session = Session(
        bundle, engine=engine, operating_point=point, num_threads=threads, static=static
    )
    manifest = session.bundle.manifest
    if source is None:
        answers = [_answer(path, session.run(_read(path, manifest)), manifest) for path in images]
        emit(answers, as_json=as_json, show=lambda out: _show_answers(out, answers))
        return
    from edgeexit import data

    with progress() as report:
        splits = data.load(source, progress=report)
        check_classes(manifest, splits.class_names, source)
        samples = splits.parts()[split][:limit]
        results = _run_all(session, samples.images, report)
    costs = _costs(manifest, static)
    summary = _summary(results, samples.labels, manifest, costs)
    summary = {
        "bundle": manifest.name,
        "engine": engine,
        "operating_point": session.operating_point,
        "data": source,
        "split": split,
        **summary,
    }
    emit(summary, as_json=as_json, show=lambda out: _show_summary(out, summary))


def _run_all(session: Session, images: NDArray[Any], report: Report) -> list[Result]:
    results: list[Result] = []
    for start in range(0, len(images), _BATCH):
        report("run", start, len(images))
        results += session.run_batch(images[start : start + _BATCH])
    return results


def _costs(manifest: Manifest, static: bool) -> dict[int, int]:
    """MACs of a sample that leaves at an exit, for every exit that can answer."""
    if static:
        return {manifest.segments[-1].index: manifest.static_macs}
    sums = itertools.accumulate(segment.macs for segment in manifest.segments)
    return dict(enumerate(sums))


def _summary(
    results: Sequence[Result],
    labels: NDArray[np.int64],
    manifest: Manifest,
    costs: Mapping[int, int],
) -> dict[str, Any]:
    right = [result.label == label for result, label in zip(results, labels, strict=True)]
    exits = []
    for index, macs in costs.items():
        here = [ok for ok, result in zip(right, results, strict=True) if result.exit == index]
        exits.append(
            {
                "exit": index,
                "name": manifest.segments[index].exit_name,
                "num_samples": len(here),
                "rate": len(here) / len(results),
                "accuracy": sum(map(int, here)) / len(here) if here else None,
                "macs": macs,
            }
        )
    mean_macs = sum(costs[result.exit] for result in results) / len(results)
    return {
        "num_samples": len(results),
        "accuracy": sum(map(int, right)) / len(right),
        "macs": mean_macs,
        "macs_saved": 1 - mean_macs / manifest.static_macs,
        "exits": exits,
    }


def _show_summary(out: Console, summary: dict[str, Any]) -> None:
    point = summary["operating_point"]
    how = f"at {point}" if point else "without early exits"
    rows = table(
        f"{summary['bundle']} {how} with {summary['engine']}, "
        f"{summary['num_samples']:,} samples of {summary['data']}/{summary['split']}",
        *("exit", "name", "leave here", "accuracy", "MACs"),
        left=2,
    )
    for row in summary["exits"]:
        rows.add_row(
            str(row["exit"]),
            row["name"],
            percent(row["rate"]),
            percent(row["accuracy"]),
            count(row["macs"]),
        )
    rows.add_section()
    rows.add_row("all", "", percent(1.0), percent(summary["accuracy"]), count(summary["macs"]))
    out.print(rows)
    out.print(f"{percent(summary['macs_saved'])} of the MACs saved, against no early exits")


def _answer(path: Path, result: Result, manifest: Manifest) -> dict[str, Any]:
    names = manifest.class_names
    return {
        "image": str(path),
        "label": result.label,
        "class": names[result.label] if names else str(result.label),
        "confidence": result.confidence,
        "exit": result.exit,
        "exit_name": manifest.segments[result.exit].exit_name,
    }


def _show_answers(out: Console, answers: Sequence[dict[str, Any]]) -> None:
    rows = table("Answers", "image", "class", "confidence", "exit", left=2)
    for answer in answers:
        rows.add_row(
            answer["image"],
            answer["class"],
            percent(answer["confidence"]),
            f"{answer['exit']} ({answer['exit_name']})",
        )
    out.print(rows)


def _read(path: Path, manifest: Manifest) -> NDArray[np.uint8]:
    """An image as uint8 ``[height, width, channels]``, of exactly the model's size."""
    import numpy as np

    from edgeexit.data.folder import open_image

    height, width, channels = _picture_shape(manifest)
    with open_image(path) as image:
        if image.size != (width, height):
            raise DataError(
                "the image is not of the model's size",
                wanted=f"{width} x {height} pixels",
                given=f"{image.size[0]} x {image.size[1]} pixels",
                where=path,
                hint=f"resize it first, as the training images were, to {width} x {height}",
            )
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(height, width, channels)


def _picture_shape(manifest: Manifest) -> tuple[int, int, int]:
    """Height, width and channels of the model's input, if that is a picture."""
    takes = manifest.input
    shape = takes.tensor.shape
    if takes.raw_dtype != "uint8" or len(shape) != 4 or shape[3] not in (1, 3):
        raise ArgumentError(
            "the model does not take pictures",
            wanted="input of uint8 [1, height, width, 1 or 3]",
            given=f"{takes.raw_dtype} {list(shape)}",
            hint="give numbers, prepared as the model was trained: an .npz file with --data, or an "
            "array to edgeexit.Session.run",
        )
    _, height, width, channels = shape
    return height, width, channels
