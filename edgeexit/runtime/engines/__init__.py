"""The interpreters that can run a bundle. A new one is a row of ``ENGINES`` and a file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from edgeexit.errors import ArgumentError, EngineError, EngineNotInstalledError
from edgeexit.runtime.engines.base import Engine, Part, Stage
from edgeexit.types import ArtifactSpec, BackendName, Manifest, SegmentSpec, TensorSpec

__all__ = ["ENGINES", "Engine", "EngineInfo", "Stage", "load_engine", "needed_artifacts"]


class EngineInfo(NamedTuple):
    """What an engine runs, the module it is in, and the pip extra that installs it."""

    backend: BackendName
    module: str
    extra: str


ENGINES: dict[str, EngineInfo] = {
    "litert": EngineInfo("tflite", "ai_edge_litert.interpreter", "litert"),
    "litert_reference": EngineInfo("tflite", "ai_edge_litert.interpreter", "litert"),
    "tflite-runtime": EngineInfo("tflite", "tflite_runtime.interpreter", "tflite-runtime"),
    "tflite-runtime_reference": EngineInfo(
        "tflite", "tflite_runtime.interpreter", "tflite-runtime"
    ),
    "executorch": EngineInfo("executorch", "executorch.runtime", "executorch"),
    "executorch-cortex-m": EngineInfo(
        "executorch", "executorch.backends.cortex_m.passes", "cortex-m"
    ),
}


def engine_info(name: str) -> EngineInfo:
    """The row of an engine.

    Raises:
        ArgumentError: If there is no such engine.
    """
    if name not in ENGINES:
        raise ArgumentError(
            "there is no such engine", wanted=" | ".join(ENGINES), given=f"engine={name!r}"
        )
    return ENGINES[name]


def needed_artifacts(
    manifest: Manifest, backend: BackendName, *, static: bool
) -> list[ArtifactSpec]:
    """What the chain, or the static network, is loaded from; empty if the bundle lacks it.

    A chain of one segment is its own static network.
    """
    alone = len(manifest.segments) == 1
    return [
        artifact
        for artifact in manifest.artifacts
        if artifact.backend == backend
        and ((artifact.segment is None) == static or (static and alone))
    ]


def load_engine(
    name: str,
    artifacts: Sequence[ArtifactSpec],
    contents: Mapping[str, bytes],
    segments: Sequence[SegmentSpec],
    *,
    num_threads: int = 1,
    static: bool = False,
) -> Engine:
    """Loads the artifacts that an engine can run.

    Args:
        name: A key of ``ENGINES``.
        artifacts: Those of a bundle; the ones of other backends are left out.
        contents: Path of an artifact -> bytes of its file.
        segments: The chain; its first segment takes the model's own input.
        num_threads: Threads of the interpreter, at least 1.
        static: Load the static network, as a single stage, instead of the chain.

    Returns:
        One stage for each segment, or one in all for the static network.

    Raises:
        ArgumentError: If the engine is unknown, or ``num_threads`` is not positive.
        EngineNotInstalledError: If the engine's package is not installed.
        EngineError: If an artifact is missing, cannot be loaded, or is not what ``segments`` say.
    """
    info = engine_info(name)
    if num_threads < 1:
        raise ArgumentError(
            "an engine needs a thread", wanted="at least 1", given=f"num_threads={num_threads}"
        )
    parts = _parts(info.backend, artifacts, contents, segments, static)
    module = _import(name, info)
    if name == "executorch-cortex-m":
        from edgeexit.runtime.engines import executorch_cortex_m

        return executorch_cortex_m.load(name, module, parts, num_threads)
    if info.backend == "executorch":
        from edgeexit.runtime.engines import executorch

        return executorch.load(name, module, parts, num_threads)
    from edgeexit.runtime.engines import litert

    return litert.load(name, module, parts, num_threads, reference=name.endswith("_reference"))


def _parts(
    backend: BackendName,
    artifacts: Sequence[ArtifactSpec],
    contents: Mapping[str, bytes],
    segments: Sequence[SegmentSpec],
    static: bool,
) -> list[Part]:
    by_segment = {a.segment: a for a in artifacts if a.backend == backend}
    ends: list[tuple[int | None, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]
    if static:
        # The static network is the whole graph with its last exit: one input, one output.
        ends = [(None, segments[0].inputs[:1], (segments[-1].logits,))]
    else:
        ends = [(s.index, s.inputs, (*s.outputs, s.logits)) for s in segments]
    raw_name = segments[0].inputs[0].name
    parts = []
    for segment, takes, gives in ends:
        artifact = by_segment.get(segment)
        if segment is None and artifact is None and len(segments) == 1:
            artifact = by_segment.get(0)
        if artifact is None or artifact.path not in contents:
            raise EngineError(
                "the bundle lacks an artifact",
                wanted=f"{backend}: " + ("static" if segment is None else f"segment {segment}"),
                given=sorted({a.path for a in artifacts}),
                hint=f"compile the model with the backend {backend}",
            )
        names = [tensor.name for tensor in takes]
        parts.append(
            Part(
                artifact,
                contents[artifact.path],
                tuple(takes),
                tuple(gives),
                names.index(raw_name) if raw_name in names else None,
            )
        )
    return parts


def _import(name: str, info: EngineInfo) -> ModuleType:
    hint = f"pip install 'edgeexit[{info.extra}]'"
    if info.extra == "tflite-runtime":
        # Elsewhere pip leaves the package out and says nothing.
        hint += ", in an environment of its own with Python up to 3.11"
    try:
        return importlib.import_module(info.module)
    except ModuleNotFoundError as exc:
        raise EngineNotInstalledError(
            f"the engine {name} is not installed",
            wanted=f"the Python module {info.module.split('.')[0]}",
            given=exc,
            hint=hint,
        ) from exc
    except (ImportError, AttributeError, OSError, RuntimeError) as exc:
        raise EngineError(
            f"the engine {name} is installed, but cannot be imported",
            given=exc,
            where=info.module,
            hint=hint,
        ) from exc
