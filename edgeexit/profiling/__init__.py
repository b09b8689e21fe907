"""Profiling: what a bundle costs where it runs, and from where each number comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError
from edgeexit.profiling.host import profile_host
from edgeexit.profiling.report import Report
from edgeexit.runtime.bundle import Bundle, open_bundle

if TYPE_CHECKING:
    from edgeexit.profiling.qemu.report import QemuProfile
    from edgeexit.targets import Target

__all__ = ["Report", "profile", "profile_host"]

_Samples = NDArray[np.uint8] | NDArray[np.float32]


@overload
def profile(
    bundle: Bundle | str | Path,
    samples: _Samples,
    labels: NDArray[np.int64] | None = None,
    *,
    on: Literal["host"] = "host",
    engine: str = "litert",
    operating_point: str | None = None,
    dataset: str | None = None,
    num_threads: int = 1,
    warmup: int = 50,
    rounds: int = 5,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report: ...


@overload
def profile(
    bundle: Bundle | str | Path,
    samples: _Samples,
    labels: NDArray[np.int64] | None = None,
    *,
    on: Literal["qemu"],
    operating_point: str | None = None,
    dataset: str | None = None,
    target: Target | str | None = None,
    cost_profile: str | None = None,
    num_counted: int = 3,
    cmsis_nn: Path | None = None,
) -> QemuProfile: ...


def profile(
    bundle: Bundle | str | Path,
    samples: _Samples,
    labels: NDArray[np.int64] | None = None,
    *,
    on: str = "host",
    operating_point: str | None = None,
    dataset: str | None = None,
    engine: str | None = None,
    num_threads: int | None = None,
    warmup: int | None = None,
    rounds: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    target: Target | str | None = None,
    cost_profile: str | None = None,
    num_counted: int | None = None,
    cmsis_nn: Path | None = None,
) -> Report | QemuProfile:
    """Profiles a bundle on a device.

    What is None takes its default.

    Args:
        bundle: A bundle, or its folder.
        samples: Raw images, ``[num_samples, height, width, channels]``.
        labels: Their classes, int64 ``[num_samples]``; without them no accuracy is reported.
        on: ``host`` is this machine, and times are measured. ``qemu`` is the emulated core of a
            microcontroller, and instructions are counted.
        operating_point: One of the bundle's points; ``balanced``, or the first, by default.
        dataset: What the report calls the samples: a data set and its split.
        engine: On the host: what executes the segments; ``litert`` by default.
        num_threads: On the host: threads that the engine may use; 1 by default.
        warmup: On the host: runs of each network before anything is measured; 50 by default.
        rounds: On the host: how often every sample is measured; 5 by default.
        progress: On the host: told what is being done, how many passes over the samples are done,
            and how many there are; never while a time is taken.
        target: Under QEMU: the microcontroller; the bundle's own by default.
        cost_profile: Under QEMU: one of the target's, for times and energies; its first by default.
        num_counted: Under QEMU: how many samples also run every segment, for counts by layer; 3 by
            default.
        cmsis_nn: Under QEMU: CMSIS-NN's root; the extra ``mcu`` brings one.

    Raises:
        ArgumentError: ``on`` is unknown or does not take an argument that is given, or a number or
            shape does not fit.
        BundleError: The bundle is not whole, or holds nothing for the device.
        TargetError: The target is unknown, or cannot be emulated.
        EngineError: The engine, the compiler or QEMU is missing or failed.
    """
    if on not in ("host", "qemu"):
        raise ArgumentError(
            f"nothing can be profiled on {on!r}",
            wanted="on='host' or on='qemu'",
            given=f"{on=}",
        )
    for_host = {
        "engine": engine,
        "num_threads": num_threads,
        "warmup": warmup,
        "rounds": rounds,
        "progress": progress,
    }
    for_qemu = {
        "target": target,
        "cost_profile": cost_profile,
        "num_counted": num_counted,
        "cmsis_nn": cmsis_nn,
    }
    own, foreign, other = (
        (for_host, for_qemu, "qemu") if on == "host" else (for_qemu, for_host, "host")
    )
    for name, value in foreign.items():
        if value is not None:
            raise ArgumentError(
                f"a profile on {on} does not take {name}",
                wanted=f"on={other!r}",
                given=f"{name}={value!r}",
            )
    options: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    options |= {"operating_point": operating_point, "dataset": dataset}
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if on == "qemu":
        # Here, so that the host's profile needs nothing of the C backend.
        from edgeexit.profiling.qemu.bundle import profile_bundle_qemu

        return profile_bundle_qemu(opened, samples, labels, **options)
    return profile_host(opened, samples, labels, **options)
