"""Pass 7, and a check after each other pass: what comes out against what went in.

Up to the cut everything is equal to the bit, and compared so. Engines round differently from
PyTorch; each tolerance below has a name and a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeexit.backends.integer_ops import (
    INTEGER_OPS,
    activation_inputs,
    is_activation,
    is_constant,
    is_dequantize,
    is_quantize,
    parameter_groups,
    parameters_of,
    where_of,
)
from edgeexit.compiler.artifacts import load
from edgeexit.compiler.chain import run_chain
from edgeexit.compiler.samples import real_batches
from edgeexit.data.types import Preprocessing, Samples
from edgeexit.errors import VerificationError
from edgeexit.nn.model import MultiExitModel, example_logits
from edgeexit.runtime.engines import Engine
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.types import (
    Artifact,
    ExportedGraph,
    InputSpec,
    OperatingPoint,
    QuantizedGraph,
    Segment,
    TensorSpec,
)

FLOAT_REORDERING = 1e-3
"""Share of the logits' range. Folded batch norms multiply in another order than the network."""

KERNEL_ROUNDING_MEAN_LSB = 0.5
"""Mean difference over a tensor. The engines' fixed-point multipliers round a value that lies close
to the middle of two integers the other way than PyTorch's floats, in a few per cent of all values
and most often by 1; a wrong layout, scale or weight moves most values by many."""

AVERAGE_POOL_MEAN_LSB = 1.5
"""The same where a segment pools averages: kernels round a mean that lies in the middle of two
integers away from zero, PyTorch to the even one. A mean of four is in the middle in a quarter of
all cases, always the same way, and a layer over the whole map adds those up."""

SAME_ENGINE_MEAN_LSB = 0.0
"""The same between the network without early exits and the chain in one engine: both are the same
integer ops with the same constants."""

KERNEL_ROUNDING_MAX_LSB = 16
"""Largest difference of a single value. One op differs by 1; an addition that stretches a small
operand makes 3 of it (seen in residual blocks), and a segment chains several of those."""


@dataclass(frozen=True)
class Difference:
    """How far an int8 tensor is from its reference."""

    max_lsb: int
    mean_lsb: float


def exported(graph: ExportedGraph, model: MultiExitModel, batch: Tensor) -> None:
    """The graph gives the model's logits.

    Args:
        graph: What the export made.
        model: What it was made of.
        batch: Real samples, float32 [N, C, H, W].

    Raises:
        VerificationError: They differ by more than `FLOAT_REORDERING`.
    """
    with torch.no_grad():
        given = graph.module(batch)
    for name, wanted, got in zip(
        graph.exit_names, example_logits(model, batch), given, strict=True
    ):
        allowed = FLOAT_REORDERING * max(float(wanted.max() - wanted.min()), 1e-6)
        difference = float((wanted - got).abs().max())
        if not difference <= allowed:
            raise VerificationError(
                "the exported graph disagrees with the network",
                wanted=f"logits within FLOAT_REORDERING, here {allowed:.2g}",
                given=f"a difference of {difference:.2g}",
                where=f"exit {name!r}",
            )


def quantized(graph: QuantizedGraph) -> None:
    """Every op reads int8 values and constants, ends in int8, and shares what it must share.

    Raises:
        VerificationError: A value stayed float, or parameters differ where they may not.
    """
    module = graph.module
    for node in module.graph.nodes:
        if node.target not in INTEGER_OPS:
            continue
        for source in activation_inputs(node):
            fused = is_activation(node) and source.target in INTEGER_OPS
            if not (is_dequantize(source) or is_constant(source) or fused):
                raise VerificationError(
                    "an op reads a float value",
                    wanted="a dequantize node",
                    given=source.format_node(),
                    where=where_of(node),
                )
        if not all(is_quantize(user) or is_activation(user) for user in node.users):
            raise VerificationError(
                "an op's result stays float", wanted="a quantize node", where=where_of(node)
            )
    for node, root in parameter_groups(module).items():
        scale, zero_point = parameters_of(node)
        if (scale, zero_point) != parameters_of(root) or not (
            0 < scale < float("inf") and -128 <= zero_point <= 127
        ):
            raise VerificationError(
                "a value has other parameters than those it shares an op with",
                wanted=f"scale, zero point = {parameters_of(root)}",
                given=(scale, zero_point),
                where=node.name,
            )


def partitioned(
    segments: Sequence[Segment],
    static: Segment,
    graph: QuantizedGraph,
    samples: Samples,
    preprocessing: Preprocessing,
) -> None:
    """The chain, and the static network, compute what the uncut graph does, to the bit.

    Raises:
        VerificationError: One logit differs.
    """
    batch = next(real_batches(samples, preprocessing, len(samples)))
    with torch.no_grad():
        wanted = graph.module(batch)
        values = run_chain(segments, _quantized_input(batch, static.spec.inputs[0]))
        (last,) = static.module(values[static.spec.inputs[0].name])
    pieces = [(s.spec.logits, values[s.spec.logits.name]) for s in segments]
    for (spec, got), reference in zip(
        [*pieces, (static.spec.logits, last)], [*wanted, wanted[-1]], strict=True
    ):
        steps = torch.round(reference / spec.scale) + spec.zero_point
        if not torch.equal(steps.to(torch.int8), got):
            raise VerificationError(
                "the chain disagrees with the uncut graph",
                wanted="the same int8 logits",
                given=f"differences up to {int((steps - got).abs().max())}",
                where=spec.name,
            )


def _quantized_input(batch: Tensor, spec: TensorSpec) -> Tensor:
    steps = torch.round(batch * (1.0 / spec.scale)) + spec.zero_point
    return steps.clamp(-128, 127).to(torch.int8)


def lowered(
    artifacts: Sequence[Artifact],
    segments: Sequence[Segment],
    engine: str,
    samples: Samples,
    input_spec: InputSpec,
) -> dict[str, Difference]:
    """Each artifact against its segment, on inputs that are exactly those of the segment.

    The network without early exits is compared with the last logits of the whole chain in the same
    engine: it rounds in every layer, so that next to PyTorch its differences grow with depth, but
    next to its own pieces there is nothing to round differently.

    Returns:
        For each tensor that an artifact gives, how far it is off; the static network's logits are
        called ``static``.

    Raises:
        VerificationError: A difference is larger than the engines' rounding explains.
        EngineError: The engine is not installed, or failed.
    """
    inputs = quantize_input(samples.images, input_spec)
    with torch.no_grad():
        values = run_chain(
            segments, torch.from_numpy(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
        )
    specs = [segment.spec for segment in segments]
    differences: dict[str, Difference] = {}
    chained = {input_spec.tensor.name: inputs}
    stages = load(engine, artifacts, specs)
    for index, piece in enumerate(segments):
        gives = (*piece.spec.outputs, piece.spec.logits)
        takes = {t.name: _as_device(values[t.name], t, artifacts) for t in piece.spec.inputs}
        if input_spec.tensor.name in takes:
            takes[input_spec.tensor.name] = inputs  # engines take the model's own input in NHWC
        made = _run(stages, index, list(takes.values()))
        again = _run(stages, index, [chained[name] for name in takes])
        for position, spec in enumerate(gives):
            differences[spec.name] = compare(
                made[position],
                _as_device(values[spec.name], spec, artifacts),
                f"{engine}, segment {piece.spec.index}, {spec.name}",
                mean_lsb=_allowed_mean(piece),
            )
            chained[spec.name] = again[position]
    (logits,) = _run(load(engine, artifacts, specs, static=True), 0, [inputs])
    differences["static"] = compare(
        logits,
        chained[specs[-1].logits.name],
        f"{engine}, the network without early exits",
        mean_lsb=SAME_ENGINE_MEAN_LSB,
        reference="the chain in the same engine",
    )
    return differences


def _run(stages: Engine, index: int, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
    """What a stage gives for each sample, the first dimension of every array."""
    rows = [
        stages.run(index, [value[row : row + 1] for value in inputs])
        for row in range(len(inputs[0]))
    ]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _allowed_mean(segment: Segment) -> float:
    targets = {node.target for node in segment.module.graph.nodes}
    pools = torch.ops.aten.avg_pool2d.default in targets
    return AVERAGE_POOL_MEAN_LSB if pools else KERNEL_ROUNDING_MEAN_LSB


def _as_device(value: Tensor, spec: TensorSpec, artifacts: Sequence[Artifact]) -> NDArray[np.int8]:
    """An int8 tensor in the layout of the artifacts."""
    array: NDArray[np.int8] = value.numpy()
    if spec.layout == "NHWC" and artifacts[0].layout == "NHWC":
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array


def compare(
    given: NDArray[np.int8],
    wanted: NDArray[np.int8],
    where: str,
    *,
    mean_lsb: float = KERNEL_ROUNDING_MEAN_LSB,
    reference: str = "the quantized graph",
) -> Difference:
    """The one comparer of int8 tensors with a reference.

    Raises:
        VerificationError: They differ by more than ``mean_lsb`` on average or
            `KERNEL_ROUNDING_MAX_LSB` anywhere, or in shape.
    """
    if given.shape != wanted.shape:
        raise VerificationError(
            "an artifact gives another shape", wanted=wanted.shape, given=given.shape, where=where
        )
    steps = np.abs(given.astype(np.int32) - wanted.astype(np.int32))
    difference = Difference(int(steps.max(initial=0)), float(steps.mean()))
    if difference.max_lsb > KERNEL_ROUNDING_MAX_LSB or difference.mean_lsb > mean_lsb:
        raise VerificationError(
            f"an artifact disagrees with {reference}",
            wanted=f"mean difference <= {mean_lsb} LSB, largest <= {KERNEL_ROUNDING_MAX_LSB} LSB",
            given=f"mean {difference.mean_lsb:.3f} LSB, largest {difference.max_lsb} LSB",
            where=where,
            hint="this is a fault of the compiler or the engine: please report it",
        )
    return difference


def selected(points: Sequence[OperatingPoint], drops: Mapping[str, float]) -> None:
    """Every operating point keeps its promise on the samples that chose it.

    Raises:
        VerificationError: One does not.
    """
    promised = points[0].accuracy or 0.0
    for point in points[1:]:
        least = promised - drops[point.name]
        if point.accuracy is None or point.accuracy < least - 1e-12:
            raise VerificationError(
                "an operating point loses more accuracy than it promises",
                wanted=f"at least {least}",
                given=point.accuracy,
                where=f"operating point {point.name!r}",
            )
