"""A ``.pte`` program for Cortex-M, interpreted with ExecuTorch's own Python form of its ops.

ExecuTorch's runtime for Python has no ``cortex_m`` kernels, and its runtime for microcontrollers
does not run here. But each of these ops is also defined in PyTorch, integer step for integer step,
and ExecuTorch's own tests hold the kernels to that. So the file itself is read and its calls are
made one after another, on one arena for each method, at the offsets that the file has planned: a
wrong plan gives wrong values here as it would on the device.

It is for checking and for choosing thresholds, and much slower than an engine that is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from edgeexit.errors import EngineError
from edgeexit.runtime.engines.base import (
    Engine,
    Part,
    Stage,
    check_counts,
    check_identifier,
    check_tensor,
)

_ALIGNMENT = 16
_WEIGHT, _DILATION = 1, 5
"""Positions among the arguments of a convolution."""


def load(name: str, module: ModuleType, parts: Sequence[Part], num_threads: int) -> Engine:
    """Loads the methods of a program.

    Args:
        name: Of the engine.
        module: ``executorch.backends.cortex_m.passes``, which defines the ops.
        parts: One for each stage.
        num_threads: PyTorch's, for the whole process.

    Raises:
        EngineError: If a program cannot be read, or is not what the manifest says.
    """
    import torch
    from executorch.exir._serialize._program import deserialize_pte_binary

    torch.set_num_threads(num_threads)
    programs: dict[str, Any] = {}
    stages = []
    for part in parts:
        check_identifier(part, b"ET12")
        path = part.artifact.path
        if path not in programs:
            try:
                programs[path] = deserialize_pte_binary(part.content).program
            except Exception as exc:  # of flatc, JSON, dataclasses: whatever the bytes provoke
                raise EngineError(
                    f"{name} could not load an artifact", given=exc, where=part.where
                ) from exc
        plans = {plan.name: plan for plan in programs[path].execution_plan}
        if part.artifact.method not in plans:
            raise EngineError(
                "a program lacks a method",
                wanted=part.artifact.method,
                given=sorted(plans),
                where=part.where,
            )
        method = _Method(plans[part.artifact.method], programs[path].constant_buffer, part)
        stages.append(method.stage(part))
    return Engine(name, stages, num_threads)


class _Method:
    """The values of one method, and its calls.

    ``values`` holds a tensor, a number, a list or None for each value of the plan.
    """

    def __init__(self, plan: Any, constants: Sequence[Any], part: Part) -> None:
        import torch

        self.plan = plan
        self.constants = constants
        self.arenas = [
            torch.zeros(math.ceil(size / _ALIGNMENT) * _ALIGNMENT, dtype=torch.uint8)
            for size in plan.non_const_buffer_sizes
        ]
        self.values: list[Any] = []
        for value in plan.values:
            self.values.append(self._value(value.val, part))
        self.calls = [
            self._call(instruction.instr_args, part)
            for chain in plan.chains
            for instruction in chain.instructions
        ]

    def _value(self, value: Any, part: Part) -> Any:
        from executorch.exir import schema

        if isinstance(value, schema.Tensor):
            return self._tensor(value, part)
        if isinstance(value, schema.Null):
            return None
        if isinstance(value, schema.Int):
            return value.int_val
        if isinstance(value, schema.Bool):
            return value.bool_val
        if isinstance(value, schema.Double):
            return float(value.double_val)
        # Lists name other values, which may come later: they are looked up when a call is made.
        if isinstance(value, schema.IntList | schema.TensorList | schema.OptionalTensorList):
            return _Names(tuple(value.items))
        raise EngineError(
            "a program has a value that no Cortex-M op takes",
            given=type(value).__name__,
            where=part.where,
        )

    def _tensor(self, tensor: Any, part: Part) -> Any:
        import torch

        dtypes = {0: torch.uint8, 1: torch.int8, 3: torch.int32}
        dtype = dtypes.get(int(tensor.scalar_type))
        in_order = list(tensor.dim_order) == list(range(len(tensor.sizes)))
        if dtype is None or not in_order:
            raise EngineError(
                "a program has a tensor that no Cortex-M op takes",
                wanted="int8, int32 or scratch, in the order of its dimensions",
                given=f"scalar type {tensor.scalar_type}, order {tensor.dim_order}",
                where=part.where,
            )
        count = math.prod(tensor.sizes)
        num_bytes = count * dtype.itemsize
        if tensor.data_buffer_idx:
            memory = torch.frombuffer(
                bytearray(self.constants[tensor.data_buffer_idx].storage), dtype=torch.uint8
            )
            offset = 0
        elif tensor.allocation_info is None:
            memory, offset = torch.zeros(num_bytes, dtype=torch.uint8), 0
        else:
            place = tensor.allocation_info
            memory = self.arenas[place.memory_id]
            offset = place.memory_offset_low + (place.memory_offset_high << 32)
        if offset + num_bytes > len(memory):
            raise EngineError(
                "a tensor of a program lies outside of its memory",
                wanted=f"at most {len(memory)} bytes",
                given=f"{num_bytes} bytes at {offset}",
                where=part.where,
            )
        return memory[offset : offset + num_bytes].view(dtype).reshape(tensor.sizes)

    def _call(self, call: Any, part: Part) -> Callable[[], object]:
        import torch
        from executorch.exir import schema

        if not isinstance(call, schema.KernelCall):
            raise EngineError(
                "a program has an instruction that is no call of a kernel",
                given=type(call).__name__,
                where=part.where,
            )
        operator = self.plan.operators[call.op_index]
        namespace, _, name = operator.name.partition("::")
        if namespace not in ("aten", "cortex_m") or operator.overload != "out":
            raise EngineError(
                "a program calls an op that is not of the Cortex-M dialect",
                given=f"{operator.name}.{operator.overload}",
                where=part.where,
            )
        packet = getattr(getattr(torch.ops, namespace), name)
        given = [self._argument(index) for index in call.args]
        positional, named = [], {}
        for argument, value in zip(packet.out._schema.arguments, given, strict=False):
            if argument.is_out:
                out = value
            elif argument.kwarg_only:
                named[argument.name] = value
            else:
                positional.append(value)

        if "conv2d" in name and any(step != 1 for step in positional[_DILATION]):
            # PyTorch has no such convolution of int32: the same with zeros between the weights.
            positional[_WEIGHT] = _dilated(positional[_WEIGHT], positional[_DILATION])
            positional[_DILATION] = [1, 1]

        def run() -> None:
            out.copy_(packet.default(*positional, **named))

        return run

    def _argument(self, index: int) -> Any:
        value = self.values[index]
        if isinstance(value, _Names):
            return [None if item < 0 else self.values[item] for item in value.items]
        return value

    def stage(self, part: Part) -> Stage:
        """The method as a stage, after it was compared with the manifest."""
        import torch

        check_counts(part, len(self.plan.inputs), len(self.plan.outputs))
        inputs = [self.values[index] for index in self.plan.inputs]
        outputs = [self.values[index] for index in self.plan.outputs]
        ends = [("input", inputs, part.takes), ("output", outputs, part.gives)]
        for role, tensors, specs in ends:
            for i, (tensor, spec) in enumerate(zip(tensors, specs, strict=True)):
                check_tensor(part, spec, f"{role} {i}", tuple(tensor.shape), None, None)
        takes = tuple(np.zeros(spec.shape, np.int8) for spec in part.takes)
        gives = tuple(np.zeros(spec.shape, np.int8) for spec in part.gives)

        def invoke() -> None:
            with torch.no_grad():
                for buffer, tensor in zip(takes, inputs, strict=True):
                    tensor.copy_(torch.from_numpy(buffer))
                for call in self.calls:
                    call()
            for array, tensor in zip(gives, outputs, strict=True):
                array[...] = tensor.numpy()

        return Stage(takes, gives, invoke, self)


def _dilated(weight: Any, steps: Sequence[int]) -> Any:
    """Weights [O, H, W, I] with zeros between them."""
    num_out, height, width, num_in = weight.shape
    wide = weight.new_zeros(
        num_out, steps[0] * (height - 1) + 1, steps[1] * (width - 1) + 1, num_in
    )
    wide[:, :: steps[0], :: steps[1]] = weight
    return wide


class _Names:
    """A list in a program: the numbers of its items."""

    def __init__(self, items: tuple[int, ...]) -> None:
        self.items = items
