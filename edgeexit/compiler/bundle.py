"""Pass 8: writes the bundle, whole or not at all.

The folder takes its name when it is complete and has been opened once. The same content gives the
same bytes: nothing here knows the time or the path.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit._version import __version__
from edgeexit.compiler.artifacts import artifact_specs
from edgeexit.compiler.check import check_output
from edgeexit.runtime.bundle import Bundle, open_bundle
from edgeexit.runtime.manifest import to_json
from edgeexit.storage import write_folder
from edgeexit.types import Artifact, FileSpec, Manifest

GOLDEN = "golden.npz"
_NPY: Any = np.lib.format
_GRAPH_TOOLS = ("torch", "torchao", "nncf")
_BACKEND_TOOLS = {"tflite": ("ai-edge-litert",), "executorch": ("executorch",)}
# The oldest time that a zip file can hold.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def tool_versions(backends: Sequence[str], *, from_graph: bool = True) -> dict[str, str]:
    """Versions of all that took part in a compilation.

    Args:
        backends: What was lowered to.
        from_graph: Whether it began with a network, and not with a file of a backend.
    """
    names = [*(_GRAPH_TOOLS if from_graph else ()), "numpy"]
    names += [name for backend in backends for name in _BACKEND_TOOLS[backend]]
    return {"edgeexit": __version__} | {name: version(name) for name in names}


def golden_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An ``.npz`` whose bytes depend on the arrays only."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            _NPY.write_array(content, np.ascontiguousarray(array), version=(1, 0))
            entry = zipfile.ZipInfo(f"{name}.npy", _NO_TIME)
            entry.create_system = 3  # or else the operating system is noted
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content.getvalue())
    return stream.getvalue()


def write_bundle(
    manifest: Manifest,
    artifacts: Sequence[Artifact],
    vectors: Mapping[str, NDArray[Any]],
    output: Path,
    *,
    sources: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle and opens it.

    Args:
        manifest: All of it but the facts about files, which are filled in here.
        artifacts: The files of all backends.
        vectors: The golden vectors.
        output: The folder to make; its parents are made too.
        sources: Path -> content of the files of ``manifest.firmware``.
        overwrite: Replace a bundle that is there.

    Raises:
        StorageError: Something is there already, or the disk is full or not writable.
    """
    check_output(output, overwrite)
    golden = golden_bytes(vectors)
    manifest = replace(
        manifest,
        artifacts=artifact_specs(artifacts),
        golden=FileSpec(GOLDEN, hashlib.sha256(golden).hexdigest(), len(golden)),
    )
    files = {artifact.path: artifact.content for artifact in artifacts}
    files |= sources or {}
    files |= {GOLDEN: golden, "manifest.json": to_json(manifest)}
    write_folder(files, output, replace=overwrite, check=open_bundle)
    return open_bundle(output)
