"""Commands whose standard error is a terminal, where progress is shown as bars."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest


def run_on_a_terminal(*words: str | Path) -> tuple[int, str, str]:
    """The exit code, what went to standard output and what the terminal was shown."""
    terminal, end = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                read = os.read(terminal, 4096)
            except OSError:  # how Linux says that nobody writes any more
                return
            if not read:
                return
            shown.append(read)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgeexit", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=end,
            env={**os.environ, "TERM": "xterm"},
            text=True,
            timeout=300,
        )
    finally:
        os.close(end)
        reader.join()
        os.close(terminal)
    return done.returncode, done.stdout, b"".join(shown).decode()


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(40) % 2)
    return tmp_path / "data.npz"


def test_bars_go_to_the_terminal_and_answers_to_the_output(two_classes: Path) -> None:
    code, output, shown = run_on_a_terminal("data", "describe", two_classes, "--json")
    assert code == 0, shown
    assert json.loads(output)["class_names"] == ["0", "1"]
    assert "━" in shown


def test_a_training_shows_its_bars(two_classes: Path, tmp_path: Path) -> None:
    words = ("train", "resnet8", "--data", two_classes, "-o", tmp_path / "run", "--epochs", "2")
    code, output, shown = run_on_a_terminal(
        *words, "--batch-size", "8", "--backbone-share", "0.5", "--json"
    )
    assert code == 0, shown
    assert len(json.loads(output)["log"]) == 2
    assert "backbone: epochs" in shown
    assert "everything 1/1: loss" in shown
