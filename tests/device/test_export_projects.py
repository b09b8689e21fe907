"""From a small network to C in a bundle, and from there to projects that build."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import network, splits
from tflite_ops import VALID, Builder

from edgeexit.backends.c import build
from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.c.from_bundle import program_inputs
from edgeexit.compiler.firmware import compile_firmware
from edgeexit.compiler.flash import flash_bytes
from edgeexit.compiler.from_tflite import compile_tflite
from edgeexit.compiler.pipeline import compile_model
from edgeexit.errors import ArgumentError, BundleError, StorageError, TargetError
from edgeexit.exporting import FORMATS, export_project
from edgeexit.profiling.qemu.build import build_firmware
from edgeexit.profiling.qemu.machines import machine
from edgeexit.profiling.qemu.sections import measure_flash
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.session import Session
from edgeexit.targets import Target, load_target

CORES = {
    "cortex-m0plus": ["-mcpu=cortex-m0plus"],
    "cortex-m4": ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "cortex-m7": ["-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"],
    "cortex-m33": ["-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"],
    "cortex-m55": ["-mcpu=cortex-m55", "-mfloat-abi=hard"],
}


def needs(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: scripts/setup --device brings it")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compile_model(
        network("residual"),  # type: ignore[arg-type]
        data=splits(),
        target="cortex-m4",
        output=tmp_path_factory.mktemp("bundles") / "toy-1.eexit",
    )


@pytest.fixture(scope="module", params=FORMATS)
def project(
    request: pytest.FixtureRequest, compiled: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("projects") / request.param
    export_project(compiled.path, request.param, output)
    return output


def test_the_manifest_describes_the_c(compiled: Bundle) -> None:
    firmware = compiled.manifest.firmware
    assert firmware is not None
    assert firmware.core == "cortex-m4"
    assert firmware.symbol == "ee_model_toy_1"
    assert [Path(file.path).name for file in firmware.files] == [
        "ee_model.h", "ee_model.c", "arena.svg",
    ]  # fmt: skip
    assert firmware.lower_bound_bytes <= firmware.arena_bytes <= 1.05 * firmware.lower_bound_bytes
    assert {layer.segment for layer in firmware.layers} == {0, 1, 2}
    counted = [layer.instructions for layer in firmware.layers if layer.kind == "Conv2D"]
    assert all(counted)
    assert {point.engine for point in compiled.manifest.points["tflite"]} == {"litert_reference"}
    assert compiled.manifest.tools["cmsis-nn"].startswith("arm_nnfunctions.h V.")


def test_a_session_runs_the_same_bundle(compiled: Bundle) -> None:
    golden = compiled.golden()
    session = Session(compiled, "litert_reference")
    for row, exit_index in zip(golden["inputs"], golden["exits_tflite"], strict=True):
        assert session.run((row.astype(np.int16) + 128).astype(np.uint8)).exit == exit_index


def sources_and_folders(project: Path) -> tuple[list[Path], list[Path]]:
    """All C of a project but its example, and every folder that holds a header."""
    sources = [p for p in sorted(project.rglob("*.c")) if "example" not in p.as_posix()
               and "samples" not in p.as_posix() and "main" not in p.parts]  # fmt: skip
    folders = [
        folder
        for name in ("include", "src", "cmsis_nn/include")
        for folder in [*project.glob(name), *project.glob(f"components/*/{name}")]
    ]
    return sources, folders


@pytest.mark.parametrize("core", CORES)
def test_every_format_builds_for_every_core(project: Path, core: str, tmp_path: Path) -> None:
    needs("arm-none-eabi-gcc")
    sources, folders = sources_and_folders(project)
    includes = [f"-I{folder}" for folder in folders]
    flags = [*CORES[core], "-mthumb", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", *includes]
    example = next(project.rglob("ee_example.c"))
    for source in [*sources, example]:
        built = tmp_path / f"{source.stem}.o"
        command = ["arm-none-eabi-gcc", *flags, f"-I{example.parent}", "-c", source, "-o", built]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr


def test_every_source_is_named_by_the_build_file(project: Path) -> None:
    sources, _ = sources_and_folders(project)
    if project.name == "arduino":  # its IDE compiles all that lies below src
        assert all((project / "src") in source.parents for source in sources)
        return
    texts = "\n".join(
        path.read_text()
        for path in project.rglob("*")
        if path.suffix in (".pdsc", ".yml") or path.name == "CMakeLists.txt"
    )
    for source in sources:
        assert f"{source.parent.name}/{source.name}" in texts
    assert "@" not in texts.replace("@example", "")


def cmake(project: Path, folder: Path, *options: str) -> Path:
    for command in (
        ["cmake", "-S", project, "-B", folder, "-G", "Ninja", *options],
        ["cmake", "--build", folder],
    ):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "example"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_cmake_example_runs_here(compiled: Bundle, compiler: str, tmp_path: Path) -> None:
    needs("cmake", "ninja", compiler)
    export_project(compiled.path, "cmake", tmp_path / "project")
    example = cmake(tmp_path / "project", tmp_path / "build", f"-DCMAKE_C_COMPILER={compiler}")
    ran = subprocess.run([example], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("all as expected\n")


@pytest.mark.parametrize(
    ("toolchain", "options"),
    [
        *(("arm-none-eabi", [f"-DEE_CPU={core}"]) for core in CORES),
        ("riscv64-unknown-elf", []),
    ],
)
def test_the_cmake_project_links(
    compiled: Bundle, toolchain: str, options: list[str], tmp_path: Path
) -> None:
    needs("cmake", "ninja", f"{toolchain}-gcc")
    project = tmp_path / "project"
    export_project(compiled.path, "cmake", project)
    file = f"-DCMAKE_TOOLCHAIN_FILE={project}/cmake/{toolchain}.cmake"
    example = cmake(project, tmp_path / "build", file, *options)
    assert example.is_file()


@pytest.mark.parametrize("toolchain", [None, "arm-none-eabi", "riscv64-unknown-elf"])
def test_a_project_with_cmsis_nn(toolchain: str | None, tmp_path: Path) -> None:
    needs("cmake", "ninja", "gcc" if toolchain is None else f"{toolchain}-gcc")
    b = Builder()
    image, pooled = b.tensor((1, 8, 8, 64), 0.1), b.tensor((1, 1, 1, 64), 0.1)
    window = {"filterHeight": 8, "filterWidth": 8, "strideH": 8, "strideW": 8, "padding": VALID}
    b.op("AVERAGE_POOL_2D", [image], [pooled], "Pool2DOptions", **window)
    row = b.tensor((1, 64), 0.1)
    b.op("RESHAPE", [pooled, b.numbers((1, 64))], [row], "ReshapeOptions")
    model = tmp_path / "pool.tflite"
    model.write_bytes(b.finish([image], [row]))
    bundle = compile_tflite(model, target="cortex-m4", output=tmp_path / "pool.eexit")
    assert bundle.manifest.firmware is not None
    assert bundle.manifest.firmware.layers[0].function == "ee_average_pool_cmsis_nn"
    project = tmp_path / "project"
    export_project(bundle.path, "cmake", project)
    file = [f"-DCMAKE_TOOLCHAIN_FILE={project}/cmake/{toolchain}.cmake"] if toolchain else []
    example = cmake(project, tmp_path / "build", *file)
    if toolchain is None:
        ran = subprocess.run([example], capture_output=True, text=True, check=False)
        assert ran.stdout.endswith("all as expected\n")


def test_errors(compiled: Bundle, bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no such format"):
        export_project(compiled.path, "make", tmp_path / "a")
    with pytest.raises(BundleError, match="holds no C"):
        export_project(bundle_folder, "cmake", tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        export_project(compiled.path, "cmake", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "tiny.eexit"]


def compile_again(bundle: Bundle, target: Target) -> None:
    """The firmware of a bundle, for another target."""
    manifest = bundle.manifest
    contents, links, _ = program_inputs(bundle)
    points = manifest.points["tflite"]
    compile_firmware(
        "toy", contents, links, manifest.decision, points, manifest.input, target, None
    )


@pytest.mark.parametrize(
    ("key", "message"), [("ram_bytes", "more RAM than"), ("flash_bytes", "more flash than")]
)
def test_a_model_that_does_not_fit(
    compiled: Bundle, key: str, message: str, tmp_path: Path
) -> None:
    text = (Path(__file__).parents[2] / "targets" / "nucleo-l4r5zi.toml").read_text()
    for line in text.splitlines():
        name = line.partition(" = ")[0]
        if name == key:
            text = text.replace(line, f"{key} = 40_000")
        elif name == f"reserved_{key}":
            text = text.replace(line, f"reserved_{key} = 39_000")
    target = tmp_path / "small.toml"
    target.write_text(text)
    with pytest.raises(TargetError, match=message):
        compile_again(compiled, load_target(target))


def test_a_model_whose_weights_fit_and_whose_code_does_not(
    compiled: Bundle, tmp_path: Path
) -> None:
    target = load_target("nucleo-l4r5zi")
    manifest = compiled.manifest
    assert target.limits is not None
    assert manifest.firmware is not None
    weights = sum(layer.constant_bytes for layer in manifest.firmware.layers)
    small = replace(target.limits, flash_bytes=weights + 4096, reserved_flash_bytes=0)
    with pytest.raises(TargetError, match=r"(?s)more flash than.*code of about"):
        compile_again(compiled, replace(target, limits=small))


@pytest.mark.parametrize("core", CORES)
def test_a_program_needs_no_more_flash_than_is_asked_for(
    compiled: Bundle, core: str, tmp_path: Path
) -> None:
    needs("arm-none-eabi-gcc")
    target, library = load_target(core), find_cmsis_nn()
    assert target.core is not None
    assert library is not None
    contents, links, chain = program_inputs(compiled)
    program = build(
        contents, links, chain, target.core,
        kernel_sets=target.kernel_sets, cmsis_nn=library.root,
    )  # fmt: skip
    manifest = compiled.manifest
    needed = flash_bytes(program, manifest.decision, manifest.points["tflite"])
    linked = measure_flash(build_firmware(program.emission, machine(target.core.cost), tmp_path))
    parts = {part.name: part.bytes for part in linked.parts}
    constants = parts["weights"] + parts["parameters"] + parts["tables"]
    assert constants <= needed.constants <= constants + 2048
    assert linked.total_bytes <= needed.total <= linked.total_bytes + 20_480
