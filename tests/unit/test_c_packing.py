from __future__ import annotations

import itertools
import random

import pytest

from edgeexit.backends.c.packing import Block, largest_sum, pack


def height(blocks: list[Block], offsets: tuple[int, ...]) -> int:
    return max((o + b.num_bytes for o, b in zip(offsets, blocks, strict=True)), default=0)


def assert_disjoint(blocks: list[Block], offsets: tuple[int, ...]) -> None:
    for (a, x), (b, y) in itertools.combinations(zip(blocks, offsets, strict=True), 2):
        together = a.first <= b.last and b.first <= a.last
        assert not (together and x < y + b.num_bytes and y < x + a.num_bytes), (a, x, b, y)
    assert min(offsets, default=0) >= 0


def random_blocks(seed: int, count: int, steps: int) -> list[Block]:
    chance = random.Random(seed)
    blocks = []
    for _ in range(count):
        first = chance.randrange(steps)
        last = min(first + chance.choice([0, 1, 1, 2, 5, 20]), steps - 1)
        blocks.append(Block(first, last, 16 * chance.randint(1, 60)))
    return blocks


def brute_force(blocks: list[Block]) -> int:
    """The least height, from all orders: one of them, sunk, is an optimal packing."""
    best = sum(b.num_bytes for b in blocks)
    for order in itertools.permutations(range(len(blocks))):
        top: dict[int, int] = {}
        for i in order:
            steps = range(blocks[i].first, blocks[i].last + 1)
            offset = max(top.get(t, 0) for t in steps)
            top.update(dict.fromkeys(steps, offset + blocks[i].num_bytes))
        best = min(best, max(top.values()))
    return best


@pytest.mark.parametrize("seed", range(60))
def test_nothing_overlaps_and_the_bound_is_near(seed: int) -> None:
    blocks = random_blocks(seed, count=5 + seed, steps=4 + seed)
    offsets = pack(blocks)
    assert_disjoint(blocks, offsets)
    assert largest_sum(blocks) <= height(blocks, offsets) <= 1.12 * largest_sum(blocks)
    assert all(offset % 16 == 0 for offset in offsets)


@pytest.mark.parametrize("seed", range(40))
def test_few_blocks_are_packed_optimally(seed: int) -> None:
    blocks = random_blocks(1000 + seed, count=7, steps=6)
    assert height(blocks, pack(blocks)) == brute_force(blocks)


def test_the_bound_may_be_out_of_reach() -> None:
    # Every step is full, so the two-unit blocks lie at one end in their steps: the one of steps 0
    # and 1 and the one of steps 3 and 4. What lives in between cannot keep clear of both.
    unit = 16
    table = ["0-0:2", "0-1:2", "1-2:1", "1-3:1", "2-2:1", "2-3:1", "3-4:2", "4-4:2"]
    blocks = [Block(int(b[0]), int(b[2]), unit * int(b[4])) for b in table]
    assert largest_sum(blocks) == 4 * unit
    assert height(blocks, pack(blocks)) == brute_force(blocks) == 5 * unit


def test_nothing_and_one() -> None:
    assert pack([]) == ()
    assert pack([Block(0, 0, 48)]) == (0,)
    assert largest_sum([]) == 0


def test_a_hole_is_used() -> None:
    # The short middle one must go below the late one, between two that live on.
    blocks = [Block(0, 9, 32), Block(0, 3, 64), Block(4, 9, 48), Block(4, 5, 16)]
    offsets = pack(blocks)
    assert_disjoint(blocks, offsets)
    assert height(blocks, offsets) == 96


def test_the_same_table_is_packed_the_same_way() -> None:
    blocks = random_blocks(7, count=180, steps=90)
    assert pack(blocks) == pack(list(blocks))
