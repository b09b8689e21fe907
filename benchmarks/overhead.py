"""What does a chain cost beside one static network, on this machine, in one thread?

Every figure is a ratio of medians (or means) over runs that take turns, sample by sample, from raw
uint8 image to label. ``no_exit``: the chain with a threshold of 1 at every early exit, which is
evaluated and never met. ``balanced``: the chain at its operating point on test images in their
order. ``spread`` is the standard deviation of the ratio over blocks of rounds.
"""

from __future__ import annotations

import gc
from time import perf_counter_ns

import numpy as np
from figures import arguments, publish
from numpy.typing import NDArray
from shipped import compiled_bundle

from edgeexit import data
from edgeexit.runtime.decision import RULES
from edgeexit.runtime.session import Session

NUM_BLOCKS = 10
WARM_UP = 500


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="litert")
    parser.add_argument("--num-images", type=int, default=1000)
    options = parser.parse_args()
    splits = data.load("cifar10")
    images = splits.test.images[: options.num_images]
    with compiled_bundle(splits) as bundle:
        sessions = {
            "static": Session(bundle, options.engine, static=True),
            "no_exit": Session(bundle, options.engine),
            "balanced": Session(bundle, options.engine, operating_point="balanced"),
        }
        early = len(bundle.manifest.segments) - 1
        sessions["no_exit"].set_thresholds((1,) * early + (RULES["confidence"].always,))
        times = measure(sessions, images)
    static = times["static"]
    figures = {
        "engine": options.engine,
        "num_threads": 1,
        "num_images": len(images),
        "runs_of_each": int(static.size),
        "static_p50_us": float(np.median(static)) / 1e3,
        "no_exit_ratio": ratio(np.median, times["no_exit"], static),
        "no_exit_ratio_std": spread(np.median, times["no_exit"], static),
        "balanced_p50_ratio": ratio(np.median, times["balanced"], static),
        "balanced_mean_ratio": ratio(np.mean, times["balanced"], static),
        "balanced_mean_ratio_std": spread(np.mean, times["balanced"], static),
    }
    publish("overhead of the chain, measured on this machine", figures, options.json)


def measure(
    sessions: dict[str, Session], images: NDArray[np.uint8]
) -> dict[str, NDArray[np.int64]]:
    """Nanoseconds [NUM_BLOCKS, num_images] of each session; who begins changes every time."""
    names = list(sessions)
    times = {name: np.zeros((NUM_BLOCKS, len(images)), dtype=np.int64) for name in names}
    for session in sessions.values():
        for image in images[:WARM_UP]:
            session.run(image)
    gc.collect()
    gc.disable()
    for block in range(NUM_BLOCKS):
        for index, image in enumerate(images):
            first = (block + index) % len(names)
            for name in names[first:] + names[:first]:
                run = sessions[name].run
                start = perf_counter_ns()
                run(image)
                times[name][block, index] = perf_counter_ns() - start
    gc.enable()
    return times


def ratio(statistic, chain, static) -> float:  # type: ignore[no-untyped-def]
    return float(statistic(chain) / statistic(static))


def spread(statistic, chain, static) -> float:  # type: ignore[no-untyped-def]
    return float(np.std([ratio(statistic, a, b) for a, b in zip(chain, static, strict=True)]))


if __name__ == "__main__":
    main()
