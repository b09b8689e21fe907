"""Golden vectors: a few real samples with the logits and exits that belong to them.

Arrays, in this order: ``inputs`` int8 [N, H, W, C]; ``labels`` int64 [N]; ``logits`` int8 [N, K, C]
of the quantized graph in PyTorch; then for each backend ``logits_BACKEND`` int8 [N, K, C], of its
artifacts in the engine that selected its thresholds, and ``exits_BACKEND`` int64 [N], where these
samples leave at the operating point ``balanced``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgeexit.compiler.artifacts import load
from edgeexit.compiler.chain import run_chain
from edgeexit.data.types import Samples
from edgeexit.runtime.decision import batch_exits, batch_scores
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import all_logits
from edgeexit.types import Artifact, Manifest, Segment

POINT = "balanced"


def vectors(
    samples: Samples,
    segments: Sequence[Segment],
    artifacts: Sequence[Artifact],
    engines: Mapping[str, str],
    manifest: Manifest,
) -> dict[str, NDArray[np.int8] | NDArray[np.int64]]:
    """Runs the samples in PyTorch and in the engine of each backend.

    Args:
        samples: Raw samples of the calibration split.
        segments: The chain.
        artifacts: Those of all backends.
        engines: Backend -> engine.
        manifest: Its input, rule and operating points are used.

    Raises:
        EngineError: An engine failed.
    """
    inputs = quantize_input(samples.images, manifest.input)
    with torch.no_grad():
        values = run_chain(
            segments, torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
        )
    reference = [values[segment.spec.logits.name].numpy() for segment in segments]
    arrays: dict[str, NDArray[np.int8] | NDArray[np.int64]] = {
        "inputs": inputs,
        "labels": samples.labels,
        "logits": np.stack(reference, axis=1),
    }
    for backend, points in manifest.points.items():
        own = [artifact for artifact in artifacts if artifact.backend == backend]
        logits = all_logits(
            load(engines[backend], own, manifest.segments), manifest.segments, inputs
        )
        (point,) = (point for point in points if point.name == POINT)
        scores = batch_scores(logits, manifest.decision)
        arrays[f"logits_{backend}"] = logits
        arrays[f"exits_{backend}"] = batch_exits(scores, point.thresholds, manifest.decision.rule)
    return arrays
