"""Do all engines answer as the quantized graph does, on CIFAR-10's 10,000 test images?

The reference is the quantized graph in PyTorch, with the thresholds of ``balanced`` that belong to
each engine's backend. Exits and labels are compared for every image, logits for every image and
exit. tflite-runtime runs in its own environment and is compared with LiteRT's reference kernels.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from figures import arguments, publish
from numpy.typing import NDArray
from shipped import compiled_bundle, engine_logits, pytorch_logits

from edgeexit import data
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.decision import batch_exits, batch_scores
from edgeexit.runtime.engines import ENGINES

ENGINE_NAMES = ("litert", "litert_reference", "executorch")
ROOT = Path(__file__).parents[1]
OTHER_PYTHON = ROOT / ".venv-tflite-runtime" / "bin" / "python"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--num-images", type=int, default=10_000)
    options = parser.parse_args()
    splits = data.load("cifar10")
    samples = splits.test[slice(0, options.num_images)]
    with compiled_bundle(splits) as bundle:
        reference = pytorch_logits(bundle, splits, samples)
        engines = {}
        for name in ENGINE_NAMES:
            logits = engine_logits(bundle, name, samples)
            engines[name] = compare(bundle, name, logits, reference)
            if name == "litert_reference":
                twin = logits
        tflite_runtime = other_environment(bundle, samples.images)
    figures = {
        "num_images": len(samples),
        "engines": engines,
        "tflite_runtime": {
            "equal": bool(np.array_equal(tflite_runtime, twin)),
            "max_lsb": int(np.abs(tflite_runtime.astype(int) - twin).max()),
            "logits_equal_share": float((tflite_runtime == twin).mean()),
        },
        "tools": bundle.manifest.tools,
    }
    publish("engines against the quantized graph in PyTorch", figures, options.json)


def compare(
    bundle: Bundle, engine: str, logits: NDArray[np.int8], reference: NDArray[np.int8]
) -> dict[str, object]:
    """Agreement of decisions and logits over all samples."""
    points = bundle.manifest.points[ENGINES[engine].backend]
    (balanced,) = [point for point in points if point.name == "balanced"]
    exits, labels = decide(bundle, logits, balanced.thresholds)
    wanted_exits, wanted_labels = decide(bundle, reference, balanced.thresholds)
    difference = np.abs(logits.astype(int) - reference)
    return {
        "exit_agreement": float((exits == wanted_exits).mean()),
        "label_agreement": float((labels == wanted_labels).mean()),
        "max_lsb": int(difference.max()),
        "logits_equal_share": float((difference == 0).mean()),
    }


def decide(
    bundle: Bundle, logits: NDArray[np.int8], thresholds: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The exit and the label of every sample."""
    decision = bundle.manifest.decision
    exits = batch_exits(batch_scores(logits, decision), thresholds, decision.rule)
    return exits, logits[np.arange(len(logits)), exits].argmax(axis=1)


def other_environment(bundle: Bundle, images: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Logits of tflite-runtime's reference kernels, from the environment that holds it."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "images.npy"), images)
        script = ROOT / "benchmarks" / "tflite_runtime_logits.py"
        subprocess.run([OTHER_PYTHON, script, bundle.path, folder], check=True)
        logits: NDArray[np.int8] = np.load(Path(folder, "logits.npy"), allow_pickle=False)
    return logits


if __name__ == "__main__":
    main()
