"""Accuracy against MACs as SVG: a line for each strategy, a point for each network of one exit.

A mark is a budget: at the MACs that test images really took, as a share of the reference's, with a
bar of one standard deviation over seeds to either side. Everything has a tooltip. The same rows
give the same text; nothing outside the file is needed to show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 660.0, 380.0
_LEFT, _TOP, _LEGEND = 64.0, 56.0, 230.0
# Okabe and Ito's colours, which people who see few colours tell apart; dashes when they run out.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
_DASHES = ("", "6 3", "2 3")


@dataclass(frozen=True)
class _Point:
    share: float
    accuracy: float
    std: float | None
    budget: str


@dataclass(frozen=True)
class _Axes:
    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, share: float) -> float:
        return _LEFT + _WIDTH * (share - self.low_x) / (self.high_x - self.low_x)

    def y(self, accuracy: float) -> float:
        return _TOP + _HEIGHT * (self.high_y - accuracy) / (self.high_y - self.low_y)


def plots(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A picture for each model, data set and precision: name of a file -> its content.

    Args:
        rows: As ``strategies_report.aggregate`` returns them.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["dataset"], row["precision"]), []).append(row)
    return {
        "strategies-" + "-".join(key) + ".svg": _draw(group, f"{key[0]} on {key[1]}, {key[2]}")
        for key, group in groups.items()
        if any(_points(row) for row in group)
    }


def _points(row: Mapping[str, Any]) -> list[_Point]:
    """What a row has to show, cheapest first; budgets that ended alike are one point."""
    points: list[_Point] = []
    for budget, spread in row["accuracy"].items():
        if spread is None:
            continue
        share = row["spent_macs"][budget] / row["reference_macs"]
        name = "unbounded" if budget == "inf" else f"budget {budget} %"
        point = _Point(share, spread["mean"], spread["std"], name)
        if not points or (points[-1].share, points[-1].accuracy) != (share, point.accuracy):
            points.append(point)
    return points


def _draw(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    lines = [(row, _points(row)) for row in rows]
    every = [point for _, points in lines for point in points]
    axes = _axes(every)
    parts = [*_frame(axes, title)]
    for number, (row, points) in enumerate(lines):
        color = _COLORS[number % len(_COLORS)]
        dashes = _DASHES[number // len(_COLORS) % len(_DASHES)]
        is_static = len(row["exit_macs"]) == 1
        if not is_static and points:
            path = " ".join(f"{axes.x(p.share):.1f},{axes.y(p.accuracy):.1f}" for p in points)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"'
                f' stroke-dasharray="{dashes}"/>'
            )
        for point in points:
            parts += _mark(axes, point, row["strategy"], color, is_static)
        parts += _entry(number, row["strategy"], color, dashes, is_static)
    width = _LEFT + _WIDTH + _LEGEND
    height = max(_TOP + _HEIGHT + 52, _TOP + 20 + 20 * len(rows))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif"'
        f' font-size="12" fill="#222222">'
    )
    background = f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


def _axes(points: Sequence[_Point]) -> _Axes:
    """Whole tenths of the MACs; accuracies with a little room, at least one point of it."""
    shares = [point.share for point in points]
    low = min(point.accuracy - (point.std or 0) for point in points)
    high = max(point.accuracy + (point.std or 0) for point in points)
    room = max(0.06 * (high - low), 0.005)
    return _Axes(
        max(0.0, math.floor(10 * min(shares) - 0.2) / 10),
        math.ceil(10 * max(*shares, 1.0) + 0.2) / 10,
        low - room,
        high + room,
    )


def _frame(axes: _Axes, title: str) -> Iterator[str]:
    yield _text(_LEFT, 24, title, more=' font-size="16" font-weight="bold"')
    yield _text(_LEFT, 42, "test accuracy in % over mean MACs in % of the reference network")
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    for accuracy in _ticks(axes.low_y, axes.high_y):
        y = axes.y(accuracy)
        yield _line(_LEFT, y, right, y, "#e6e6e6")
        yield _text(_LEFT - 8, y + 4, f"{100 * accuracy:g}", more=' text-anchor="end"')
    for tenth in range(round(10 * axes.low_x), round(10 * axes.high_x) + 1):
        x = axes.x(tenth / 10)
        yield _line(x, _TOP, x, bottom, "#8a8a8a" if tenth == 10 else "#e6e6e6")
        yield _text(x, bottom + 18, str(10 * tenth), more=' text-anchor="middle"')
    yield _line(_LEFT, bottom, right, bottom, "#8a8a8a")
    yield _line(_LEFT, _TOP, _LEFT, bottom, "#8a8a8a")


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers: 1, 2 or 5 times a power of ten apart, in points."""
    rough = max((high - low) * 100 / 6, 0.05)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(100 * low / step), math.floor(100 * high / step)
    return [round(number * step, 6) / 100 for number in range(first, last + 1)]


def _mark(axes: _Axes, point: _Point, strategy: str, color: str, is_static: bool) -> Iterator[str]:
    x, y = axes.x(point.share), axes.y(point.accuracy)
    if point.std:
        up, down = axes.y(point.accuracy + point.std), axes.y(point.accuracy - point.std)
        yield _line(x, up, x, down, color)
        yield _line(x - 3, up, x + 3, up, color)
        yield _line(x - 3, down, x + 3, down, color)
    spread = "" if point.std is None else f" ± {100 * point.std:.2f}"
    hint = escape(
        f"{strategy}, {'one exit' if is_static else point.budget}: {100 * point.accuracy:.2f} %"
        f"{spread} at {100 * point.share:.1f} % of the MACs"
    )
    yield _shape(x, y, color, is_static, f"<title>{hint}</title>")


def _entry(number: int, strategy: str, color: str, dashes: str, is_static: bool) -> Iterator[str]:
    x, y = _LEFT + _WIDTH + 22, _TOP + 12 + 20 * number
    if not is_static:
        yield _line(x - 10, y, x + 10, y, color, dashes=dashes)
    yield _shape(x, y, color, is_static, "")
    yield _text(x + 18, y + 4, strategy)


def _shape(x: float, y: float, color: str, is_static: bool, inside: str) -> str:
    if is_static:
        place = f'x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"'
        return f'<rect {place} fill="{color}">{inside}</rect>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{color}">{inside}</circle>'


def _text(x: float, y: float, text: str, *, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, *, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashed}/>'
    )
