"""The compiler: this list of passes, in this order, and a check of what each returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeexit.backends.base import find_delegate, load_backend
from edgeexit.backends.c import links_of
from edgeexit.compiler import golden, verify
from edgeexit.compiler.artifacts import tflite_of
from edgeexit.compiler.bundle import tool_versions, write_bundle
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.check import check, check_name
from edgeexit.compiler.decisions import decision_for, drops_for, rule_named
from edgeexit.compiler.delegates import with_delegate
from edgeexit.compiler.export import export
from edgeexit.compiler.finetune import finetune
from edgeexit.compiler.firmware import compile_firmware, find_kernels
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.compiler.samples import input_spec, real_batches, spread
from edgeexit.compiler.select import select
from edgeexit.data.types import Splits
from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.runtime.bundle import Bundle
from edgeexit.runtime.manifest import SCHEMA_VERSION
from edgeexit.targets import load_target
from edgeexit.types import Artifact, FileSpec, Manifest, OperatingPoint

NUM_VERIFIED_SAMPLES = 16
"""Samples on which artifacts are compared with PyTorch, and which become golden vectors."""


def compile_model(
    model: MultiExitModel,
    *,
    data: Splits,
    target: str | Path = "host",
    output: str | Path,
    backends: Sequence[str] | None = None,
    delegate: str | None = None,
    max_accuracy_drop: float = 0.01,
    rule: str = "confidence",
    name: str | None = None,
    overwrite: bool = False,
    num_range_samples: int = 512,
    finetune_epochs: int = 0,
    cmsis_nn: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Compiles a multi-exit network into a bundle.

    Args:
        model: The trained network; it is left as it is.
        data: Only the calibration split is used; fine-tuning trains on the training split.
        target: Name of a target, or a TOML file of one's own.
        output: The folder to make, by convention ``NAME.eexit``.
        backends: Formats to lower to; all that the target takes, if None.
        delegate: Another form of ``executorch``: ``cortex-m``, for a target with such a core.
        max_accuracy_drop: What the operating point ``balanced`` may lose of the accuracy without
            early exits, on the calibration split; ``accurate`` may lose half of it and ``frugal``
            three times as much.
        rule: When an exit answers: ``confidence``, ``margin`` or ``patience``; a training method
            names the one that it was made for.
        name: The model's name in the bundle; that of the folder, if None.
        overwrite: Replace a bundle that is at ``output``.
        num_range_samples: Samples whose ranges are collected for quantization.
        finetune_epochs: Epochs of quantization-aware training from the quantized network; kept if
            the mean accuracy of the exits on the calibration split is better for it. 0 is none.
        cmsis_nn: The root of CMSIS-NN, for targets whose C may use it; that of the extra ``mcu``
            if None.
        progress: Told the name of each pass, how many passes are done, and how many there are.

    Returns:
        The bundle, opened and checked.

    Raises:
        ArgumentError: No such backend or rule, a name that a bundle cannot have, a delegate without
            its backend, no range samples, or a drop that is not a share.
        CompileError: A pass could not do its work; the subclass and the message say which and why.
        ModelError: The model does not fit the data.
        DataError: The calibration split is not usable.
        TargetError: No such target, it does not take a backend, or the program does not fit it.
        EngineError: An engine that selects thresholds is not installed, or failed.
        StorageError: The output exists, or the disk is full; nothing is left behind.
    """
    output = Path(output)
    device = with_delegate(load_target(target), delegate)
    backends = tuple(dict.fromkeys(device.backends if backends is None else backends))
    if delegate is not None and find_delegate(delegate).backend not in backends:
        raise ArgumentError(
            f"the delegate {delegate!r} is of a backend that is not asked for",
            wanted=f"backend {find_delegate(delegate).backend!r} among those to lower to",
            given=", ".join(backends),
        )
    if num_range_samples < 1:
        raise ArgumentError(
            "ranges need samples",
            wanted="num_range_samples of 1 or more",
            given=f"num_range_samples={num_range_samples}",
        )
    samples = data.calibration
    called = name or output.name.removesuffix(".eexit")
    emits_c = device.emits_c and "tflite" in backends  # which is what C is made of
    begin = _Progress(progress, num_passes=5 + 3 * len(backends) + emits_c + (finetune_epochs > 0))

    begin("check")  # what is known to go wrong goes wrong before any minute is spent
    check_name(called)
    check(model, data, device, backends, max_accuracy_drop, output, overwrite, finetune_epochs)
    decided_by = rule_named(rule)
    kernels, kernel_tools = find_kernels(device, cmsis_nn) if emits_c else (None, {})
    verified = spread(samples, NUM_VERIFIED_SAMPLES)
    batch = next(real_batches(verified, data.preprocessing, len(verified)))

    begin("export")  # one graph with all exits, each op in one spelling: later passes see no Python
    exported = canonicalize(export(model, (batch.shape[1], batch.shape[2], batch.shape[3])))
    verify.exported(exported, model, batch)

    begin("quantize")  # before the cut, so that both sides of it share scale and zero point
    quantized = quantize(exported, samples, data.preprocessing, num_range_samples=num_range_samples)
    verify.quantized(quantized)

    tools = tool_versions(backends) | kernel_tools
    if finetune_epochs:
        begin("fine-tune")  # after quantization, whose grids it trains on, and kept if it helps
        tuned = finetune(quantized, data, epochs=finetune_epochs, report=begin.say)
        tools["fine-tuning"] = f"epochs={finetune_epochs}, {tuned.verdict}"
        begin.add(f"{tuned.verdict}; by exit {tuned.by_exit}")
        quantized = tuned.graph
        verify.quantized(quantized)

    begin("partition")  # no integer engine runs a conditional: a piece for each exit instead
    segments, static = partition(quantized)
    verify.partitioned(segments, static, quantized, verified, data.preprocessing)

    model_input = input_spec(static.spec.inputs[0], samples, data.preprocessing)
    decision = decision_for(segments, decided_by)
    drops = drops_for(max_accuracy_drop)
    artifacts: list[Artifact] = []
    points: dict[str, tuple[OperatingPoint, ...]] = {}
    for backend in backends:
        engine = device.engines[backend]

        begin(f"lower to {backend}")  # each piece in the format that an engine executes
        files = load_backend(backend, delegate, device.core).lower(segments, static)
        artifacts += files

        begin(f"verify {backend}")  # against PyTorch on real samples: a wrong artifact stops here
        verify.lowered(files, segments, engine, verified, model_input)

        begin(f"select for {backend}")  # thresholds on the logits that the device will see
        points[backend] = select(
            segments,
            static.spec.macs,
            files,
            model_input,
            decision,
            data,
            engine,
            drops,
            say=begin.add,
        )
        verify.selected(points[backend], drops)

    firmware, sources = None, dict[str, bytes]()
    if emits_c:
        begin("emit C")  # last, because thresholds are constants of the program
        firmware, sources = compile_firmware(
            called,
            [tflite_of(artifacts, segment.spec.index) for segment in segments],
            links_of([segment.spec for segment in segments]),
            decision,
            points["tflite"],
            model_input,
            device,
            kernels,
            say=begin.add,
        )

    begin("write")  # whole or not at all
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=called,
        target=device.name,
        num_classes=model.num_classes,
        class_names=data.class_names,
        static_macs=static.spec.macs,
        static_num_parameters=static.spec.num_parameters,
        input=model_input,
        segments=tuple(segment.spec for segment in segments),
        decision=decision,
        points=points,
        artifacts=(),
        firmware=firmware,
        golden=FileSpec("", "", 0),
        tools=tools,
    )
    vectors = golden.vectors(verified, segments, artifacts, device.engines, manifest)
    return write_bundle(manifest, artifacts, vectors, output, sources=sources, overwrite=overwrite)


class _Progress:
    """Counts passes and tells the caller."""

    def __init__(self, tell: Callable[[str, int, int], None] | None, num_passes: int) -> None:
        self._tell = tell
        self._num_passes = num_passes
        self._num_begun = 0
        self._name = ""

    def __call__(self, name: str) -> None:
        self._num_begun += 1
        self._name = name
        self.say(name)

    def add(self, what: str) -> None:
        """Tells how the pass that was begun last goes on, with its name in front."""
        self.say(f"{self._name}: {what}")

    def say(self, what: str) -> None:
        """Tells how the pass that was begun last goes on."""
        if self._tell is not None:
            self._tell(what, self._num_begun - 1, self._num_passes)
