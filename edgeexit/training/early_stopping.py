"""When a phase ends before its budget is spent, and which of its epochs it keeps.

A head is done after ``patience`` epochs without improvement on the calibration split.

Source: Kubaty et al. 2025, section 3: weights are kept when any head improves, and the phase ends
when every head has run out of patience.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.training.checkpoint import EpochRecord


class EarlyStopping:
    """Watches one phase; without ``patience`` it never stops and has nothing to keep.

    ``best`` and ``waited``, one number for each head that is trained, are what a resumed run needs.
    """

    def __init__(
        self, patience: int | None, best: tuple[float, ...], waited: tuple[int, ...]
    ) -> None:
        self.patience, self.best, self.waited = patience, best, waited

    @property
    def stop(self) -> bool:
        """Whether every head has run out of patience."""
        return self.patience is not None and bool(self.waited) and min(self.waited) >= self.patience

    def improved(self, accuracy: tuple[float, ...]) -> bool:
        """Whether any head is better than it ever was: the weights of this epoch are kept."""
        if self.patience is None:
            return False
        best = self.best or (-1.0,) * len(accuracy)
        waited = self.waited or (0,) * len(accuracy)
        better = tuple(now > then for now, then in zip(accuracy, best, strict=True))
        self.best = tuple(map(max, accuracy, best))
        self.waited = tuple(0 if b else w + 1 for b, w in zip(better, waited, strict=True))
        return any(better)


def kept_epoch(records: Sequence[EpochRecord], patience: int | None) -> EpochRecord:
    """The epoch whose weights a phase leaves, found in the log of the phase.

    Args:
        records: The epochs of one phase, all of them, at least one.
        patience: The option of the run.

    Returns:
        The last epoch in which a head improved; without ``patience`` the last one.
    """
    stopping = EarlyStopping(patience, (), ())
    improving = [record for record in records if stopping.improved(record.accuracy)]
    return (improving or records)[-1]
