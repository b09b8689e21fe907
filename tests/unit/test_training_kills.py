"""SIGKILL at any moment: a run that is continued ends with the bytes of an undisturbed one.

A moment is a number of events of the interpreter since a phase began: calls and returns, those of
functions in C included, as ``sys.setprofile`` reports them. Such moments are random and can be
repeated, and they lie between any two calls, in a step as well as between the opening of a
checkpoint's file and its renaming. What lies within a call is reached in two other ways: kills from
outside after a random time, and a limit on the size of files at which the kernel ends the process
in the middle of a write.

Every piece of a run is a process of its own. They are forked from one server, which has torch
loaded; it takes no backward pass, as autograd's threads would not survive a fork.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_training import make_data, make_model
from torch.optim import SGD

from edgeexit.training import EpochRecord, train
from edgeexit.training.budget import macs_per_sample
from edgeexit.training.checkpoint import write_whole

PHASES = ("backbone", "everything", "heads")
OPTIONS = {
    "strategy": "backbone=0.34,everything=0.33,heads=0.33",  # two epochs each, of three steps
    "epochs": 6,
    "batch_size": 16,
    "learning_rate": 0.1,
    "mixup": 0.2,
}
NUM_KILLS = 20

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": os.pathsep.join(  # where pytest finds tiny_training, and what it was given
        filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")))
    ),
}


class Events:
    """Counts the events of each phase of a run, and ends the process at one of them.

    Args:
        phase: In which the process ends, or None.
        event: At which it ends, counted from 0.
        writing: Whether only events within the writing of a file count.
        torn: Size in bytes at which a file of that phase is torn; it replaces ``event``.
    """

    def __init__(self, phase: str | None, event: int, writing: bool, torn: int | None) -> None:
        self.wanted, self.event, self.writing, self.torn = phase, event, writing, torn
        self.now = ""
        self.inside = not writing
        self.counts: Counter[str] = Counter()

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        self.now = name
        if self.torn is None:
            sys.setprofile(self.count if self.wanted in (None, name) else None)

    def step(self) -> None:
        if self.torn is not None and self.now == self.wanted:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.torn, self.torn))

    def epoch(self, record: EpochRecord) -> None: ...

    def count(self, frame: FrameType, event: str, argument: object) -> None:
        if self.writing and frame.f_code is write_whole.__code__ and event in ("call", "return"):
            self.inside = event == "call"
        if self.inside:
            if self.now == self.wanted and self.counts[self.now] == self.event:
                os.kill(os.getpid(), signal.SIGKILL)
            self.counts[self.now] += 1


def piece(
    folder: str,
    *,
    phase: str | None = None,
    event: int = -1,
    writing: bool = False,
    torn: int | None = None,
    **options: Any,
) -> None:
    """Starts or continues a run, up to a moment or its end; the end leaves the counted events."""
    events = Events(phase, event, writing, torn)
    train(make_model(), make_data(), output=folder, progress=events, **{**OPTIONS, **options})
    sys.setprofile(None)
    Path(folder, "events.json").write_text(json.dumps(events.counts))


def serve() -> None:
    """Answers each request for a piece, a line of JSON, with the status of its process."""
    torch.set_num_threads(1)
    _load_what_training_loads_late()
    for line in sys.stdin:
        request = json.loads(line)
        after = request.pop("after_s", None)
        child = os.fork()
        if child == 0:
            try:
                piece(**request)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _load_what_training_loads_late() -> None:
    accelerator = Accelerator(mixed_precision="no")
    model = make_model()
    macs_per_sample(model, torch.zeros(1, 3, 8, 8))
    _, optimizer = accelerator.prepare(model, SGD(model.parameters(), lr=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


class Server:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )

    def __call__(self, folder: Path, **request: object) -> int:
        """Runs a piece; its exit status, or the signal that ended it as a negative number."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"folder": str(folder), **request}), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.process.communicate()


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert server(folder) == 0
    return folder


def events_of(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = json.loads((folder / "events.json").read_text())
    return counts


def results(folder: Path) -> dict[str, object]:
    """The bytes of all weights that a run leaves, and its log without the times."""
    found: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.safetensors")
        if not path.name.startswith((".", "resume"))
    }
    log = json.loads((folder / "run.json").read_text())["log"]
    found["log"] = [{**record, "seconds": None} for record in log]
    return found


def stands_at(folder: Path) -> tuple[int, int, int] | None:
    """Phase, epoch and step that a killed run will go on with; None before its first checkpoint."""
    if not (folder / "resume.safetensors").exists():
        return None
    with safe_open(folder / "resume.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["edgeexit"])
    return header["phase"], header["epoch"], header["step"]


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*safetensors*") if path.stat().st_size]


def test_an_undisturbed_run_leaves_what_is_compared(server: Server, undisturbed: Path) -> None:
    expected = results(undisturbed)
    names = {f"phases/{k}_{phase}.safetensors" for k, phase in enumerate(PHASES)}
    assert set(expected) == {"weights.safetensors", "log", *names}
    assert set(events_of(undisturbed)) == set(PHASES)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_steps", [None, 2])
def test_killed_once_in_each_phase(
    checkpoint_steps: int | None, server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """20 runs, each killed at a random moment of its first phase, then its second, its third."""
    options = {"checkpoint_steps": checkpoint_steps}
    assert server(tmp_path / "whole", **options) == 0
    expected = results(undisturbed)
    assert results(tmp_path / "whole") == expected  # checkpoints change nothing
    counts = events_of(tmp_path / "whole")
    rng = np.random.default_rng(0)
    seen = Counter[tuple[int, bool]]()
    for number in range(NUM_KILLS):
        folder = tmp_path / str(number)
        for phase in PHASES:
            event = int(rng.integers(counts[phase]))
            assert server(folder, phase=phase, event=event, **options) == -signal.SIGKILL
            if (at := stands_at(folder)) is not None:
                seen[at[0], at[2] > 0] += 1
        assert server(folder, **options) == 0
        assert results(folder) == expected, f"run {number}"
    within = {phase for phase, within_epoch in seen if within_epoch}
    assert within == (set() if checkpoint_steps is None else {0, 1, 2})


def test_killed_while_a_file_is_written(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    """As above, 21 times, with moments between the first call and the last that writes a file."""
    options = {"checkpoint_steps": 1, "writing": True}
    assert server(tmp_path / "whole", **options) == 0
    counts = events_of(tmp_path / "whole")
    rng = np.random.default_rng(1)
    num_half_written = 0
    for number in range(7):
        folder = tmp_path / str(number)
        for phase in PHASES:
            event = int(rng.integers(counts[phase]))
            assert server(folder, phase=phase, event=event, **options) == -signal.SIGKILL
        num_half_written += len(half_written(folder))
        assert server(folder, **options) == 0
        assert results(folder) == results(undisturbed), f"run {number}"
    assert num_half_written > 0  # the moments are where they should be


@pytest.mark.parametrize("phase", PHASES)
def test_a_write_that_stops_half_way(
    phase: str, server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(PHASES.index(phase))
    size = (undisturbed / "resume.safetensors").stat().st_size
    for number, torn in enumerate(rng.integers(1, size, 2).tolist()):
        folder = tmp_path / str(number)
        request = {"checkpoint_steps": 2, "phase": phase, "torn": torn}
        assert server(folder, **request) == -signal.SIGXFSZ
        assert [path.stat().st_size for path in half_written(folder)] == [torn]
        assert server(folder, checkpoint_steps=2) == 0
        assert results(folder) == results(undisturbed)


def test_killed_from_outside_again_and_again(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """One run, ended after random times; wherever they fall, and if it should be done earlier."""
    start = time.perf_counter()
    assert server(tmp_path / "whole", checkpoint_steps=1) == 0
    longest = time.perf_counter() - start
    for delay in np.random.default_rng(2).uniform(0, longest / 2, 10).tolist():
        assert server(tmp_path / "run", checkpoint_steps=1, after_s=delay) in (-signal.SIGKILL, 0)
    assert server(tmp_path / "run", checkpoint_steps=1) == 0
    assert results(tmp_path / "run") == results(undisturbed)


def test_the_comparison_notices_what_was_lost(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """A checkpoint without its momentum goes on to other weights."""
    options = {"checkpoint_steps": 2}
    event = events_of(undisturbed)["everything"] // 2
    assert server(tmp_path, phase="everything", event=event, **options) == -signal.SIGKILL
    path = tmp_path / "resume.safetensors"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("optimizer.")}
    save_file(tensors, path, metadata=header)
    assert server(tmp_path, **options) == 0
    expected, found = results(undisturbed), results(tmp_path)
    first = "phases/0_backbone.safetensors"
    assert found[first] == expected[first]  # was there before
    assert found["weights.safetensors"] != expected["weights.safetensors"]


if __name__ == "__main__":
    serve()
