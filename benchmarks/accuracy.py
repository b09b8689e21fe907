"""What do exits cost in accuracy, and what do they save, on 10,000 test images?

The shipped ResNet-8 for CIFAR-10, or what --model and --data name, is compiled as a user would; its
thresholds come from the calibration split.
``*_best_possible`` is the same search run on the test images themselves, reported beside and used
for nothing: up to three exits the bound that no choice of thresholds can beat, with more what the
search found. ``*_std`` are bootstrap standard deviations over the test images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from figures import arguments, publish
from numpy.typing import NDArray
from shipped import compiled_bundle, engine_logits, shipped_model

from edgeexit import data
from edgeexit.compiler.samples import real_batches
from edgeexit.exits.points import DROPS, best_possible_macs_saved, evaluate
from edgeexit.nn.model import example_logits
from edgeexit.runtime.engines import ENGINES

NUM_RESAMPLES = 200


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="litert")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--data", default="cifar10", help="data set whose weights ship")
    options = parser.parse_args()
    splits = data.load(options.data)
    model = shipped_model(options.model, splits)
    batches = real_batches(splits.test, splits.preprocessing)
    labels_of = [
        np.stack([logits.argmax(1).numpy() for logits in example_logits(model, batch)], axis=1)
        for batch in batches
    ]
    right = np.concatenate(labels_of) == splits.test.labels[:, None]
    float_accuracy = right.mean(axis=0)

    with compiled_bundle(splits, model=options.model) as bundle:
        manifest = bundle.manifest
        logits = engine_logits(bundle, options.engine, splits.test)
        points = manifest.points[ENGINES[options.engine].backend]
    labels = splits.test.labels
    macs = [segment.macs for segment in manifest.segments]
    exit_accuracy = (logits.argmax(axis=2) == labels[:, None]).mean(axis=0)
    figures: dict[str, object] = {
        "split": f"{options.data}/test, {len(labels)} images",
        "engine": options.engine,
        "tools": manifest.tools,
        "float": {
            "accuracy": float(float_accuracy[-1]),
            "accuracy_by_exit": float_accuracy.tolist(),
        },
        "static": {
            "accuracy": float(exit_accuracy[-1]),
            "accuracy_by_exit": exit_accuracy.tolist(),
            "accuracy_std": spread(lambda i: (logits[i, -1].argmax(1) == labels[i]).mean(), labels),
            "macs": manifest.static_macs,
            "largest_drop_from_float": float((float_accuracy - exit_accuracy).max()),
        },
        "heads_macs_share": sum(macs) / manifest.static_macs - 1,
    }
    for point in points:
        if point.name not in DROPS:
            continue

        def on(index: NDArray[np.int64], thresholds: tuple[int, ...] = point.thresholds):  # type: ignore[no-untyped-def]
            return evaluate(logits[index], labels[index], manifest.decision, macs, thresholds)

        everything = np.arange(len(labels))
        result = on(everything)
        figures[point.name] = {
            "accuracy": result.accuracy,
            "accuracy_drop": float(exit_accuracy[-1]) - result.accuracy,
            "accuracy_drop_std": spread(
                lambda i: (logits[i, -1].argmax(1) == labels[i]).mean() - on(i).accuracy,
                labels,
            ),
            "macs_saved": 1 - result.cost / manifest.static_macs,
            "macs_saved_std": spread(lambda i: on(i).cost / manifest.static_macs, labels),
            "macs_saved_on_calibration": point.macs_saved,
            "exit_rates": list(result.exit_rates),
            "macs_saved_best_possible": best_possible_macs_saved(
                logits,
                labels,
                manifest.decision,
                macs,
                manifest.static_macs,
                max_drop=DROPS[point.name],
            ),
        }
    publish(
        f"{options.model} on {options.data}, int8, thresholds from the calibration split",
        figures,
        options.json,
    )


def spread(figure: Callable[[NDArray[np.int64]], float], labels: NDArray[np.int64]) -> float:
    """Bootstrap standard deviation of a figure over the samples."""
    rng = np.random.default_rng(0)
    draws = [figure(rng.integers(0, len(labels), len(labels))) for _ in range(NUM_RESAMPLES)]
    return float(np.std(draws))


if __name__ == "__main__":
    main()
