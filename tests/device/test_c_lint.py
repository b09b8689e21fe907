"""All C: format, clang-tidy, and warnings as errors of every compiler that is meant to build it.

Emitted models must pass what the runtime passes. Packed kernels are read twice: with plain C in the
place of their instructions by host compilers, and as they are by the compiler of their core.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from networks import pieces

from edgeexit.backends.c import ChainInfo, ChainPoint, Core, build, links_of
from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.tflite import lower
from edgeexit.profiling.qemu.machines import MACHINES
from edgeexit.types import DecisionSpec

REPOSITORY = Path(__file__).parents[2]
RUNTIME = REPOSITORY / "runtime"
SOURCES = sorted((RUNTIME / "src").rglob("*.c"))
WARNINGS = (
    "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror",
)  # fmt: skip
INCLUDES = tuple(f"-I{RUNTIME / part}" for part in ("include", "src", "src/kernels"))
RISCV = ("-march=rv32imac_zicsr", "-mabi=ilp32", "--specs=picolibc.specs")
COMPILERS = {
    "gcc": ("gcc", "-pedantic"),
    "clang": ("clang", "-pedantic"),
    "riscv32": ("riscv64-unknown-elf-gcc", *RISCV),
} | {
    name: ("arm-none-eabi-gcc", *machine.flags)
    for name, machine in MACHINES.items()
    if not machine.is_host
}
CORES = (
    Core("generic", dsp=False, mve=False, cost="generic"),
    Core("cortex-m4", dsp=True, mve=False, cost="m4"),
    Core("cortex-m55", dsp=True, mve=True, cost="m55"),
)
PROCESSES = 2


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: scripts/setup --device brings it")


def run_all(commands: Sequence[Sequence[str | Path]]) -> None:
    def run(command: Sequence[str | Path]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    with ThreadPoolExecutor(PROCESSES) as pool:
        findings = "".join(pool.map(run, commands))
    assert not findings, findings


def cmsis_nn_flags(*, host: bool) -> tuple[str, ...]:
    """Flags for sources that call CMSIS-NN, if it is here; its headers are not ours to lint."""
    found = find_cmsis_nn()
    if found is None:
        return ()
    # Tells Arm's headers that this is no Arm core.
    system = ("-D__GNUC_PYTHON__",) if host else ()
    return (*system, *(f"-isystem{folder}" for folder in found.include_folders))


def sources_for(compiler: str) -> list[Path]:
    """What it can read: Arm's headers know Arm, and hosts that they are told are none."""
    calls_cmsis_nn = compiler != "riscv32" and find_cmsis_nn() is not None
    return [path for path in SOURCES if calls_cmsis_nn or not path.name.startswith("cmsis_nn")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Emitted files, of networks that have all kinds of steps, for all kinds of kernels."""
    written = []
    for name in ("assorted", "mobile"):
        parts = pieces(name)
        *artifacts, _ = lower(parts.segments, parts.static)
        links = links_of([segment.spec for segment in parts.segments])
        points = (ChainPoint("early", (40,) * (len(links) - 1) + (0,)),)
        chain = ChainInfo(name, DecisionSpec("margin", ()), points)
        for core in CORES:
            built = build([each.content for each in artifacts], links, chain, core)
            folder = tmp_path_factory.mktemp(f"{name}-{core.name}")
            for file, content in built.emission.files.items():
                (folder / file).write_text(content)
            written.append(folder / "ee_model.c")
    return written


def test_format() -> None:
    need("clang-format")
    folders = [REPOSITORY / name for name in ("edgeexit", "runtime", "tests")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.[ch]"))]
    assert len(files) > 50
    run_all([("clang-format", "--dry-run", "-Werror", *files[n::PROCESSES]) for n in (0, 1)])


def test_tidy() -> None:
    need("clang-tidy")
    flags = ("--", "-std=c11", *INCLUDES, *cmsis_nn_flags(host=True))
    files = [*sources_for("clang"), RUNTIME / "fuzz" / "fuzz_runtime.c"]
    run_all([("clang-tidy", "--quiet", *files[n::8], *flags) for n in range(8)])


def test_tidy_of_what_is_emitted(models: list[Path]) -> None:
    need("clang-tidy")
    config = f"--config-file={REPOSITORY / '.clang-tidy'}"
    run_all(
        [
            ("clang-tidy", "--quiet", config, model, "--", "-std=c11", f"-I{model.parent}",
             *INCLUDES)
            for model in models
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", COMPILERS)
def test_no_warnings(name: str, models: list[Path], tmp_path: Path) -> None:
    compiler, *flags = COMPILERS[name]
    need(compiler)
    flags += WARNINGS + INCLUDES + cmsis_nn_flags(host=name in ("gcc", "clang"))
    # Some warnings come with what an optimizer finds out.
    run_all(
        [
            (compiler, "-O2", *flags, f"-I{source.parent}", "-c", source, "-o",
             tmp_path / f"{number}.o")
            for number, source in enumerate([*sources_for(name), *models])
        ]
    )  # fmt: skip


def test_no_warnings_in_the_example(tmp_path: Path) -> None:
    """With headers that stand in for those that an exported project would have."""
    (tmp_path / "ee_model.h").write_text('#include "edgeexit.h"\nextern const ee_model model;\n')
    (tmp_path / "ee_example_samples.h").write_text(
        '#include "ee_model.h"\n'
        "#define EE_EXAMPLE_MODEL model\n"
        "#define EE_EXAMPLE_ARENA_BYTES 64\n"
        "#define EE_EXAMPLE_NUM_SAMPLES 1u\n"
        "static const uint16_t ee_example_labels[1] = {1}, ee_example_exits[1] = {0};\n"
        "static const int8_t ee_example_inputs[1][2] = {{1, 2}};\n"
    )
    example = RUNTIME / "ports" / "example"
    includes = (f"-I{example}", f"-I{tmp_path}", *INCLUDES)
    for compiler in ("gcc", "clang"):
        need(compiler)
        run_all(
            [
                (compiler, "-pedantic", *WARNINGS, *includes, "-fsyntax-only", source)
                for source in sorted(example.glob("*.c"))
            ]
        )
    need("clang-tidy")
    run_all([("clang-tidy", "--quiet", *example.glob("*.c"), "--", "-std=c11", *includes)])
