"""Plans one arena for the whole chain: an offset for every buffer and for every step's scratch.

Steps are numbered through all segments. A buffer lives from the step that first writes it to the
last one that reads it, in whatever segment that is, so a tensor that crosses a cut keeps its place.
The chain's input lives from the first step on; once it was read for the last time it may be
overwritten. Logits live until their segment has ended, because the decision reads them then.

A step that allows it writes over an input that nobody reads afterwards. Both then are one block of
memory. Each such merge lowers the bytes alive at its step, so all are taken; only where the packing
misses its bound are other choices tried.

The order of the steps is given. The search is `packing`'s; ``check`` proves each result from the
lifetimes alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeexit.backends.c.kernels.base import Implementation
from edgeexit.backends.c.packing import Block, largest_sum, pack
from edgeexit.backends.c.program import Program, Step
from edgeexit.errors import LoweringError

ALIGNMENT = 16
"""Bytes; of the arena and of every offset in it."""
_MAX_BYTES = (1 << 32) - 1
_CHOICES = 24
"""Other choices of merges that are tried at most."""


@dataclass(frozen=True)
class Lifetime:
    """Steps in which a buffer must be left alone, both included.

    ``kept``: it is read once more after ``last``, by the decision.
    """

    first: int
    last: int
    kept: bool = False


@dataclass(frozen=True)
class Plan:
    """Where everything lies. Offsets are in bytes, multiples of 16.

    ``offsets`` and ``lifetimes`` have one entry for each buffer; one that no step uses is at 0 and
    has no lifetime. ``scratch_offsets`` has one for each step of ``Program.steps``, None where the
    implementation needs no scratch. ``lower_bound_bytes`` is the largest sum of bytes alive in one
    step, which no plan for this order of steps goes below.
    """

    offsets: tuple[int, ...]
    scratch_offsets: tuple[int | None, ...]
    arena_bytes: int
    lower_bound_bytes: int
    lifetimes: tuple[Lifetime | None, ...]


def plan(
    program: Program,
    implementations: Sequence[Implementation],
    *,
    kept: Sequence[Sequence[int]] = (),
) -> Plan:
    """Gives every buffer and every scratch its place in one arena.

    Args:
        program: The chain.
        implementations: How each step of ``program.steps`` runs; only the scratch matters here.
        kept: For each segment, buffers that the decision after it reads beside the logits, such as
            the features that are compared with class means.

    Raises:
        LoweringError: A buffer is read before anything writes it, or the arena would not fit
            32-bit offsets.
    """
    alive = lifetimes(program, kept)
    choices = _merge_choices(program, alive)
    merges: dict[int, int | None] = {t: inputs[0] for t, inputs in choices.items()}
    best = _arrange(program, implementations, alive, merges)
    bound = best.lower_bound_bytes
    if best.arena_bytes > bound:
        other = [(t, i) for t, inputs in choices.items() for i in (*inputs[1:], None)]
        for t, i in other[:_CHOICES]:
            tried = _arrange(program, implementations, alive, {**merges, t: i}, thorough=False)
            if tried.arena_bytes < best.arena_bytes:
                best, merges[t] = tried, i
        # A merge that is not taken would move the bound, which is that of all of them.
        best = replace(best, lower_bound_bytes=bound)
    if best.arena_bytes > _MAX_BYTES:
        raise LoweringError(
            "the chain's arena is too large",
            wanted=f"at most {_MAX_BYTES} bytes",
            given=best.arena_bytes,
        )
    check(program, implementations, best)
    return best


def lifetimes(program: Program, kept: Sequence[Sequence[int]] = ()) -> tuple[Lifetime | None, ...]:
    """When each buffer is in use; None where it never is. ``kept`` is as in ``plan``.

    Raises:
        LoweringError: A buffer is read before anything writes it.
    """
    first: dict[int, int] = {program.input: 0}
    last: dict[int, int] = {program.input: 0}
    outlives: dict[int, int] = {}
    t = 0
    for number, segment in enumerate(program.segments):
        for step in segment.steps:
            for i in step.inputs:
                if i not in first:
                    raise _read_too_early(program, i, f"step {step.name}")
                last[i] = t
            first.setdefault(step.output, t)
            last[step.output] = t
            t += 1
        end = max(t - 1, 0)
        for i in (segment.logits, *(kept[number] if kept else ())):
            if i not in first:
                raise _read_too_early(program, i, f"the decision of segment {number}")
            last[i] = outlives[i] = end
    return tuple(
        Lifetime(first[i], last[i], kept=outlives.get(i) == last[i]) if i in first else None
        for i in range(len(program.buffers))
    )


def check(program: Program, implementations: Sequence[Implementation], plan: Plan) -> None:
    """Proves that nothing in use is overwritten and that all lies within the arena.

    Raises:
        LoweringError: The plan is wrong, which is a mistake of the planner.
    """
    places = [
        _Place(buffer.name, index, alive, plan.offsets[index], buffer.num_bytes)
        for index, (buffer, alive) in enumerate(zip(program.buffers, plan.lifetimes, strict=True))
        if alive is not None
    ]
    steps = program.steps
    for t, offset in enumerate(plan.scratch_offsets):
        if offset is not None:
            name, num_bytes = f"scratch of {steps[t].name}", implementations[t].scratch_bytes
            places.append(_Place(name, None, Lifetime(t, t), offset, num_bytes))
    for place in places:
        end = place.offset + place.num_bytes
        if place.offset % ALIGNMENT or place.offset < 0 or end > plan.arena_bytes:
            raise LoweringError(
                "the memory plan puts a tensor beside the arena",
                wanted=f"a multiple of {ALIGNMENT}, and an end up to {plan.arena_bytes}",
                given=f"offset={place.offset}",
                where=place.name,
            )
    for a, b in itertools.combinations(sorted(places, key=lambda p: p.alive.first), 2):
        first, last = b.alive.first, min(a.alive.last, b.alive.last)
        apart = a.offset + a.num_bytes <= b.offset or b.offset + b.num_bytes <= a.offset
        if first > last or apart:
            continue
        taken_over = (
            first == last
            and a.offset == b.offset
            # Either may be the older one: the input and what is written over it start together.
            and (_takes_over(program, plan, a, b) or _takes_over(program, plan, b, a))
        )
        if not taken_over:
            raise LoweringError(
                "the memory plan puts two tensors in one place",
                given=f"{a.name} and {b.name}",
                where=f"step {steps[first].name}" if steps else None,
            )


@dataclass(frozen=True)
class _Place:
    name: str
    buffer: int | None
    alive: Lifetime
    offset: int
    num_bytes: int


def _takes_over(program: Program, plan: Plan, old: _Place, new: _Place) -> bool:
    t = new.alive.first
    if old.buffer is None or new.buffer is None:
        return False
    return program.steps[t].output == new.buffer and _may_take_over(
        program, plan.lifetimes, t, old.buffer
    )


def aligned(num_bytes: int) -> int:
    """``num_bytes`` rounded up to the alignment."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _may_take_over(program: Program, alive: Sequence[Lifetime | None], t: int, buffer: int) -> bool:
    """Whether the output of step ``t`` may lie exactly where its input ``buffer`` does."""
    step = program.steps[t]
    inputs, outputs = alive[buffer], alive[step.output]
    positions = [p for p, i in enumerate(step.inputs) if i == buffer]
    return (
        inputs is not None
        and outputs is not None
        and buffer != step.output
        and bool(positions)
        # Every way in which the step reads it must allow that it vanishes meanwhile.
        and all(p in step.in_place for p in positions)
        and inputs.last == t
        and not inputs.kept
        and outputs.first == t
        and program.buffers[buffer].num_bytes == program.buffers[step.output].num_bytes
    )


def _merge_choices(
    program: Program, alive: Sequence[Lifetime | None]
) -> dict[int, tuple[int, ...]]:
    """For each step that can write over an input: the buffers that it can write over."""
    choices = {}
    for t, step in enumerate(program.steps):
        inputs = dict.fromkeys(step.inputs)
        if found := tuple(i for i in inputs if _may_take_over(program, alive, t, i)):
            choices[t] = found
    return choices


def _arrange(
    program: Program,
    implementations: Sequence[Implementation],
    alive: tuple[Lifetime | None, ...],
    merges: Mapping[int, int | None],
    *,
    thorough: bool = True,
) -> Plan:
    """The plan for one choice of merges (step to the buffer that its output takes over)."""
    steps = program.steps
    owner = list(range(len(program.buffers)))
    for t in sorted(merges):
        source = merges[t]
        if source is not None:
            owner[steps[t].output] = owner[source]
    blocks: dict[int, Block] = {}
    for index, lifetime in enumerate(alive):
        if lifetime is None or not program.buffers[index].num_bytes:
            continue
        # An owner has a lower first step, but not always a lower index.
        root, mine = owner[index], Block(lifetime.first, lifetime.last, _size(program, index))
        old = blocks.get(root, mine)
        blocks[root] = Block(min(old.first, mine.first), max(old.last, mine.last), mine.num_bytes)
    scratch = {
        t: Block(t, t, aligned(implementation.scratch_bytes))
        for t, implementation in enumerate(_matching(steps, implementations))
        if implementation.scratch_bytes > 0
    }
    table = [*blocks.values(), *scratch.values()]
    offsets = pack(table, thorough=thorough)
    buffer_offsets = dict(zip(blocks, offsets, strict=False))
    scratch_offsets = dict(zip(scratch, offsets[len(blocks) :], strict=True))
    return Plan(
        offsets=tuple(buffer_offsets.get(owner[i], 0) for i in range(len(program.buffers))),
        scratch_offsets=tuple(scratch_offsets.get(t) for t in range(len(steps))),
        arena_bytes=max((o + b.num_bytes for o, b in zip(offsets, table, strict=True)), default=0),
        lower_bound_bytes=largest_sum(table),
        lifetimes=alive,
    )


def _matching(
    steps: Sequence[Step], implementations: Sequence[Implementation]
) -> Sequence[Implementation]:
    if len(steps) != len(implementations):
        raise LoweringError(
            "every step needs one implementation",
            wanted=f"{len(steps)} implementations",
            given=len(implementations),
        )
    return implementations


def _size(program: Program, buffer: int) -> int:
    return aligned(program.buffers[buffer].num_bytes)


def _read_too_early(program: Program, buffer: int, where: str) -> LoweringError:
    return LoweringError(
        "a tensor is read before anything writes it",
        given=program.buffers[buffer].name,
        where=where,
    )
