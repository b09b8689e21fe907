"""Profiles a bundle on an emulated target, beside its network without early exits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import ChainInfo, Link, build
from edgeexit.backends.c.cmsis_nn_sources import find_cmsis_nn
from edgeexit.backends.c.from_bundle import program_inputs, static_inputs
from edgeexit.errors import ArgumentError, TargetError
from edgeexit.profiling.qemu.profile import profile_qemu
from edgeexit.profiling.qemu.report import QemuProfile, QemuReport
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.preprocess import Preprocessor
from edgeexit.runtime.session import default_point
from edgeexit.targets import Target, load_target

_Parts = tuple[list[bytes], list[list[Link]], ChainInfo]


def profile_bundle_qemu(
    bundle: Bundle,
    samples: NDArray[np.uint8] | NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
    *,
    target: Target | str | None = None,
    operating_point: str | None = None,
    dataset: str | None = None,
    cost_profile: str | None = None,
    num_counted: int = 3,
    cmsis_nn: Path | None = None,
    cache: Path | None = None,
    timeout_s: float = 900.0,
) -> QemuProfile:
    """Compiles a bundle's segments to C and profiles them under QEMU.

    Args:
        bundle: What to profile; it holds TFLite segments.
        samples: Raw images, ``[num_samples, height, width, channels]``.
        labels: Their classes, int64 ``[num_samples]``; without them no accuracy is reported.
        target: A microcontroller whose core can be emulated; the bundle's own by default.
        operating_point: One of the bundle's points; ``balanced``, or the first, if None.
        dataset: What the report calls the samples: a data set and its split.
        cost_profile: One of the target's, for times and energies; its first by default.
        num_counted: How many of the samples also run every segment, for counts by layer.
        cmsis_nn: CMSIS-NN's root; the extra ``mcu`` brings one, and without both it is not used.
        cache: A folder that keeps compiled kernels.
        timeout_s: How long each run may take.

    Raises:
        ArgumentError: An argument does not fit the bundle.
        BundleError: The bundle has no TFLite segments.
        TargetError: The target is unknown, or its core cannot be emulated.
        LoweringError: The C backend does not know something in the segments.
        EngineNotInstalledError: The compiler or QEMU is missing.
        EngineError: The program does not compile, fails, or takes too long.
    """
    if target is None:
        target = bundle.manifest.target
    chosen = target if isinstance(target, Target) else load_target(target)
    core, emulated = chosen.core, chosen.emulator
    if core is None or emulated is None:
        raise TargetError(
            "the target has no core that QEMU can emulate",
            wanted="a microcontroller",
            given=chosen.name,
            hint="name one with --target; edgeexit targets lists them",
        )
    costs = chosen.cost_profile(cost_profile)
    chain_parts = program_inputs(bundle)
    names = [point.name for point in chain_parts[2].points]
    operating_point = operating_point or default_point(names)
    if operating_point not in names:
        raise ArgumentError(
            "the bundle has no such operating point",
            wanted=", ".join(names),
            given=repr(operating_point),
        )
    library = find_cmsis_nn(cmsis_nn)
    root = None if library is None else library.root
    inputs = Preprocessor(bundle.manifest.input).batch(samples)

    def run(parts: _Parts, number: int | None, point: int) -> QemuReport:
        return profile_qemu(
            build(*parts, core, kernel_sets=chosen.kernel_sets, cmsis_nn=root),
            emulated.machine,
            inputs[:number],
            None if labels is None else labels[:number],
            point=point,
            cost_profile=costs,
            num_counted=num_counted,
            cmsis_nn=root,
            cache=cache,
            timeout_s=timeout_s,
        )

    chain = run(chain_parts, None, names.index(operating_point))
    static_parts = static_inputs(bundle)
    # What a network without exits costs does not depend on how sure it is: a few samples will do.
    static = None if static_parts is None else run(static_parts, num_counted, 0)
    return QemuProfile(
        bundle=bundle.manifest.name,
        target=chosen.name,
        operating_point=operating_point,
        dataset=dataset,
        cost_profile=None if costs is None else costs.name,
        note=emulated.note,
        chain=chain,
        static=static,
        instructions_ratio=None
        if static is None
        else chain.mean_instructions / static.mean_instructions,
    )
