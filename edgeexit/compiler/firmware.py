"""Pass 7b, for targets that run C: the chain's ``.tflite`` segments as constants and kernel calls.

Thresholds are those that were chosen for ``tflite``: LiteRT's reference kernels give the logits
that the C gives, to the bit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeexit.backends.c import CProgram, Link, build
from edgeexit.backends.c.chain import chain_of
from edgeexit.backends.c.cmsis_nn_sources import CmsisNn, find_cmsis_nn
from edgeexit.backends.c.plan_peak import require_arena
from edgeexit.backends.c.plan_picture import draw
from edgeexit.compiler.flash import flash_bytes
from edgeexit.errors import TargetError
from edgeexit.targets import Target
from edgeexit.types import (
    DecisionSpec,
    FileSpec,
    FirmwareSpec,
    InputSpec,
    LayerSpec,
    OperatingPoint,
)

FOLDER = "c"
_REVISION = re.compile(r"\$Revision:\s*([\w.]{1,40})")


def find_kernels(target: Target, folder: Path | None) -> tuple[CmsisNn | None, dict[str, str]]:
    """CMSIS-NN, if the target's C may use it.

    Args:
        target: Where the program will run.
        folder: CMSIS-NN's root; the extra ``mcu`` if None.

    Returns:
        The sources, or None; and what the manifest's ``tools`` say of them: nothing where the
        target does not ask for them.

    Raises:
        ArgumentError: ``folder`` does not hold CMSIS-NN.
    """
    found = find_cmsis_nn(folder)
    if "cmsis_nn" not in target.kernel_sets:
        return None, {}
    if found is None:
        return None, {"cmsis-nn": "not found"}
    header = found.root / "Include" / "arm_nnfunctions.h"
    revision = _REVISION.search(header.read_text(encoding="utf-8", errors="replace"))
    return found, {"cmsis-nn": f"{header.name} {revision[1] if revision else 'without a version'}"}


def compile_firmware(
    name: str,
    contents: Sequence[bytes],
    links: Sequence[Sequence[Link]],
    decision: DecisionSpec,
    points: Sequence[OperatingPoint],
    model_input: InputSpec,
    target: Target,
    cmsis_nn: CmsisNn | None,
    say: Callable[[str], None] | None = None,
) -> tuple[FirmwareSpec, dict[str, bytes]]:
    """Compiles a chain to C for a target.

    Args:
        name: The model's name.
        contents: The ``.tflite`` file of each segment.
        links: For each segment, where its inputs come from.
        decision: The rule and its tables.
        points: Operating points of ``tflite``, from the costliest to the cheapest.
        model_input: What the caller writes, and how it is made of raw samples.
        target: Where it will run.
        cmsis_nn: What `find_kernels` gave.
        say: Told if other kernels take the place of CMSIS-NN, which is not here.

    Returns:
        What the manifest says of it, and path -> content of its files.

    Raises:
        LoweringError: An op or a type that the C backend does not know.
        TargetError: The program does not fit the target.
    """
    if target.core is None:
        raise TargetError(
            f"the target {target.name!r} runs no C", wanted="a target with a [core] and a [c]"
        )
    if say is not None and cmsis_nn is None and "cmsis_nn" in target.kernel_sets:
        say("CMSIS-NN is not found, other kernels take its place; pip install 'edgeexit[mcu]'")
    program = build(
        contents,
        links,
        chain_of(name, decision, points, model_input),
        target.core,
        kernel_sets=target.kernel_sets,
        cmsis_nn=cmsis_nn.root if cmsis_nn else None,
    )
    _require_fit(program, decision, points, target)
    files = {f"{FOLDER}/{path}": text.encode() for path, text in program.emission.files.items()}
    picture = draw(program.program, program.implementations, program.plan, title=name)
    files[f"{FOLDER}/arena.svg"] = picture.encode()
    return _spec(program, target.core.name, files), files


def _require_fit(
    program: CProgram, decision: DecisionSpec, points: Sequence[OperatingPoint], target: Target
) -> None:
    if target.limits is None:
        return
    require_arena(
        program.program,
        program.implementations,
        program.plan,
        limit_bytes=target.limits.arena_bytes,
        target=target.name,
    )
    needed = flash_bytes(program, decision, points)
    limit_bytes = target.limits.model_flash_bytes
    if needed.total > limit_bytes:
        largest = sorted(program.layers, key=lambda layer: -layer.constant_bytes)[:4]
        raise TargetError(
            f"weights, tables and code need more flash than {target.name} has for them",
            wanted=f"at most {limit_bytes:,} B",
            given=f"{needed.constants:,} B of weights and tables, and code of about "
            f"{needed.code:,} B; {needed.total - limit_bytes:,} B too many",
            where="largest: " + ", ".join(f"{la.name} ({la.constant_bytes:,} B)" for la in largest),
            hint="fewer channels, or a target with more flash",
        )


def _spec(program: CProgram, core: str, files: dict[str, bytes]) -> FirmwareSpec:
    return FirmwareSpec(
        core=core,
        symbol=program.emission.symbol,
        files=tuple(
            FileSpec(path, hashlib.sha256(content).hexdigest(), len(content))
            for path, content in files.items()
        ),
        sources=program.emission.sources,
        arena_bytes=program.plan.arena_bytes,
        lower_bound_bytes=program.plan.lower_bound_bytes,
        layers=tuple(
            LayerSpec(
                name=layer.name,
                segment=layer.segment,
                kind=layer.kind,
                kernel_set=layer.kernel_set,
                function=layer.function,
                macs=layer.macs,
                constant_bytes=layer.constant_bytes,
                scratch_bytes=layer.scratch_bytes,
                instructions=layer.instructions,
            )
            for layer in program.layers
        ),
    )
