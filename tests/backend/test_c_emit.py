"""What the emitter writes: it compiles whatever the names are, and says the same each time."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import c_host
import numpy as np
import pytest
import tiny_chain
from test_c_portable import LINKS, chain_files, chain_info

from edgeexit.backends.c import ChainInfo, ChainPoint, ClassMeans, CProgram, build, single_exit
from edgeexit.backends.c.constants import Constants, comment, identifier, integer, string
from edgeexit.errors import ArgumentError, LoweringError
from edgeexit.runtime.decision import class_distances, class_means_scores
from edgeexit.types import DecisionSpec, InputSpec, TensorSpec

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing")

EVIL = [
    *("*/ int x; /*", '"; }', "\\", "a\nb", "??/", "??)"),
    *("%s%n", "größe", "", "int", "9", "\ud800"),
]


def made(chain: ChainInfo) -> CProgram:
    return build(chain_files(), LINKS, chain, c_host.GENERIC)


def host_model(program: CProgram) -> c_host.Model:
    outputs = tuple(segment.logits for segment in program.program.segments)
    return c_host.Model(
        program.program, program.implementations, program.plan, program.emission, outputs
    )


def test_names_cannot_be_code(tmp_path: Path) -> None:
    models = {}
    for number, name in enumerate(EVIL):
        points = tuple(ChainPoint(each, (0, 0, 2**32 - 1)) for each in EVIL)
        chain = replace(
            chain_info("confidence"), name=f"{name}{number}", points=points, cost_unit=name
        )
        program = made(chain)
        buffers = tuple(replace(buffer, name=name) for buffer in program.program.buffers)
        renamed = replace(program.program, buffers=buffers)
        models[f"model{number}"] = c_host.make(renamed, chain=chain)
    host = c_host.Host(models, tmp_path)
    images = (tiny_chain.images(3) ^ 128).view(np.int8)
    for key in models:
        assert host.decisions(key, images).exits.tolist() == [2, 2, 2]


def test_texts() -> None:
    assert string('a"b\\c?d\n%é') == '"a\\042b\\134c\\077d\\012%\\303\\251"'
    assert comment("a*/b??/c") == "a__b___c"
    assert identifier("conv/1:0") == "conv_1_0"
    assert identifier("") == "unnamed"
    assert integer(-(2**31)) == "INT32_MIN"
    assert integer(2**32 - 1) == "4294967295u"


def test_equal_arrays_are_written_once_and_names_never_clash() -> None:
    constants = Constants()
    first = constants.array("a", np.array([1, 2], np.int8))
    assert constants.array("b", np.array([[1], [2]], np.int8)) == first
    assert constants.array("a", np.array([1, 2], np.int16)) == "a_2"
    assert len(constants.definitions) == 2


def test_the_same_bytes_each_time() -> None:
    first, second = (made(chain_info("confidence")).emission for _ in range(2))
    assert first == second


def test_layers_say_what_runs_them() -> None:
    layers = made(chain_info("margin")).layers
    assert [layer.segment for layer in layers] == sorted(layer.segment for layer in layers)
    dense = next(layer for layer in layers if layer.kind == "FullyConnected")
    assert dense.function == "ee_fully_connected_portable"
    assert dense.constant_bytes == 8 * 4 + 3 * 4 * 4
    assert dense.macs == 32
    assert dense.kernel_set == "portable"


def header_of(given: InputSpec) -> str:
    return made(replace(chain_info("margin"), input=given)).emission.files["ee_model.h"]


def test_the_header_says_what_the_input_is_made_of() -> None:
    # The steps may see other sizes than the caller, who writes what the manifest says.
    tensor = TensorSpec("input", (1, 4, 2), 0.018658000975847244, -3, "ND")
    plain = header_of(InputSpec(tensor, "uint8", (128.0,), (1 / 128,), True))
    assert "input int8 [1, 4, 2], real value" in plain
    assert " *   from uint8: q = raw - 128\n" in plain
    offset = tuple(1e-05 * (n + 1) for n in range(30))
    long = header_of(InputSpec(tensor, "float32", offset, (0.25,), False))
    assert max(map(len, long.splitlines())) <= 100
    said = " ".join(line.removeprefix(" *").strip() for line in long.splitlines())
    assert (
        "from float32, in double: real value = (raw - offset) * multiplier, "
        "q = clip(round_half_even(real value / 0.018658000975847244) + (-3), -128, 127), "
        f"offset = {list(offset)}, multiplier = [0.25] "
    ) in said


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_header_is_cpp_too(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is missing")
    for name, content in made(chain_info("margin")).emission.files.items():
        (tmp_path / name).write_text(content)
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "ee_kernels.h"\n#include "ee_model.h"\n'
        "EE_ALIGNAS(16) uint8_t arena[EE_MODEL_MARGIN_ARENA_BYTES];\n"
        "static_assert(EE_MODEL_MARGIN_NUM_EXITS == 3u, \"\");\n"
        "static_assert(EE_MODEL_MARGIN_POINT_POINT_1 == 1u, \"\");\n"
        "const ee_model *model = &ee_model_margin;\n"
    )  # fmt: skip
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    include = f"-I{c_host.RUNTIME / 'include'}"
    done = subprocess.run(
        [compiler, *flags, include, "-fsyntax-only", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_class_means_stop_where_python_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    image_bytes = 8
    means = [rng.integers(-8, 9, (4, image_bytes)).astype(np.int8) for _ in range(3)]
    # The image itself stands for the feature: it lives in the arena until its last reader ran.
    chain = ChainInfo(
        "means",
        DecisionSpec("class_means", ()),
        (ChainPoint("all", (2**31 - 1, 2**31 - 1, 0)), ChainPoint("some", (60, 20, 0))),
        class_means=tuple(ClassMeans(each, "image") for each in means),
    )
    host = c_host.Host({"means": host_model(made(chain))}, tmp_path)
    images = (tiny_chain.images(50) ^ 128).view(np.int8)
    flat = images.reshape(len(images), -1)
    each = [class_means_scores(class_distances(flat, exit_means)) for exit_means in means]
    labels, scores = (np.stack(columns, axis=1) for columns in zip(*each, strict=True))
    exits = (scores >= [60, 20, 0]).argmax(axis=1)
    given = host.decisions("means", images, 1)
    rows = np.arange(len(images))
    np.testing.assert_array_equal(given.exits, exits)
    np.testing.assert_array_equal(given.labels, labels[rows, exits])
    np.testing.assert_array_equal(given.scores, scores[rows, exits])
    assert set(exits.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"costs": (1, 2)}, LoweringError, r"a cost per segment[\s\S]*3 costs"),
        ({"costs": (1, 2**31, 2**31)}, LoweringError, "fit 32 bits"),
        ({"default_point": 2}, LoweringError, "operating point to begin with"),
        ({"decision": DecisionSpec("confidence", ())}, LoweringError, "a table for each exit"),
        ({"decision": DecisionSpec("class_means", ())}, LoweringError, "the means of each exit"),
        ({"points": (ChainPoint("p", (3, 3, 3)),)}, ArgumentError, "last exit has to answer"),
        ({"points": (ChainPoint("p", (0,)),)}, ArgumentError, "one threshold"),
        (
            {
                "decision": DecisionSpec("class_means", ()),
                "class_means": (ClassMeans(np.zeros((4, 8), np.int8), "nobody"),) * 3,
            },
            LoweringError,
            "not one tensor",
        ),
    ],
)
def test_a_chain_that_does_not_fit(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        made(replace(chain_info("margin"), **change))  # type: ignore[arg-type]


def test_exits_of_different_sizes() -> None:
    program = made(chain_info("margin")).program
    buffers = list(program.buffers)
    last = program.segments[-1].logits
    buffers[last] = replace(buffers[last], shape=(1, 5))
    with pytest.raises(LoweringError, match=r"same number of classes[\s\S]*4, 5"):
        c_host.make(replace(program, buffers=tuple(buffers)), chain=single_exit("x"))
