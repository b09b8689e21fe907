"""Sessions stop where the rules say, one sample at a time and in batches, in each engine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chain as chain

from edgeexit.errors import ArgumentError, BundleError, DataError, EngineError
from edgeexit.runtime.decision import batch_exits, batch_scores, exp_table
from edgeexit.runtime.session import Session
from edgeexit.types import DecisionSpec, Result, Rule

ALWAYS = chain.ALWAYS
NUM = 300  # more than one group of run_batch
NEVER = {"confidence": 0, "margin": 256, "patience": ALWAYS}
POINTS: dict[Rule, dict[str, tuple[int, ...]]] = {
    "confidence": {"balanced": (65_600, 65_544, ALWAYS), "frugal": (90_000, ALWAYS, ALWAYS)},
    "margin": {"balanced": (9, 12, 0), "frugal": (3, 256, 0)},
    "patience": {"balanced": (2, 2, 1), "frugal": (3, 3, 1)},
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert, which makes the test files")
    pytest.importorskip("executorch.exir", reason="needs executorch, which makes the test files")
    return {**chain.tflite_files(), "model.pte": chain.executorch_program()}


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    return chain.write_bundle(tmp_path / "chain.eexit", files)


def by_rule(rule: Rule, thresholds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and exits on numpy's logits."""
    logits = chain.expected_logits(chain.images(NUM))
    tables = ((exp_table(1.0) if rule == "confidence" else ()),) * 3
    exits = batch_exits(batch_scores(logits, DecisionSpec(rule, tables)), thresholds, rule)
    return logits[np.arange(NUM), exits].argmax(axis=1), exits


@pytest.mark.parametrize("rule", POINTS)
@pytest.mark.parametrize("engine", ["litert", "litert_reference", "executorch"])
def test_exits_and_labels(files: dict[str, bytes], tmp_path: Path, engine: str, rule: Rule) -> None:
    folder = chain.write_bundle(tmp_path / "b", files, rule=rule, points=POINTS[rule])
    taken: set[int] = set()
    with Session(folder, engine) as session:
        for name in ("balanced", "frugal"):
            session.select(name)
            labels, exits = by_rule(rule, POINTS[rule][name])
            results = [session.run(image) for image in chain.images(NUM)]
            assert [result.exit for result in results] == exits.tolist()
            assert [result.label for result in results] == labels.tolist()
            assert session.run_batch(chain.images(NUM)) == results
            taken |= set(exits.tolist())
    # With fewer exits the test would show little.
    assert len(taken) >= 2


@pytest.mark.parametrize("engine", ["litert", "executorch"])
@pytest.mark.parametrize("rule", POINTS)
def test_times_change_nothing_else(
    files: dict[str, bytes], tmp_path: Path, engine: str, rule: Rule
) -> None:
    folder = chain.write_bundle(tmp_path / "b", files, rule=rule, points=POINTS[rule])
    session = Session(folder, engine)
    for image in chain.images(40):
        timed, plain = session.run(image, timings=True), session.run(image)
        assert (timed.label, timed.exit, timed.confidence) == (
            plain.label, plain.exit, plain.confidence
        )  # fmt: skip
        assert plain.segment_ns == ()
        assert len(timed.segment_ns) == timed.exit + 1
        assert all(ns > 0 for ns in timed.segment_ns)


def test_confidence_is_the_softmax(folder: Path) -> None:
    session = Session(folder)
    logits = chain.expected_logits(chain.images(50)).astype(float)
    for image, rows in zip(chain.images(50), logits, strict=True):
        result = session.run(image)
        exponentials = np.exp(rows[result.exit] - rows[result.exit].max())
        assert result.confidence == pytest.approx(1 / exponentials.sum(), rel=1e-4)


def test_no_exit_taken_is_the_static_network(folder: Path) -> None:
    chained = Session(folder, operating_point="static")
    static = Session(folder, static=True)
    expected = chain.expected_logits(chain.images(NUM))[:, 2].argmax(axis=1).tolist()
    for session in (chained, static):
        results = [session.run(image) for image in chain.images(NUM)]
        assert [result.label for result in results] == expected
        assert {result.exit for result in results} == {2}
        assert session.run_batch(chain.images(NUM)) == results
    assert len(static.run(chain.images(1)[0], timings=True).segment_ns) == 1


def test_thresholds_of_ones_own(folder: Path) -> None:
    session = Session(folder)
    assert (session.operating_point, session.thresholds) == ("balanced", (65_600, 65_600, ALWAYS))
    image = chain.images(1)[0]
    for thresholds, leaves in (
        ((ALWAYS, 0, ALWAYS), 0), ((0, ALWAYS, ALWAYS), 1), ((0, 0, ALWAYS), 2)
    ):  # fmt: skip
        session.set_thresholds(thresholds)
        assert session.run(image).exit == leaves
        assert session.thresholds == thresholds
        assert session.operating_point is None
    session.select("balanced")
    assert session.operating_point == "balanced"
    assert list(session.operating_points) == ["static", "balanced"]


def test_wrong_points_and_thresholds_change_nothing(folder: Path) -> None:
    session = Session(folder)
    with pytest.raises(ArgumentError, match=r"(?s)no such operating point.*static \| balanced"):
        session.select("fast")
    with pytest.raises(ArgumentError, match="one threshold"):
        session.set_thresholds((1, ALWAYS))
    with pytest.raises(ArgumentError, match="last exit has to answer"):
        session.set_thresholds((1, 1, 1))
    assert (session.operating_point, session.thresholds) == ("balanced", (65_600, 65_600, ALWAYS))
    with pytest.raises(ArgumentError, match=r"(?s)no such operating point.*'fast'"):
        Session(folder, operating_point="fast")
    with pytest.raises(ArgumentError, match="no such engine"):
        Session(folder, "onnx")


def test_a_static_session_has_nothing_to_choose(folder: Path) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)no operating points.*'balanced' with static"):
        Session(folder, static=True, operating_point="balanced")
    session = Session(folder, static=True)
    assert session.operating_points == {}
    with pytest.raises(ArgumentError, match="a static network has no exits"):
        session.select("balanced")
    with pytest.raises(ArgumentError, match="a static network has no exits"):
        session.set_thresholds((ALWAYS,))


def test_wrong_samples_leave_the_session_usable(folder: Path) -> None:
    session = Session(folder)
    image = chain.images(1)[0]
    good = session.run(image)
    for raw, message in (
        (image.astype(np.float32), "raw type"), (image[:1], "another shape"), (None, "raw type")
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            session.run(raw)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"(?s)another shape.*\[N, 2, 2, 2\]"):
        session.run_batch(image)
    assert session.run(image) == session.run(image[None]) == good


def test_an_empty_batch(folder: Path) -> None:
    assert Session(folder).run_batch(chain.images(3)[:0]) == []


def test_a_closed_session(folder: Path) -> None:
    with Session(folder) as session:
        session.run(chain.images(1)[0])
    session.close()
    for call, given in (
        (session.run, chain.images(1)[0]),
        (session.run_batch, chain.images(1)),
        (session.select, "static"),
        (session.select, "fast"),
        (session.set_thresholds, (0, 0, ALWAYS)),
    ):
        with pytest.raises(ArgumentError, match="session is closed"):
            call(given)  # type: ignore[operator]


def test_two_samples_at_once_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(folder)
    image = chain.images(1)[0]
    into = session._preprocessor.into

    def meanwhile(*arguments: Any) -> None:
        with pytest.raises(ArgumentError, match=r"(?s)in another thread.*Session for each thread"):
            session.run(image)
        with pytest.raises(ArgumentError, match="in another thread"):
            session.run_batch(image[None])
        into(*arguments)

    monkeypatch.setattr(session._preprocessor, "into", meanwhile)
    assert isinstance(session.run(image), Result)


def test_two_threads_close_a_session_that_runs(folder: Path) -> None:
    session = Session(folder)
    closers = [threading.Thread(target=session.close, daemon=True) for _ in range(2)]
    with session._running:  # as a sample of another thread
        for closer in closers:
            closer.start()
            closer.join(0.1)
    for closer in closers:
        closer.join(10)
        assert not closer.is_alive()


def test_a_choice_that_another_interrupts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(folder)
    other = threading.Thread(target=session.select, args=("static",), daemon=True)
    use = session._use

    def interrupted(*arguments: Any) -> None:
        use(*arguments)
        if threading.current_thread() is not other:
            other.start()
            other.join(0.1)

    monkeypatch.setattr(session, "_use", interrupted)
    session.select("balanced")
    other.join(10)
    # Whoever came last, name and thresholds are of one point.
    assert session.operating_point is not None
    assert session.thresholds == session.operating_points[session.operating_point].thresholds


def test_a_choice_while_another_thread_closes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(folder)
    closer = threading.Thread(target=session.close, daemon=True)
    use = session._use

    def interrupted(*arguments: Any) -> None:
        closer.start()
        closer.join(0.1)
        use(*arguments)

    monkeypatch.setattr(session, "_use", interrupted)
    session.select("static")
    assert session.operating_point == "static"
    closer.join(10)
    with pytest.raises(ArgumentError, match="session is closed"):
        session.select("balanced")


def test_a_failing_interpreter_is_wrapped(folder: Path) -> None:
    session = Session(folder)

    def fail() -> None:
        raise RuntimeError("node 3 failed")

    session._steps[0] = session._steps[0]._replace(invoke=fail)
    session.select("static")
    with pytest.raises(EngineError, match=r"(?s)litert failed.*chain.eexit.*node 3 failed"):
        session.run(chain.images(1)[0])
    with pytest.raises(EngineError, match="node 3 failed"):
        session.run(chain.images(1)[0], timings=True)


def test_damage_is_found_before_anything_runs(folder: Path) -> None:
    path = folder / "segments/2.tflite"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    for engine in ("litert", "executorch"):
        with pytest.raises(BundleError, match=r"(?s)damaged.*segments/2.tflite"):
            Session(folder, engine)


def test_an_engine_whose_backend_is_not_in_the_bundle(tmp_path: Path) -> None:
    folder = chain.write_bundle(tmp_path / "b", chain.tflite_files())
    with pytest.raises(EngineError, match=r"(?s)lacks an artifact.*executorch: segment 0"):
        Session(folder, "executorch")
