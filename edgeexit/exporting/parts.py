"""What every exported project is made of, whatever its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.c.constants import comment
from edgeexit.errors import BundleError, TargetError
from edgeexit.resources import resource_folder
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.decision import batch_exits, batch_scores
from edgeexit.runtime.session import default_point
from edgeexit.types import FirmwareSpec

_CMSIS_NN = "cmsis_nn:"
MAX_EXAMPLE_BYTES = 16_384
"""Inputs that the example carries: at least one sample, and as many as fit."""


@dataclass(frozen=True)
class Parts:
    """File name -> content.

    ``headers`` are for users of the model, ``private_headers`` for its sources; names of sources
    and private headers are paths below the folder ``src``, those of ``cmsis_nn`` below its own.
    """

    project: str
    arena_bytes: int
    headers: Mapping[str, bytes]
    sources: Mapping[str, bytes]
    private_headers: Mapping[str, bytes]
    cmsis_nn: Mapping[str, bytes]
    example: Mapping[str, bytes]


def collect(bundle: Bundle, firmware: FirmwareSpec, cmsis_nn: Path | None) -> Parts:
    """Reads all files that a project needs.

    Raises:
        BundleError: A file of the bundle is damaged, or of another version.
        TargetError: The model uses CMSIS-NN, which was not found.
    """
    runtime = resource_folder("runtime")
    own = {Path(file.path).name: bundle.read(file) for file in firmware.files}
    kernels = [name for name in firmware.sources if not name.startswith(_CMSIS_NN)]
    if missing := [name for name in kernels if not (runtime / "src" / name).is_file()]:
        raise BundleError(
            "the model uses a kernel that this version does not have",
            wanted=missing[0],
            where=bundle.path,
            hint="export it with the version that compiled it, or compile it again",
        )
    names = sorted({*kernels, *(path.name for path in (runtime / "src").glob("*.c"))})
    return Parts(
        project=re.sub(r"\W", "_", bundle.manifest.name).lower(),
        arena_bytes=firmware.arena_bytes,
        headers={p.name: p.read_bytes() for p in sorted((runtime / "include").glob("*.h"))}
        | {name: content for name, content in own.items() if name.endswith(".h")},
        sources={name: (runtime / "src" / name).read_bytes() for name in names}
        | {name: content for name, content in own.items() if name.endswith(".c")},
        private_headers={
            path.relative_to(runtime / "src").as_posix(): path.read_bytes()
            for path in sorted((runtime / "src").rglob("*.h"))
        },
        cmsis_nn=_cmsis_nn_files(firmware, cmsis_nn),
        example={
            path.name: path.read_bytes() for path in sorted((runtime / "ports/example").iterdir())
        }
        | {"ee_example_samples.h": _samples(bundle, firmware).encode()},
    )


def _cmsis_nn_files(firmware: FirmwareSpec, folder: Path | None) -> dict[str, bytes]:
    names = [name.removeprefix(_CMSIS_NN) for name in firmware.sources if _CMSIS_NN in name]
    if not names:
        return {}
    found = find_cmsis_nn(folder)
    if found is None:
        raise TargetError(
            "the model uses kernels of CMSIS-NN, which is not here",
            wanted="its sources",
            hint="pip install 'edgeexit[mcu]', or name its folder: --cmsis-nn DIR",
        )
    if missing := sorted(set(names) - set(found.sources)):
        raise TargetError(
            "this CMSIS-NN lacks a file that the model uses",
            wanted=missing[0],
            given=found.root,
            hint="use the version that the model was compiled with",
        )
    files = {f"src/{name}": found.sources[name].read_bytes() for name in sorted(set(names))}
    for folder_of_headers in found.include_folders:
        files |= {f"include/{p.name}": p.read_bytes() for p in folder_of_headers.glob("*.h")}
    return files | {path.name: path.read_bytes() for path in found.licenses}


def _samples(bundle: Bundle, firmware: FirmwareSpec) -> str:
    """A header with golden inputs and where they leave at the default point."""
    manifest, golden = bundle.manifest, bundle.golden()
    inputs = golden["inputs"].reshape(len(golden["inputs"]), -1)
    inputs = inputs[: max(1, MAX_EXAMPLE_BYTES // inputs.shape[1])]
    logits = golden["logits_tflite"][: len(inputs)]
    points = manifest.points["tflite"]
    name = default_point(point.name for point in points)
    (point,) = (point for point in points if point.name == name)
    exits = batch_exits(
        batch_scores(logits, manifest.decision), point.thresholds, manifest.decision.rule
    )
    labels = logits[np.arange(len(logits)), exits].argmax(axis=1)
    rows = ",\n".join("    {" + _wrapped(row.tolist()) + "}" for row in inputs)
    num_samples, num_bytes = inputs.shape
    dataset = comment(point.dataset or "unknown data")
    return f"""/* Quantized samples of {dataset}, and what the reference answered. */
#ifndef EE_EXAMPLE_SAMPLES_H
#define EE_EXAMPLE_SAMPLES_H

#include <stdint.h>

#include "ee_model.h"

#define EE_EXAMPLE_MODEL {firmware.symbol}
#define EE_EXAMPLE_ARENA_BYTES {firmware.arena_bytes}
#define EE_EXAMPLE_NUM_SAMPLES {num_samples}u

static const uint16_t ee_example_labels[{num_samples}] = {{{", ".join(map(str, labels))}}};
static const uint16_t ee_example_exits[{num_samples}] = {{{", ".join(map(str, exits))}}};
static const int8_t ee_example_inputs[{num_samples}][{num_bytes}] = {{
{rows}}};

#endif
"""


def _wrapped(numbers: list[int]) -> str:
    rows = [numbers[start : start + 24] for start in range(0, len(numbers), 24)]
    return ",\n     ".join(",".join(map(str, row)) for row in rows)
