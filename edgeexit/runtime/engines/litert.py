"""TFLite files in LiteRT's interpreter, and in its predecessor ``tflite_runtime``.

The interpreter's public ``invoke`` refuses to run while anybody holds a view of its tensors, since
resizing could move them. Our tensors have a fixed shape and are never resized, so views are taken
once, after the tensors are allocated and the model has run once, and the wrapper underneath is
invoked directly: one call, no copy in or out. That wrapper is not public. Where it looks different,
the public calls are used on buffers of our own, with a warning, and ``Engine.fallback`` says so.

A single file is one subgraph of int8 tensors; file identifier, counts, shapes, types and
quantization are compared with the manifest before the first sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import EngineError
from edgeexit.runtime.engines.base import (
    Engine,
    Part,
    Stage,
    check_counts,
    check_identifier,
    check_tensor,
)


def load(
    name: str, module: ModuleType, parts: Sequence[Part], num_threads: int, *, reference: bool
) -> Engine:
    """Loads TFLite artifacts.

    Args:
        name: Of the engine.
        module: ``ai_edge_litert.interpreter`` or ``tflite_runtime.interpreter``.
        parts: One for each stage.
        num_threads: Threads of the interpreter.
        reference: Use the reference kernels instead of XNNPACK. They are TFLM's, but for LiteRT's
            FULLY_CONNECTED, which the compiler therefore does not write.

    Raises:
        EngineError: If an artifact cannot be loaded, or is not what the manifest says.
    """
    kinds = module.OpResolverType
    resolver = kinds.BUILTIN_REF if reference else kinds.AUTO
    stages, fallbacks = [], []
    for part in parts:
        check_identifier(part, b"TFL3")
        try:
            interpreter = module.Interpreter(
                model_content=part.content,
                num_threads=num_threads,
                experimental_op_resolver_type=resolver,
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as exc:
            raise EngineError(
                f"{name} could not load an artifact", given=exc, where=part.where
            ) from exc
        takes = _tensors(part, interpreter.get_input_details(), part.takes, "input")
        gives = _tensors(part, interpreter.get_output_details(), part.gives, "output")
        check_counts(part, len(takes), len(gives))
        stage = _direct_stage(name, part, interpreter, takes, gives)
        if stage is None:
            fallbacks.append(part.where)
            stage = _public_stage(interpreter, takes, gives)
        stages.append(stage)
    fallback = None
    if fallbacks:
        fallback = f"{module.__name__} has no wrapper as expected; its public calls are used"
        warnings.warn(f"{fallback}, which copy more ({name})", RuntimeWarning, stacklevel=2)
    return Engine(name, stages, num_threads, fallback)


def _tensors(part: Part, details: list[dict[str, Any]], specs: Any, role: str) -> list[int]:
    if len(details) == len(specs):
        for index, (detail, spec) in enumerate(zip(details, specs, strict=True)):
            at = f"{role} {index}"
            quantization = detail["quantization_parameters"]
            scales, zeros = quantization["scales"], quantization["zero_points"]
            if detail["dtype"] is not np.int8 or len(scales) != 1 or len(zeros) != 1:
                raise EngineError(
                    "an artifact is not what the manifest says",
                    wanted="int8 with one scale",
                    given=f"{np.dtype(detail['dtype'])} with {len(scales)} scales",
                    where=f"{part.where}, {at} ({spec.name})",
                    hint="compile the model again",
                )
            signature = detail.get("shape_signature", detail["shape"])
            shape = [int(size) for size in detail["shape"]]
            if any(int(size) < 0 for size in signature):
                shape = [int(size) for size in signature]
            check_tensor(part, spec, at, shape, float(scales[0]), int(zeros[0]))
    return [int(detail["index"]) for detail in details]


def _direct_stage(
    name: str, part: Part, interpreter: Any, takes: list[int], gives: list[int]
) -> Stage | None:
    """A stage on the interpreter's own memory, or ``None`` where that cannot be had."""
    try:
        interpreter.invoke()
    except (RuntimeError, ValueError) as exc:
        raise EngineError(f"{name} could not run an artifact", given=exc, where=part.where) from exc
    # A bound method holds the wrapper too: from here on the public invoke would refuse.
    invoke = getattr(getattr(interpreter, "_interpreter", None), "Invoke", None)
    if not callable(invoke):
        return None

    def views() -> list[NDArray[np.int8]]:
        return [interpreter.tensor(index)() for index in (*takes, *gives)]

    held = views()
    usable = all(view.flags.c_contiguous and view.flags.writeable for view in held)
    invoke()
    if not usable or [view.ctypes.data for view in held] != [v.ctypes.data for v in views()]:
        return None
    return Stage(tuple(held[: len(takes)]), tuple(held[len(takes) :]), invoke, interpreter)


def _public_stage(interpreter: Any, takes: list[int], gives: list[int]) -> Stage:
    """A stage on buffers of our own, which the interpreter's public calls fill and read."""
    buffers = {index: np.zeros_like(interpreter.get_tensor(index)) for index in (*takes, *gives)}
    return Stage(
        tuple(buffers[index] for index in takes),
        tuple(buffers[index] for index in gives),
        _public_invoke(interpreter, buffers, takes, gives),
        interpreter,
    )


def _public_invoke(
    interpreter: Any, buffers: dict[int, NDArray[np.int8]], takes: list[int], gives: list[int]
) -> Callable[[], object]:
    def invoke() -> None:
        for index in takes:
            interpreter.set_tensor(index, buffers[index])
        interpreter.invoke()
        for index in gives:
            np.copyto(buffers[index], interpreter.get_tensor(index))

    return invoke
