"""How much the diagnostics look at."""

from __future__ import annotations

from dataclasses import dataclass

from edgeexit.errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """How much is looked at.

    Attributes:
        num_samples: Images of the calibration split, and as many of the training split where
            training data is asked for.
        num_landscape_samples: Images at each point of the line and of the plane.
        num_statistics: Training images from which batch norm's statistics are collected at each
            point.
        num_line_points: Points on the line.
        num_plane_points: About how many points the plane's longer side has.
        rank_threshold: A singular value counts above this times the largest.
        num_neighbours: k of the estimator of mutual information.
        num_components: Principal components that it keeps.
        seed: Of the samples, the shuffled labels and the random direction.
    """

    num_samples: int = 2000
    num_landscape_samples: int = 1000
    num_statistics: int = 1000
    num_line_points: int = 21
    num_plane_points: int = 11
    rank_threshold: float = 1e-3
    num_neighbours: int = 3
    num_components: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every option once, where it enters."""
        least = {"num_line_points": 2, "num_plane_points": 2}
        for name in ("num_samples", "num_landscape_samples", "num_statistics", *least):
            if getattr(self, name) < least.get(name, 1):
                raise ArgumentError(
                    f"{name} is too small",
                    wanted=f"at least {least.get(name, 1)}",
                    given=f"{name}={getattr(self, name)}",
                )
        if not 0 < self.rank_threshold < 1:
            raise ArgumentError(
                "rank_threshold is out of range",
                wanted="0 < rank_threshold < 1",
                given=f"rank_threshold={self.rank_threshold}",
            )
        for name in ("num_neighbours", "num_components"):
            if getattr(self, name) < 1:
                raise ArgumentError(
                    f"{name} must be positive", given=f"{name}={getattr(self, name)}"
                )
