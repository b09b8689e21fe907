from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from edgeexit.backends.c.kernels.base import Implementation, Struct
from edgeexit.backends.c.plan import Plan, plan
from edgeexit.backends.c.plan_peak import Occupant, occupants, peak, require_arena, short_name
from edgeexit.backends.c.plan_picture import draw
from edgeexit.backends.c.program import Buffer, Copy, Program, ProgramSegment, Table
from edgeexit.errors import TargetError

SVG = "{http://www.w3.org/2000/svg}"


def step(name: str, source: int, output: int) -> Table:
    return Table(name=name, inputs=(source,), output=output, table=np.zeros(256, np.int8))


def chain() -> tuple[Program, list[Implementation], Plan]:
    """Image -> wide; wide is overwritten in place; a cut; wide2 -> logits."""
    names = {"image": 100, "wide": 2000, "wide2": 2000, "logits0": 10, "logits1": 10}
    buffers = tuple(Buffer(name, (1, size), 0.1, 0) for name, size in names.items())
    first = ProgramSegment((step("up", 0, 1), step("relu", 1, 2), step("head0", 2, 3)), 3)
    program = Program(buffers, 0, (first, ProgramSegment((step("head1", 2, 4),), 4)))
    implementations = [
        Implementation("portable", "f", Struct("s", {}), scratch, (), ())
        for scratch in (0, 50, 0, 0)
    ]
    return program, implementations, plan(program, implementations)


def test_what_is_alive_at_each_step() -> None:
    parts = chain()
    assert occupants(*parts, 0) == (Occupant("wide", 2000), Occupant("image", 112))
    assert occupants(*parts, 1) == (
        Occupant("wide -> wide2", 2000),
        Occupant("scratch of relu", 64),
    )
    assert occupants(*parts, 2) == (Occupant("wide2", 2000), Occupant("logits0", 16))
    assert occupants(*parts, 3) == (Occupant("wide2", 2000), Occupant("logits1", 16))


def test_the_peak() -> None:
    top = peak(*chain())
    assert (top.step, top.name, top.segment, top.num_bytes) == (0, "up", 0, 2112)
    assert chain()[2].arena_bytes == 2112


def test_the_peak_of_a_later_segment() -> None:
    program, implementations, _ = chain()
    implementations[3] = replace(implementations[3], scratch_bytes=500)
    top = peak(program, implementations, plan(program, implementations))
    assert (top.name, top.segment) == ("head1", 1)
    assert top.occupants[1] == Occupant("scratch of head1", 512)


def test_an_arena_that_fits() -> None:
    require_arena(*chain(), limit_bytes=2112, target="bench")


def test_an_arena_that_does_not_fit_says_by_how_much_and_why() -> None:
    with pytest.raises(TargetError) as caught:
        require_arena(*chain(), limit_bytes=2000, target="bench")
    facts = caught.value.facts()
    assert facts["problem"] == "the model needs more RAM than bench has for it"
    assert facts["wanted"] == "an arena of at most 2,000 B"
    assert facts["given"] == "2,112 B, 112 B too many"
    assert facts["where"] == (
        "step up of segment 0, where these are alive: wide (2,000 B), image (112 B)"
    )


def test_a_long_list_of_tensors_is_cut_short() -> None:
    none = (0, 0, 0, 0)
    buffers = tuple(Buffer(f"b{i}", (1, 160 - 16 * i), 0.1, 0) for i in range(9))
    steps = [
        Copy(
            name=f"s{i}", inputs=tuple(range(i)), output=i, extents=none, input_start=0,
            input_strides=none, output_start=0, output_strides=none,
        )
        for i in range(1, 9)
    ]  # fmt: skip
    program = Program(buffers, 0, (ProgramSegment(tuple(steps), 8),))
    kernels = [Implementation("portable", "f", Struct("s", {}), 0, (), ())] * 8
    with pytest.raises(TargetError, match=r"b5 \(80 B\), 3 more \(144 B\)"):
        require_arena(program, kernels, plan(program, kernels), limit_bytes=1, target="bench")


@pytest.mark.parametrize(
    ("name", "room", "short"),
    [
        ("relu", 4, "relu"),
        ("model/relu_1", 7, "…relu_1"),
        ("model/relu;model/bias;model/conv", 20, "model/relu"),
        ("a;b -> c;d", 20, "a -> c"),
    ],
)
def test_short_names(name: str, room: int, short: str) -> None:
    assert short_name(name, room) == short


def test_a_chain_without_steps_has_a_peak() -> None:
    program = Program((Buffer("image", (20,), 0.1, 0),), 0, (ProgramSegment((), 0),))
    made = plan(program, [])
    assert peak(program, [], made).occupants == (Occupant("image", 32),)
    assert "image: 20 B at 0" in draw(program, [], made, title="nothing")


def drawn(title: str = "a chain") -> ET.Element:
    return ET.fromstring(draw(*chain(), title=title))


def test_the_picture_shows_every_tensor_where_it_lies() -> None:
    program, _, made = chain()
    hints = [rect.findtext(f"{SVG}title") for rect in drawn().iter(f"{SVG}rect")]
    for buffer, offset in zip(program.buffers, made.offsets, strict=True):
        wanted = f"{buffer.name}: {buffer.num_bytes:,} B at {offset:,} ("
        assert sum(hint is not None and hint.startswith(wanted) for hint in hints) == 1
    assert f"wide2: 2,000 B at {made.offsets[2]} (crosses a cut)" in hints
    assert f"scratch of relu: 50 B at {made.scratch_offsets[1]:,} (scratch)" in hints
    assert "up: 2,112 B: wide 2,000 B, image 112 B" in hints


def test_rectangles_of_the_arena_do_not_overlap() -> None:
    boxes = []
    for rect in drawn().iter(f"{SVG}rect"):
        if " at " in (rect.findtext(f"{SVG}title") or ""):
            x, y, w, h = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h))
    assert len(boxes) == 6
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            # Coordinates are rounded to a hundredth, and nothing is drawn thinner than one.
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 1.1 or b[3] <= a[1] + 1.1
            assert apart, (a, b)


def test_texts_of_the_picture() -> None:
    texts = {text.text for text in drawn("<r&d>\x00").iter(f"{SVG}text")}
    assert {"<r&d>?", "segment 0", "segment 1", "wide", "up", "head1", "logits"} <= texts
    assert "arena 2,112 B (2.062 KiB), 1.000 x the most bytes alive at one step" in texts


def test_the_same_plan_gives_the_same_picture() -> None:
    assert draw(*chain(), title="a") == draw(*chain(), title="a")
