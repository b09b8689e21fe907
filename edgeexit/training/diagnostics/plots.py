"""Pictures of the diagnostics, as SVG and PNG. matplotlib is imported when one is drawn.

Each function takes the results of one diagnostic by name of the model, and returns a figure with a
panel or a line for each. Exits have the same colours everywhere, from light to dark with depth.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeexit.training.diagnostics.collusion import Collusion
from edgeexit.training.diagnostics.confidence import Confidence
from edgeexit.training.diagnostics.gradient_dominance import GradientDominance
from edgeexit.training.diagnostics.mode_connectivity import Line, Plane
from edgeexit.training.diagnostics.mutual_information import MutualInformation
from edgeexit.training.diagnostics.numerical_rank import NumericalRank
from edgeexit.training.diagnostics.overthinking import Overthinking
from edgeexit.training.diagnostics.sample import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GREY, _PALE = "#222222", "#8a8a8a", "#e4e4e4"
_RIGHT, _WRONG = "#3b7fb6", "#d1603d"
_MODELS = ("#2f6ea5", "#d1603d", "#3c9a6b", "#70409a")
_MARKERS = ("o", "s", "^", "D")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _PALE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "text.color": _INK,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    # The same results draw the same bytes.
    "svg.hashsalt": "edgeexit",
}
_MOST_NUMBERS = 45
"""Rows of a heat map up to which each cell carries its number."""


def draw_gradient_dominance(results: Sequence[tuple[str, GradientDominance]]) -> Figure:
    """A heat map for each model: exits across, the backbone's layers down."""
    num_layers = max(int(result.in_backbone.sum()) for _, result in results)
    height = min(2.0 + 0.24 * (num_layers + 2), 14.0)
    with _style():
        figure = _figure(1.6 + sum(1.3 + 0.75 * len(r.exits) for _, r in results), height)
        panels = figure.subplots(1, len(results), squeeze=False)[0]
        for panel, (name, result) in zip(panels, results, strict=True):
            layers = np.array(result.layers)[result.in_backbone]
            # A layer that an exit does not depend on is left empty.
            reached = np.where(result.norms > 0, result.shares, np.nan)[result.in_backbone]
            rows = [result.whole, result.backbone, *reached]
            labels = ["all parameters", "backbone", *layers]
            if panel is not panels[0] and result.layers == results[0][1].layers:
                labels = [""] * len(labels)
            image = _heat(panel, np.array(rows), result.exits, labels, low=-1, high=1)
            panel.axhline(1.5, color="white", linewidth=4)
            panel.set_title(name)
            panel.set_xlabel("exit")
        first = results[0][1]
        bar = figure.colorbar(image, ax=panels, shrink=0.5, aspect=25, extend="both")
        bar.set_label("share of the gradient  <g_k, g> / <g, g>")
        bar.outline.set_visible(False)
        figure.suptitle(
            f"Gradient dominance: {_of(first)},\nbatch norm in {first.mode} mode", **_TITLE
        )
    return figure


def draw_numerical_rank(results: Sequence[tuple[str, NumericalRank]]) -> Figure:
    """A line for each model over the layers."""
    first = results[0][1]
    with _style():
        figure = _figure(max(6.6, 1.8 + 0.42 * len(first.layers)), 4.2)
        panel = figure.subplots()
        for k, (name, result) in enumerate(results):
            _model_line(panel, k, name, result.normalised)
            panel.plot(
                result.effective / np.minimum(result.num_samples, result.num_features),
                color=_colour(k),
                linewidth=1.2,
                linestyle=(0, (4, 2)),
            )
        panel.plot(
            [], [], color=_GREY, linewidth=1.2, linestyle=(0, (4, 2)), label="effective rank"
        )
        if len(results) == 1:
            for place, (share, rank) in enumerate(zip(first.normalised, first.rank, strict=True)):
                _number(panel, place, float(share), str(rank))
        _layers(panel, first.layers)
        panel.set_ylim(0, 1.1)
        panel.set_ylabel("rank / min(samples, features)")
        figure.suptitle(
            f"Numerical rank of activations: singular values above {first.threshold:g} of the "
            f"largest,\n{_of(first)}",
            **_TITLE,
        )
        figure.legend(loc="outside lower center", ncols=len(results) + 1, fontsize=8)
    return figure


def draw_mutual_information(results: Sequence[tuple[str, MutualInformation]]) -> Figure:
    """A line for each model over the layers, with the entropy of the label above."""
    first = results[0][1]
    with _style():
        figure = _figure(max(6.6, 1.8 + 0.42 * len(first.layers)), 4.2)
        panel = figure.subplots()
        panel.axhline(first.label_entropy, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
        panel.annotate(
            f"entropy of the label, {first.label_entropy:.2f}",
            (0, first.label_entropy),
            xytext=(0, 4),
            textcoords="offset points",
            color=_GREY,
        )
        for k, (name, result) in enumerate(results):
            _model_line(panel, k, name, result.information)
            panel.plot(
                result.shuffled,
                color=_colour(k),
                linewidth=1,
                linestyle=":",
            )
            for place, bound in enumerate(result.lower_bound):
                if not np.isnan(bound):
                    panel.plot(place, max(bound, 0.0), color=_colour(k), marker="*", markersize=9)
        panel.plot([], [], color=_GREY, linewidth=1, linestyle=":", label="labels at random")
        panel.plot([], [], color=_GREY, marker="*", markersize=9, linestyle="", label=_BOUND)
        _layers(panel, first.layers)
        panel.set_ylim(min(-0.1, 1.1 * float(first.shuffled.min())), 1.15 * first.label_entropy)
        panel.set_ylabel("information, nats")
        figure.suptitle(
            f"Mutual information of features and label: {first.num_neighbours} nearest neighbours "
            f"(Ross 2014),\n{first.num_components} principal components, {_of(first)}",
            **_TITLE,
        )
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def draw_confidence(results: Sequence[tuple[str, Confidence]]) -> Figure:
    """A row for each model, a panel for each exit: right answers upward, wrong ones downward."""
    first = results[0][1]
    num_exits = max(len(result.exits) for _, result in results)
    with _style():
        figure = _figure(0.6 + 2.6 * num_exits, 0.7 + 2.4 * len(results))
        panels = figure.subplots(len(results), num_exits, squeeze=False, sharex=True, sharey="row")
        for row, (name, result) in zip(panels, results, strict=True):
            total = result.num_samples / 100
            centres = (result.edges[:-1] + result.edges[1:]) / 2
            width = 0.9 * (result.edges[1] - result.edges[0])
            for k, (panel, exit_name) in enumerate(zip(row, result.exits, strict=False)):
                panel.bar(centres, result.num_right[k] / total, width, color=_RIGHT, label="right")
                panel.bar(centres, -result.num_wrong[k] / total, width, color=_WRONG, label="wrong")
                panel.axhline(0, color=_GREY, linewidth=0.8)
                panel.grid(axis="y")
                panel.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
                panel.set_title(
                    f"{_prefix(name, len(results), ',')}exit {exit_name}: accuracy "
                    f"{100 * result.accuracy[k]:.1f} %,\nmean confidence "
                    f"{100 * result.mean_confidence[k]:.1f} %, ECE "
                    f"{100 * result.calibration_error[k]:.1f} pp",
                    fontsize=8.5,
                )
            row[0].set_ylabel("samples, %")
            row[0].set_xlim(0, 1)
            row[0].set_xticks((0, 0.25, 0.5, 0.75, 1), ("0", "¼", "½", "¾", "1"))
        for panel in panels[-1]:
            panel.set_xlabel("confidence")
        panels[0, 0].legend(loc="upper left")
        figure.suptitle(f"Confidence where exits are right and wrong: {_of(first)}", **_TITLE)
    return figure


def draw_overthinking(results: Sequence[tuple[str, Overthinking]]) -> Figure:
    """A panel for each model: two bars for each pair of exits."""
    first = results[0][1]
    with _style():
        pairs = max(len(r.exits) * (len(r.exits) - 1) // 2 for _, r in results)
        figure = _figure(1.4 + 4.2 * len(results), 1.9 + 0.55 * max(pairs, 1))
        panels = figure.subplots(1, len(results), squeeze=False, sharex=True)[0]
        for panel, (name, result) in zip(panels, results, strict=True):
            places = np.argwhere(~np.isnan(result.overthinking))
            names = [f"{result.exits[i]} → {result.exits[j]}" for i, j in places]
            over = 100 * np.array([result.overthinking[i, j] for i, j in places])
            under = 100 * np.array([result.underthinking[i, j] for i, j in places])
            rows = np.arange(len(places))
            panel.barh(
                rows - 0.19, under, 0.36, color=_RIGHT, label="wrong → right (underthinking)"
            )
            panel.barh(rows + 0.19, over, 0.36, color=_WRONG, label="right → wrong (overthinking)")
            for row, (up, down) in enumerate(zip(under, over, strict=True)):
                for shift, value in ((-0.19, up), (0.19, down)):
                    panel.annotate(
                        f"{value:.1f}",
                        (value, row + shift),
                        xytext=(3, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=8,
                    )
            panel.set_yticks(rows, names)
            panel.invert_yaxis()
            panel.margins(x=0.12)
            panel.grid(axis="x")
            panel.set_xlabel("samples, %")
            panel.set_title(
                f"{_prefix(name, len(results))}last exit {100 * result.accuracy[-1]:.1f} % right, "
                f"any exit {100 * result.oracle_accuracy:.1f} %,\n"
                f"an earlier right and the last wrong {100 * result.destructive:.1f} %"
            )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        figure.suptitle(f"Answers that change with depth: {_of(first)}", **_TITLE)
    return figure


def draw_collusion(results: Sequence[tuple[str, Sequence[Collusion]]]) -> Figure:
    """A row for each model: disagreement and error correlation, then ensembles on each split.

    Args:
        results: For each model, its results on the data that it was trained on, and on others.
    """
    num_exits = max(len(found[0].exits) for _, found in results)
    with _style():
        figure = _figure(5.4 + 1.7 * num_exits, 0.6 + (1.5 + 0.3 * num_exits) * len(results))
        panels = figure.subplots(len(results), 4, squeeze=False)
        for row in panels[1:]:  # so that models can be compared
            row[2].sharey(panels[0, 2])
            row[3].sharey(panels[0, 3])
        for row, (name, splits) in zip(panels, results, strict=True):
            held_out = splits[-1]
            prefix = _prefix(name, len(results))
            for panel, values, title, low in (
                (row[0], held_out.disagreement, "disagreement", 0.0),
                (row[1], held_out.error_correlation, "correlation of errors", -1.0),
            ):
                names = held_out.exits
                lower = np.where(np.tri(len(names), k=-1, dtype=bool), values, np.nan)
                _heat(panel, lower[1:, :-1], names[:-1], names[1:], low=low, high=1)
                panel.set_title(f"{prefix}{title},\n{held_out.split} split")
            exits = np.arange(1, len(held_out.exits))
            for k, found in enumerate(splits):
                for panel, numbers in ((row[2], found.diversity), (row[3], 100 * found.gain)):
                    place = exits + 0.38 * (k - (len(splits) - 1) / 2)
                    panel.bar(place, numbers[1:], 0.36, color=(_GREY, _RIGHT)[k], label=found.split)
            for panel in row[2:]:
                panel.set_xticks(exits, [f"0–{k}" for k in exits])
                panel.set_xlim(0.5, len(held_out.exits) - 0.5)
                panel.axhline(0, color=_GREY, linewidth=0.8)
                panel.grid(axis="y")
                panel.set_xlabel("exits in the ensemble")
            row[2].set_title(f"{prefix}diversity: mean loss\nof the exits - their ensemble's")
            row[2].set_ylabel("nats")
            row[3].set_title(f"{prefix}gain of the\nensemble over its last exit")
            row[3].set_ylabel("accuracy, pp")
        handles, labels = panels[0, 2].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=2, handlelength=1)
        first = results[0][1][-1]
        figure.suptitle(f"Collusion of exits: {first.num_samples:,} images of each split", **_TITLE)
    return figure


def draw_line(result: Line, names: Sequence[str]) -> Figure:
    """Two panels: loss and accuracy of every exit along the line."""
    with _style():
        figure = _figure(9.2, 3.7)
        left, right = figure.subplots(1, 2)
        for k, exit_name in enumerate(result.exits):
            colour = _exit_colour(k, len(result.exits))
            text = f"{exit_name}, barrier {result.barrier[k]:.2f}"
            left.plot(result.positions, result.loss[:, k], color=colour, label=text)
            right.plot(result.positions, 100 * result.accuracy[:, k], color=colour, label=exit_name)
            left.plot((0, 1), result.loss[[0, -1], k], color=colour, linewidth=0.8, linestyle=":")
        for panel in (left, right):
            panel.grid(True)
            panel.set_xlim(0, 1)
            panel.set_xticks((0, 0.25, 0.5, 0.75, 1), (names[0], "¼", "½", "¾", names[1]))
        left.set_ylim(0, None)
        left.set_ylabel("cross-entropy, nats")
        left.set_title("loss; dotted: straight between the ends")
        right.set_ylabel("accuracy, %")
        right.set_title("accuracy")
        left.legend(fontsize=8, title="exit", title_fontsize=8, alignment="left")
        figure.suptitle(
            f"Along the line between two networks: {_of(result)}, "
            f"batch norm collected anew from {result.num_statistics:,}",
            **_TITLE,
        )
    return figure


def draw_plane(result: Plane, names: Sequence[str]) -> Figure:
    """Loss around the networks: of the mean over exits, the first, a middle and the last exit."""
    with _style():
        shown = _panels(result)
        shape = float(np.ptp(result.y) / np.ptp(result.x))
        figure = _figure(1.4 + 2.7 * len(shown), 1.1 + max(1.4, 2.4 * shape))
        # Panels of a fixed shape move together, and the bar beside them.
        figure.set_layout_engine("compressed")
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        low = max(min(float(values.min()) for _, values in shown), 1e-3)
        high = max(max(float(values.max()) for _, values in shown), 1.01 * low)
        levels = np.geomspace(low, min(high, 20 * low), 15)
        for panel, (title, values) in zip(panels, shown, strict=True):
            image = _contours(panel, result, values, levels, names)
            panel.set_title(title)
            panel.locator_params(axis="x", nbins=3)
        random = result.direction == "random"
        panels[0].set_ylabel("random direction" if random else f"towards {names[2]}")
        bar = figure.colorbar(image, ax=panels, shrink=0.9, aspect=22, format="%.2g")
        bar.set_label("cross-entropy, nats")
        bar.set_ticks(list(levels[::2]))
        bar.minorticks_off()
        figure.supxlabel(
            f"distance in weights, in units of that from {names[0]} to {names[1]}: "
            f"{result.distance:.3g}",
            fontsize=9,
        )
        figure.suptitle(
            f"Loss on a plane of weights: {_of(result)}, "
            f"batch norm collected anew from {result.num_statistics:,}",
            **_TITLE,
        )
    return figure


def svg_of(figure: Figure) -> bytes:
    """The figure as an SVG document, without a date."""
    return _saved(figure, format="svg", metadata={"Date": None, "Creator": None})


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG of 144 dots per inch."""
    return _saved(figure, format="png", dpi=144, metadata={"Software": None})


_BOUND = "lower bound from the exit here"
_TITLE: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 10.5}


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(max(width, 5.6), height), layout="constrained", facecolor="white")


def _saved(figure: Figure, **options: Any) -> bytes:
    content = io.BytesIO()
    with _style():
        # The layout takes longer than the drawing: it is found once for all formats.
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(content, **options)
    return content.getvalue()


def _of(result: Any) -> str:
    return f"{result.num_samples:,} images of the {result.split} split"


def _prefix(name: str, num_models: int, sign: str = ":") -> str:
    return f"{name}{sign} " if num_models > 1 else ""


def _colour(index: int) -> str:
    return _MODELS[index % len(_MODELS)]


def _exit_colour(index: int, num_exits: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis_r"](0.15 + 0.8 * index / max(1, num_exits - 1))


def _model_line(panel: Axes, index: int, name: str, values: Floats) -> None:
    panel.plot(values, color=_colour(index), marker=_MARKERS[index % len(_MARKERS)], label=name)


def _number(panel: Axes, x: float, y: float, text: str) -> None:
    panel.annotate(text, (x, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)


def _layers(panel: Axes, layers: Sequence[str]) -> None:
    panel.set_xticks(range(len(layers)), layers, rotation=40, ha="right", rotation_mode="anchor")
    panel.set_xlim(-0.5, len(layers) - 0.5)
    panel.set_xlabel("activation, in the order of computation")
    panel.grid(axis="y")


def _heat(
    panel: Axes,
    values: Floats,
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    low: float,
    high: float,
) -> Any:
    colours = "Blues" if low == 0 else "RdBu"
    image = panel.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    panel.set_xticks(range(len(columns)), columns)
    panel.set_yticks(range(len(rows)), rows)
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)
    if len(rows) <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                strong = abs(value) > 0.6 * max(abs(low), abs(high))
                panel.text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if strong else _INK,
                )
    return image


def _panels(result: Plane) -> list[tuple[str, Floats]]:
    places = sorted({0, len(result.exits) // 2, len(result.exits) - 1})
    mean: list[tuple[str, Floats]] = (
        [("mean over exits", result.loss.mean(-1))] if len(result.exits) > 1 else []
    )
    return mean + [(f"exit {result.exits[k]}", result.loss[..., k]) for k in places]


def _contours(
    panel: Axes, result: Plane, values: Floats, levels: Floats, names: Sequence[str]
) -> Any:
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import withStroke

    norm = LogNorm(levels[0], levels[-1])
    values = np.maximum(values, np.finfo(np.float64).tiny)  # a loss may be zero, which has no log
    image = panel.contourf(
        result.x, result.y, values, levels, norm=norm, cmap="YlGnBu_r", extend="both"
    )
    panel.contour(result.x, result.y, values, levels, colors="white", linewidths=0.4, alpha=0.6)
    for (x, y), name in zip(result.points, names, strict=False):
        panel.plot(x, y, marker="o", markersize=5, color="white", markeredgecolor=_INK)
        panel.annotate(
            name,
            (x, y),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    panel.set_aspect("equal")
    return image
