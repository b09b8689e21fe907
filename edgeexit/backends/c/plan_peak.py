"""What makes a plan's peak, for the report and for the error that a model does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeexit.backends.c.kernels.base import Implementation
from edgeexit.backends.c.plan import Plan, aligned
from edgeexit.backends.c.program import Program
from edgeexit.errors import TargetError

_NAMED = 6
"""Tensors that an error names."""
_LETTERS = 48
"""Of a name in an error."""


@dataclass(frozen=True)
class Occupant:
    """What takes memory at a step; ``num_bytes`` is rounded up to the alignment.

    A tensor that is overwritten in place is one occupant with its successor: ``old -> new``.
    """

    name: str
    num_bytes: int


@dataclass(frozen=True)
class Peak:
    """The step with the most bytes alive; ``step`` counts through all segments.

    ``occupants`` are ordered from large to small.
    """

    step: int
    name: str
    segment: int
    num_bytes: int
    occupants: tuple[Occupant, ...]


def occupants(
    program: Program, implementations: Sequence[Implementation], plan: Plan, step: int
) -> tuple[Occupant, ...]:
    """All that is alive at a step, from large to small."""
    at: dict[int, list[int]] = {}
    for index, lifetime in enumerate(plan.lifetimes):
        if lifetime is None or not lifetime.first <= step <= lifetime.last:
            continue
        if program.buffers[index].num_bytes:
            at.setdefault(plan.offsets[index], []).append(index)
    found = []
    for indices in at.values():
        indices.sort(key=lambda i: _last(plan, i))
        name = " -> ".join(program.buffers[i].name for i in indices)
        found.append(Occupant(name, aligned(program.buffers[indices[0]].num_bytes)))
    if plan.scratch_offsets and plan.scratch_offsets[step] is not None:
        name = f"scratch of {program.steps[step].name}"
        found.append(Occupant(name, aligned(implementations[step].scratch_bytes)))
    return tuple(sorted(found, key=lambda o: (-o.num_bytes, o.name)))


def peak(program: Program, implementations: Sequence[Implementation], plan: Plan) -> Peak:
    """The step at which the most bytes are alive; the first one of several."""
    tables = [occupants(program, implementations, plan, t) for t in range(len(program.steps))]
    sums = [sum(o.num_bytes for o in table) for table in tables]
    if not sums:
        table = occupants(program, implementations, plan, 0)
        return Peak(0, "no step", 0, sum(o.num_bytes for o in table), table)
    step = sums.index(max(sums))
    segment, before = 0, 0
    while step >= before + len(program.segments[segment].steps):
        before += len(program.segments[segment].steps)
        segment += 1
    return Peak(step, program.steps[step].name, segment, sums[step], tables[step])


def require_arena(
    program: Program,
    implementations: Sequence[Implementation],
    plan: Plan,
    *,
    limit_bytes: int,
    target: str,
) -> None:
    """Complains where the arena does not fit.

    Args:
        program: The chain.
        implementations: How its steps run.
        plan: Where its tensors lie.
        limit_bytes: What the target has for the arena.
        target: Its name, for the message.

    Raises:
        TargetError: By how much the arena is too large, and which tensors make it so.
    """
    if plan.arena_bytes <= limit_bytes:
        return
    top = peak(program, implementations, plan)
    named = [f"{short_name(o.name, _LETTERS)} ({o.num_bytes:,} B)" for o in top.occupants[:_NAMED]]
    if len(top.occupants) > _NAMED:
        rest = sum(o.num_bytes for o in top.occupants[_NAMED:])
        named.append(f"{len(top.occupants) - _NAMED} more ({rest:,} B)")
    raise TargetError(
        f"the model needs more RAM than {target} has for it",
        wanted=f"an arena of at most {limit_bytes:,} B",
        given=f"{plan.arena_bytes:,} B, {plan.arena_bytes - limit_bytes:,} B too many",
        where=f"step {top.name} of segment {top.segment}, where these are alive: "
        + ", ".join(named),
        hint="a smaller input, fewer channels in front, or a target with more RAM",
    )


def short_name(name: str, room: int) -> str:
    """``name`` in at most ``room`` letters, of which its end says the most.

    Converters join the names of all that they fused by semicolons; the first one is kept.
    """
    name = " -> ".join(part.partition(";")[0] for part in name.split(" -> "))
    return name if len(name) <= room else "…" + name[len(name) - room + 1 :]


def _last(plan: Plan, index: int) -> int:
    lifetime = plan.lifetimes[index]
    return -1 if lifetime is None else lifetime.last
