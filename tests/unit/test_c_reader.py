from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_ops import Builder, binary, cases, conv

from edgeexit.backends.c import tflite_schema
from edgeexit.backends.c.reader import MAX_RANK, read_model
from edgeexit.errors import LoweringError


def slots(table: str) -> dict[str, int]:
    """Field -> slot, from the code that the schema's compiler wrote."""
    starts = {
        name.removeprefix(f"{table}Add"): function
        for name, function in vars(schema).items()
        if name.startswith(f"{table}Add") and callable(function)
    }
    found = {}
    for name, function in starts.items():
        constants = [each for each in function.__code__.co_consts if isinstance(each, int)]
        found[re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()] = constants[0]
    return found


@pytest.mark.parametrize(
    ("ours", "table"),
    [
        (tflite_schema.Model, "Model"),
        (tflite_schema.OperatorCode, "OperatorCode"),
        (tflite_schema.SubGraph, "SubGraph"),
        (tflite_schema.Tensor, "Tensor"),
        (tflite_schema.Quantization, "QuantizationParameters"),
        (tflite_schema.Buffer, "Buffer"),
    ],
)
def test_slots_are_those_of_the_schema(ours: type, table: str) -> None:
    mine = {name: slot for name, slot in vars(ours).items() if name.isupper()}
    assert mine
    assert mine.items() <= slots(table).items()


def test_the_operators_slots_are_those_of_the_schema() -> None:
    theirs = slots("Operator")
    mine = tflite_schema.Operator
    assert theirs["OPCODE_INDEX"] == mine.OPCODE_INDEX
    assert theirs["BUILTIN_OPTIONS_TYPE"] == mine.OPTIONS_TYPE
    assert theirs["BUILTIN_OPTIONS"] == mine.OPTIONS
    assert (theirs["INPUTS"], theirs["OUTPUTS"]) == (mine.INPUTS, mine.OUTPUTS)


def test_options_are_those_of_the_schema() -> None:
    for options in tflite_schema.OPTIONS.values():
        theirs = slots(options.table)
        assert getattr(schema.BuiltinOptions, options.table) == options.number
        made = getattr(schema, f"{options.table}T")()
        for name, field in options.fields.items():
            # The schema spells stride_w as strideW.
            assert theirs[name.upper()] == field.slot, (options.table, name)
            camel = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
            assert getattr(made, camel) == field.default, (options.table, name)


def test_codes_and_types_are_those_of_the_schema() -> None:
    codes = {name: code for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    assert dict(zip(tflite_schema.OPERATOR_NAMES, range(len(codes)), strict=True)) == codes
    for code, dtype in tflite_schema.DTYPES.items():
        assert getattr(schema.TensorType, dtype.name.upper()) == code


def test_every_case_reads_as_the_generated_classes_do() -> None:
    for name, content in cases():
        model = read_model(content, name)
        graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
        assert [list(t.shape) for t in model.tensors] == [list(t.shape) for t in graph.tensors]
        assert [list(op.inputs) for op in model.operators] == [
            list(op.inputs) for op in graph.operators
        ]
        for mine, theirs in zip(model.tensors, graph.tensors, strict=True):
            scales = [] if theirs.quantization is None else list(theirs.quantization.scale)
            assert list(mine.scales) == scales
            assert mine.name == theirs.name.decode()
        for mine, theirs in zip(model.operators, graph.operators, strict=True):
            options = theirs.builtinOptions
            for field, value in mine.attributes.items():
                camel = re.sub(r"_(\w)", lambda match: match[1].upper(), field)
                assert value == getattr(options, camel)


def test_constants_are_read_and_cannot_be_changed() -> None:
    b = Builder()
    values = np.arange(-6, 6).astype(np.int8).reshape(3, 4)
    source = b.tensor((1, 4), 0.5, 3)
    weight = b.tensor((3, 4), [0.1, 0.2, 0.3], data=values)
    b.op("FULLY_CONNECTED", [source, weight, -1], [b.tensor((1, 3), 1.0)], "FullyConnectedOptions")
    model = read_model(b.finish([source], [2]), "x")
    tensor = model.tensors[weight]
    np.testing.assert_array_equal(tensor.data, values)
    assert tensor.data is not None
    assert not tensor.data.flags.writeable
    assert tensor.scales == tuple(float(np.float32(s)) for s in (0.1, 0.2, 0.3))
    assert tensor.zero_points == (0, 0, 0)
    assert model.operators[0].inputs == (0, 1, -1)
    assert (model.inputs, model.outputs) == ((0,), (2,))


# ---------------------------------------------------------------------- lies


def changed(change: Callable[[Any, Any], None], content: bytes | None = None) -> bytes:
    """A convolution's file with something changed in (model, graph) of the generated classes."""
    if content is None:
        content = conv(np.random.default_rng(0), (5, 5), (3, 4), (3, 3))
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _two_graphs(model: Any, graph: Any) -> None:
    model.subgraphs = [graph, graph]


def _tensor(number: int, **values: Any) -> Callable[[Any, Any], None]:
    def change(model: Any, graph: Any) -> None:
        for name, value in values.items():
            setattr(graph.tensors[number], name, value)

    return change


def _quantization(number: int, **values: Any) -> Callable[[Any, Any], None]:
    def change(model: Any, graph: Any) -> None:
        for name, value in values.items():
            setattr(graph.tensors[number].quantization, name, value)

    return change


def _op(**values: Any) -> Callable[[Any, Any], None]:
    def change(model: Any, graph: Any) -> None:
        for name, value in values.items():
            setattr(graph.operators[0], name, value)

    return change


def _outside(model: Any, graph: Any) -> None:
    model.buffers[1].data = None
    model.buffers[1].offset, model.buffers[1].size = 4096, 108


def _graph(**values: Any) -> Callable[[Any, Any], None]:
    def change(model: Any, graph: Any) -> None:
        for name, value in values.items():
            setattr(graph, name, value)

    return change


def _code(number: int) -> Callable[[Any, Any], None]:
    def change(model: Any, graph: Any) -> None:
        model.operatorCodes[0].builtinCode = number

    return change


def _version(model: Any, graph: Any) -> None:
    model.version = 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_version, "its schema is another"),
        (_two_graphs, "it has not one subgraph"),
        (_tensor(0, shape=[1, 5, -1, 3]), "a size is negative or unknown"),
        (_tensor(0, shape=[1] * (MAX_RANK + 1)), "too many dimensions"),
        (_tensor(0, shape=[2**20, 2**20]), "a tensor is too large"),
        (_tensor(1, shape=[4, 3, 3, 4]), "a constant has not the size of its shape"),
        (_tensor(0, type=schema.TensorType.STRING), "a type is not known"),
        (_tensor(1, type=schema.TensorType.INT4), "a type is not known"),
        (_tensor(0, buffer=77), "a buffer that is not there"),
        (_tensor(0, isVariable=True), "a tensor is a variable"),
        (_tensor(1, externalBuffer=3), "its data is in another file"),
        (_tensor(1, sparsity=schema.SparsityParametersT()), "a tensor is sparse"),
        (_outside, "a buffer lies outside the flatbuffer"),
        (_quantization(0, scale=[0.0]), "a scale is not a positive number"),
        (_quantization(0, scale=[float("nan")]), "a scale is not a positive number"),
        (_quantization(0, scale=[float("inf")]), "a scale is not a positive number"),
        (_quantization(0, zeroPoint=[128]), "a zero point is not a value of int8"),
        (_quantization(0, zeroPoint=[0, 0]), "scales and zero points differ in number"),
        (_quantization(1, scale=[0.1] * 3, zeroPoint=[0] * 3), "not that of the channels"),
        (_quantization(1, quantizedDimension=9), "not that of the channels"),
        (_op(opcodeIndex=5), "an op has a code that is not there"),
        (_op(inputs=[0, 1, 99]), "a tensor's number is not there"),
        (_op(inputs=[0, 1, -2]), "a tensor's number is not there"),
        (_op(outputs=[-1]), "a tensor's number is not there"),
        (_op(outputs=[1]), "a tensor has two origins"),
        (_op(outputs=[0]), "a tensor has two origins"),
        (_op(inputs=[3, 1, 2]), "an op reads what nothing before it makes"),
        (_op(builtinOptionsType=11), "an op has another op's options"),
        (_graph(inputs=[0, 0]), "a tensor has two origins"),
        (_graph(inputs=[1]), "a tensor has two origins"),
        (_graph(outputs=[50]), "a tensor's number is not there"),
        (_graph(inputs=[], operators=[]), "nothing makes an output"),
        (_code(9999), "an op is not in the schema"),
    ],
)
def test_a_lie_is_refused(change: Callable[[Any, Any], None], problem: str) -> None:
    with pytest.raises(LoweringError, match=problem) as info:
        read_model(changed(change), "segment 7")
    facts = info.value.facts()
    assert facts["where"].startswith("segment 7")
    assert {"wanted", "given", "try"} <= facts.keys()


def test_ops_out_of_order_are_refused() -> None:
    def turn(model: Any, graph: Any) -> None:
        graph.operators = graph.operators[::-1]

    content = binary(np.random.default_rng(0), "ADD", ((1, 4), (1, 4)))
    with pytest.raises(LoweringError, match="nothing before it makes") as info:
        read_model(changed(turn, content), "x")
    assert "op 0 (ADD)" in info.value.facts()["where"]


def test_many_tensors_that_share_a_long_vector_are_refused() -> None:
    # Built by hand: one vector of 4,000 scales, 1,000 tables that refer to it.
    builder = flatbuffers.Builder(1024)
    builder.StartVector(4, 4000, 4)
    for _ in range(4000):
        builder.PrependFloat32(0.5)
    scales = builder.EndVector()
    builder.StartVector(4, 1, 4)
    builder.PrependInt32(4000)
    shape = builder.EndVector()
    schema.QuantizationParametersStart(builder)
    schema.QuantizationParametersAddScale(builder, scales)
    quantization = schema.QuantizationParametersEnd(builder)
    tables = []
    for _ in range(1000):
        schema.TensorStart(builder)
        schema.TensorAddShape(builder, shape)
        schema.TensorAddType(builder, schema.TensorType.INT8)
        schema.TensorAddQuantization(builder, quantization)
        tables.append(schema.TensorEnd(builder))
    builder.StartVector(4, len(tables), 4)
    for table in tables:
        builder.PrependUOffsetTRelative(table)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.BufferStart(builder)
    empty = schema.BufferEnd(builder)
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(empty)
    buffers = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    with pytest.raises(LoweringError, match="its vectors are too long together"):
        read_model(bytes(builder.Output()), "x")


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\0\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + b"\0" * 64, b"PK\3\4" * 99]
)
def test_what_is_no_such_file_is_refused(content: bytes) -> None:
    with pytest.raises(LoweringError, match=r"\.tflite file is damaged"):
        read_model(content, "x")


def test_a_custom_op_keeps_its_name() -> None:
    def change(model: Any, graph: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = "Mine\n"
        graph.operators[0].builtinOptionsType = 0
        graph.operators[0].builtinOptions = None

    assert read_model(changed(change), "x").operators[0].kind == r"CUSTOM 'Mine\\n'"
