"""Artifacts as the runtime sees them, so that passes run what a device will run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgeexit.backends.silence import silenced
from edgeexit.errors import LoweringError
from edgeexit.runtime.engines import Engine, load_engine
from edgeexit.types import Artifact, ArtifactSpec, SegmentSpec


def artifact_specs(artifacts: Sequence[Artifact]) -> tuple[ArtifactSpec, ...]:
    """What a manifest says of these files, one entry for each segment that a file implements."""
    return tuple(
        ArtifactSpec(
            backend=artifact.backend,
            path=artifact.path,
            sha256=hashlib.sha256(artifact.content).hexdigest(),
            num_bytes=len(artifact.content),
            segment=segment,
            method=method,
            layout=artifact.layout,
        )
        for artifact in artifacts
        for segment, method in artifact.parts
    )


def tflite_of(artifacts: Sequence[Artifact], segment: int | None) -> bytes:
    """The ``.tflite`` file of a segment; None is the static network.

    Raises:
        LoweringError: There is none.
    """
    for artifact in artifacts:
        if artifact.backend == "tflite" and (segment, None) in artifact.parts:
            return artifact.content
    raise LoweringError(
        "C is made of .tflite segments", wanted="the backend tflite", where=f"segment {segment}"
    )


def load(
    engine: str,
    artifacts: Sequence[Artifact],
    segments: Sequence[SegmentSpec],
    *,
    static: bool = False,
) -> Engine:
    """Loads artifacts that are still in memory into an engine on this machine.

    Raises:
        EngineError: The engine is not installed or does not take the artifacts.
        LoweringError: The engine's library failed.
    """
    # The interpreters announce their delegates on stderr.
    with silenced(LoweringError, f"the engine {engine} could not load what was lowered"):
        return load_engine(
            engine,
            artifact_specs(artifacts),
            {artifact.path: artifact.content for artifact in artifacts},
            segments,
            static=static,
        )
