"""Writes a ``.tflite`` file: one subgraph of int8 ops.

The flatbuffer's classes are generated from TFLite's schema and come with ``ai-edge-litert``.
Nothing but the content decides the bytes: no time, no path, no name but those given. The data of
each constant starts at a multiple of 16 bytes, which microcontrollers that run the file in place
rely on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_ALIGNMENT = 16
_SCHEMA_VERSION = 3

# The oldest version of each op that has int8 kernels for what is written here.
_OP_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "BATCH_MATMUL": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 5,
    "GELU": 2,
    "HARD_SWISH": 1,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "PADV2": 2,
    "QUANTIZE": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESHAPE": 1,
    "SOFTMAX": 2,
    "SUB": 3,
    "TRANSPOSE": 2,
}

_DTYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


@dataclass(frozen=True, eq=False)
class FileTensor:
    """A tensor of the file.

    Args:
        name: Shown by tools.
        shape: In the file's own layout.
        dtype: int8 or int32.
        scales: None, one number, or one for each channel along ``axis``.
        zero_point: The same for all channels.
        axis: The channels' dimension.
        data: The values of a constant, of ``shape`` and ``dtype``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] = field(default=np.dtype(np.int8))
    scales: tuple[float, ...] | None = None
    zero_point: int = 0
    axis: int = 0
    data: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class FileOp:
    """An op of the file; ``options`` are the fields of its options table in TFLite's schema."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_table: str | None = None
    options: Mapping[str, int | float | bool] = field(default_factory=dict)


def to_bytes(
    tensors: Sequence[FileTensor],
    ops: Sequence[FileOp],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> bytes:
    """The content of a file whose subgraph runs ``ops`` in this order.

    Args:
        tensors: All tensors; the numbers in ``ops``, ``inputs`` and ``outputs`` are their indices.
        ops: The ops.
        inputs: What a caller sets, in this order.
        outputs: What a caller reads, in this order.
    """
    model = schema.ModelT()
    model.version = _SCHEMA_VERSION
    model.description = "edgeexit"
    codes = sorted({op.code for op in ops})
    model.operatorCodes = [_operator_code(code) for code in codes]
    model.buffers = [_Buffer(None)]  # by the format's rule the first one is empty
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = []
    for tensor in tensors:
        graph.tensors.append(_tensor(tensor, 0 if tensor.data is None else len(model.buffers)))
        if tensor.data is not None:
            model.buffers.append(_Buffer(tensor.data))
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    graph.operators = [_operator(op, codes.index(op.code)) for op in ops]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _operator_code(code: str) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode = getattr(schema.BuiltinOperator, code)
    # Readers of before 2020 look at this field, which has room for numbers up to 127 only.
    entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
    entry.version = _OP_VERSIONS[code]
    return entry


def _operator(op: FileOp, code_index: int) -> Any:
    entry = schema.OperatorT()
    entry.opcodeIndex = code_index
    entry.inputs, entry.outputs = list(op.inputs), list(op.outputs)
    if op.options_table is not None:
        entry.builtinOptionsType = getattr(schema.BuiltinOptions, op.options_table)
        entry.builtinOptions = getattr(schema, op.options_table + "T")()
        for name, value in op.options.items():
            if not hasattr(entry.builtinOptions, name):
                raise AttributeError(f"{op.options_table} has no field {name}")
            setattr(entry.builtinOptions, name, value)
    return entry


def _tensor(tensor: FileTensor, buffer: int) -> Any:
    entry = schema.TensorT()
    entry.name = tensor.name
    entry.shape = list(tensor.shape)
    entry.type = _DTYPES[tensor.dtype]
    entry.buffer = buffer
    if tensor.scales is not None:
        quantization = schema.QuantizationParametersT()
        quantization.scale = list(tensor.scales)
        quantization.zeroPoint = [tensor.zero_point] * len(tensor.scales)
        quantization.quantizedDimension = tensor.axis
        entry.quantization = quantization
    return entry


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer that is written whole and aligned; the generated class does neither."""

    def __init__(self, data: NDArray[Any] | None) -> None:
        super().__init__()
        if data is not None:
            self.content = data.astype(data.dtype.newbyteorder("<")).tobytes()
        else:
            self.content = b""

    def Pack(self, builder: Any) -> int:
        if self.content:
            size = len(self.content)
            builder.StartVector(1, size, _ALIGNMENT)
            builder.head = builder.Head() - size
            builder.Bytes[builder.Head() : builder.Head() + size] = self.content
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if self.content:
            schema.BufferAddData(builder, vector)
        packed: int = schema.BufferEnd(builder)
        return packed
