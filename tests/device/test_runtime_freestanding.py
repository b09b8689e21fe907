"""The runtime on bare metal: what it needs of a C library, its flash, and no state of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[2] / "runtime"
SOURCES = sorted((RUNTIME / "src").glob("ee_*.c"))
MAX_FLASH_BYTES = 4096
CORES = ("cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")

FIRMWARE = """
#include "ee_guard.h"
extern const ee_model model;
EE_ALIGNAS(EE_ARENA_ALIGNMENT) static uint8_t arena[4096];
static ee_session session;
static ee_guard guard;

static ee_status run_segment(void *context, uint32_t segment, uint8_t *memory) {
    (void)context;
    memory[0] = (uint8_t)segment;
    return EE_OK;
}
static const uint32_t thresholds[1] = {0};
static const ee_exit exits[1] = {{.cost = 1}};
static const ee_point points[1] = {{"only", thresholds}};
const ee_model model = {.magic = EE_MODEL_MAGIC, .abi_version = EE_ABI_VERSION, .name = "bare",
    .arena_bytes = 64, .input_bytes = 1, .num_exits = 1, .num_classes = 2, .num_points = 1,
    .rule = EE_RULE_MARGIN, .exits = exits, .points = points, .cost_unit = "units",
    .engine = {run_segment, NULL}};

void *memset(void *to, int value, size_t num_bytes);
void *memset(void *to, int value, size_t num_bytes) {
    for (volatile uint8_t *byte = to; num_bytes > 0; num_bytes--) *byte++ = (uint8_t)value;
    return to;
}
void *memcpy(void *to, const void *from, size_t num_bytes);
void *memcpy(void *to, const void *from, size_t num_bytes) {
    const uint8_t *source = from;
    for (volatile uint8_t *byte = to; num_bytes > 0; num_bytes--) *byte++ = *source++;
    return to;
}
void _start(void);
void _start(void) {
    ee_result result;
    bool answered;
    (void)ee_init(&session, &model, arena, sizeof arena);
    (void)ee_attach(&session, NULL);
    (void)ee_select(&session, 0);
    *ee_input(&session) = 1;
    (void)ee_run(&session, &result);
    (void)ee_begin(&session);
    (void)ee_step(&session, &answered);
    (void)ee_best(&session, &result);
    (void)ee_guard_init(&guard, &session, 1, 1);
    (void)ee_guard_run(&guard, &session, &result);
    arena[0] = (uint8_t)(ee_status_name(EE_OK)[0] + (int)ee_version());
    for (;;) {}
}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is missing"
)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compile_all(core: str, folder: Path) -> list[Path]:
    objects = []
    for source in SOURCES:
        target = folder / f"{source.stem}.o"
        run(
            "arm-none-eabi-gcc", "-std=c11", "-Os", f"-mcpu={core}", "-mthumb", "-ffreestanding",
            "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra", "-Wconversion", "-Werror",
            "-I", RUNTIME / "include", "-c", source, "-o", target,
        )  # fmt: skip
        objects.append(target)
    return objects


@pytest.mark.parametrize("core", CORES)
def test_links_without_a_library(core: str, tmp_path: Path) -> None:
    firmware = tmp_path / "firmware.c"
    firmware.write_text(FIRMWARE)
    run(
        "arm-none-eabi-gcc", "-std=c11", "-Os", f"-mcpu={core}", "-mthumb", "-ffreestanding",
        "-nostdlib", "-Wl,--gc-sections", "-Wl,--fatal-warnings", "-I", RUNTIME / "include",
        firmware, *compile_all(core, tmp_path), "-o", tmp_path / "firmware.elf",
    )  # fmt: skip


@pytest.mark.parametrize("core", CORES)
def test_is_small_and_keeps_no_state(core: str, tmp_path: Path) -> None:
    rows = run("arm-none-eabi-size", *compile_all(core, tmp_path)).splitlines()[1:]
    text, data, bss = (sum(int(row.split()[column]) for row in rows) for column in range(3))
    assert text <= MAX_FLASH_BYTES
    assert (data, bss) == (0, 0)


def test_needs_nothing_but_memory_functions(tmp_path: Path) -> None:
    objects = compile_all("cortex-m0plus", tmp_path)
    wanted = {row.split()[-1] for row in run("arm-none-eabi-nm", "-u", *objects).splitlines()
              if " U " in row}  # fmt: skip
    assert {name for name in wanted if not name.startswith("ee_")} <= {"memset", "memcpy"}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("level", ["-Os", "-O2", "-O3"])
def test_takes_little_stack(core: str, level: str, tmp_path: Path) -> None:
    """Frames of what may be open at once, none of them inlined away: docs/c_runtime.md."""
    frames: dict[str, int] = {}
    for source in SOURCES:
        run(
            "arm-none-eabi-gcc", "-std=c11", level, f"-mcpu={core}", "-mthumb", "-fstack-usage",
            "-I", RUNTIME / "include", "-c", source, "-o", tmp_path / f"{source.stem}.o",
        )  # fmt: skip
        for row in (tmp_path / f"{source.stem}.su").read_text().splitlines():
            place, num_bytes, kind = row.split("\t")
            assert kind == "static"
            name = place.split(":")[-1].split(".")[0]
            frames[name] = frames.get(name, 0) + int(num_bytes)
    guarded = frames["ee_guard_run"] + frames["ee_guard_step"] + frames["ee_step"]
    helpers = sum(frames.get(name, 0) for name in ("largest", "nearest", "squared_distance"))
    assert guarded + frames["ee_decide"] + helpers < 200
    assert frames["ee_init"] + frames["ee_check_model"] + frames.get("point_is_sound", 0) < 200
