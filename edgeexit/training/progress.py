"""What a training run tells while it runs."""

from __future__ import annotations

from typing import Protocol

from edgeexit.training.checkpoint import EpochRecord


class Progress(Protocol):
    """Hears of a run; the command line draws it, a program may log it."""

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        """A phase begins, or continues after ``done_epochs``."""

    def step(self) -> None:
        """A batch was trained on."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch ended."""


class _Silent:
    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        pass

    def step(self) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        pass


silent: Progress = _Silent()
