"""Frames that are read from machine code; the bytes are those that GNU as makes of the texts."""

from __future__ import annotations

import pytest

from edgeexit.profiling.qemu.stack import _pushed_bytes

LOWERS = {
    "push {r4, r5, lr}": ("30b5", 12),
    "stmdb sp!, {r4-r11, lr}": ("2de9f04f", 36),
    "vpush {d8-d9}": ("2ded048b", 16),
    "str r0, [sp, #-8]!": ("4df8080d", 8),
    "sub sp, #16": ("84b0", 16),
    "sub.w sp, sp, #20": ("adf1140d", 20),
    "sub.w sp, sp, #512": ("adf5007d", 512),
    "sub.w sp, sp, #1024": ("adf5806d", 1024),
    "sub.w sp, sp, #4080": ("adf57f6d", 4080),
    "sub.w sp, sp, #65536": ("adf5803d", 65_536),
    "sub.w sp, sp, #0x00100010": ("adf1101d", 0x00100010),
    "subw sp, sp, #20": ("adf2140d", 20),
    "subw sp, sp, #1020": ("adf2fc3d", 1020),
    "subw sp, sp, #4095": ("adf6ff7d", 4095),
}
LEAVES_ALONE = {
    "sub.w r0, sp, #1024": "adf58060",
    "sub.w r0, r1, #1024": "a1f58060",
    "add.w sp, sp, #1024": "0df5806d",
    "str r0, [sp, #8]": "0290",
    "bx lr": "7047",
}


@pytest.mark.parametrize("text", LOWERS)
def test_what_lowers_the_stack_pointer(text: str) -> None:
    code, num_bytes = LOWERS[text]
    assert _pushed_bytes(bytes.fromhex(code)) == num_bytes


@pytest.mark.parametrize("text", LEAVES_ALONE)
def test_what_leaves_it_alone(text: str) -> None:
    assert _pushed_bytes(bytes.fromhex(LEAVES_ALONE[text])) == 0


def test_a_frame_is_the_sum() -> None:
    code = "".join(LOWERS[f"{op} sp, sp, #{size}"][0] for op, size in (
        ("sub.w", 1024), ("subw", 1020), ("sub.w", 512)))  # fmt: skip
    assert _pushed_bytes(bytes.fromhex(code + LEAVES_ALONE["bx lr"])) == 2556
