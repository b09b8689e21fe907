"""Commands whose standard error is a terminal, where progress is shown as bars."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest

from edgeexit.targets import list_targets


def run_on_a_terminal(*words: str | Path, output: bool = False) -> tuple[int, str, str]:
    """The exit code, what went to standard output and what the terminal was shown.

    Standard output goes to the terminal as well where ``output`` says so. It has 80 columns.
    """
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
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
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgeexit", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=end if output else subprocess.PIPE,
            stderr=end,
            env={**environment, "TERM": "xterm"},
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


def test_names_of_targets_are_whole_in_eighty_columns() -> None:
    code, _, shown = run_on_a_terminal("targets", output=True)
    assert code == 0, shown
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    firsts = [line.split()[0] for line in lines if line.strip()]
    assert {target.name for target in list_targets()} <= set(firsts)
    assert {"name", "core", "backends", "clock"} <= set(" ".join(lines).split())


def test_a_training_shows_its_bars(two_classes: Path, tmp_path: Path) -> None:
    words = ("train", "resnet8", "--data", two_classes, "-o", tmp_path / "run", "--epochs", "2")
    code, output, shown = run_on_a_terminal(
        *words, "--batch-size", "8", "--backbone-share", "0.5", "--json"
    )
    assert code == 0, shown
    assert len(json.loads(output)["log"]) == 2
    assert "backbone: epochs" in shown
    assert "everything 1/1: loss" in shown
