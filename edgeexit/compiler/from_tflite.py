"""The short way: any int8 ``.tflite`` model as a chain with one exit.

Nothing is trained, quantized or cut; the file becomes the one segment, and C for targets that run
it. What a file has in float32 or uint8 outside its int8 ops is left to the caller: the bundle takes
and gives int8, with the scale and zero point that its manifest states. A softmax at the end goes,
because the runtime makes confidences of logits itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeexit.backends.c import CHAIN_INPUT, Link
from edgeexit.backends.c.flatbuffer import MAX_BYTES
from edgeexit.backends.c.legalize import (
    Edge,
    input_edge,
    output_edge,
    program_from_chain,
    program_from_file,
)
from edgeexit.backends.c.program import Conv2D, DepthwiseConv2D, FullyConnected, Program
from edgeexit.backends.c.reader import read_model
from edgeexit.compiler.artifacts import load
from edgeexit.compiler.bundle import tool_versions, write_bundle
from edgeexit.compiler.check import check_name, check_output
from edgeexit.compiler.firmware import compile_firmware, find_kernels
from edgeexit.errors import DataError, LoweringError, TargetError
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.decision import MAX_CLASSES, RULES
from edgeexit.runtime.manifest import SCHEMA_VERSION
from edgeexit.runtime.session import all_logits
from edgeexit.targets import load_target
from edgeexit.types import (
    Artifact,
    DecisionSpec,
    FileSpec,
    InputSpec,
    Manifest,
    OperatingPoint,
    SegmentSpec,
    TensorSpec,
)

NUM_GOLDEN_SAMPLES = 8
_PATH = "segments/0.tflite"
_IDENTIFIER = b"TFL3"
# The one exit always answers: the rule that needs neither a table nor a second class.
_RULE = DecisionSpec("patience", ((),))


def compile_tflite(
    model: str | Path,
    *,
    target: str | Path = "host",
    output: str | Path,
    name: str | None = None,
    overwrite: bool = False,
    cmsis_nn: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Compiles an int8 ``.tflite`` file into a bundle with one exit.

    Args:
        model: The file; its last output, ``[1, N]``, is taken for logits, or for their softmax
            where a SOFTMAX makes it.
        target: Name of a target, or a TOML file of one's own.
        output: The folder to make, by convention ``NAME.eexit``.
        name: The model's name in the bundle; that of the folder, if None.
        overwrite: Replace a bundle that is at ``output``.
        cmsis_nn: The root of CMSIS-NN, for C; that of the extra ``mcu`` if None.
        progress: Told the name of each pass, how many passes are done, and how many there are.

    Raises:
        ArgumentError: A bundle cannot have the name, or ``cmsis_nn`` does not hold CMSIS-NN.
        DataError: The file cannot be read.
        LoweringError: It is damaged, or holds an op, type or shape that is not supported.
        TargetError: No such target, or the program does not fit it.
        EngineError: The target's engine for ``.tflite`` is not installed, or refuses the file.
        StorageError: The output exists, or the disk is full; nothing is left behind.
    """
    path, output = Path(model), Path(output)
    device = load_target(target)
    if "tflite" not in device.engines:
        raise TargetError(
            f"the target {device.name!r} takes no .tflite file", wanted="a target that does"
        )
    check_output(output, overwrite)
    called = name or output.name.removesuffix(".eexit")
    check_name(called)
    kernels, kernel_tools = find_kernels(device, cmsis_nn) if device.emits_c else (None, {})
    tell = progress or (lambda _name, _done, _of: None)

    tell("read", 0, 3)
    content = _read_file(path)
    program_from_file(content, path.name)  # complains of what the file itself has
    try:
        content = with_plain_ends(content)
    except (AttributeError, IndexError, ValueError, TypeError, struct.error) as exc:
        raise LoweringError(
            "the model's file is damaged", wanted="a whole .tflite file", given=exc, where=path
        ) from exc
    parsed = read_model(content, path.name)
    segment = _segment(
        program_from_chain([parsed], [[Link(CHAIN_INPUT)]]),
        _tensor(input_edge(parsed), "input", parsed.where),
        _tensor(output_edge(parsed), "logits_0", parsed.where),
    )
    artifact = Artifact("tflite", _PATH, content, ((0, None),), "NHWC")

    tell("run", 1, 3)
    engine = device.engines["tflite"]
    shape = segment.inputs[0].shape
    inputs = np.random.default_rng(0).integers(-128, 128, (NUM_GOLDEN_SAMPLES, *shape[1:]), np.int8)
    logits = all_logits(load(engine, [artifact], [segment]), [segment], inputs)
    point = OperatingPoint(
        name="static",
        thresholds=(RULES[_RULE.rule].always,),
        accuracy=None,
        exit_rates=(1.0,),
        macs=float(segment.macs),
        macs_saved=0.0,
        dataset="none",
        num_samples=0,
        engine=engine,
    )

    model_input = InputSpec(segment.inputs[0], "float32", (0.0,), (1.0,), False)
    firmware, sources = None, dict[str, bytes]()
    if device.emits_c:
        tell("emit C", 2, 3)
        firmware, sources = compile_firmware(
            called,
            [content],
            [[Link(CHAIN_INPUT)]],
            _RULE,
            (point,),
            model_input,
            device,
            kernels,
            say=lambda line: tell(f"emit C: {line}", 2, 3),
        )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=called,
        target=device.name,
        num_classes=segment.logits.shape[1],
        class_names=(),
        static_macs=max(segment.macs, 1),
        static_num_parameters=segment.num_parameters,
        input=model_input,
        segments=(segment,),
        decision=_RULE,
        points={"tflite": (point,)},
        artifacts=(),
        firmware=firmware,
        golden=FileSpec("", "", 0),
        tools=tool_versions(["tflite"], from_graph=False) | kernel_tools,
    )
    vectors: dict[str, NDArray[Any]] = {
        "inputs": inputs,
        "logits_tflite": logits,
        "exits_tflite": np.zeros(len(inputs), np.int64),
    }
    return write_bundle(manifest, [artifact], vectors, output, sources=sources, overwrite=overwrite)


def with_plain_ends(content: bytes) -> bytes:
    """The model with int8 at both ends, logits as one row, and no dimension left open.

    A QUANTIZE in front goes, and so do DEQUANTIZE, QUANTIZE to another type, SOFTMAX and RESHAPE
    of a row at the end.

    Args:
        content: A file that `read_model` has checked.

    Raises:
        LoweringError: The SOFTMAX has a factor, which confidences would lack.
    """
    model = _parts_of(schema.Model.GetRootAs(content, 0))
    main = model.subgraphs[0]
    kinds, int8 = schema.BuiltinOperator, schema.TensorType.INT8

    def kind(operator: Any) -> int:
        code = model.operatorCodes[operator.opcodeIndex]
        return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))

    main.operators = [op for op in main.operators if len(op.inputs) and len(op.outputs)]
    made = {operator.outputs[0]: operator for operator in main.operators}
    for operator in main.operators:
        first = operator.inputs[0]
        is_first = kind(operator) == kinds.QUANTIZE and first in main.inputs
        if is_first and main.tensors[first].type != int8:
            main.inputs = [operator.outputs[0]]

    def maker(tensor: int, *wanted: int) -> Any:
        """The op that makes a tensor, if it is one of these."""
        operator = made.get(tensor)
        return operator if operator is not None and kind(operator) in wanted else None

    last = _logits_of(main, maker)
    main.outputs = [last]
    # What computes none of the new ends is left out.
    needed, kept = {last}, []
    for operator in reversed(main.operators):
        if needed & set(operator.outputs) and operator.outputs[0] not in main.inputs:
            needed |= set(operator.inputs)
            kept.append(operator)
    main.operators = kept[::-1]
    for tensor in main.tensors:
        tensor.shapeSignature = None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _logits_of(main: Any, maker: Callable[..., Any]) -> Any:
    """The tensor that holds the logits; what stands behind it is not needed any more."""
    kinds, tensors, last = schema.BuiltinOperator, main.tensors, main.outputs[-1]
    while (cast := maker(last, kinds.DEQUANTIZE, kinds.QUANTIZE)) is not None:
        if tensors[last].type == schema.TensorType.INT8:
            break
        last = cast.inputs[0]
    reshape = maker(last, kinds.RESHAPE)
    softmax = maker(last if reshape is None else reshape.inputs[0], kinds.SOFTMAX)
    if softmax is not None and _is_over_all(softmax, tensors):
        _require_no_factor(softmax)
        logits = softmax.inputs[0]
        if reshape is None:
            last = logits
        else:
            reshape.inputs = [logits, *reshape.inputs[1:]]
            tensors[last].quantization = tensors[logits].quantization
    while (reshape := maker(last, kinds.RESHAPE)) is not None:
        row = tensors[reshape.inputs[0]]
        if len(row.shape) != 2 or row.shape[0] != 1:
            break
        last = reshape.inputs[0]
    return last


def _is_over_all(softmax: Any, tensors: list[Any]) -> bool:
    """Whether the last dimension, over which it goes, holds all values."""
    shape = tensors[softmax.inputs[0]].shape
    return len(shape) > 0 and math.prod(shape) == shape[-1]


def _require_no_factor(softmax: Any) -> None:
    beta = softmax.builtinOptions.beta
    if beta != 1:
        raise LoweringError(
            "the model's last softmax multiplies the logits",
            wanted="beta of 1",
            given=f"beta={beta}",
            hint="end the model with its logits, the factor among them",
        )


def _parts_of(packed: Any) -> Any:
    """What runs of a model; metadata and signatures, which nobody has checked, are left out."""
    model = schema.ModelT()
    model.version = packed.Version()
    model.operatorCodes = [
        schema.OperatorCodeT.InitFromObj(packed.OperatorCodes(index))
        for index in range(packed.OperatorCodesLength())
    ]
    model.subgraphs = [schema.SubGraphT.InitFromObj(packed.Subgraphs(0))]
    model.buffers = [
        schema.BufferT.InitFromObj(packed.Buffers(index)) for index in range(packed.BuffersLength())
    ]
    return model


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                "the file is too large for a model",
                wanted=f"at most {MAX_BYTES:,} B",
                given=f"{path.stat().st_size:,} B",
                where=path,
            )
        return path.read_bytes()
    except OSError as exc:
        raise DataError("the model cannot be read", given=exc.strerror, where=path) from exc


def _tensor(edge: Edge, name: str, where: str) -> TensorSpec:
    """An end of the model; its own name may be none, or one that no manifest takes."""
    if not edge.shape or edge.shape[0] != 1:
        raise LoweringError(
            "the model has another batch than one",
            wanted="1 as the first dimension of input and output",
            given=f"{edge.name!r} with shape {list(edge.shape)}",
            where=where,
        )
    return TensorSpec(
        name, edge.shape, edge.scale, edge.zero_point, "NHWC" if len(edge.shape) == 4 else "ND"
    )


def _segment(program: Program, takes: TensorSpec, gives: TensorSpec) -> SegmentSpec:
    if len(gives.shape) != 2 or not 2 <= gives.shape[1] <= MAX_CLASSES:
        raise LoweringError(
            "the model's last output is not one number for each class",
            wanted=f"shape [1, 2 to {MAX_CLASSES}]",
            given=list(gives.shape),
            where=gives.name,
        )
    weighted = [
        s for s in program.steps if isinstance(s, Conv2D | DepthwiseConv2D | FullyConnected)
    ]
    return SegmentSpec(
        index=0,
        exit_name="final",
        inputs=(takes,),
        outputs=(),
        logits=gives,
        macs=sum(step.macs for step in program.steps),
        num_parameters=sum(step.weights.size + step.bias.size for step in weighted),
    )
