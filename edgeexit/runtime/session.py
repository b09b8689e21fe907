"""Running a bundle: one segment after another, until an exit is sure.

A session compiles a plan when it is made: for each segment the call that runs it, the bytes of its
logits, the table and threshold of its exit, and what has to be copied where before the next one.
The values that cross a cut go by the names of the manifest, so a segment may take tensors of any
earlier one. What is left for each sample is one flat loop over that plan, because the caches are
full of the network when it runs: each call in it costs twice what it costs alone. Other rules than
confidence, more classes, and times take a plainer loop; tests hold the two equal.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import ArgumentError, EngineError
from edgeexit.runtime.bundle import Bundle, open_bundle
from edgeexit.runtime.decision import (
    ONE,
    RULES,
    SCALAR_CLASSES,
    BatchRule,
    ByteRows,
    CloseCalls,
    SampleRule,
    check_thresholds,
    confidence_sums,
    exp_table,
    row_sum,
)
from edgeexit.runtime.engines import Engine, engine_info, load_engine, needed_artifacts
from edgeexit.runtime.preprocess import Preprocessor
from edgeexit.types import DecisionSpec, OperatingPoint, Result, SegmentSpec

DEFAULT_POINT = "balanced"

# A batch is worked off in groups of this many, so that the values at a cut stay small.
_GROUP = 256

_Copies = list[tuple[NDArray[np.int8], NDArray[np.int8]]]


class _Step(NamedTuple):
    """A segment, ready to run.

    ``read`` gives the bytes of the logits and ``argmax`` their label; ``moves`` is what has to be
    copied before the next segment: (where to, from where).
    """

    invoke: Callable[[], object]
    read: Callable[[], bytes]
    argmax: Callable[[], Any]
    moves: tuple[tuple[memoryview, memoryview], ...]


class Session:
    """A bundle, loaded in one engine, at one operating point.

    Threads: a session runs one sample or batch at a time, and a second call that comes while one is
    running raises; make one session for each thread. ``select`` and ``set_thresholds`` may be
    called from any thread and take effect with the next sample or batch.

    Processes: make a session where it runs, after a fork and not before it. The threads of an
    interpreter do not come along, and a run may then wait for them forever.

    Args:
        bundle: An opened bundle, or the path of one.
        engine: ``litert``, ``litert_reference``, ``tflite-runtime``, ``tflite-runtime_reference``,
            ``executorch`` or ``executorch-cortex-m``.
        operating_point: The name of one of the bundle's, ``balanced`` if None (or the first, where
            there is none of that name); not with ``static``, which has no points.
        num_threads: Threads of the interpreter.
        static: Run the static network instead of the chain: the backbone and the last exit alone.

    Raises:
        BundleError: If the bundle is missing, damaged, or not safe to load.
        ArgumentError: If the engine or the operating point is unknown, or a point is named with
            ``static``.
        EngineNotInstalledError: If the engine's package is not installed.
        EngineError: If an artifact cannot be loaded, or is not what the manifest says.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        engine: str = "litert",
        *,
        operating_point: str | None = None,
        num_threads: int = 1,
        static: bool = False,
    ) -> None:
        if static and operating_point is not None:
            raise ArgumentError(
                "a static network has no operating points",
                wanted="static=False, or operating_point=None",
                given=f"operating_point={operating_point!r} with static=True",
            )
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.static = static
        manifest = self.bundle.manifest
        backend = engine_info(engine).backend
        wanted = needed_artifacts(manifest, backend, static=static)
        self.engine = load_engine(
            engine,
            wanted,
            {artifact.path: self.bundle.read(artifact) for artifact in wanted},
            manifest.segments,
            num_threads=num_threads,
            static=static,
        )
        first = len(manifest.segments) - 1 if static else 0
        self._segments = manifest.segments[first:]
        self._decision = DecisionSpec(manifest.decision.rule, manifest.decision.tables[first:])
        self._first_exit = first
        self._preprocessor = Preprocessor(manifest.input)
        self._points = {point.name: point for point in manifest.points.get(backend, ())}
        self._wires = _wires(self.engine, manifest.segments)
        self._tables = [
            self._decision.tables[k] or exp_table(segment.logits.scale)
            for k, segment in enumerate(self._segments)
        ]
        self._rows = [ByteRows(table) for table in self._tables]
        self._sample_rule = SampleRule(self._decision, len(self._segments))
        model_input = self.engine.stages[0].inputs[0][0]
        self._input = (model_input, model_input.view(np.uint8))
        self._steps = self._make_steps()
        self._fast = self._decision.rule == "confidence" and manifest.num_classes <= SCALAR_CLASSES
        self._running = threading.Lock()
        # Held where the plan is changed or freed; taken before the one above.
        self._choosing = threading.Lock()
        self._closed = False
        if static:
            self._use((RULES[self._decision.rule].always,), None)
        else:
            self.select(operating_point or default_point(self.operating_points))

    # -------------------------------------------------------------- operating points

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        """The operating points that this session can select, by name."""
        return {} if self.static else dict(self._points)

    @property
    def operating_point(self) -> str | None:
        """The selected operating point, or ``None`` if thresholds were set by hand or are fixed."""
        return self._operating_point

    @property
    def thresholds(self) -> tuple[int, ...]:
        """One integer for each exit, in the unit of the bundle's rule."""
        return self._thresholds

    def select(self, operating_point: str) -> None:
        """Uses the thresholds of another operating point from the next sample on.

        Raises:
            ArgumentError: If the bundle has no such point, this session runs the static network, or
                it is closed.
        """
        with self._choosing:
            self._check_open()
            points = self.operating_points
            if operating_point not in points:
                raise ArgumentError(
                    "there is no such operating point",
                    wanted=" | ".join(points) or "none: a static network has no exits",
                    given=f"operating_point={operating_point!r}",
                    where=f"{self.bundle.path.name}, engine {self.engine.name}",
                )
            self._use(points[operating_point].thresholds, operating_point)

    def set_thresholds(self, thresholds: Sequence[int]) -> None:
        """Uses thresholds of the caller's own from the next sample on.

        Args:
            thresholds: One integer for each exit, in the unit of the bundle's rule; the last has to
                be the rule's ``always``. ``decision.confidence_threshold`` makes one of a
                probability.

        Raises:
            ArgumentError: If their number or range is wrong, this session runs the static network,
                or it is closed.
        """
        if self.static:
            raise ArgumentError(
                "a static network has no exits to choose", hint="make a Session with static=False"
            )
        with self._choosing:
            self._check_open()
            self._use(thresholds, None)

    # -------------------------------------------------------------- running

    def run(self, raw: NDArray[Any], timings: bool = False) -> Result:
        """Runs one sample until an exit answers.

        Args:
            raw: uint8 or float32 (the manifest says which), [H, W, C] or [1, H, W, C].
            timings: Measure each segment: its kernels, its decision and the copy to the next one.

        Returns:
            The answer; with ``segment_ns`` if ``timings``.

        Raises:
            DataError: If the sample has another type, dtype or shape, or a value that is not
                finite.
            EngineError: If the interpreter fails.
            ArgumentError: If the session is closed, or runs already in another thread.
        """
        if not self._running.acquire(False):
            raise self._in_use()
        try:
            if timings or not self._fast:
                return self._run_any_rule(raw, timings)
            self._preprocessor.into(raw, *self._input)
            early, (k, invoke, read, argmax, rows) = self._fast_plan
            for j, run, read_j, argmax_j, rows_j, limit, calls, target, source, more in early:
                run()
                logits = read_j()
                label = argmax_j()
                largest = logits[label]
                if len(logits.translate(None, calls[largest])) <= 1:
                    score = sum(map(rows_j[largest], logits))
                    if score <= limit:
                        return Result(int(label), j, ONE / score)
                target[:] = source
                for another_target, another_source in more:
                    another_target[:] = another_source
            invoke()
            logits = read()
            label = argmax()
            return Result(int(label), k, ONE / sum(map(rows[logits[label]], logits)))
        except (RuntimeError, ValueError) as exc:
            raise self._failed(exc) from exc
        finally:
            self._running.release()

    def run_batch(self, raw: NDArray[Any]) -> list[Result]:
        """Runs samples segment by segment; those whose exit answers leave the batch.

        Args:
            raw: uint8 or float32 (the manifest says which), [N, H, W, C].

        Returns:
            The same answers as ``run`` gives for each sample, without times.

        Raises:
            DataError: As ``run``.
            EngineError: If the interpreter fails.
            ArgumentError: If the session is closed, or runs already in another thread.
        """
        if not self._running.acquire(False):
            raise self._in_use()
        try:
            inputs = self._preprocessor.batch(raw)
            thresholds = self._thresholds
            results: list[Result] = []
            for start in range(0, len(inputs), _GROUP):
                results += self._run_group(inputs[start : start + _GROUP], thresholds)
            return results
        finally:
            self._running.release()

    def close(self) -> None:
        """Frees the interpreters; waits for a sample that runs in another thread."""
        with self._choosing:
            if self._closed:
                return
            # Never released again: what runs after this finds the session in use, and says why.
            self._running.acquire()
            self._closed = True
            del self.engine, self._wires, self._steps, self._fast_plan, self._input

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -------------------------------------------------------------- how

    def _make_steps(self) -> list[_Step]:
        steps = []
        for k, stage in enumerate(self.engine.stages):
            logits = stage.outputs[-1]
            # What is copied after segment k is what segment k + 1 takes.
            copies = self._wires[k + 1] if k + 1 < len(self._wires) else []
            moves = tuple((_flat(target), _flat(source)) for target, source in copies)
            steps.append(_Step(stage.invoke, _flat(logits).tobytes, logits[0].argmax, moves))
        return steps

    def _use(self, thresholds: Sequence[int], operating_point: str | None) -> None:
        """Makes the plan for these thresholds; a sample that runs keeps the plan it began with.

        ``_choosing`` is held, so that plan, thresholds and name change together.
        """
        checked = check_thresholds(thresholds, self._decision.rule, len(self._segments))
        early = [
            (k, step.invoke, step.read, step.argmax, rows, limit, CloseCalls(table, limit),
             *step.moves[0], step.moves[1:])
            for k, (step, rows, limit, table) in enumerate(
                zip(self._steps[:-1], self._rows[:-1], checked[:-1], self._tables[:-1],
                    strict=True)
            )
        ]  # fmt: skip
        last = self._steps[-1]
        final = (len(self._segments) - 1 + self._first_exit, last.invoke, last.read, last.argmax,
                 self._rows[-1])  # fmt: skip
        self._fast_plan: tuple[Any, Any] = (early, final)
        self._thresholds = checked
        self._operating_point = operating_point

    def _run_any_rule(self, raw: NDArray[Any], timings: bool) -> Result:
        """What ``run`` does, for each rule and number of classes, and with times."""
        rule = self._sample_rule  # its state begins anew with exit 0
        below = RULES[self._decision.rule].exits_below
        thresholds = self._thresholds
        segment_ns = []
        self._preprocessor.into(raw, *self._input)
        start = perf_counter_ns()
        for index, step in enumerate(self._steps):
            step.invoke()
            logits = step.read()
            label, score = rule.score(index, logits)
            leaves = score <= thresholds[index] if below else score >= thresholds[index]
            if not leaves:
                for target, source in step.moves:
                    target[:] = source
            now = perf_counter_ns()
            segment_ns.append(now - start)
            start = now
            if leaves:
                break
        total = row_sum(self._rows[index], logits, logits[label])
        times = tuple(segment_ns) if timings else ()
        return Result(label, self._first_exit + index, ONE / total, times)

    def _run_group(self, inputs: NDArray[np.int8], thresholds: tuple[int, ...]) -> list[Result]:
        num_samples = len(inputs)
        below = RULES[self._decision.rule].exits_below
        rule = BatchRule(self._decision, num_samples)
        results: list[Result | None] = [None] * num_samples
        left = np.arange(num_samples, dtype=np.int64)
        values = {self.bundle.manifest.input.tensor.name: inputs}
        for k, (stage, limit) in enumerate(zip(self.engine.stages, thresholds, strict=True)):
            segment = self._segments[k]
            takes = segment.inputs if not self.static else (self.bundle.manifest.input.tensor,)
            gives = (*segment.outputs, segment.logits) if not self.static else (segment.logits,)
            made = [np.empty((len(left), *b.shape[1:]), np.int8) for b in stage.outputs]
            for row in range(len(left)):
                for spec, buffer in zip(takes, stage.inputs, strict=True):
                    buffer[0] = values[spec.name][row]
                self.engine.invoke(k)
                for whole, buffer in zip(made, stage.outputs, strict=True):
                    whole[row] = buffer[0]
            values.update(zip((spec.name for spec in gives), made, strict=True))
            labels, scores = rule.score(k, made[-1], left)
            leaves = scores <= limit if below else scores >= limit
            totals = confidence_sums(made[-1], np.asarray(self._tables[k], np.int64))
            for row in np.flatnonzero(leaves).tolist():
                results[left[row]] = Result(
                    int(labels[row]), self._first_exit + k, ONE / int(totals[row])
                )
            left = left[~leaves]
            if not len(left):
                break
            later = {spec.name for after in self._segments[k + 1 :] for spec in after.inputs}
            values = {name: v[~leaves] for name, v in values.items() if name in later}
        return [result for result in results if result is not None]

    def _check_open(self) -> None:
        if self._closed:
            raise ArgumentError("the session is closed", hint="make another Session")

    def _in_use(self) -> ArgumentError:
        self._check_open()
        return ArgumentError(
            "the session runs already, in another thread", hint="make a Session for each thread"
        )

    def _failed(self, exc: Exception) -> EngineError:
        return EngineError(
            f"{self.engine.name} failed while it ran a sample",
            given=exc,
            where=self.bundle.path.name,
        )


def all_logits(
    engine: Engine, segments: Sequence[SegmentSpec], inputs: NDArray[np.int8]
) -> NDArray[np.int8]:
    """The logits of every exit for every sample; no exit is taken.

    Args:
        engine: The chain, or the static network as a single stage.
        segments: Of the manifest.
        inputs: int8 [N, H, W, C], quantized.

    Returns:
        int8 [N, K, C]; K is 1 for the static network.

    Raises:
        ArgumentError: If the inputs have another shape or dtype.
        EngineError: If the interpreter fails.
    """
    stages = engine.stages
    sample_shape = stages[0].inputs[0].shape[1:]
    if inputs.dtype != np.int8 or inputs.shape[1:] != sample_shape:
        raise ArgumentError(
            "the engine takes other inputs",
            wanted=f"int8 [N, {', '.join(str(size) for size in sample_shape)}]",
            given=f"{inputs.dtype} {list(inputs.shape)}",
        )
    wires = _wires(engine, segments)
    logits = np.empty((len(inputs), len(stages), stages[0].outputs[-1].shape[1]), np.int8)
    for sample, rows in zip(inputs, logits, strict=True):
        stages[0].inputs[0][0] = sample
        for k, copies in enumerate(wires):
            for target, source in copies:
                target[...] = source
            engine.invoke(k)
            rows[k] = stages[k].outputs[-1][0]
    return logits


def _wires(engine: Engine, segments: Sequence[SegmentSpec]) -> list[_Copies]:
    """For each stage what to copy before it runs: (its input buffer, the buffer of the value).

    The first stage takes the model's own input, which its caller writes.
    """
    known = {segments[0].inputs[0].name: engine.stages[0].inputs[0]}
    if len(engine.stages) == 1:
        return [[]]
    wires: list[_Copies] = []
    for segment, stage in zip(segments, engine.stages, strict=True):
        names = [spec.name for spec in segment.inputs]
        copies = [(b, known[name]) for name, b in zip(names, stage.inputs, strict=True)]
        wires.append([(target, source) for target, source in copies if target is not source])
        gives = [spec.name for spec in (*segment.outputs, segment.logits)]
        known.update(zip(gives, stage.outputs, strict=True))
    return wires


def _flat(buffer: NDArray[np.int8]) -> memoryview:
    """The bytes of a buffer: assigning one such view to another is the cheapest copy there is."""
    memory: Any = buffer if buffer.flags.c_contiguous else buffer.transpose(0, 3, 1, 2)
    return memoryview(memory).cast("B")


def default_point(names: Iterable[str]) -> str:
    """The operating point that is taken where none is named: ``balanced``, or the first."""
    known = list(names)
    return DEFAULT_POINT if DEFAULT_POINT in known else known[0]
