"""What the C backend needs of a bundle: its ``.tflite`` segments, how they hang together, exits."""

from __future__ import annotations

from edgeexit.backends.c.chain import ChainInfo, chain_of, single_exit
from edgeexit.backends.c.legalize import CHAIN_INPUT, Link, links_of
from edgeexit.errors import BundleError
from edgeexit.runtime.bundle import Bundle
from edgeexit.types import ArtifactSpec


def program_inputs(bundle: Bundle) -> tuple[list[bytes], list[list[Link]], ChainInfo]:
    """The arguments of `build` for the chain.

    Costs are left to the emitter, which counts multiplications.

    Raises:
        BundleError: The bundle has no TFLite segments, or a file of it is damaged.
    """
    manifest = bundle.manifest
    artifacts = _artifacts(bundle)
    contents = [bundle.read(artifacts[segment.index]) for segment in manifest.segments]
    points = manifest.points["tflite"]
    chain = chain_of(manifest.name, manifest.decision, points, manifest.input)
    return contents, links_of(manifest.segments), chain


def static_inputs(bundle: Bundle) -> tuple[list[bytes], list[list[Link]], ChainInfo] | None:
    """The arguments of `build` for the network without early exits; None if it is not there.

    Raises:
        BundleError: The bundle has no TFLite segments, or a file of it is damaged.
    """
    artifact = _artifacts(bundle).get(None)
    if artifact is None:
        return None
    links = [[Link(CHAIN_INPUT)]]
    return [bundle.read(artifact)], links, single_exit(f"{bundle.manifest.name}_static")


def _artifacts(bundle: Bundle) -> dict[int | None, ArtifactSpec]:
    found = {a.segment: a for a in bundle.manifest.artifacts if a.backend == "tflite"}
    if not found or "tflite" not in bundle.manifest.points:
        raise BundleError(
            "the bundle has no TFLite segments, which C is made of",
            wanted="artifacts and operating points of the backend tflite",
            given=", ".join(sorted({a.backend for a in bundle.manifest.artifacts})),
            where=bundle.path.name,
            hint="compile the model with --backend tflite",
        )
    return found
