"""A picture of the memory plan as SVG: bytes over steps, one rectangle for each tensor.

From top to bottom: the arena, with the cuts between segments and its height as lines; then how many
bytes are alive at each step, the peak in red. Everything has a tooltip. The same plan gives the
same text; nothing outside the file is needed to show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from edgeexit.backends.c.kernels.base import Implementation
from edgeexit.backends.c.plan import Plan
from edgeexit.backends.c.plan_peak import occupants, peak, short_name
from edgeexit.backends.c.program import Program

_LEFT, _RIGHT, _TOP = 78.0, 72.0, 92.0
_ARENA, _GAP, _ALIVE = 400.0, 14.0, 64.0
_STEP_NAME = 24
"""Letters of a step's name that are shown."""
_FONT, _LETTER = 11.0, 6.6
"""Height of the letters and the width of most of them."""

# Fill and border, chosen to differ in brightness too.
_KINDS = {
    "input": ("#f6d58a", "#a87410"),
    "tensor": ("#a9cdee", "#2f6ea5"),
    "crosses a cut": ("#93d3ae", "#24774a"),
    "logits": ("#d3b5e8", "#70409a"),
    "scratch": ("#dddddd", "#777777"),
}
_INK, _GREY, _RED = "#222222", "#8a8a8a", "#c62828"


@dataclass(frozen=True)
class _Rectangle:
    """From ``begin`` to ``end`` in steps; where memory is taken over, each has half of the step."""

    name: str
    kind: str
    begin: float
    end: float
    offset: int
    num_bytes: int


def draw(
    program: Program, implementations: Sequence[Implementation], plan: Plan, *, title: str
) -> str:
    """The plan as an SVG document.

    Args:
        program: The chain.
        implementations: How its steps run.
        plan: Where its tensors lie.
        title: What stands above it, such as the model's name.
    """
    num_steps = max(len(program.steps), 1)
    column = min(max(1020 / num_steps, 16), 96)
    # Room for the legend and the heading, however few steps there are.
    width = max(_LEFT + num_steps * column + _RIGHT, 760)
    longest = max((min(len(step.name), _STEP_NAME) for step in program.steps), default=0)
    # Names lean by 55 degrees, whose sine is 0.82.
    height = _TOP + _ARENA + _GAP + _ALIVE + 30 + 0.82 * _LETTER * longest
    axes = _Axes(column, plan.arena_bytes, num_steps)
    parts = [
        *_heading(plan, title),
        *_legend(width),
        *_grid(axes),
        *_cuts(program, axes),
        *(line for r in _rectangles(program, implementations, plan) for line in _box(r, axes)),
        *_alive(program, implementations, plan, axes),
        *_top_line(plan, axes),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif"'
        f' font-size="{_FONT:g}" fill="{_INK}">'
    )
    background = f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Axes:
    column: float
    arena_bytes: int
    num_steps: int

    def x(self, step: float) -> float:
        return _LEFT + step * self.column

    def y(self, offset: float) -> float:
        """Zero is at the bottom."""
        return _TOP + _ARENA * (1 - offset / max(self.arena_bytes, 1))

    @property
    def right(self) -> float:
        return self.x(self.num_steps)


def _rectangles(
    program: Program, implementations: Sequence[Implementation], plan: Plan
) -> Iterator[_Rectangle]:
    ends = _segment_ends(program)
    logits = {segment.logits for segment in program.segments}
    taken = _taken_over(program, plan)
    for index, (buffer, lifetime) in enumerate(zip(program.buffers, plan.lifetimes, strict=True)):
        if lifetime is None or not buffer.num_bytes:
            continue
        crosses = any(lifetime.first < end <= lifetime.last for end in ends[:-1])
        kind = (
            "input"
            if index == program.input
            else "logits"
            if index in logits
            else "crosses a cut"
            if crosses
            else "tensor"
        )
        begin: float = lifetime.first
        end = lifetime.last + 1.0
        if index in taken.values():
            begin += 0.5
        if index in taken:
            end -= 0.5
        yield _Rectangle(buffer.name, kind, begin, end, plan.offsets[index], buffer.num_bytes)
    for t, (step, offset) in enumerate(zip(program.steps, plan.scratch_offsets, strict=True)):
        if offset is not None:
            num_bytes = implementations[t].scratch_bytes
            yield _Rectangle(f"scratch of {step.name}", "scratch", t, t + 1.0, offset, num_bytes)


def _taken_over(program: Program, plan: Plan) -> dict[int, int]:
    """Buffers whose memory another one takes over, and that other one."""
    taken = {}
    for t, step in enumerate(program.steps):
        new = plan.lifetimes[step.output]
        for i in step.inputs:
            old = plan.lifetimes[i]
            over = old is not None and new is not None and (old.last, new.first) == (t, t)
            if over and i != step.output and plan.offsets[i] == plan.offsets[step.output]:
                taken[i] = step.output
    return taken


def _segment_ends(program: Program) -> list[int]:
    """For each segment, the step after its last one."""
    ends, t = [], 0
    for segment in program.segments:
        t += len(segment.steps)
        ends.append(t)
    return ends


def _heading(plan: Plan, title: str) -> Iterator[str]:
    ratio = plan.arena_bytes / plan.lower_bound_bytes if plan.lower_bound_bytes else 1.0
    yield _text(_LEFT, 26, title, size=17, weight="bold")
    yield _text(
        _LEFT,
        45,
        f"arena {plan.arena_bytes:,} B ({_size(plan.arena_bytes)}), {ratio:.3f} x the most bytes "
        f"alive at one step",
        size=12,
        fill="#555555",
    )


def _legend(width: float) -> Iterator[str]:
    x = width - 14 - sum(30 + _LETTER * len(kind) for kind in _KINDS)
    for kind, (fill, stroke) in _KINDS.items():
        yield f'<rect x="{x:.1f}" y="56" width="11" height="11" fill="{fill}" stroke="{stroke}"/>'
        yield _text(x + 16, 65.5, kind)
        x += 30 + _LETTER * len(kind)


def _grid(axes: _Axes) -> Iterator[str]:
    for offset in _ticks(axes.arena_bytes):
        y = axes.y(offset)
        yield _line(_LEFT, y, axes.right, y, "#ececec")
        yield _text(_LEFT - 8, y + 4, _size(offset), anchor="end", fill="#555555")
    yield _line(_LEFT, axes.y(0), axes.right, axes.y(0), _GREY)


def _ticks(arena_bytes: int) -> list[int]:
    step = 16
    while arena_bytes / step > 8:
        step *= 2
    return list(range(0, arena_bytes + 1, step))


def _box(r: _Rectangle, axes: _Axes) -> Iterator[str]:
    fill, stroke = _KINDS[r.kind]
    x, y = axes.x(r.begin), axes.y(r.offset + r.num_bytes)
    width, height = axes.x(r.end) - x, max(axes.y(r.offset) - y, 1.0)
    hint = f"{r.name}: {r.num_bytes:,} B at {r.offset:,} ({r.kind})"
    yield (
        f'<rect x="{x + 0.75:.2f}" y="{y:.2f}" width="{width - 1.5:.2f}" height="{height:.2f}"'
        f' rx="2" fill="{fill}" fill-opacity="0.9" stroke="{stroke}" stroke-width="0.8">'
        f"<title>{_xml(hint)}</title></rect>"
    )
    middle_x, middle_y = x + width / 2, y + height / 2 + 4
    room = int((width - 6) / _LETTER)
    label = "scratch" if r.kind == "scratch" else r.name
    if height < _FONT + 1:
        return
    if room >= 4:
        size = _size(r.num_bytes)
        two_lines = height >= 2 * _FONT + 8 and room >= len(size)
        up = 6 if two_lines else 0
        yield _text(middle_x, middle_y - up, short_name(label, room), anchor="middle")
        if two_lines:
            yield _text(middle_x, middle_y + 8, size, anchor="middle", fill="#555555")
    elif (upright := int((height - 6) / _LETTER)) >= 4:
        turned = f' transform="rotate(-90 {middle_x:.1f} {middle_y - 4:.1f})"'
        yield _text(middle_x, middle_y, short_name(label, upright), anchor="middle", more=turned)


def _cuts(program: Program, axes: _Axes) -> Iterator[str]:
    begin = 0
    bottom = _TOP + _ARENA + _GAP + _ALIVE
    for number, end in enumerate(_segment_ends(program)):
        x, width = axes.x(begin), (end - begin) * axes.column
        if end > begin:
            label = short_name(f"segment {number}", max(int(width / _LETTER), 2))
            yield _text(x + width / 2, _TOP - 8, label, anchor="middle", weight="bold")
        if end < axes.num_steps:
            cut = axes.x(end)
            yield _line(cut, _TOP - 20, cut, bottom, _INK, dashes="5 3")
        begin = end


def _alive(
    program: Program, implementations: Sequence[Implementation], plan: Plan, axes: _Axes
) -> Iterator[str]:
    floor = _TOP + _ARENA + _GAP + _ALIVE
    top = peak(program, implementations, plan)
    yield _text(_LEFT - 8, floor - _ALIVE / 2 + 4, "alive", anchor="end", fill="#555555")
    # Names lean; where columns are too narrow for all, some are left out.
    every = max(1, round(15 / axes.column))
    for t, step in enumerate(program.steps):
        alive = occupants(program, implementations, plan, t)
        num_bytes = sum(o.num_bytes for o in alive)
        height = _ALIVE * num_bytes / max(axes.arena_bytes, 1)
        hint = ", ".join(f"{o.name} {o.num_bytes:,} B" for o in alive)
        at_peak = num_bytes == top.num_bytes
        yield (
            f'<rect x="{axes.x(t) + 1:.2f}" y="{floor - height:.2f}"'
            f' width="{axes.column - 2:.2f}" height="{height:.2f}"'
            f' fill="{_RED if at_peak else "#b9b9b9"}" fill-opacity="{0.75 if at_peak else 1}">'
            f"<title>{_xml(f'{step.name}: {num_bytes:,} B: {hint}')}</title></rect>"
        )
        if t % every == 0:
            x, y = axes.x(t) + axes.column / 2 + 4, floor + 12
            turned = f' transform="rotate(-55 {x:.1f} {y:.1f})"'
            label = short_name(step.name, _STEP_NAME)
            yield _text(x, y, label, anchor="end", more=turned, fill="#444444")
    yield _line(_LEFT, floor, axes.right, floor, _GREY)


def _top_line(plan: Plan, axes: _Axes) -> Iterator[str]:
    y = axes.y(plan.arena_bytes)
    yield _line(_LEFT, y, axes.right, y, _RED, dashes="2 2")
    yield _text(axes.right + 6, y + 4, _size(plan.arena_bytes), fill=_RED)


def _size(num_bytes: int) -> str:
    return f"{num_bytes} B" if num_bytes < 1024 else f"{num_bytes / 1024:.4g} KiB"


def _xml(text: str) -> str:
    # Names come from files: XML has no way to write control characters.
    return escape("".join(letter if letter.isprintable() else "?" for letter in text))


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = _FONT,
    anchor: str = "start",
    weight: str = "normal",
    fill: str = _INK,
    more: str = "",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
        f' font-weight="{weight}" fill="{fill}"{more}>{_xml(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, *, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{stroke}"{dashed}/>'
    )
