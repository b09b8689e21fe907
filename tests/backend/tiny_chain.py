"""A chain of three segments that numpy can compute, as TFLite files and as an ExecuTorch program.

Every scale is 1 and every zero point 0, so that an int8 layer is an integer product with its ends
cut off, the same in every kernel. Images are 2 x 2 with two channels, and there are four classes.

    segment 0   image -> near, far        logits from near
    segment 1   near -> middle            logits from middle
    segment 2   far, middle               logits from both: one value skips a segment

The order of segment 2's inputs is not the order in which they are made.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.runtime.decision import exp_table
from edgeexit.runtime.manifest import SCHEMA_VERSION, to_json
from edgeexit.types import (
    ArtifactSpec,
    DecisionSpec,
    FileSpec,
    InputSpec,
    Manifest,
    OperatingPoint,
    Rule,
    SegmentSpec,
    TensorSpec,
)

ALWAYS = 2**32 - 1
CLASSES = 4
SHAPE = (1, 2, 2, 2)

_rng = np.random.default_rng(11)
# Output channels x input channels of a 1 x 1 convolution.
NEAR, FAR, MIDDLE = (_rng.integers(-1, 2, (2, 2)).astype(np.int8) for _ in range(3))
# Classes x flattened NHWC values.
HEADS = [_rng.integers(-1, 2, (CLASSES, n)).astype(np.int8) for n in (8, 8, 16)]


def images(num: int) -> np.ndarray:
    """uint8 [num, 2, 2, 2]; small enough around 128 that few sums are cut off."""
    return np.random.default_rng(12).integers(120, 137, (num, 2, 2, 2), dtype=np.uint8)


def expected_logits(raw: np.ndarray) -> np.ndarray:
    """int8 [num, 3, 4] by numpy."""

    def conv(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.clip(x @ weights.T.astype(int), -128, 127)

    def head(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.clip(x.reshape(len(x), -1) @ weights.T.astype(int), -128, 127)

    image = raw.astype(int) - 128
    near, far = conv(image, NEAR), conv(image, FAR)
    middle = conv(near, MIDDLE)
    both = np.concatenate([far, middle], axis=3)
    logits = [head(x, w) for x, w in zip((near, middle, both), HEADS, strict=True)]
    return np.stack(logits, axis=1).astype(np.int8)


# ------------------------------------------------------------------ TFLite


def tflite_files() -> dict[str, bytes]:
    """Path -> file: three segments and the static network."""
    conv, head, cat = "CONV_2D", "FULLY_CONNECTED", "CONCATENATION"
    two = [(conv, ["image"], "near", NEAR), (conv, ["image"], "far", FAR)]
    middle = (conv, ["near"], "middle", MIDDLE)
    last = [(cat, ["far", "middle"], "both", None), (head, ["both"], "logits2", HEADS[2])]
    return {
        "segments/0.tflite": tflite(
            ["image"], [*two, (head, ["near"], "logits0", HEADS[0])], ["near", "far", "logits0"]
        ),
        "segments/1.tflite": tflite(
            ["near"], [middle, (head, ["middle"], "logits1", HEADS[1])], ["middle", "logits1"]
        ),
        "segments/2.tflite": tflite(["far", "middle"], last, ["logits2"]),
        "static.tflite": tflite(["image"], [*two, middle, *last], ["logits2"]),
    }


def tflite(
    takes: Sequence[str],
    ops: Sequence[tuple[str, list[str], str, np.ndarray | None]],
    gives: Sequence[str],
    *,
    scale: float = 1.0,
    dtype: str = "INT8",
) -> bytes:
    """A file of 1 x 1 convolutions, fully connected layers and concatenations of channels."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    model, graph = s.ModelT(), s.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [s.BufferT()]
    model.operatorCodes, graph.tensors, graph.operators = [], [], []
    places: dict[str, int] = {}

    def add(name: str, shape: Sequence[int], kind: str, data: np.ndarray | None = None) -> int:
        tensor, tensor.quantization = s.TensorT(), s.QuantizationParametersT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), getattr(s.TensorType, kind)
        tensor.quantization.scale = [1.0 if data is not None else scale]
        tensor.quantization.zeroPoint = [0]
        if data is not None:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
        places[name] = len(graph.tensors) - 1
        return places[name]

    for name in takes:
        add(name, SHAPE, dtype)
    for kind, inputs, output, weights in ops:
        op, code = s.OperatorT(), s.OperatorCodeT()
        op.inputs = [places[name] for name in inputs]
        shape: Sequence[int] = (1, 2, 2, 4)
        code.version = {"CONV_2D": 3, "FULLY_CONNECTED": 4, "CONCATENATION": 2}[kind]
        if kind == "CONCATENATION":
            op.builtinOptions = s.ConcatenationOptionsT()
            op.builtinOptions.axis = 3
            op.builtinOptionsType = s.BuiltinOptions.ConcatenationOptions
        elif weights is not None:
            num_out = len(weights)
            is_conv = kind == "CONV_2D"
            shape = SHAPE if is_conv else (1, num_out)
            stored = (num_out, 1, 1, weights.shape[1]) if is_conv else weights.shape
            op.inputs.append(add(f"{output}/weights", stored, "INT8", weights))
            op.inputs.append(add(f"{output}/bias", [num_out], "INT32", np.zeros(num_out, np.int32)))
            if is_conv:
                op.builtinOptions = s.Conv2DOptionsT()
                op.builtinOptions.strideH = op.builtinOptions.strideW = 1
                op.builtinOptionsType = s.BuiltinOptions.Conv2DOptions
            else:
                op.builtinOptions = s.FullyConnectedOptionsT()
                op.builtinOptionsType = s.BuiltinOptions.FullyConnectedOptions
        op.outputs = [add(output, shape, dtype)]
        code.builtinCode = getattr(s.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = code.builtinCode
        model.operatorCodes.append(code)
        op.opcodeIndex = len(model.operatorCodes) - 1
        graph.operators.append(op)
    graph.inputs = [places[name] for name in takes]
    graph.outputs = [places[name] for name in gives]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# ------------------------------------------------------------------ ExecuTorch


@cache
def executorch_program() -> bytes:
    """One ``.pte`` with the methods segment_0 .. segment_2 and static, int8 NCHW at the edges."""
    import torch
    from executorch.exir import to_edge_transform_and_lower

    def conv(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, weights).clamp(-128.0, 127.0)

    def head(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        flat = x.permute(0, 2, 3, 1).reshape(1, -1)
        return torch.nn.functional.linear(flat, weights).clamp(-128.0, 127.0).to(torch.int8)

    class Piece(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, weights in (("near", NEAR), ("far", FAR), ("middle", MIDDLE)):
                value = torch.from_numpy(weights.astype(np.float32)).reshape(2, 2, 1, 1)
                self.register_buffer(name, value)
            for index, weights in enumerate(HEADS):
                self.register_buffer(f"head{index}", torch.from_numpy(weights.astype(np.float32)))

    class First(Piece):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            near, far = conv(image.float(), self.near), conv(image.float(), self.far)
            return near.to(torch.int8), far.to(torch.int8), head(near, self.head0)

    class Second(Piece):
        def forward(self, near: torch.Tensor) -> tuple[torch.Tensor, ...]:
            middle = conv(near.float(), self.middle)
            return middle.to(torch.int8), head(middle, self.head1)

    class Third(Piece):
        def forward(self, far: torch.Tensor, middle: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (head(torch.cat([far.float(), middle.float()], 1), self.head2),)

    class Static(Piece):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            far = conv(image.float(), self.far)
            middle = conv(conv(image.float(), self.near), self.middle)
            return (head(torch.cat([far, middle], 1), self.head2),)

    # Export takes one tensor given twice for one input.
    x, y = (torch.zeros(SHAPE, dtype=torch.int8) for _ in range(2))
    modules = {"segment_0": (First(), (x,)), "segment_1": (Second(), (x,)),
               "segment_2": (Third(), (x, y)), "static": (Static(), (x,))}  # fmt: skip
    with warnings.catch_warnings():
        # What PyTorch and ExecuTorch warn of among themselves.
        warnings.simplefilter("ignore")
        exported = {
            name: torch.export.export(module.eval(), arguments)
            for name, (module, arguments) in modules.items()
        }
        return bytes(to_edge_transform_and_lower(exported).to_executorch().buffer)


# ------------------------------------------------------------------ the bundle


def segments() -> tuple[SegmentSpec, ...]:
    """What the files above are."""
    near, far, middle = (_tensor(name) for name in ("near", "far", "middle"))
    return (
        SegmentSpec(0, "first", (_tensor("image"),), (near, far), _logits(0), 64, 40),
        SegmentSpec(1, "second", (near,), (middle,), _logits(1), 48, 36),
        SegmentSpec(2, "last", (far, middle), (), _logits(2), 64, 64),
    )


def write_bundle(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    rule: Rule = "confidence",
    points: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Writes a bundle of ``tflite_files()``, with ``model.pte`` from above, or of either."""
    golden = io.BytesIO()
    np.savez(golden, inputs=np.zeros(SHAPE, np.int8))
    artifacts = [artifact for path in files for artifact in _artifacts(path, files[path])]
    if points is None:
        points = {"static": (0, 0, ALWAYS), "balanced": (65_600, 65_600, ALWAYS)}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="chain",
        target="host",
        num_classes=CLASSES,
        class_names=(),
        static_macs=160,
        static_num_parameters=100,
        input=InputSpec(_tensor("image"), "uint8", (128.0,), (1.0,), True),
        segments=segments(),
        decision=DecisionSpec(rule, ((exp_table(1.0) if rule == "confidence" else ()),) * 3),
        points={artifact.backend: _points(points) for artifact in artifacts},
        artifacts=tuple(artifacts),
        firmware=None,
        golden=FileSpec("golden.npz", *_facts(golden.getvalue())),
        tools={},
    )
    (folder / "segments").mkdir(parents=True)
    for path, content in (*files.items(), ("golden.npz", golden.getvalue())):
        (folder / path).write_bytes(content)
    (folder / "manifest.json").write_bytes(to_json(manifest))
    return folder


def _tensor(name: str) -> TensorSpec:
    return TensorSpec(name, SHAPE, 1.0, 0, "NHWC")


def _logits(index: int) -> TensorSpec:
    return TensorSpec(f"logits{index}", (1, CLASSES), 1.0, 0)


def _artifacts(path: str, content: bytes) -> list[ArtifactSpec]:
    if path.endswith(".pte"):
        methods: list[tuple[int | None, str]] = [(k, f"segment_{k}") for k in range(3)]
        return [
            ArtifactSpec("executorch", path, *_facts(content), segment, method, "NCHW")
            for segment, method in (*methods, (None, "static"))
        ]
    segment = None if path.startswith("static") else int(Path(path).stem)
    return [ArtifactSpec("tflite", path, *_facts(content), segment, None, "NHWC")]


def _facts(content: bytes) -> tuple[Any, ...]:
    return hashlib.sha256(content).hexdigest(), len(content)


def _points(points: Mapping[str, tuple[int, ...]]) -> tuple[OperatingPoint, ...]:
    rates = (0.0, 0.0, 1.0)
    return tuple(
        OperatingPoint(name, thresholds, 1.0, rates, 176.0, -0.1, "none", 1, "litert")
        for name, thresholds in points.items()
    )
