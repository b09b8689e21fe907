"""All diagnostics of a network, or of two or three side by side, in one folder.

OUTPUT/
  summary.json              what was run on what, and the numbers that matter
  gradient_dominance.*      csv, svg and png, as for all that follow
  numerical_rank.*
  mutual_information.*
  confidence.*
  overthinking.*
  collusion.*
  mode_connectivity_line.*  with a second network only
  mode_connectivity_plane.*
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeexit.data.types import Samples, Splits
from edgeexit.errors import ArgumentError, StorageError
from edgeexit.nn.model import MultiExitModel
from edgeexit.storage import write_folder
from edgeexit.training.diagnostics.collusion import collusion
from edgeexit.training.diagnostics.confidence import confidence
from edgeexit.training.diagnostics.gradient_dominance import gradient_dominance
from edgeexit.training.diagnostics.mode_connectivity import (
    Line,
    Plane,
    check_kind,
    line,
    plane,
)
from edgeexit.training.diagnostics.mutual_information import mutual_information
from edgeexit.training.diagnostics.numerical_rank import numerical_rank
from edgeexit.training.diagnostics.overthinking import overthinking
from edgeexit.training.diagnostics.results import (
    Diagnosis,
    Diagnostics,
    summary_of,
    summary_of_line,
)
from edgeexit.training.diagnostics.sample import Sample, Tick, draw_sample, logits_of
from edgeexit.training.diagnostics.settings import Settings
from edgeexit.training.diagnostics.write import csv_of, json_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUMMARY = "summary.json"
_PARTS = (
    *("gradient_dominance", "numerical_rank", "mutual_information", "confidence", "overthinking"),
    *("collusion", "mode_connectivity_line", "mode_connectivity_plane"),
)
_KINDS = ("csv", "svg", "png")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much (0: not known)."""


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def diagnose(
    model: MultiExitModel,
    splits: Splits,
    output: Path,
    *,
    other: MultiExitModel | None = None,
    third: MultiExitModel | None = None,
    names: Sequence[str] = ("network", "other", "third"),
    settings: Settings | None = None,
    replace: bool = False,
    left_out: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Diagnostics:
    """Runs all diagnostics and writes plots, tables and a summary.

    The test split is not looked at. No network is changed.

    Args:
        model: The network.
        splits: Its data.
        output: The folder to make; it appears when it is complete.
        other: A second network of the same kind; needed for mode connectivity.
        third: One more, through which the plane then goes.
        names: What the networks are called in plots and tables.
        settings: How much is looked at.
        replace: Replace diagnostics that are there.
        left_out: What the caller could not provide -> why; written into the summary.
        progress: Hears of every step.

    Raises:
        ArgumentError: The networks differ in kind or have the same weights, or there is a third
            one without a second.
        DataError: A split is empty.
        StorageError: ``output`` is there already, and may not be replaced or holds other things
            than diagnostics; or it cannot be written.
        ModuleNotFoundError: matplotlib is not installed (extra ``report``).
    """
    import matplotlib  # noqa: F401  complains before the minutes that the rest may take

    if third is not None and other is None:
        raise ArgumentError("a third network needs a second", wanted="other", given="other=None")
    check_output(output, replace)
    settings = settings or Settings()
    networks = [network for network in (model, other, third) if network is not None]
    for network in networks[1:]:
        check_kind(model, network)
    reasons = dict(left_out or {})

    def draw(part: str, count: int) -> Sample:
        given = splits.parts()[part]
        samples = given if isinstance(given, Samples) else given[:count]
        return draw_sample(
            samples, splits.preprocessing, split=part, num_samples=count, seed=settings.seed
        )

    training = draw("train", settings.num_samples)
    held_out = draw("calibration", settings.num_samples)
    sizes = sorted(held_out.labels.bincount(minlength=2).tolist())
    if sizes[-2] <= settings.num_neighbours:
        reasons["mutual_information"] = (
            f"the estimator needs two classes with more than {settings.num_neighbours} images, and "
            f"the second largest of the sample has {sizes[-2]}"
        )
    diagnoses = tuple(
        _diagnosis(name, network, training, held_out, settings, reasons, progress)
        for name, network in zip(names, networks, strict=False)
    )
    along, across = None, None
    if other is not None:
        seen = draw("calibration", settings.num_landscape_samples)
        statistics = draw("train", settings.num_statistics)
        along = line(
            model,
            other,
            seen,
            statistics,
            num_points=settings.num_line_points,
            tick=_tick(progress, "mode connectivity: line"),
        )
        across = plane(
            model,
            other,
            seen,
            statistics,
            third=third,
            num_points=settings.num_plane_points,
            seed=settings.seed,
            tick=_tick(progress, "mode connectivity: plane"),
        )
    else:
        reasons.setdefault("mode_connectivity", "there is no second network to compare with")
    progress("draw the plots", 0, 0)
    files = _files(diagnoses, along, across, names)
    files[_SUMMARY] = json_of(
        {
            "data": splits.name,
            "settings": settings,
            "models": [summary_of(diagnosis) for diagnosis in diagnoses],
            "mode_connectivity": None
            if along is None or across is None
            else summary_of_line(along, across, names),
            "left_out": reasons,
        }
    )
    # Again, because the folder may have been filled in the meantime.
    write_folder(files, output, replace=replace, check=lambda _: check_output(output, replace))
    return Diagnostics(diagnoses, along, across, reasons, tuple(sorted(files)))


def check_output(output: Path, replace: bool) -> None:
    """Complains of an output that is there, unless it may be replaced and holds nothing else.

    Args:
        output: The folder that diagnostics are to be written to.
        replace: Whether diagnostics that are there may be replaced.

    Raises:
        StorageError: It exists; with ``replace``, only if it is neither empty nor diagnostics.
    """
    if output.exists() and not (replace and _is_replaceable(output)):
        raise StorageError(
            "the output exists already",
            wanted="nothing there, an empty folder, or diagnostics and no other files"
            if replace
            else "a path where nothing is",
            given=output,
            hint="choose another path, or overwrite diagnostics: --overwrite, replace=True",
        )


def _is_replaceable(output: Path) -> bool:
    if not output.is_dir():
        return False
    written = {_SUMMARY, *(f"{part}.{kind}" for part in _PARTS for kind in _KINDS)}
    entries = list(output.iterdir())
    names = {entry.name for entry in entries if entry.is_file()}
    return not entries or (len(names) == len(entries) and _SUMMARY in names and names <= written)


def _tick(progress: Progress, what: str) -> Tick:
    progress(what, 0, 0)
    return lambda done, total: progress(what, done, total)


def _diagnosis(
    name: str,
    model: MultiExitModel,
    training: Sample,
    held_out: Sample,
    settings: Settings,
    left_out: Mapping[str, str],
    progress: Progress,
) -> Diagnosis:
    exits, labels = tuple(model.exit_names), held_out.labels.numpy()
    dominance = gradient_dominance(
        model, training, tick=_tick(progress, f"{name}: gradient dominance")
    )
    rank = numerical_rank(
        model,
        held_out,
        threshold=settings.rank_threshold,
        tick=_tick(progress, f"{name}: numerical rank"),
    )
    information = None
    if "mutual_information" not in left_out:
        information = mutual_information(
            model,
            held_out,
            num_neighbours=settings.num_neighbours,
            num_components=settings.num_components,
            seed=settings.seed,
            tick=_tick(progress, f"{name}: mutual information"),
        )
    progress(f"{name}: answers of the exits", 0, 0)
    logits = logits_of(model, held_out)
    seen = logits_of(model, training)
    split = held_out.split
    return Diagnosis(
        model=name,
        gradient_dominance=dominance,
        numerical_rank=rank,
        mutual_information=information,
        confidence=confidence(exits, logits, labels, split=split),
        overthinking=overthinking(exits, logits, labels, split=split),
        collusion=(
            collusion(exits, seen, training.labels.numpy(), split=training.split),
            collusion(exits, logits, labels, split=split),
        ),
    )


def _files(
    diagnoses: Sequence[Diagnosis], along: Line | None, across: Plane | None, names: Sequence[str]
) -> dict[str, bytes]:
    from edgeexit.training.diagnostics import plots

    files: dict[str, bytes] = {}

    def add(name: str, figure: Figure, table: bytes) -> None:
        files[f"{name}.csv"] = table
        files[f"{name}.svg"] = plots.svg_of(figure)
        files[f"{name}.png"] = plots.png_of(figure)

    drawn: dict[str, Callable[[Any], Figure]] = {
        "gradient_dominance": plots.draw_gradient_dominance,
        "numerical_rank": plots.draw_numerical_rank,
        "mutual_information": plots.draw_mutual_information,
        "confidence": plots.draw_confidence,
        "overthinking": plots.draw_overthinking,
    }
    for name, draw in drawn.items():
        found = [(diagnosis.model, getattr(diagnosis, name)) for diagnosis in diagnoses]
        if found[0][1] is not None:
            add(name, draw(found), csv_of(found))
    pairs = [(d.model, d.collusion) for d in diagnoses]
    flat = [(model, found) for model, splits in pairs for found in splits]
    add("collusion", plots.draw_collusion(pairs), csv_of(flat))
    if along is not None and across is not None:
        between = " - ".join(names[:2])
        through = " - ".join(names[: len(across.points)])
        add("mode_connectivity_line", plots.draw_line(along, names), csv_of([(between, along)]))
        add("mode_connectivity_plane", plots.draw_plane(across, names), csv_of([(through, across)]))
    return files
