"""Reads a ``.tflite`` file that nobody vouches for.

Nothing here decides what can be compiled; it decides what is true: every index, size, type and
order that the passes after it rely on is checked, and each violation is one `LoweringError` that
names the tensor or op. Time and memory are bounded by the limits below and by those of
`flatbuffer`, whatever the file says.

Not read: metadata, signatures, descriptions. Refused: several subgraphs, variables, sparse tensors,
buffers outside the file, types that numpy does not have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends.c import tflite_schema as schema
from edgeexit.backends.c.flatbuffer import Source, Table
from edgeexit.backends.c.tflite_model import TfliteModel, TfliteOperator, TfliteTensor

MAX_TENSORS = 1 << 14
MAX_OPERATORS = 1 << 13
MAX_RANK = 6
MAX_TENSOR_ELEMENTS = 1 << 26
_MAX_NAME_BYTES = 256


def read_model(content: bytes, where: str) -> TfliteModel:
    """The model in ``content``; constants are views into it.

    Args:
        content: A whole file.
        where: Names the file or segment in errors.

    Raises:
        LoweringError: The file is damaged, lies, or uses one of the features that are not read.
    """
    source = Source(bytes(content), where)
    root = source.root(schema.IDENTIFIER)
    version = root.integer(schema.Model.VERSION, "uint32")
    if version != schema.SCHEMA_VERSION:
        source.refuse("its schema is another", schema.SCHEMA_VERSION, version)
    codes = root.tables(schema.Model.OPERATOR_CODES, "operator code", MAX_OPERATORS)
    buffers = root.tables(schema.Model.BUFFERS, "buffer", 2 * MAX_TENSORS)
    graphs = root.tables(schema.Model.SUBGRAPHS, "subgraph", MAX_OPERATORS)
    if len(graphs) != 1:
        source.refuse("it has not one subgraph", 1, len(graphs))
    graph = graphs[0]
    extents = [_extent(source, buffer) for buffer in buffers]
    tensors = tuple(
        _tensor(source, index, table, extents)
        for index, table in enumerate(graph.tables(schema.SubGraph.TENSORS, "tensor", MAX_TENSORS))
    )
    named = [_kind(table) for table in codes]
    operators = tuple(
        _operator(source, index, table, named)
        for index, table in enumerate(
            graph.tables(schema.SubGraph.OPERATORS, "operator", MAX_OPERATORS)
        )
    )
    model = TfliteModel(
        where,
        tensors,
        operators,
        _indices(graph.numbers(schema.SubGraph.INPUTS, "<i4", "inputs")),
        _indices(graph.numbers(schema.SubGraph.OUTPUTS, "<i4", "outputs")),
    )
    _check_order(source, model)
    return model


def _indices(numbers: NDArray[np.int32]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _extent(source: Source, buffer: Table) -> tuple[int, int] | None:
    """Start and length of a buffer's bytes; None where it has none."""
    outside = [
        buffer.integer(slot, "uint64") for slot in (schema.Buffer.OFFSET, schema.Buffer.SIZE)
    ]
    if any(outside):
        source.refuse(
            "a buffer lies outside the flatbuffer, which is for files of 2 GB and more",
            "offset and size of 0",
            outside,
            buffer.what,
        )
    extent = buffer.extent(schema.Buffer.DATA, buffer.what)
    return extent if extent is not None and extent[1] else None


def _tensor(
    source: Source, index: int, table: Table, extents: Sequence[tuple[int, int] | None]
) -> TfliteTensor:
    name = table.text(schema.Tensor.NAME, _MAX_NAME_BYTES)
    what = f"tensor {index} {name!r}"

    def refuse(problem: str, wanted: object, given: object) -> NoReturn:
        source.refuse(problem, wanted, given, what)

    shape = tuple(
        int(size) for size in table.numbers(schema.Tensor.SHAPE, "<i4", "shape")[: MAX_RANK + 1]
    )
    if len(shape) > MAX_RANK:
        refuse("a tensor has too many dimensions", f"at most {MAX_RANK}", f"{len(shape)} or more")
    if min(shape, default=0) < 0:
        refuse("a size is negative or unknown", "static sizes", list(shape))
    if math.prod(shape) > MAX_TENSOR_ELEMENTS:
        refuse("a tensor is too large", f"at most {MAX_TENSOR_ELEMENTS} elements", list(shape))
    code = table.integer(schema.Tensor.TYPE, "int8")
    dtype = schema.DTYPES.get(code)
    if dtype is None:
        refuse("a type is not known", ", ".join(d.name for d in schema.DTYPES.values()), code)
    if table.integer(schema.Tensor.IS_VARIABLE, "bool"):
        refuse("a tensor is a variable", "tensors that are written once", "is_variable=True")
    if table.place(schema.Tensor.SPARSITY, 4) is not None:
        refuse("a tensor is sparse", "dense tensors", "sparsity")
    if table.integer(schema.Tensor.EXTERNAL_BUFFER, "uint32"):
        refuse("its data is in another file", "data in this file", "external_buffer")
    number = table.integer(schema.Tensor.BUFFER, "uint32")
    if number >= len(extents):
        refuse("a tensor has a buffer that is not there", f"at most {len(extents) - 1}", number)
    scales, zero_points, axis = _quantization(table, what, shape, dtype)
    data = None
    extent = extents[number]
    if extent is not None:
        num_bytes = math.prod(shape) * dtype.itemsize
        if extent[1] != num_bytes:
            refuse(
                "a constant has not the size of its shape",
                f"{num_bytes} bytes for {dtype.name} {list(shape)}",
                f"{extent[1]} bytes",
            )
        data = np.frombuffer(source.content, dtype, math.prod(shape), extent[0]).reshape(shape)
    return TfliteTensor(index, name, shape, dtype, scales, zero_points, axis, data)


def _quantization(
    tensor: Table, what: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[tuple[float, ...], tuple[int, ...], int]:
    """Scales, zero points and the channels' dimension; empty where there are none."""
    source = tensor.source
    table = tensor.table(schema.Tensor.QUANTIZATION, f"{what}, quantization")
    if table is None:
        return (), (), 0
    if table.integer(schema.Quantization.DETAILS_TYPE, "uint8"):
        source.refuse("a tensor is quantized in a way of its own", "scales", "details", what)
    scales = table.numbers(schema.Quantization.SCALE, "<f4", "scales")
    zero_points = table.numbers(schema.Quantization.ZERO_POINT, "<i8", "zero points")
    axis = table.integer(schema.Quantization.QUANTIZED_DIMENSION, "int32")
    if not len(scales) or dtype.kind not in "iu":
        return (), (), 0
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        worst = scales[~(np.isfinite(scales) & (scales > 0))][0]
        source.refuse("a scale is not a positive number", "finite, > 0", float(worst), what)
    if len(zero_points) not in (0, len(scales)):
        source.refuse(
            "scales and zero points differ in number", len(scales), len(zero_points), what
        )
    limits = np.iinfo(dtype)
    for zero_point in (int(value) for value in zero_points):
        if not limits.min <= zero_point <= limits.max:
            source.refuse(
                f"a zero point is not a value of {dtype.name}",
                f"{limits.min} to {limits.max}",
                zero_point,
                what,
            )
    if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
        source.refuse(
            "the number of scales is not that of the channels",
            f"1, or the size along axis {axis} of {list(shape)}",
            len(scales),
            what,
        )
    return (
        tuple(float(scale) for scale in scales),
        tuple(int(zero) for zero in zero_points) or (0,) * len(scales),
        axis if len(scales) > 1 else 0,
    )


def _kind(code: Table) -> tuple[str, int]:
    """Name and version of an operator code."""
    # Files of before 2020 have the first field only; later ones have 127 there for large codes.
    number = max(
        code.integer(schema.OperatorCode.DEPRECATED_BUILTIN_CODE, "int8"),
        code.integer(schema.OperatorCode.BUILTIN_CODE, "int32"),
    )
    version = code.integer(schema.OperatorCode.VERSION, "int32", 1)
    if not 0 <= number < len(schema.OPERATOR_NAMES):
        code.source.refuse(
            "an op is not in the schema",
            f"0 to {len(schema.OPERATOR_NAMES) - 1}",
            number,
            code.what,
        )
    name = schema.OPERATOR_NAMES[number]
    if name == "CUSTOM":
        name += f" {code.text(schema.OperatorCode.CUSTOM_CODE, _MAX_NAME_BYTES)!r}"
    return name, version


def _operator(
    source: Source, index: int, table: Table, codes: Sequence[tuple[str, int]]
) -> TfliteOperator:
    code = table.integer(schema.Operator.OPCODE_INDEX, "uint32")
    if code >= len(codes):
        source.refuse(
            "an op has a code that is not there", f"at most {len(codes) - 1}", code, table.what
        )
    kind, version = codes[code]
    what = f"op {index} ({kind})"
    table.what = what
    attributes: dict[str, int | float] = {}
    options = schema.OPTIONS.get(kind)
    if options is not None:
        number = table.integer(schema.Operator.OPTIONS_TYPE, "uint8")
        if number not in (0, options.number):
            source.refuse(
                "an op has another op's options",
                f"{options.number} ({options.table})",
                number,
                what,
            )
        fields = table.table(schema.Operator.OPTIONS, f"{what}, options") if number else None
        for name, field in options.fields.items():
            attributes[name] = (
                field.default
                if fields is None
                else fields.scalar(field.slot, field.kind, field.default)
            )
    return TfliteOperator(
        index,
        kind,
        version,
        _indices(table.numbers(schema.Operator.INPUTS, "<i4", "inputs")),
        _indices(table.numbers(schema.Operator.OUTPUTS, "<i4", "outputs")),
        attributes,
    )


def _check_order(source: Source, model: TfliteModel) -> None:
    """That each tensor has one origin, and that it lies before everybody who reads it."""
    known = {tensor.index for tensor in model.tensors if tensor.data is not None}
    # A constant without elements has no bytes; nobody else could make it.
    empty = {tensor.index for tensor in model.tensors if not tensor.num_elements}

    def check_index(index: int, what: str, lowest: int = 0) -> None:
        if not lowest <= index < len(model.tensors):
            source.refuse(
                "a tensor's number is not there",
                f"{lowest} to {len(model.tensors) - 1}",
                index,
                what,
            )

    def make(index: int, what: str) -> None:
        if index in known:
            source.refuse("a tensor has two origins", "one", str(model.tensors[index]), what)
        known.add(index)

    for index in model.inputs:
        check_index(index, "inputs of the model")
        make(index, "inputs of the model")
    for op in model.operators:
        for index in op.inputs:
            check_index(index, str(op), -1)
            if index >= 0 and index not in known and index not in empty:
                source.refuse(
                    "an op reads what nothing before it makes",
                    "a constant, an input, or the result of an earlier op",
                    str(model.tensors[index]),
                    str(op),
                )
        for index in op.outputs:
            check_index(index, str(op))
            make(index, str(op))
    for index in model.outputs:
        check_index(index, "outputs of the model")
        if index not in known:
            source.refuse(
                "nothing makes an output",
                "the result of an op",
                str(model.tensors[index]),
                "outputs",
            )
