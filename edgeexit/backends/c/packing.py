"""Packs blocks of memory that live for a while into the smallest arena: dynamic storage allocation.

A block is a rectangle, steps wide and bytes high, that may be moved up and down only. The problem
is NP-complete in general (Garey and Johnson 1979, SR2); the tables of a network are small and
nearly nested, and most reach the largest sum of bytes alive at once, below which nothing can be.

Three stages, each skipped once that bound is reached: first fit in several orders; an exact search
for few blocks, of bounded effort; a walk through the orders for many. All of it is deterministic:
effort is counted in work and not in time.

Guaranteed: no two blocks that share a step share a byte. Not guaranteed: the optimum, where the
exact search ran out of its effort.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_EXACT_UP_TO = 100
"""Blocks. The search recurses once for each."""
_EXACT_EFFORT = 200_000
"""Blocks looked at in all nodes: once for the bound, once more for what is above it."""
_WALK_EFFORT = 2_000_000
"""Pairs of blocks compared in the walk."""


@dataclass(frozen=True)
class Block:
    """Memory that is in use from step ``first`` to step ``last``, both included."""

    first: int
    last: int
    num_bytes: int


def largest_sum(blocks: Sequence[Block]) -> int:
    """The most bytes that are alive in one step: no arena can be smaller."""
    return max(
        (sum(b.num_bytes for b in blocks if b.first <= t <= b.last) for t in _starts(blocks)),
        default=0,
    )


def pack(blocks: Sequence[Block], *, thorough: bool = True) -> tuple[int, ...]:
    """An offset for each block, in bytes, so that the arena is small.

    Where all sizes are multiples of an alignment, all offsets are too. The first stage alone runs
    where the search is not to be ``thorough``.
    """
    bound = largest_sum(blocks)
    neighbours = tuple(
        tuple(j for j, b in enumerate(blocks) if j != i and b.first <= a.last and a.first <= b.last)
        for i, a in enumerate(blocks)
    )
    best_order: list[int] = []
    best: list[int] = []
    for key in _ORDERS:
        order = sorted(range(len(blocks)), key=lambda i: (key(blocks[i]), i))
        offsets = _first_fit(blocks, neighbours, order)
        if not best or _height(blocks, offsets) < _height(blocks, best):
            best_order, best = order, offsets
        if _height(blocks, best) == bound:
            return tuple(best)
    if not thorough:
        return tuple(best)
    if len(blocks) <= _EXACT_UP_TO:
        best = _exact(blocks, best, bound)
    else:
        best = _walk(blocks, neighbours, best_order, best, bound)
    return tuple(best)


# Large ones first, long ones first, and the order of time from both ends.
_ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda b: (-b.num_bytes, b.first - b.last),
    lambda b: (-b.num_bytes * (b.last - b.first + 1),),
    lambda b: (b.first - b.last, -b.num_bytes),
    lambda b: (b.first, -b.num_bytes),
    lambda b: (-b.last, -b.num_bytes),
    lambda b: (b.first, b.first - b.last),
)


def _starts(blocks: Sequence[Block]) -> list[int]:
    # Blocks only end between two starts, so the sets that are alive at starts contain all others.
    return sorted({b.first for b in blocks})


def _height(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    return max((o + b.num_bytes for o, b in zip(offsets, blocks, strict=True)), default=0)


def _first_fit(
    blocks: Sequence[Block], neighbours: Sequence[Sequence[int]], order: Sequence[int]
) -> list[int]:
    """Puts each block, in this order, into the lowest gap that holds it."""
    offsets = [-1] * len(blocks)
    for i in order:
        size, lowest = blocks[i].num_bytes, 0
        taken = sorted(
            (offsets[j], offsets[j] + blocks[j].num_bytes) for j in neighbours[i] if offsets[j] >= 0
        )
        for begin, end in taken:
            if begin - lowest >= size:
                break
            lowest = max(lowest, end)
        offsets[i] = lowest
    return offsets


def _walk(
    blocks: Sequence[Block],
    neighbours: Sequence[Sequence[int]],
    order: list[int],
    offsets: list[int],
    bound: int,
) -> list[int]:
    """Moves a block that reaches the top to an earlier place in the order, again and again."""
    chance = random.Random(0)
    height = _height(blocks, offsets)
    best = offsets
    work = 1 + len(blocks) + sum(map(len, neighbours))
    for _ in range(_WALK_EFFORT // work):
        tops = [i for i in order if offsets[i] + blocks[i].num_bytes == height]
        moved = chance.choice(tops)
        changed = [i for i in order if i != moved]
        changed.insert(chance.randrange(order.index(moved) + 1), moved)
        tried = _first_fit(blocks, neighbours, changed)
        reached = _height(blocks, tried)
        # Equal ones are taken too, or the walk would stay on the first plateau.
        if reached <= height:
            order, offsets, height = changed, tried, reached
            best = tried
        if height == bound:
            break
    return best


def _exact(blocks: Sequence[Block], offsets: list[int], bound: int) -> list[int]:
    """Searches for the bound, then for anything below what is known."""
    search = _Search(blocks, bound, _EXACT_EFFORT)
    if search.run():
        return search.offsets
    best, effort = offsets, _EXACT_EFFORT
    # All heights are sums of sizes, so that one byte less is the next thing to ask for.
    while _height(blocks, best) > bound:
        search = _Search(blocks, _height(blocks, best) - 1, effort)
        if not search.run():
            break
        best, effort = search.offsets, search.effort
    return best


class _Search:
    """Branch and bound for an arena of at most ``capacity`` bytes.

    Blocks are placed from low to high, each resting on what is below it: any packing can be sunk
    into such a one. A column is a step at which something starts.
    """

    def __init__(self, blocks: Sequence[Block], capacity: int, effort: int) -> None:
        self.sizes = [b.num_bytes for b in blocks]
        self.capacity = capacity
        self.effort = effort
        starts = _starts(blocks)
        self.columns = [[c for c, t in enumerate(starts) if b.first <= t <= b.last] for b in blocks]
        self.heights = [0] * len(starts)
        self.left = [0] * len(starts)
        for size, columns in zip(self.sizes, self.columns, strict=True):
            for c in columns:
                self.left[c] += size
        # Large blocks are tried first; the rank also orders blocks at one offset.
        self.unplaced = sorted(range(len(blocks)), key=lambda i: (-self.sizes[i], i))
        self.rank = {i: r for r, i in enumerate(self.unplaced)}
        self.offsets = [0] * len(blocks)

    def run(self) -> bool:
        """Whether ``offsets`` hold a packing; False also where the effort is spent."""
        return self._place(0, -1)

    def _place(self, level: int, last: int) -> bool:
        if not self.unplaced:
            return True
        self.effort -= len(self.unplaced)
        if self.effort < 0 or any(
            left and max(height, level) + left > self.capacity
            for height, left in zip(self.heights, self.left, strict=True)
        ):
            return False
        floors = [(max(self.heights[c] for c in self.columns[i]), i) for i in self.unplaced]
        # What begins above this could have something put below it first.
        ceiling = min(max(floor, level) + self.sizes[i] for floor, i in floors)
        for floor, i in sorted(floors, key=lambda f: (f[0], self.rank[f[1]])):
            if floor >= ceiling:
                break
            if floor < level or (floor == level and self.rank[i] < last):
                continue
            if self._try(i, floor):
                return True
        return False

    def _try(self, i: int, offset: int) -> bool:
        before = [self.heights[c] for c in self.columns[i]]
        position = self.unplaced.index(i)
        del self.unplaced[position]
        self.offsets[i] = offset
        for c in self.columns[i]:
            self.heights[c] = offset + self.sizes[i]
            self.left[c] -= self.sizes[i]
        if self._place(offset, self.rank[i]):
            return True
        for c, height in zip(self.columns[i], before, strict=True):
            self.heights[c] = height
            self.left[c] += self.sizes[i]
        self.unplaced.insert(position, i)
        return False
