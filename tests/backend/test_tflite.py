"""Lowering to TFLite: the ops that come out, and what LiteRT's interpreter makes of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from networks import IMAGE, NETWORKS, PREPROCESSING, Exits, int8_images, network, pieces, samples
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.backends.integer_ops import set_weight_scales
from edgeexit.backends.tflite import lower
from edgeexit.compiler import verify
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.compiler.samples import input_spec
from edgeexit.errors import LoweringError, VerificationError
from edgeexit.types import Artifact

_CODES = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}


def graph(content: bytes):  # type: ignore[no-untyped-def]
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (main,) = model.subgraphs
    return model, main


def op_names(content: bytes) -> list[str]:
    model, main = graph(content)
    return [_CODES[model.operatorCodes[op.opcodeIndex].builtinCode] for op in main.operators]


def lowered(name: str) -> tuple[Artifact, ...]:
    made = pieces(name)
    return tuple(lower(made.segments, made.static))


@pytest.mark.parametrize("engine", ["litert", "litert_reference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_artifacts_agree_with_pytorch(name: str, engine: str) -> None:
    made = pieces(name)
    spec = input_spec(made.static.spec.inputs[0], samples(), PREPROCESSING)
    differences = verify.lowered(lowered(name), made.segments, engine, samples(16), spec)
    assert differences["static"] == verify.Difference(0, 0.0)
    # Tighter than the compiler's own limits: these networks are small.
    assert max(difference.max_lsb for difference in differences.values()) <= 4
    assert max(difference.mean_lsb for difference in differences.values()) <= 0.25
    assert len(differences) == sum(len(s.spec.outputs) + 1 for s in made.segments) + 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "residual",
            [
                "CONV_2D CONV_2D CONV_2D ADD PAD CONV_2D MEAN CONV_2D RESHAPE",
                "PAD CONV_2D CONV_2D ADD PAD CONV_2D MEAN CONV_2D RESHAPE",
                "PAD CONV_2D CONV_2D ADD PAD CONV_2D MEAN CONV_2D RESHAPE",
            ],
        ),
        (
            "dense",
            [
                "CONV_2D PADV2 MAX_POOL_2D DEPTHWISE_CONV_2D CONV_2D CONCATENATION MEAN "
                "CONV_2D RESHAPE",
                "DEPTHWISE_CONV_2D CONV_2D CONCATENATION MEAN CONV_2D RESHAPE",
                "DEPTHWISE_CONV_2D CONV_2D CONCATENATION MEAN CONV_2D RESHAPE",
            ],
        ),
        (
            "mobile",
            [
                "PAD CONV_2D HARD_SWISH MEAN CONV_2D RESHAPE",
                "DEPTHWISE_CONV_2D MEAN CONV_2D CONV_2D ADD MUL MUL CONV_2D ADD MEAN "
                "CONV_2D RESHAPE",
            ],
        ),
        (
            "assorted",
            [
                "CONV_2D PAD RELU PAD AVERAGE_POOL_2D CONV_2D MAX_POOL_2D MUL ADD CONV_2D RESHAPE",
                "RELU6 SUB DEPTHWISE_CONV_2D RESHAPE CONV_2D RESHAPE SOFTMAX MEAN MUL ADD",
            ],
        ),
    ],
)
def test_ops(name: str, wanted: list[str]) -> None:
    assert [" ".join(op_names(a.content)) for a in lowered(name)[:-1]] == wanted


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_throughout_and_no_transpose(name: str) -> None:
    for artifact in lowered(name):
        _, main = graph(artifact.content)
        for tensor in main.tensors:
            is_number = tensor.buffer != 0 and tensor.type == schema.TensorType.INT32
            assert is_number or tensor.type == schema.TensorType.INT8, tensor.name
        assert "TRANSPOSE" not in op_names(artifact.content)
        assert "QUANTIZE" not in op_names(artifact.content)


@pytest.mark.parametrize("name", ["two_scale", "ensemble"])
def test_ends_are_in_the_order_of_the_spec(name: str) -> None:
    made = pieces(name)
    artifacts = lowered(name)
    assert [a.path for a in artifacts[:2]] == ["segments/0.tflite", "segments/1.tflite"]
    assert artifacts[-1].path == "segments/static.tflite"
    assert artifacts[-1].parts == ((None, None),)
    for piece, artifact in zip((*made.segments, made.static), artifacts, strict=True):
        interpreter = Interpreter(model_content=artifact.content)
        ends = (
            (piece.spec.inputs, interpreter.get_input_details()),
            ((*piece.spec.outputs, piece.spec.logits), interpreter.get_output_details()),
        )
        for specs, details in ends:
            assert len(specs) == len(details)
            for spec, detail in zip(specs, details, strict=True):
                assert tuple(detail["shape"]) == spec.shape
                assert detail["dtype"] == np.int8
                assert detail["quantization"] == (np.float32(spec.scale), spec.zero_point)


def test_the_same_bytes_and_none_of_the_users_names() -> None:
    first, second = lowered("residual"), lowered("residual")
    assert [a.content for a in first] == [a.content for a in second]
    for artifact in first:
        for word in (b"Residual", b"networks", b"/", b"torch"):
            strings = b" ".join(t.name for t in graph(artifact.content)[1].tensors)
            assert word not in strings


def test_constants_are_aligned() -> None:
    content = lowered("residual")[0].content
    model = schema.Model.GetRootAs(content, 0)
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if not isinstance(data, int):
            offset = (
                data.__array_interface__["data"][0]
                - np.frombuffer(content, np.uint8).__array_interface__["data"][0]
            )
            assert offset % 16 == 0


@pytest.mark.parametrize(
    ("place", "where"),
    [(1, "litert, segment 1, relu_3"), (-1, "litert, the network without early exits")],
)
def test_the_comparer_notices_a_changed_artifact(place: int, where: str) -> None:
    made = pieces("residual")
    spec = input_spec(made.static.spec.inputs[0], samples(), PREPROCESSING)
    artifacts = list(lowered("residual"))
    content = artifacts[place].content
    model, main = graph(content)
    (weight,) = (t for t in main.tensors if list(t.shape) == [16, 3, 3, 8])
    data = model.buffers[weight.buffer].data
    changed = bytearray(content)
    start = changed.find(data.tobytes())
    changed[start : start + len(data)] = bytes((256 - byte) % 256 for byte in data.tolist())
    artifacts[place] = replace(artifacts[place], content=bytes(changed))
    with pytest.raises(VerificationError, match="an artifact disagrees with") as error:
        verify.lowered(artifacts, made.segments, "litert", samples(4), spec)
    assert error.value.where == where


class Single(Exits):
    num_exits = 1

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.body(x),)


class Tail(nn.Module):
    """A module, then what turns its map into logits."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.linear = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(x).mean((2, 3)))


def made_of(body: nn.Module) -> tuple[list[str], NDArray[np.int32]]:
    """Op names of a one-exit network, and its differences from PyTorch in LSB."""
    exported = canonicalize(export(Single(body), IMAGE))  # type: ignore[arg-type]
    graph_ = quantize(
        exported, samples(16), PREPROCESSING, num_range_samples=16, num_compared_samples=4
    )
    segments, static = partition(graph_)
    (artifact, _) = lower(segments, static)
    interpreter = Interpreter(model_content=artifact.content)
    interpreter.allocate_tensors()
    inputs = int8_images(16)
    (wanted,) = segments[0].module(inputs)
    rows = []
    for image in inputs.permute(0, 2, 3, 1).contiguous().numpy():
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    difference = np.concatenate(rows).astype(np.int32) - wanted.numpy()
    return op_names(artifact.content), difference


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "wanted"),
    [
        (3, 1, 1, 1, ["CONV_2D"]),
        (3, 1, 0, 1, ["CONV_2D"]),
        (3, 2, 1, 1, ["PAD", "CONV_2D"]),  # SAME would pad at the far side only
        (3, 3, 1, 1, ["CONV_2D"]),  # 16 = 5 * 3 + 1: SAME pads one at both sides
        (5, 1, 2, 1, ["CONV_2D"]),
        (3, 1, 2, 2, ["CONV_2D"]),
        (1, 2, 0, 1, ["CONV_2D"]),
        (4, 2, 1, 1, ["CONV_2D"]),
        (3, 1, 2, 1, ["PAD", "CONV_2D"]),
    ],
)
def test_padding_of_convolutions(
    kernel: int, stride: int, padding: int, dilation: int, wanted: list[str]
) -> None:
    conv = nn.Conv2d(3, 8, kernel, stride, padding, dilation)
    names, difference = made_of(Tail(conv, 8))
    assert names == [*wanted, "MEAN", "CONV_2D", "RESHAPE"]
    assert np.abs(difference).max() <= 1


class Tokens(nn.Module):
    """[N, C, H, W] -> mean over H * W tokens, after a linear layer for each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).transpose(1, 2)).mean(1)


class Shuffled(nn.Module):
    """Channels in another order: here a TRANSPOSE is what the network asks for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 3, 2, 128).transpose(1, 2).reshape(1, 6, 8, 16)


class Attends(nn.Module):
    """Rows of the map look at each other; its layout stays that of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x) + x


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            Attends(),
            "MUL TRANSPOSE TRANSPOSE BATCH_MATMUL SOFTMAX TRANSPOSE BATCH_MATMUL TRANSPOSE ADD",
        ),
        (nn.GELU(), "GELU"),
        (nn.GELU("tanh"), "GELU"),
        (nn.Sigmoid(), "LOGISTIC"),
        (nn.SiLU(), "LOGISTIC MUL"),
        (nn.Softmax(3), "TRANSPOSE SOFTMAX TRANSPOSE"),
    ],
)
def test_ops_of_transformers(body: nn.Module, wanted: str) -> None:
    names, difference = made_of(Tail(body, 3))
    assert " ".join(names) == f"{wanted} MEAN CONV_2D RESHAPE"
    assert np.abs(difference).max() <= 2


class EachPixel(nn.Module):
    """A linear layer over the channels of a map, as in ConvNeXt, or over its width."""

    def __init__(self, over_channels: bool) -> None:
        super().__init__()
        self.over_channels = over_channels
        self.linear = nn.Linear(3 if over_channels else 8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, (1, 2))  # not a square
        if self.over_channels:
            return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.linear(x)


@pytest.mark.parametrize("over_channels", [True, False])
def test_a_linear_layer_on_maps(over_channels: bool) -> None:
    _, difference = made_of(Tail(EachPixel(over_channels), 6 if over_channels else 3))
    assert np.abs(difference).max() <= 1


def test_tokens_need_no_transpose() -> None:
    names, difference = made_of(Tokens())
    assert names == ["RESHAPE", "CONV_2D", "RESHAPE", "MEAN"]
    assert np.abs(difference).max() <= 1


def test_an_order_that_the_network_asks_for() -> None:
    names, difference = made_of(Tail(Shuffled(), 6))
    assert "TRANSPOSE" in names
    assert np.abs(difference).max() <= 1


def test_flattened_maps_need_no_transpose() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten(), nn.Linear(4 * 7 * 7, 5))
    names, difference = made_of(body)
    assert names == ["CONV_2D", "CONV_2D", "RESHAPE"]
    assert np.abs(difference).max() <= 1


def test_layers_without_bias() -> None:
    """LiteRT refuses a convolution without one."""
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 5 * 5, 5, bias=False),
    )
    names, difference = made_of(body)
    assert names == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "RESHAPE"]
    assert np.abs(difference).max() <= 1


def test_a_bias_that_does_not_fit_is_an_error() -> None:
    made = pieces("residual")
    changed = copy.deepcopy(made.static.module)
    node = next(n for n in changed.graph.nodes if str(n.target) == "aten.linear.default")
    set_weight_scales(changed, node.args[1], torch.tensor([1e-12]))
    with pytest.raises(LoweringError, match="bias does not fit 32 bits"):
        lower((), replace(made.static, module=changed))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_op_is_rounded_differently_from_one_interpreter_to_the_next(name: str) -> None:
    for artifact in lowered(name):
        assert "FULLY_CONNECTED" not in op_names(artifact.content)


def test_networks_differ_by_their_weights_only() -> None:
    # Same shapes, other seed: the files have the same size and not the same bytes.
    other = canonicalize(export(network("ensemble", seed=1), IMAGE))
    graph_ = quantize(other, samples(8), PREPROCESSING, num_range_samples=8, num_compared_samples=4)
    (first, *_), (second, *_) = lower(*partition(graph_)), lowered("ensemble")
    assert len(first.content) == len(second.content)
    assert first.content != second.content


class Twice(nn.Module):
    """One convolution, applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.relu(self.conv(x))))


def test_a_layer_that_is_applied_twice() -> None:
    names, difference = made_of(Tail(Twice(), 3))
    assert names == ["CONV_2D", "CONV_2D", "MEAN", "CONV_2D", "RESHAPE"]
    assert np.abs(difference).max() <= 1
