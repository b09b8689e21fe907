"""Profiling: what a bundle costs where it runs, and from where each number comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError
from edgeexit.profiling.host import profile_host
from edgeexit.profiling.report import Report
from edgeexit.runtime.bundle import Bundle, open_bundle

__all__ = ["Report", "profile", "profile_host"]


def profile(
    bundle: Bundle | str | Path,
    samples: NDArray[np.uint8] | NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    on: str = "host",
    engine: str = "litert",
    operating_point: str = "balanced",
    num_threads: int = 1,
    warmup: int = 50,
    rounds: int = 5,
) -> Report:
    """Profiles a bundle on a device.

    Args:
        bundle: A bundle, or its folder.
        samples: Raw images, ``[num_samples, height, width, channels]``.
        labels: Their classes, int64 ``[num_samples]``; without them no accuracy is reported.
        on: The device; ``host`` is this machine.
        engine: What executes the segments.
        operating_point: One of the bundle's points.
        num_threads: Threads that the engine may use.
        warmup: Runs of each network before anything is measured.
        rounds: How often every sample is measured.

    Raises:
        ArgumentError: ``on`` is unknown, or a number or shape does not fit.
        BundleError: The bundle is not whole.
        EngineError: The engine is missing or failed.
    """
    if on != "host":
        raise ArgumentError(
            f"nothing can be profiled on {on!r}", wanted="on='host'", given=f"{on=}"
        )
    return profile_host(
        bundle if isinstance(bundle, Bundle) else open_bundle(bundle),
        samples,
        labels,
        engine=engine,
        operating_point=operating_point,
        num_threads=num_threads,
        warmup=warmup,
        rounds=rounds,
    )
