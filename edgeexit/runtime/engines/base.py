"""What every engine looks like to the runtime: stages with buffers.

A stage is one segment, loaded. Its caller writes the input buffers, calls ``invoke`` and reads the
output buffers; the engine owns the memory. So a value goes from one segment to the next in one copy
of bytes, whatever the interpreter is, and a session can prepare those copies once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError, EngineError
from edgeexit.types import ArtifactSpec, TensorSpec


@dataclass(frozen=True)
class Stage:
    """A loaded segment.

    ``inputs`` and ``outputs`` are int8 buffers in the order of the segment's spec, the logits
    [1, num_classes] last among the outputs. They stay at one address as long as the stage lives,
    and only ``invoke`` changes an output. The model's own input is presented in the layout of the
    manifest (NHWC); every other buffer is in the artifact's own layout and contiguous. ``owner``
    keeps alive what the buffers belong to.
    """

    inputs: tuple[NDArray[np.int8], ...]
    outputs: tuple[NDArray[np.int8], ...]
    invoke: Callable[[], object]
    owner: object


@dataclass(frozen=True)
class Part:
    """One artifact with its bytes and with what the manifest promises about it.

    ``takes`` and ``gives`` are in the order of the artifact; ``input_index`` says which of
    ``takes`` is the model's own input, if any.
    """

    artifact: ArtifactSpec
    content: bytes
    takes: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]
    input_index: int | None

    @property
    def where(self) -> str:
        """How an error names this part."""
        method = "" if self.artifact.method is None else f", method {self.artifact.method}"
        return f"{self.artifact.path}{method}"


class Engine:
    """The stages of one bundle in one interpreter.

    Not safe for threads: stages share buffers with their callers.

    Args:
        name: As in ``ENGINES``.
        stages: One for each segment; one in all for the static network.
        num_threads: How many threads the interpreter may use.
        fallback: Why a slower way is used than the engine has, or ``None``.
    """

    def __init__(
        self, name: str, stages: Sequence[Stage], num_threads: int, fallback: str | None = None
    ) -> None:
        self.name = name
        self.stages = tuple(stages)
        self.num_threads = num_threads
        self.fallback = fallback

    def run(self, k: int, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
        """Runs segment ``k`` once.

        Args:
            k: Index of the segment.
            inputs: int8, in the order of ``SegmentSpec.inputs``, each of its stage's shape.

        Returns:
            Copies of the outputs in the order of ``SegmentSpec.outputs``, then the logits.

        Raises:
            ArgumentError: If an input is missing, or has another shape or dtype.
            EngineError: If the interpreter fails.
        """
        stage = self.stages[k]
        wanted = [list(buffer.shape) for buffer in stage.inputs]
        given = [list(value.shape) for value in inputs]
        if wanted != given or any(value.dtype != np.int8 for value in inputs):
            raise ArgumentError(
                "a segment was given other inputs than it takes",
                wanted=f"int8 {wanted}",
                given=f"{[str(value.dtype) for value in inputs]} {given}",
                where=f"segment {k}",
            )
        for buffer, value in zip(stage.inputs, inputs, strict=True):
            np.copyto(buffer, value)
        self.invoke(k)
        return [buffer.copy() for buffer in stage.outputs]

    def invoke(self, k: int) -> None:
        """Runs segment ``k`` on what its input buffers hold.

        Raises:
            EngineError: If the interpreter fails.
        """
        try:
            self.stages[k].invoke()
        except (RuntimeError, ValueError) as exc:
            raise self.failed(k, exc) from exc

    def failed(self, k: int, exc: Exception) -> EngineError:
        """The error to raise after ``exc`` came out of segment ``k``."""
        return EngineError(
            f"{self.name} failed while it ran a segment", given=exc, where=f"segment {k}"
        )


def check_tensor(
    part: Part, spec: TensorSpec, role: str, shape: Sequence[int], scale: float | None,
    zero_point: int | None, wanted_shape: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Compares what an interpreter says of a tensor with what the manifest says.

    Args:
        part: Where the tensor is.
        spec: What the manifest says.
        role: ``input 0`` and the like, for the error.
        shape: What the interpreter says.
        scale: Its quantization there, or ``None`` where the format does not carry it.
        zero_point: As ``scale``.
        wanted_shape: Where the artifact's layout is not that of ``spec``.

    Raises:
        EngineError: If they differ.
    """
    wanted = list(spec.shape if wanted_shape is None else wanted_shape)
    # The manifest has a double and the file has a float32.
    same_scale = scale is None or abs(scale - spec.scale) <= 1e-6 * spec.scale
    same_zero = zero_point is None or zero_point == spec.zero_point
    if list(shape) != wanted or not (same_scale and same_zero):
        quantized = "" if scale is None else f", scale {scale!r}, zero point {zero_point}"
        promised = "" if scale is None else f", scale {spec.scale!r}, zero point {spec.zero_point}"
        raise EngineError(
            "an artifact is not what the manifest says",
            wanted=f"int8 {wanted}{promised}",
            given=f"int8 {list(shape)}{quantized}",
            where=f"{part.where}, {role} ({spec.name})",
            hint="compile the model again",
        )


def check_counts(part: Part, num_inputs: int, num_outputs: int) -> None:
    """Compares the number of tensors at both ends of an artifact with the manifest.

    Raises:
        EngineError: If they differ.
    """
    wanted = (len(part.takes), len(part.gives))
    if (num_inputs, num_outputs) != wanted:
        raise EngineError(
            "an artifact is not what the manifest says",
            wanted=f"{wanted[0]} inputs and {wanted[1]} outputs",
            given=f"{num_inputs} inputs and {num_outputs} outputs",
            where=part.where,
            hint="compile the model again",
        )


def check_identifier(part: Part, identifier: bytes) -> None:
    """Checks that a file is a flatbuffer of the right kind, before a parser sees it.

    Raises:
        EngineError: If it is not.
    """
    content = part.content
    root = int.from_bytes(content[:4], "little")
    if len(content) < 16 or content[4:8] != identifier or not 8 <= root <= len(content) - 4:
        raise EngineError(
            "an artifact is not a file of its backend",
            wanted=f"a flatbuffer with the identifier {identifier.decode()}",
            given=f"{len(content)} bytes that start with {content[:8]!r}",
            where=part.where,
            hint="compile the model again",
        )
