"""Each engine on files whose results numpy knows, and on files that are not what they should be."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_chain as chain

from edgeexit.errors import ArgumentError, EngineError, EngineNotInstalledError
from edgeexit.runtime import engines
from edgeexit.runtime.bundle import Bundle, open_bundle
from edgeexit.runtime.engines import ENGINES, Engine, Stage, load_engine
from edgeexit.runtime.preprocess import quantize_input
from edgeexit.runtime.session import all_logits

IN_ONE_ENVIRONMENT = ("litert", "litert_reference", "executorch")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert, which makes the test files")
    pytest.importorskip("executorch.exir", reason="needs executorch, which makes the test files")
    files = {**chain.tflite_files(), "model.pte": chain.executorch_program()}
    return open_bundle(chain.write_bundle(tmp_path_factory.mktemp("b") / "chain.eexit", files))


def load(bundle: Bundle, name: str, **options: Any) -> Engine:
    artifacts = bundle.manifest.artifacts
    contents = {artifact.path: bundle.read(artifact) for artifact in artifacts}
    contents |= options.pop("contents", {})
    segments = options.pop("segments", bundle.manifest.segments)
    artifacts = options.pop("artifacts", artifacts)
    return load_engine(name, artifacts, contents, segments, **options)


def quantized(bundle: Bundle, num: int) -> np.ndarray:
    return quantize_input(chain.images(num), bundle.manifest.input)


@pytest.mark.parametrize("name", IN_ONE_ENVIRONMENT)
def test_all_logits_are_numpys(bundle: Bundle, name: str) -> None:
    engine = load(bundle, name)
    given = all_logits(engine, bundle.manifest.segments, quantized(bundle, 50))
    assert np.array_equal(given, chain.expected_logits(chain.images(50)))
    assert engine.fallback is None
    assert (engine.name, engine.num_threads) == (name, 1)


@pytest.mark.parametrize("name", IN_ONE_ENVIRONMENT)
def test_the_static_network_is_the_last_exit(bundle: Bundle, name: str) -> None:
    engine = load(bundle, name, static=True)
    given = all_logits(engine, bundle.manifest.segments, quantized(bundle, 20))
    assert np.array_equal(given, chain.expected_logits(chain.images(20))[:, 2:])


@pytest.mark.parametrize("name", IN_ONE_ENVIRONMENT)
def test_run_returns_values_of_its_own(bundle: Bundle, name: str) -> None:
    engine = load(bundle, name)
    x = quantized(bundle, 2)
    first = engine.run(0, [x[:1]])
    kept = [value.copy() for value in first]
    near, far, _ = engine.run(0, [x[1:]])
    engine.run(1, [near])
    engine.run(2, [far, far])
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
    assert not np.array_equal(first[0], near)


@pytest.mark.parametrize("name", IN_ONE_ENVIRONMENT)
def test_a_later_segment_leaves_earlier_buffers_alone(bundle: Bundle, name: str) -> None:
    """ExecuTorch's methods share an arena; the buffers of stages must not."""
    engine = load(bundle, name)
    np.copyto(engine.stages[0].inputs[0], quantized(bundle, 1))
    engine.invoke(0)
    kept = [buffer.copy() for buffer in engine.stages[0].outputs]
    for k in (1, 2):
        for buffer in engine.stages[k].inputs:
            buffer.fill(-7)
        engine.invoke(k)
    assert all(np.array_equal(a, b) for a, b in zip(engine.stages[0].outputs, kept, strict=True))
    buffers = [b for stage in engine.stages for b in (*stage.inputs, *stage.outputs)]
    assert not any(np.shares_memory(a, b) for a, b in combinations(buffers, 2))


@pytest.mark.parametrize("name", IN_ONE_ENVIRONMENT)
def test_wrong_inputs_are_refused(bundle: Bundle, name: str) -> None:
    engine = load(bundle, name)
    good = quantized(bundle, 1)
    for inputs in ([], [good, good], [good[0]], [good.astype(np.float32)], [good[..., :1]]):
        with pytest.raises(ArgumentError, match=r"(?s)other inputs than it takes.*segment 0"):
            engine.run(0, inputs)
    with pytest.raises(ArgumentError, match=r"(?s)takes other inputs.*int8 \[N, 2, 2, 2\]"):
        all_logits(engine, bundle.manifest.segments, good[..., :1])


def test_several_threads(bundle: Bundle) -> None:
    for name in ("executorch", "litert"):
        engine = load(bundle, name, num_threads=2)
        given = all_logits(engine, bundle.manifest.segments, quantized(bundle, 3))
        assert np.array_equal(given, chain.expected_logits(chain.images(3)))


class PublicOnly:
    """An interpreter whose wrapper is somewhere else."""

    def __init__(self, **options: Any) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._hidden = Interpreter(**options)

    def __getattr__(self, name: str) -> Any:
        if name == "_interpreter":
            raise AttributeError(name)
        return getattr(self._hidden, name)


def test_without_the_private_wrapper(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from ai_edge_litert.interpreter import OpResolverType

    module = SimpleNamespace(
        __name__="other.interpreter", Interpreter=PublicOnly, OpResolverType=OpResolverType
    )
    monkeypatch.setattr(engines, "_import", lambda *_: module)
    with pytest.warns(RuntimeWarning, match=r"other.interpreter has no wrapper.*copy more"):
        engine = load(bundle, "litert")
    assert engine.fallback is not None
    given = all_logits(engine, bundle.manifest.segments, quantized(bundle, 20))
    assert np.array_equal(given, chain.expected_logits(chain.images(20)))


def test_executorch_without_the_private_call(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from executorch.runtime import Method

    # A method that keeps the private one elsewhere, and so has the public call only.
    monkeypatch.setattr(Method, "__init__", lambda self, inner: setattr(self, "_inner", inner))
    monkeypatch.setattr(Method, "execute", lambda self, inputs: self._inner(inputs))
    monkeypatch.setattr(Method, "metadata", property(lambda self: self._inner.method_meta()))
    engine = load(bundle, "executorch")
    given = all_logits(engine, bundle.manifest.segments, quantized(bundle, 20))
    assert np.array_equal(given, chain.expected_logits(chain.images(20)))


# ------------------------------------------------------------------ what is not as promised


def changed(bundle: Bundle, k: int, **change: Any) -> Any:
    """The segments with one tensor of segment k changed: its logits, or its last output."""
    segments = list(bundle.manifest.segments)
    segments[k] = replace(segments[k], logits=replace(segments[k].logits, **change))
    return segments


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "litert",
            {"scale": 1.00001},
            r"(?s)segments/1.tflite, output 1 \(logits1\).*scale 1.00001",
        ),
        ("litert", {"zero_point": 3}, r"(?s)output 1 \(logits1\).*zero point 3.*zero point 0"),
        ("litert", {"shape": (1, 5)}, r"(?s)output 1 \(logits1\).*\[1, 5\].*\[1, 4\]"),
        ("executorch", {"shape": (1, 5)}, r"(?s)method segment_1, output 1.*\[1, 5\].*\[1, 4\]"),
    ],
)
def test_tensors_are_compared(
    bundle: Bundle, name: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match="not what the manifest says") as caught:
        load(bundle, name, segments=changed(bundle, 1, **change))
    assert caught.match(message)


def test_a_scale_that_is_the_same_float32(bundle: Bundle) -> None:
    load(bundle, "litert", segments=changed(bundle, 1, scale=1 + 1e-8))


@pytest.mark.parametrize("name", ["litert", "executorch"])
def test_counts_are_compared(bundle: Bundle, name: str) -> None:
    segments = list(bundle.manifest.segments)
    segments[0] = replace(segments[0], outputs=segments[0].outputs[:1])
    with pytest.raises(EngineError, match=r"(?s)1 inputs and 2 outputs.*1 inputs and 3 outputs"):
        load(bundle, name, segments=segments)


def test_float_files_are_refused(bundle: Bundle) -> None:
    content = chain.tflite(
        ["image"], [("CONCATENATION", ["image", "image"], "out", None)], ["out"], dtype="FLOAT32"
    )
    segments = bundle.manifest.segments
    only = replace(segments[0], outputs=(), logits=replace(segments[0].logits, shape=(1, 2, 2, 4)))
    with pytest.raises(EngineError, match=r"(?s)input 0 \(image\).*int8 with one scale.*float32"):
        load(bundle, "litert", segments=[only], contents={"segments/0.tflite": content})


@pytest.mark.parametrize(
    ("name", "path", "identifier"),
    [("litert", "segments/0.tflite", "TFL3"), ("executorch", "model.pte", "ET12")],
)
def test_other_files_are_not_parsed(bundle: Bundle, name: str, path: str, identifier: str) -> None:
    good = next(bundle.read(a) for a in bundle.manifest.artifacts if a.path == path)
    far_root = (2**31).to_bytes(4, "little") + good[4:]
    for content in (b"", good[:12], b"\x1c\0\0\0TFL9" + good[8:], far_root, b"PK\x03\x04" * 10):
        with pytest.raises(EngineError, match=rf"(?s)not a file of its backend.*{identifier}"):
            load(bundle, name, contents={path: content})


def test_a_program_without_the_method(bundle: Bundle) -> None:
    artifacts = [replace(a, method="forward") for a in bundle.manifest.artifacts]
    with pytest.raises(EngineError, match=r"(?s)lacks a method.*forward.*segment_0"):
        load(bundle, "executorch", artifacts=artifacts)


def test_a_missing_artifact(bundle: Bundle) -> None:
    chain_only = [a for a in bundle.manifest.artifacts if a.segment is not None]
    with pytest.raises(EngineError, match=r"(?s)lacks an artifact.*tflite: static"):
        load(bundle, "litert", artifacts=chain_only, static=True)
    only_pte = [a for a in bundle.manifest.artifacts if a.backend == "executorch"]
    with pytest.raises(EngineError, match=r"(?s)tflite: segment 0.*with the backend tflite"):
        load(bundle, "litert", artifacts=only_pte)


def test_a_failing_interpreter_is_wrapped() -> None:
    def fail() -> None:
        raise RuntimeError("node 3 failed")

    buffer = np.zeros((1, 4), np.int8)
    engine = Engine("litert", [Stage((buffer,), (buffer,), fail, None)], 1)
    with pytest.raises(EngineError, match=r"(?s)litert failed.*segment 0.*node 3 failed") as caught:
        engine.run(0, [buffer])
    assert isinstance(caught.value.__cause__, RuntimeError)


# ------------------------------------------------------------------ what is not installed


@pytest.fixture
def without_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    for info in ENGINES.values():
        monkeypatch.setitem(sys.modules, info.module, None)


@pytest.mark.usefixtures("without_interpreters")
@pytest.mark.parametrize("name", ENGINES)
def test_the_pip_extra_is_named(bundle: Bundle, name: str) -> None:
    extra = ENGINES[name].extra
    with pytest.raises(EngineNotInstalledError, match=f"{name} is not installed") as caught:
        load(bundle, name)
    place = ", in an environment of its own with Python up to 3.11" if "tflite" in extra else ""
    assert caught.value.hint == f"pip install 'edgeexit[{extra}]'{place}"


def test_the_pip_extras_exist() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11, which reads TOML")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert {i.extra for i in ENGINES.values()} <= project["project"]["optional-dependencies"].keys()


def test_an_installed_engine_that_cannot_be_imported(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: str) -> None:
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(EngineError, match=r"(?s)cannot be imported.*tflite_runtime.*of its own"):
        load(bundle, "tflite-runtime")


def test_unknown_engines_and_thread_counts(bundle: Bundle) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)no such engine.*litert \| .*engine='onnx'"):
        load(bundle, "onnx")
    with pytest.raises(ArgumentError, match=r"(?s)needs a thread.*num_threads=0"):
        load(bundle, "litert", num_threads=0)
