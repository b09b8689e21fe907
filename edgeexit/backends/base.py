"""What a backend is, and which there are. A new one is a file and a row of ``BACKENDS``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from edgeexit.errors import ArgumentError
from edgeexit.types import Artifact, Segment

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


def load_backend(name: str) -> Backend:
    """Imports a backend.

    Raises:
        ArgumentError: There is no such backend.
    """
    if name not in BACKENDS:
        raise ArgumentError("unknown backend", wanted=", ".join(BACKENDS), given=repr(name))
    return cast(Backend, import_module(BACKENDS[name]))
