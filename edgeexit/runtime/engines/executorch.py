"""A ``.pte`` program in ExecuTorch's own Python runtime, one method for each segment.

Methods of one program share their planned memory, so what one method returned may be overwritten
when the next one runs. Each stage therefore owns its buffers: inputs are tensors over them, and
outputs are copied out of what a method returned before anything else can run.

The format carries shapes and types of a method's ends and no scales, so those are not compared.
PyTorch's layout is NCHW: the model's raw input is presented as NHWC over NCHW memory, and what
goes from one method to the next stays as it is. ExecuTorch's thread pool belongs to the process:
the last engine that was loaded sets its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from edgeexit.types import TensorSpec

_INT8 = 1
"""The number of int8 among PyTorch's scalar types."""


def load(name: str, module: ModuleType, parts: Sequence[Part], num_threads: int) -> Engine:
    """Loads the methods of a program.

    Args:
        name: Of the engine.
        module: ``executorch.runtime``.
        parts: One for each stage; parts of one file share one program.
        num_threads: Threads of ExecuTorch's pool, for the whole process.

    Raises:
        EngineError: If a program cannot be loaded, or is not what the manifest says.
    """
    _set_threads(num_threads)
    programs: dict[str, Any] = {}
    stages = []
    for part in parts:
        check_identifier(part, b"ET12")
        try:
            if part.artifact.path not in programs:
                programs[part.artifact.path] = module.Runtime.get().load_program(part.content)
            program = programs[part.artifact.path]
            if part.artifact.method not in program.method_names:
                raise EngineError(
                    "a program lacks a method",
                    wanted=part.artifact.method,
                    given=sorted(program.method_names),
                    where=part.where,
                )
            method = program.load_method(part.artifact.method)
        except (RuntimeError, ValueError) as exc:
            raise EngineError(
                f"{name} could not load an artifact", given=exc, where=part.where
            ) from exc
        _check_method(part, method.metadata)
        stages.append(_stage(part, program, method))
    return Engine(name, stages, num_threads)


def _set_threads(num_threads: int) -> None:
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != num_threads:
        portable_lib._unsafe_reset_threadpool(num_threads)


def _own_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of a tensor in NCHW, which is the layout of these artifacts."""
    if spec.layout != "NHWC":
        return spec.shape
    n, h, w, c = spec.shape
    return (n, c, h, w)


def _check_method(part: Part, meta: Any) -> None:
    check_counts(part, meta.num_inputs(), meta.num_outputs())
    ends = [
        (f"input {i}", spec, meta.input_tensor_meta(i)) for i, spec in enumerate(part.takes)
    ] + [(f"output {i}", spec, meta.output_tensor_meta(i)) for i, spec in enumerate(part.gives)]
    for role, spec, tensor in ends:
        if tensor.dtype() != _INT8:
            raise EngineError(
                "an artifact is not what the manifest says",
                wanted="int8",
                given=f"PyTorch's scalar type {tensor.dtype()}",
                where=f"{part.where}, {role} ({spec.name})",
                hint="compile the model again",
            )
        check_tensor(part, spec, role, tensor.sizes(), None, None, _own_shape(spec))


def _stage(part: Part, program: Any, method: Any) -> Stage:
    takes = [np.zeros(_own_shape(spec), np.int8) for spec in part.takes]
    gives = tuple(np.zeros(_own_shape(spec), np.int8) for spec in part.gives)
    shown = [
        buffer.transpose(0, 2, 3, 1)
        if index == part.input_index and part.takes[index].layout == "NHWC"
        else buffer
        for index, buffer in enumerate(takes)
    ]
    return Stage(tuple(shown), gives, _invoke(method, takes, gives), (program, method))


def _invoke(
    method: Any, takes: list[NDArray[np.int8]], gives: tuple[NDArray[np.int8], ...]
) -> Callable[[], object]:
    import torch

    tensors = [torch.from_numpy(buffer) for buffer in takes]
    # The public call clones each output before we copy it. The one below it, which need not, is not
    # public: where it is missing, nothing but time is lost.
    call = getattr(getattr(method, "_method", None), "call", None)
    execute = partial(call, clone_outputs=False) if callable(call) else method.execute

    def invoke() -> None:
        for buffer, value in zip(gives, execute(tensors), strict=True):
            buffer[...] = value.numpy()

    return invoke
