"""Plain data that one pass hands to the next, and that a bundle's manifest holds.

Nothing here computes, and nothing here imports another module of this package. The first part is
what a device sees (it goes into the manifest word for word); the second part lives only inside the
compiler and holds PyTorch graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch.fx import GraphModule

Layout = Literal["NHWC", "NCHW", "ND"]
Rule = Literal["confidence", "margin", "patience", "class_means"]
BackendName = Literal["tflite", "executorch"]

# ------------------------------------------------------------------ what a bundle holds


@dataclass(frozen=True)
class TensorSpec:
    """An int8 tensor that crosses an edge of a segment.

    Real value = ``scale * (q - zero_point)``. ``shape`` includes the batch of one and is given in
    ``layout``; a tensor that is not 4-D has the layout ``ND``.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    layout: Layout = "ND"


@dataclass(frozen=True)
class InputSpec:
    """What a model eats: real value = ``(raw - offset) * multiplier``, raw being uint8 or float32.

    ``offset`` and ``multiplier`` have one number for each channel (the last axis of ``tensor``), or
    a single one for all. ``raw_is_subtraction`` says that int8 = uint8 - 128 exactly, so that a
    device needs no other arithmetic.
    """

    tensor: TensorSpec
    raw_dtype: Literal["uint8", "float32"]
    offset: tuple[float, ...]
    multiplier: tuple[float, ...]
    raw_is_subtraction: bool


@dataclass(frozen=True)
class SegmentSpec:
    """What runs between two exits, the head of the later one included.

    ``inputs`` and ``outputs`` are the tensors that cross the cuts, in the order in which every
    artifact of the segment takes and returns them; ``logits`` comes last among an artifact's
    outputs. ``macs`` and ``num_parameters`` count this segment only.
    """

    index: int
    exit_name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    logits: TensorSpec
    macs: int
    num_parameters: int
    arena_bytes: int | None = None


@dataclass(frozen=True)
class DecisionSpec:
    """The rule and, for each exit, the integer table that it reads.

    For ``confidence``: ``tables[k][d] = round(2^16 exp(-scale_k d))``, d = 0..255, uint32.
    The other rules need no table and carry empty ones.
    """

    rule: Rule
    tables: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds and what they did on the split that chose them.

    ``thresholds`` has one integer for each exit, in the unit of the rule; the last is always the
    rule's ``always``. ``macs`` is the mean per sample over the chain, heads included;
    ``macs_saved`` is ``1 - macs / static_macs``. ``engine`` names whose logits were used.
    ``accuracy`` is None, and ``num_samples`` 0, where a model came without data.
    """

    name: str
    thresholds: tuple[int, ...]
    accuracy: float | None
    exit_rates: tuple[float, ...]
    macs: float
    macs_saved: float
    dataset: str
    num_samples: int
    engine: str


@dataclass(frozen=True)
class ArtifactSpec:
    """One file of a bundle that an engine executes.

    ``segment`` is the index that the file (or ``method`` within it) implements; ``None`` is the
    static network: the backbone and the last exit alone, kept to compare with.
    """

    backend: BackendName
    path: str
    sha256: str
    num_bytes: int
    segment: int | None
    method: str | None
    layout: Layout


@dataclass(frozen=True)
class FileSpec:
    """Any other file of a bundle."""

    path: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class LayerSpec:
    """One step of the C program and the kernel that runs it.

    ``instructions`` is for the core, modelled from counted costs; None where nothing was counted.
    """

    name: str
    segment: int
    kind: str
    kernel_set: str
    function: str
    macs: int
    constant_bytes: int
    scratch_bytes: int
    instructions: float | None


@dataclass(frozen=True)
class FirmwareSpec:
    """The chain as C, for a core: what ``edgeexit export`` makes a project of.

    ``files`` are the sources that were made for this model; ``sources`` name those of the runtime
    that it needs, below ``runtime/src`` (``cmsis_nn:NAME`` for one of CMSIS-NN's).
    ``arena_bytes`` is what the caller has to give; no plan can need less than
    ``lower_bound_bytes``, the most that is alive at one step.
    """

    core: str
    symbol: str
    files: tuple[FileSpec, ...]
    sources: tuple[str, ...]
    arena_bytes: int
    lower_bound_bytes: int
    layers: tuple[LayerSpec, ...]


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``, parsed and checked.

    ``points`` maps a backend's name to its operating points: they were chosen on the logits of an
    engine of that backend. ``static_macs`` and ``static_num_parameters`` count the backbone with
    its last exit only. ``firmware`` is there for targets that run C.
    """

    schema_version: int
    name: str
    target: str
    num_classes: int
    class_names: tuple[str, ...]
    static_macs: int
    static_num_parameters: int
    input: InputSpec
    segments: tuple[SegmentSpec, ...]
    decision: DecisionSpec
    points: dict[str, tuple[OperatingPoint, ...]]
    artifacts: tuple[ArtifactSpec, ...]
    firmware: FirmwareSpec | None
    golden: FileSpec
    tools: dict[str, str]


class Result(NamedTuple):
    """The answer to one sample; a tuple, since one is made for every sample.

    ``confidence`` is the largest softmax probability at the exit that answered. ``segment_ns`` has
    one wall-clock time for each segment that ran, or is empty when times were not asked for.
    """

    label: int
    exit: int
    confidence: float
    segment_ns: tuple[int, ...] = ()


# ------------------------------------------------------------------ between compiler passes


@dataclass(frozen=True)
class ExportedGraph:
    """The whole multi-exit network as one ATen graph: float32 NCHW in, a tuple of logits out."""

    module: GraphModule
    example_shape: tuple[int, ...]
    exit_names: tuple[str, ...]
    num_classes: int


@dataclass(frozen=True)
class QuantizedGraph:
    """The same graph with quantize/dequantize pairs around every op and at every output.

    ``module`` maps float32 to float32; every value between is on an int8 grid.
    """

    module: GraphModule
    example_shape: tuple[int, ...]
    exit_names: tuple[str, ...]
    num_classes: int


@dataclass(frozen=True)
class Segment:
    """One piece of the quantized graph.

    ``module`` takes the int8 tensors of ``spec.inputs`` and returns those of ``spec.outputs``
    followed by the int8 logits, all in PyTorch's own layout (NCHW); ``spec`` describes them in
    the device's layout (NHWC).
    """

    spec: SegmentSpec
    module: GraphModule


@dataclass(frozen=True)
class Artifact:
    """A lowered file, still in memory. ``parts`` says which segments it implements."""

    backend: BackendName
    path: str
    content: bytes
    parts: tuple[tuple[int | None, str | None], ...]
    layout: Layout
