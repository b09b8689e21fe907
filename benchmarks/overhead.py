"""What does a chain cost beside one static network, on this machine, in one thread?

The runs take turns, sample by sample, from raw uint8 image to label, in blocks that each cover all
images once. Every ratio is the median over blocks of the ratio of medians (or means) in a block:
what else runs on the machine disturbs a block and not the figure. ``_std`` is over blocks.
``no_exit``: the chain with thresholds just below the smallest possible sum, which are evaluated
and never met. ``balanced``: the chain at its operating point on test images in their order.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np
from figures import arguments, publish
from numpy.typing import NDArray
from shipped import compiled_bundle

from edgeexit import data
from edgeexit.runtime.decision import ONE, RULES
from edgeexit.runtime.session import Session

Times = NDArray[np.int64]
Statistic = Callable[[Times], np.floating[Any]]

NUM_BLOCKS = 20
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
        sessions["no_exit"].set_thresholds((ONE - 1,) * early + (RULES["confidence"].always,))
        times = measure(sessions, images)
    static = times["static"]
    figures: dict[str, object] = {
        "engine": options.engine,
        "num_threads": 1,
        "num_images": len(images),
        "runs_of_each": int(static.size),
        "static_p50_us": float(np.median(static)) / 1e3,
    }
    for key, statistic, name in (
        ("no_exit_ratio", np.median, "no_exit"),
        ("balanced_p50_ratio", np.median, "balanced"),
        ("balanced_mean_ratio", np.mean, "balanced"),
    ):
        by_block = ratios(statistic, times[name], static)
        figures[key] = float(np.median(by_block))
        figures[f"{key}_std"] = float(np.std(by_block))
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


def ratios(statistic: Statistic, chain: Times, static: Times) -> list[float]:
    """One for each block."""
    return [float(statistic(a) / statistic(b)) for a, b in zip(chain, static, strict=True)]


if __name__ == "__main__":
    main()
