"""Both fuzzers, for 20 seconds each. runtime/fuzz/README.md says how to run them for longer."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RUNTIME = REPOSITORY / "runtime"
SECONDS = 20
SANITIZERS = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")

pytestmark = pytest.mark.slow


def fuzz(command: list[str | Path], folder: Path) -> int:
    """Runs libFuzzer, which stops at a finding; gives the number of executions."""
    limits = [f"-max_total_time={SECONDS}", "-print_final_stats=1", f"-artifact_prefix={folder}/"]
    # Linux counts the peak of the parent, here all tests before this one, as the child's own.
    limits += ["-rss_limit_mb=0", "-malloc_limit_mb=2048"]
    done = subprocess.run(
        [*command, *limits], capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert found is not None, done.stderr[-5000:]
    return int(found[1])


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is missing")
def test_the_runtime(tmp_path: Path) -> None:
    fuzzer, corpus = tmp_path / "fuzz_runtime", tmp_path / "corpus"
    corpus.mkdir()
    subprocess.run(
        [
            "clang", "-std=c11", "-g", "-O1", *SANITIZERS, f"-I{RUNTIME / 'include'}",
            *sorted((RUNTIME / "src").glob("ee_*.c")), RUNTIME / "fuzz" / "fuzz_runtime.c",
            "-o", fuzzer,
        ],
        check=True,
    )  # fmt: skip
    runs = fuzz([fuzzer, "-max_len=2048", "-use_value_profile=1", corpus], tmp_path)
    assert runs > 1000


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is missing")
def test_the_compiler(tmp_path: Path) -> None:
    script = REPOSITORY / "tests" / "fuzz" / "fuzz_tflite_reader.py"
    runs = fuzz([sys.executable, script, tmp_path / "corpus"], tmp_path)
    assert runs > 1000
