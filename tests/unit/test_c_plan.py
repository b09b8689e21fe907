from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence

import pytest

from edgeexit.backends.c.kernels.base import Implementation, Struct
from edgeexit.backends.c.plan import ALIGNMENT, Plan, aligned, check, plan
from edgeexit.backends.c.program import Buffer, Program, ProgramSegment, Step
from edgeexit.errors import LoweringError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Op(Step):
    """A step of which only the tensors and what may be written over matter."""

    over: tuple[int, ...] = ()

    @property
    def in_place(self) -> tuple[int, ...]:
        return self.over


def op(inputs: Sequence[int], output: int, over: Sequence[int] = ()) -> Op:
    return Op(name="op", inputs=tuple(inputs), output=output, over=tuple(over))


def make(
    sizes: Sequence[int], *segments: tuple[Sequence[Op], int], input_buffer: int = 0
) -> Program:
    number = iter(range(10_000))
    return Program(
        buffers=tuple(Buffer(f"b{i}", (1, size), 0.1, 0) for i, size in enumerate(sizes)),
        input=input_buffer,
        segments=tuple(
            ProgramSegment(
                tuple(dataclasses.replace(s, name=f"op{next(number)}") for s in steps), logits
            )
            for steps, logits in segments
        ),
    )


def implementations(program: Program, *scratch: int) -> list[Implementation]:
    given = dict(enumerate(scratch))
    return [
        Implementation("portable", "f", Struct("s", {}), given.get(t, 0), (), ())
        for t in range(len(program.steps))
    ]


def planned(program: Program, *scratch: int) -> Plan:
    made = plan(program, implementations(program, *scratch))
    assert_nothing_is_lost(program, made, scratch)
    return made


def assert_nothing_is_lost(program: Program, made: Plan, scratch: Sequence[int]) -> None:
    """Runs the chain on bytes that carry their buffer's name, by what a step may do at most.

    An independent check: a step reads all of its inputs, soils its scratch, then writes its output
    over whatever was there; a decision reads its logits.
    """
    memory: list[object] = [None] * made.arena_bytes

    def write(buffer: int) -> None:
        size = program.buffers[buffer].num_bytes
        memory[made.offsets[buffer] : made.offsets[buffer] + size] = [buffer] * size

    def read(buffer: int) -> None:
        size = program.buffers[buffer].num_bytes
        found = memory[made.offsets[buffer] : made.offsets[buffer] + size]
        assert found == [buffer] * size, f"b{buffer} was overwritten"

    write(program.input)
    t = 0
    for segment in program.segments:
        for step in segment.steps:
            offset = made.scratch_offsets[t]
            assert (offset is not None) == bool(t < len(scratch) and scratch[t])
            if offset is not None:
                memory[offset : offset + scratch[t]] = ["scratch"] * scratch[t]
                assert offset % ALIGNMENT == 0
            begin, size = made.offsets[step.output], program.buffers[step.output].num_bytes
            for position, buffer in enumerate(step.inputs):
                read(buffer)
                other = made.offsets[buffer], program.buffers[buffer].num_bytes
                if buffer != step.output and position not in step.in_place:
                    assert other[0] >= begin + size or begin >= other[0] + other[1]
            write(step.output)
            if offset is not None:
                assert offset >= begin + size or begin >= offset + scratch[t]
            t += 1
        read(segment.logits)
    assert all(offset % ALIGNMENT == 0 for offset in made.offsets)
    assert made.arena_bytes % ALIGNMENT == 0


def random_program(seed: int, count: int) -> tuple[Program, list[int]]:
    """A chain of ``count`` steps that reads what it likes, with copies that share an output."""
    chance = random.Random(seed)
    sizes = [chance.choice([10, 64, 100, 1024])]
    steps: list[Op] = []
    while len(steps) < count:
        inputs = [len(sizes) - 1] + [
            chance.randrange(max(0, len(sizes) - 6), len(sizes))
            for _ in range(chance.choice([0, 0, 1, 1, 2]))
        ]
        if chance.random() < 0.2:
            parts = [chance.randrange(max(0, len(sizes) - 4), len(sizes)) for _ in range(3)]
            sizes.append(sum(sizes[i] for i in parts))
            steps += [op([i], len(sizes) - 1) for i in parts]
            continue
        sizes.append(sizes[inputs[-1]] if chance.random() < 0.6 else chance.randint(1, 900))
        over = [p for p in range(len(inputs)) if chance.random() < 0.7]
        steps.append(op(inputs, len(sizes) - 1, over))
    cuts = sorted(chance.sample(range(1, len(steps)), min(3, len(steps) - 1)))
    bounds = [0, *cuts, len(steps)]
    segments = []
    for begin, end in itertools.pairwise(bounds):
        # Any tensor that exists by then can be the logits, old ones too if they are still alive.
        part = steps[begin:end]
        segments.append((part, part[-1].output))
    return make(sizes, *segments), [chance.choice([0, 0, 40, 300]) for _ in steps]


@pytest.mark.parametrize("seed", range(80))
def test_random_chains_lose_nothing(seed: int) -> None:
    program, scratch = random_program(seed, count=3 + seed // 2)
    made = planned(program, *scratch)
    assert made.lower_bound_bytes <= made.arena_bytes <= 1.1 * made.lower_bound_bytes
    assert planned(program, *scratch) == made


def test_a_chain_needs_its_largest_pair() -> None:
    made = planned(make([32, 64, 128, 48], ([op([0], 1), op([1], 2), op([2], 3)], 3)))
    assert made.arena_bytes == made.lower_bound_bytes == 64 + 128


def test_sizes_are_rounded_up_to_the_alignment() -> None:
    assert [aligned(n) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]
    assert planned(make([3, 10], ([op([0], 1)], 1))).arena_bytes == 32


def test_the_input_lives_from_the_first_step_even_if_it_is_read_late() -> None:
    # 2 = f(1) where 1 has no input: the caller's bytes must survive both.
    program = make([16, 16, 16, 16], ([op([], 1), op([1], 2), op([2, 0], 3)], 3))
    assert planned(program).arena_bytes == 48


def test_the_input_may_be_overwritten_after_its_last_reader() -> None:
    made = planned(make([64, 16, 64], ([op([0], 1), op([1], 2)], 2)))
    assert made.arena_bytes == 80


def test_in_place_over_a_skip_tensor() -> None:
    skip = make([64, 64, 64, 64], ([op([0], 1), op([1], 2), op([2, 1], 3, over=[1])], 3))
    made = planned(skip)
    assert made.offsets[3] == made.offsets[1]
    assert made.arena_bytes == 128
    without = make([64, 64, 64, 64], ([op([0], 1), op([1], 2), op([2, 1], 3)], 3))
    assert planned(without).arena_bytes == 192


def test_in_place_over_the_chains_input() -> None:
    made = planned(make([64, 64], ([op([0], 1, over=[0])], 1)))
    assert made.arena_bytes == 64
    # The same with the tensors numbered the other way around.
    made = planned(make([64, 64], ([op([1], 0, over=[0])], 0), input_buffer=1))
    assert made.arena_bytes == 64


def test_in_place_in_a_row_is_one_block() -> None:
    chain = [op([i], i + 1, over=[0]) for i in range(5)]
    assert planned(make([64] * 6, (chain, 5))).arena_bytes == 64


@pytest.mark.parametrize(
    ("sizes", "steps", "why"),
    [
        ([64, 64, 64], [op([0], 1, over=[0]), op([0, 1], 2)], "it is read later"),
        ([64, 32, 32], [op([0], 1, over=[0]), op([1], 2)], "sizes differ"),
        ([64, 64, 64], [op([0, 0], 1, over=[1]), op([1], 2)], "it is read in another way too"),
    ],
)
def test_in_place_is_refused(sizes: list[int], steps: list[Op], why: str) -> None:
    made = planned(make(sizes, (steps, 2)))
    assert made.offsets[1] != made.offsets[0], why


def test_both_inputs_may_be_one_tensor() -> None:
    assert planned(make([64, 64], ([op([0, 0], 1, over=[0, 1])], 1))).arena_bytes == 64


def test_only_one_input_is_taken_over() -> None:
    made = planned(make([64, 64, 64], ([op([0], 1), op([0, 1], 2, over=[0, 1])], 2)))
    assert made.offsets[0] != made.offsets[1]
    assert made.offsets[2] in made.offsets[:2]
    assert made.arena_bytes == 128


def test_an_output_that_is_written_again_keeps_its_place() -> None:
    # A fused addition into a buffer that holds the other summand already.
    program = make([64, 64, 64], ([op([0], 1), op([1], 2), op([1, 2], 2, over=[1])], 2))
    assert planned(program).arena_bytes == 128


def test_concatenation_lives_from_its_first_part() -> None:
    # 3 gets parts from 1 and, later, from 2, which is made in between.
    program = make([32, 32, 32, 64], ([op([0], 1), op([1], 3), op([0], 2), op([2], 3)], 3))
    assert planned(program).arena_bytes == 128


def test_a_tensor_that_crosses_cuts_keeps_its_place() -> None:
    program = make(
        [16, 64, 16, 64, 16, 64],
        ([op([0], 1), op([1], 2)], 2),
        ([op([2], 3), op([3], 4)], 4),
        ([op([1, 4], 5)], 5),
    )
    # 1 is read by the last segment: 64 + 16 + 64 while 3 is made, and again for 5.
    assert planned(program).arena_bytes == 144


def test_logits_live_until_their_segment_has_ended() -> None:
    # 1 are the logits; the segment then prepares 3, in a place of its own.
    program = make([64, 64, 64, 64], ([op([0], 1), op([0], 2, over=[0])], 1), ([op([2], 3)], 3))
    made = planned(program)
    assert made.offsets[2] == made.offsets[0] != made.offsets[1]
    # In the next segment they may be overwritten: nothing more than two is needed.
    assert made.arena_bytes == 128


def test_logits_are_not_overwritten_in_place_before_the_decision() -> None:
    program = make([64, 64, 64], ([op([0], 1), op([1], 2, over=[0])], 1), ([], 2))
    made = planned(program)
    assert made.offsets[1] != made.offsets[2]


def test_a_segment_without_steps_may_answer_from_what_is_there() -> None:
    program = make([16, 16, 16], ([op([0], 1), op([1], 2)], 2), ([], 1))
    made = planned(program)
    assert made.offsets[1] != made.offsets[2]


def test_a_chain_without_steps() -> None:
    made = planned(make([40], ([], 0)))
    assert (made.arena_bytes, made.offsets, made.scratch_offsets) == (48, (0,), ())


def test_what_else_a_decision_reads_is_kept() -> None:
    program = make([64, 64, 64], ([op([0], 1), op([1], 2, over=[0])], 2))
    assert planned(program).offsets[1] == planned(program).offsets[2]
    made = plan(program, implementations(program), kept=[[1]])
    assert made.offsets[1] != made.offsets[2]


def test_scratch_lives_in_its_step_only() -> None:
    program = make([16, 16, 16], ([op([0], 1), op([1], 2)], 2))
    made = planned(program, 100, 90)
    assert made.arena_bytes == 32 + 112
    assert made.scratch_offsets == (32, 32) or None not in made.scratch_offsets


def test_unused_and_empty_buffers_take_nothing() -> None:
    program = make([16, 999, 16, 0], ([op([0], 2), op([2], 3)], 2))
    made = planned(program)
    assert made.arena_bytes == 32
    assert (made.offsets[1], made.lifetimes[1]) == (0, None)


def resnet8(num_exits: int = 1) -> Program:
    """ResNet-8 on 32x32x3, residual additions fused; early exits pool the stages' outputs."""
    sizes = [32 * 32 * 3, 16384, 16384, 16384]
    stages: list[list[Op]] = [[op([0], 1), op([1], 2), op([2, 1], 3, over=[1])]]
    for size in (8192, 4096):
        x = len(sizes) - 1
        sizes += [size] * 3
        # 3x3 down, 1x1 on the skip, 3x3 with the addition.
        stages.append([op([x], x + 1), op([x], x + 2), op([x + 1, x + 2], x + 3, over=[1])])
    segments: list[tuple[list[Op], int]] = []
    rest: list[Op] = []
    for number, stage in enumerate(stages):
        rest += stage
        if len(stages) - number > num_exits:
            continue
        sizes += [64, 10]
        rest += [op([stage[-1].output], len(sizes) - 2), op([len(sizes) - 2], len(sizes) - 1)]
        segments.append((rest, len(sizes) - 1))
        rest = []
    return make(sizes, *segments)


@pytest.mark.parametrize("num_exits", [1, 2, 3])
def test_resnet8_fits_34_kib(num_exits: int) -> None:
    made = planned(resnet8(num_exits))
    # Two maps of 16 KiB while the first block runs.
    assert made.arena_bytes == made.lower_bound_bytes == 32 * 1024


def test_resnet8_with_scratch_stays_at_its_bound() -> None:
    program = resnet8(3)
    made = planned(program, 0, 640, 640, 0, 0, 1200, 0, 1200, 2400)
    assert made.arena_bytes == made.lower_bound_bytes == 32 * 1024 + 640


def test_reading_what_nobody_wrote_is_an_error() -> None:
    with pytest.raises(LoweringError, match=r"before anything writes it(.|\n)*b1"):
        planned(make([16, 16, 16], ([op([1], 2)], 2)))
    with pytest.raises(LoweringError, match=r"decision of segment 0(.|\n)*b1"):
        planned(make([16, 16], ([], 1)))


def test_implementations_must_match_the_steps() -> None:
    program = make([16, 16], ([op([0], 1)], 1))
    with pytest.raises(LoweringError, match=r"one implementation(.|\n)*wanted: 1"):
        plan(program, [])


def test_an_arena_beyond_32_bits_is_refused() -> None:
    with pytest.raises(LoweringError, match="too large"):
        plan(
            program := make([1 << 31, 1 << 31], ([op([0], 1)], 1)),
            implementations(program),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": (0, 0, 64)}, "two tensors in one place(.|\n)*b0 and b1"),
        ({"offsets": (0, 48, 64)}, "one place"),
        ({"scratch_offsets": (64, None)}, "b1 and scratch of op0"),
        ({"offsets": (0, 64, 8)}, "one place|beside the arena"),
        ({"arena_bytes": 112}, "beside the arena"),
    ],
)
def test_the_check_notices(change: dict[str, object], message: str) -> None:
    program = make([64, 64, 64], ([op([0], 1), op([1], 2, over=[0])], 2))
    made = planned(program, 32)
    good = dataclasses.replace(made, offsets=(0, 64, 64), scratch_offsets=(128, None))
    check(program, implementations(program, 32), good)
    with pytest.raises(LoweringError, match=message):
        check(program, implementations(program, 32), dataclasses.replace(good, **change))  # type: ignore[arg-type]
