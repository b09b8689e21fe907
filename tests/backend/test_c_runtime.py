"""The C runtime on the host, under sanitizers: decisions against decision.py, calls, the guard."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.runtime import decision as rules
from edgeexit.types import DecisionSpec, Rule

REPOSITORY = Path(__file__).parents[2]
RUNTIME = REPOSITORY / "runtime"
PROGRAMS = Path(__file__).parent / "c_runtime"
FLAGS = [
    "-std=c11", "-pedantic", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion",
    "-Wshadow", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
]  # fmt: skip
C_RULES: tuple[Rule, ...] = ("confidence", "margin", "patience", "class_means")

COMPILERS = [
    pytest.param(
        name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is missing")
    )
    for name in ("gcc", "clang")
]


@pytest.fixture(scope="module", params=COMPILERS)
def compiler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def build(compiler: str, program: str, folder: Path) -> Path:
    sources = [*sorted((RUNTIME / "src").glob("ee_*.c")), PROGRAMS / f"{program}.c"]
    binary = folder / f"{program}-{compiler}"
    done = run(compiler, *FLAGS, "-I", RUNTIME / "include", *sources, "-o", binary)
    assert done.returncode == 0, done.stderr
    return binary


@pytest.fixture(scope="module")
def decide(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(compiler, "decisions", tmp_path_factory.mktemp("decisions"))


@dataclass(frozen=True)
class Samples:
    """Prepared values of all exits of a chain."""

    logits: NDArray[np.int8]  # [num_samples, num_exits, num_classes]
    features: NDArray[np.int8]  # [num_samples, num_exits, feature_bytes]
    means: NDArray[np.int8]  # [num_exits, num_classes, feature_bytes]
    decision: DecisionSpec


def in_c(binary: Path, samples: Samples, points: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Label, exit, score and cost, uint32 [num_points, num_samples, 4]."""
    num_samples, num_exits, num_classes = samples.logits.shape
    feature_bytes = samples.features.shape[2]
    head = struct.pack(
        "<6I", C_RULES.index(samples.decision.rule), num_exits, num_classes, feature_bytes,
        len(points), num_samples,
    )  # fmt: skip
    tables = b"".join(struct.pack("<256I", *table) for table in samples.decision.tables if table)
    rows = np.concatenate(
        [samples.logits.reshape(num_samples, -1), samples.features.reshape(num_samples, -1)], axis=1
    )
    given = head + tables + samples.means.tobytes() + points.tobytes() + rows.tobytes()
    done = subprocess.run([binary], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.uint32).reshape(len(points), num_samples, 4)


def in_python(samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and scores of every exit, int64 [num_samples, num_exits] each."""
    num_samples, num_exits, _ = samples.logits.shape
    pairs: NDArray[np.int64]
    if samples.decision.rule == "class_means":
        answers = [
            rules.class_means_scores(
                rules.class_distances(samples.features[:, k], samples.means[k])
            )
            for k in range(num_exits)
        ]
        pairs = np.array(answers).transpose(2, 0, 1)
    else:
        pairs = np.empty((num_samples, num_exits, 2), np.int64)
        for row, logits in zip(pairs, samples.logits, strict=True):
            rule = rules.SampleRule(samples.decision, num_exits)
            row[:] = [rule.score(k, logits[k].tobytes()) for k in range(num_exits)]
    return pairs[..., 0], pairs[..., 1]


def make_samples(rule: Rule, num_classes: int, num_exits: int, num_samples: int) -> Samples:
    """A third random, a third with ties everywhere, and the corners of the range."""
    rng = np.random.default_rng(num_classes * 8 + num_exits)
    feature_bytes = 7 if rule == "class_means" else 0

    def values(*shape: int) -> NDArray[np.int8]:
        made = rng.integers(-128, 128, shape, dtype=np.int8)
        made[::3] = rng.integers(-1, 2, made[::3].shape, dtype=np.int8)
        made[1::3] = np.sort(made[1::3], axis=-1)[..., ::-1] // 16
        if len(made) > 4:
            made[0], made[1] = -128, 127
            made[2, ..., :-1], made[2, ..., -1:] = -128, 127
            made[3, ..., 0:1], made[3, ..., 1:] = 127, -128
        return made

    scales = rng.choice([0.0024, 0.05, 0.37, 8.0], num_exits)
    tables = tuple(rules.exp_table(float(s)) for s in scales) if rule == "confidence" else ()
    means = values(num_classes, num_exits, feature_bytes).transpose(1, 0, 2)
    return Samples(
        logits=values(num_samples, num_exits, num_classes),
        features=values(num_samples, num_exits, feature_bytes),
        means=np.ascontiguousarray(means),
        decision=DecisionSpec(rule, tables or ((),) * num_exits),
    )


def make_points(rule: Rule, scores: NDArray[np.int64]) -> NDArray[np.uint32]:
    """``never``, ``always``, scores that occur, and their neighbours."""
    limits = rules.RULES[rule]
    num_exits = scores.shape[1]
    rng = np.random.default_rng(3)
    rows = [[limits.never] * num_exits, [limits.always] * num_exits]
    for step in (-1, 0, 0, 1):
        rows.append([int(rng.choice(scores[:, k])) + step for k in range(num_exits)])
    points = np.clip(np.array(rows, np.int64), limits.low, limits.high)
    points[:, -1] = limits.always
    return points.astype(np.uint32)


@pytest.mark.parametrize("rule", C_RULES)
@pytest.mark.parametrize(
    ("num_classes", "num_exits", "num_samples"),
    [(2, 3, 600), (3, 8, 400), (10, 3, 1000), (97, 2, 200), (1000, 2, 40), (4096, 2, 12)],
)
def test_decides_as_python_does(
    decide: Path, rule: Rule, num_classes: int, num_exits: int, num_samples: int
) -> None:
    samples = make_samples(rule, num_classes, num_exits, num_samples)
    labels, scores = in_python(samples)
    points = make_points(rule, scores)
    answers = in_c(decide, samples, points)
    for point, rows in zip(points, answers, strict=True):
        exits = rules.batch_exits(scores, point.tolist(), rule)
        costs = [sum(10**k for k in range(last + 1)) for last in exits]
        chosen = (np.arange(num_samples), exits)
        wanted = np.stack([labels[chosen], exits, scores[chosen], costs], axis=1)
        np.testing.assert_array_equal(rows, wanted)


def test_the_largest_scores_there_are(decide: Path) -> None:
    # 4,096 equal logits; and 33,025 features as far from a mean as int8 allows.
    even = Samples(
        np.zeros((1, 1, 4096), np.int8), np.zeros((1, 1, 0), np.int8),
        np.zeros((1, 4096, 0), np.int8), DecisionSpec("confidence", (rules.exp_table(0.1),)),
    )  # fmt: skip
    always = np.array([[2**32 - 1]], np.uint32)
    assert in_c(decide, even, always).tolist() == [[[0, 0, 4096 << 16, 1]]]
    means = np.stack([np.full(33025, -128, np.int8), np.full(33025, 127, np.int8)])[None]
    far = Samples(
        np.zeros((1, 1, 2), np.int8), means[:, 1:], means, DecisionSpec("class_means", ((),))
    )
    assert in_c(decide, far, np.zeros((1, 1), np.uint32)).tolist() == [[[1, 0, 33025 * 255**2, 1]]]


def test_comparison_notices_another_tie(decide: Path) -> None:
    samples = make_samples("margin", 4, 1, 60)
    labels, _ = in_python(samples)
    last_of_ties = 3 - samples.logits[:, 0, ::-1].argmax(axis=1)
    assert not np.array_equal(labels[:, 0], last_of_ties)
    answers = in_c(decide, samples, np.zeros((1, 1), np.uint32))
    assert np.array_equal(answers[0, :, 0], labels[:, 0])


@pytest.mark.parametrize("program", ["calls", "guard"])
def test_program(compiler: str, program: str, tmp_path: Path) -> None:
    binary = build(compiler, program, tmp_path)
    done = run(binary)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("compiler", [
    pytest.param(name, marks=pytest.mark.skipif(
        shutil.which(name) is None, reason=f"{name} is missing"))
    for name in ("g++", "clang++")
])  # fmt: skip
def test_headers_are_cpp(compiler: str, tmp_path: Path) -> None:
    source = tmp_path / "use.cpp"
    source.write_text(
        '#include "ee_guard.h"\n'
        "EE_ALIGNAS(EE_ARENA_ALIGNMENT) static unsigned char arena[16];\n"
        "ee_status f(ee_session &s, const ee_model &m) {"
        " return ee_init(&s, &m, arena, sizeof arena); }\n"
    )
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = run(compiler, *flags, "-I", RUNTIME / "include", source)
    assert done.returncode == 0, done.stderr


def test_documented_code_compiles(compiler: str, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "c_runtime.md").read_text()
    blocks = re.findall(r"^```c\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    (tmp_path / "ee_model.h").write_text(
        '#include "ee_guard.h"\n'
        "#define EE_MODEL_NET_ARENA_BYTES 64u\n"
        "#define EE_MODEL_NET_INPUT_BYTES 32u\n"
        "extern const ee_model ee_model_net;\n"
    )
    ending = (
        "uint32_t cycles(void *context) { (void)context; return 0; }\n"
        "void log_event(void *context, ee_event event, uint32_t index, uint32_t value) {"
        " (void)context; (void)event; (void)index; (void)value; }\n"
    )
    source = tmp_path / "firmware.c"
    source.write_text("\n".join([blocks[0], "uint32_t now(void);", *blocks[1:], ending]))
    done = run(
        compiler, "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only",
        "-I", RUNTIME / "include", "-I", tmp_path, source,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
