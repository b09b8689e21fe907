"""What a backend is, and which there are. A new one is a file and a row of ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from edgeexit.errors import ArgumentError
from edgeexit.types import Artifact, Segment

if TYPE_CHECKING:
    from edgeexit.backends.c.kernels.base import Core

BACKENDS: dict[str, str] = {
    "tflite": "edgeexit.backends.tflite",
    "executorch": "edgeexit.backends.executorch",
}
"""Name -> module; it is imported when it is used, for what it imports is slow."""


class Backend(Protocol):
    """What such a module offers."""

    def lower(self, segments: Sequence[Segment], static: Segment) -> Sequence[Artifact]:
        """Turns all segments, and the static network, into files.

        Every artifact takes the int8 tensors of its segment's ``spec.inputs`` and returns those of
        ``spec.outputs`` followed by the logits, in this order. Equal segments give equal bytes, in
        any process.

        Raises:
            LoweringError: A segment has something that the format cannot say.
        """
        ...


@dataclass(frozen=True)
class Delegate:
    """Another form of what a backend makes, for other kernels.

    Args:
        backend: The backend whose format it is.
        module: It offers ``lower``, or ``for_core`` where files are made for one core.
        engine: The engine whose logits thresholds are chosen on.
        is_for_core: Files are made for one core.
    """

    backend: str
    module: str
    engine: str
    is_for_core: bool


DELEGATES: dict[str, Delegate] = {
    "xnnpack": Delegate("executorch", "edgeexit.backends.executorch", "executorch", False),
    "cortex-m": Delegate(
        "executorch", "edgeexit.backends.executorch_cortex_m", "executorch-cortex-m", True
    ),
}
"""Name -> what it is. A backend that has none here has one form only."""


def find_delegate(name: str) -> Delegate:
    """The row of a delegate.

    Raises:
        ArgumentError: There is no such delegate.
    """
    if name not in DELEGATES:
        raise ArgumentError("unknown delegate", wanted=", ".join(DELEGATES), given=repr(name))
    return DELEGATES[name]


def load_backend(name: str, delegate: str | None = None, core: Core | None = None) -> Backend:
    """Imports a backend.

    Args:
        name: A key of ``BACKENDS``.
        delegate: A key of ``DELEGATES``; it is for its own backend and changes no other.
        core: The core of the target, for a delegate that needs it.

    Raises:
        ArgumentError: There is no such backend or delegate, or it is for a core and none is given.
    """
    if name not in BACKENDS:
        raise ArgumentError("unknown backend", wanted=", ".join(BACKENDS), given=repr(name))
    found = None if delegate is None else find_delegate(delegate)
    if found is None or found.backend != name:
        return cast(Backend, import_module(BACKENDS[name]))
    module = import_module(found.module)
    if not found.is_for_core:
        return cast(Backend, module)
    if core is None:
        raise ArgumentError(
            f"the delegate {delegate!r} is for one core", wanted="the target's core", given=core
        )
    return cast(Backend, module.for_core(core))
