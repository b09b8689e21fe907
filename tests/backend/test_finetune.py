"""Fine-tuning of the quantized graph: on the same grids, kept only where it helps."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGE, PREPROCESSING, Ensemble, Exits, network, pieces, samples, splits
from PIL import Image
from torch import Tensor, nn

from edgeexit.backends.base import load_backend
from edgeexit.backends.integer_ops import get_constant, is_dequantize, is_quantize, parameters_of
from edgeexit.compiler import verify
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.compiler.finetune import FineTuned, finetune
from edgeexit.compiler.partition import partition
from edgeexit.compiler.pipeline import compile_model
from edgeexit.compiler.quantize import quantize
from edgeexit.compiler.samples import input_spec, real_batches
from edgeexit.data.streaming import ShuffledRecords, StreamedSplit
from edgeexit.data.streaming_decode import Decoding
from edgeexit.data.types import Augmentation, Samples, Splits
from edgeexit.errors import ArgumentError, DataError
from edgeexit.runtime.manifest import MAX_EXITS, plain_text
from edgeexit.types import QuantizedGraph


def weights(graph: QuantizedGraph) -> list[Tensor]:
    """All int8 constants, then all biases, in the order of the graph."""
    constants = [
        get_constant(graph.module, node)
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and "zero_point" not in str(node.target)
    ]
    return sorted(constants, key=lambda value: value.dtype != torch.int8)


def same(one: QuantizedGraph, other: QuantizedGraph) -> bool:
    return all(
        a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(weights(one), weights(other), strict=True)
    )


def grids(graph: QuantizedGraph) -> list[tuple[float, int]]:
    return [
        parameters_of(node)
        for node in graph.module.graph.nodes
        if is_quantize(node) or (is_dequantize(node) and isinstance(node.args[1], float))
    ]


COLOURS = np.array(
    [[220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40], [60, 60, 60]], np.int64
)


def coloured(count: int = 64, shift: int = 0) -> Samples:
    """Images of one colour and some noise; the label is the colour's, off by ``shift``."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, count)
    noise = generator.integers(-30, 31, (count, 16, 16, 3))
    images = np.clip(COLOURS[labels][:, None, None] + noise, 0, 255).astype(np.uint8)
    return Samples(images, (labels + shift) % 5)


def toy(shift: int = 0) -> Splits:
    """Colours to learn; ``shift`` is how far training and calibration labels are apart."""
    return replace(splits(), train=coloured(shift=shift), calibration=coloured())


@cache
def untrained() -> QuantizedGraph:
    torch.manual_seed(0)
    model: Any = Ensemble().eval()
    exported = canonicalize(export(model, IMAGE))
    return quantize(
        exported, coloured(), PREPROCESSING, num_range_samples=32, num_compared_samples=32
    )


def tuned(data: Splits, **options: Any) -> FineTuned:
    options = {"epochs": 20, "batch_size": 16, "learning_rate": 1.0} | options
    return finetune(untrained(), data, **options)


@pytest.fixture(scope="module")
def better() -> FineTuned:
    return tuned(toy())


def test_a_better_graph_is_kept(better: FineTuned) -> None:
    assert better.kept
    assert sum(better.after) > sum(better.before) + 0.5
    assert not same(better.graph, untrained())
    mean = [100 * sum(exits) / 3 for exits in (better.before, better.after)]
    assert better.verdict == f"kept; mean accuracy {mean[0]:.2f} -> {mean[1]:.2f} %"
    assert better.by_exit.count(" -> ") == 3
    # The accuracies are those of the graphs, on the whole split.
    batch = next(real_batches(coloured(), PREPROCESSING, 64))
    labels = torch.from_numpy(coloured().labels)
    for graph, wanted in ((untrained(), better.before), (better.graph, better.after)):
        given = [float((z.argmax(1) == labels).double().mean()) for z in graph.module(batch)]
        assert given == pytest.approx(wanted)


def test_the_verdict_fits_a_manifest_whatever_the_exits() -> None:
    for kept in (True, False):
        given = FineTuned(untrained(), kept, (1.0,) * MAX_EXITS, (1.0,) * MAX_EXITS)
        assert plain_text(f"epochs=1000, {given.verdict}", "tools.fine-tuning")
        assert given.by_exit.count("100.00 -> 100.00 %") == MAX_EXITS


def test_every_grid_is_as_it_was(better: FineTuned) -> None:
    assert grids(better.graph) == grids(untrained())
    verify.quantized(better.graph)
    for value in weights(better.graph):
        assert value.is_contiguous()
        assert value.dtype != torch.int8 or int(value.min()) >= -127


def test_the_same_cut_and_artifacts(better: FineTuned) -> None:
    segments, static = partition(better.graph)
    verify.partitioned(segments, static, better.graph, coloured(8), PREPROCESSING)
    for segment, other in zip(segments, partition(untrained())[0], strict=True):
        assert segment.spec == other.spec  # names, shapes, scales and zero points of the cuts too
    spec = input_spec(static.spec.inputs[0], coloured(), PREPROCESSING)
    files = load_backend("tflite", None, None).lower(segments, static)
    differences = verify.lowered(files, segments, "litert_reference", coloured(8), spec)
    assert {d.max_lsb for name, d in differences.items() if "logits" in name} <= {0, 1}


@pytest.mark.parametrize("name", ["mobile", "assorted"])
def test_gradients_pass_every_op(name: str) -> None:
    told: list[str] = []
    finetune(
        pieces(name).quantized,
        toy(),
        epochs=10,
        batch_size=16,
        learning_rate=2.0,
        report=told.append,
    )
    losses = [float(line.rpartition(" ")[2]) for line in told]
    assert losses[-1] < losses[0]


def test_the_same_bits_twice(better: FineTuned) -> None:
    torch.manual_seed(17)  # of no consequence
    assert same(tuned(toy()).graph, better.graph)
    assert not same(tuned(toy(), seed=1).graph, better.graph)


def test_a_worse_graph_is_dropped(better: FineTuned) -> None:
    given = finetune(better.graph, toy(shift=1), epochs=5, batch_size=16, learning_rate=1.0)
    assert given.before == better.after
    assert sum(given.after) < sum(given.before)
    assert not given.kept
    assert given.graph is better.graph
    assert "no better, dropped" in given.verdict


def test_one_that_diverged_is_dropped() -> None:
    given = tuned(toy(), learning_rate=float("inf"), epochs=1)
    assert (given.kept, given.after) == (False, (0.0, 0.0, 0.0))


def test_nothing_learned_changes_nothing() -> None:
    given = tuned(toy(), epochs=1, learning_rate=0.0)
    assert not given.kept
    assert given.after == given.before


def test_images_are_augmented(better: FineTuned) -> None:
    moved = tuned(replace(toy(), augmentation=Augmentation(2, True)))
    assert moved.kept
    assert not same(moved.graph, better.graph)


class Pictures:
    """Records of one unit that are pictures already."""

    def __init__(self, held: Samples) -> None:
        self.held = held
        self.labels = held.labels
        self.unit = np.zeros(len(held), np.int64)

    def read(self, position: int) -> Image.Image:
        return Image.fromarray(self.held.images[position])

    def where(self, position: int) -> str:
        return f"picture {position}"


def test_a_stream_is_trained_on() -> None:
    records = ShuffledRecords(Pictures(coloured()), np.arange(64), 64)
    stream = StreamedSplit(records, Decoding((16, 16, 3)), num_threads=1)
    given = tuned(replace(toy(), train=stream))
    assert given.kept
    assert sum(given.after) > sum(given.before) + 0.5


class Flat(Exits):
    """One linear layer over four pixels of three colours."""

    num_exits = 1

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.linear(x.flatten(1)),)


def test_one_step_by_hand() -> None:
    """Adam's first step is the rate, against the sign of the gradient (its moments cancel).

    The gradient of the mean cross-entropy is (softmax(z) - onehot) x / N, where z is on its grid
    and inside of it; so each weight moves by exactly two steps of its grid, if the rate is two.
    """
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (32, 2, 2, 3)).astype(np.uint8)
    x = (images.transpose(0, 3, 1, 2).reshape(32, 12).astype(np.float64) - 128) / 128
    torch.manual_seed(0)
    model: Any = Flat().eval()
    some = Samples(images, np.zeros(32, np.int64))
    before = quantize(canonicalize(export(model, (3, 2, 2))), some, PREPROCESSING)
    z = before.module(next(real_batches(some, PREPROCESSING, 32)))[0].double().numpy()
    # The label of the second largest logit: a step towards it flips some answers.
    part = Samples(images, z.argsort(axis=1)[:, -2].astype(np.int64))
    data = replace(splits(), train=part, calibration=part)
    given = finetune(before, data, epochs=1, learning_rate=2.0, batch_size=32)
    assert given.kept  # else there is nothing to look at

    share = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(5)[part.labels]
    integers, bias = weights(before)
    after, after_bias = weights(given.graph)
    wanted = (integers.numpy() - 2 * np.sign(share.T @ x)).clip(-127, 127)
    assert np.array_equal(after.numpy(), wanted)
    logits = [n for n in before.module.graph.nodes if is_quantize(n)][-1]
    step = 2 * parameters_of(logits)[0] * np.sign(share.sum(0))
    assert np.allclose(after_bias.numpy(), bias.numpy() - step, atol=1e-4)


def test_a_tuned_network_becomes_a_bundle(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    bundle = compile_model(
        network("ensemble"),  # type: ignore[arg-type]
        data=toy(),
        output=tmp_path / "toy.eexit",
        backends=("tflite",),
        finetune_epochs=2,
        progress=lambda *line: told.append(line),
    )
    verdict = bundle.manifest.tools["fine-tuning"]
    assert re.match(r"epochs=2, (kept|no better, dropped); mean accuracy \d", verdict)
    lines = [line for line in told if line[0].startswith("fine-tune")]
    assert [line[1:] for line in lines] == [(3, 9)] * 4  # as it begins, two epochs, the verdict
    assert lines[-1][0].startswith(f"fine-tune: {verdict.removeprefix('epochs=2, ')}; by exit ")
    assert told[-1] == ("write", 8, 9)


def with_training(**changes: Any) -> Splits:
    return replace(splits(), train=Samples(**{**vars(samples(8)), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"finetune_epochs": -1}, ArgumentError, "finetune_epochs=-1"),
        (
            {"data": with_training(images=np.zeros((0, 16, 16, 3), np.uint8),
                                   labels=np.zeros(0, np.int64))},
            DataError,
            "no samples.*\n?.*training split, which fine-tuning needs",
        ),
        (
            {"data": with_training(images=np.zeros((8, 8, 8, 3), np.uint8))},
            DataError,
            "another shape",
        ),
        (
            {"data": replace(splits(), train=StreamedSplit(
                ShuffledRecords(Pictures(coloured()), np.arange(64), 64), Decoding((8, 8, 3))))},
            DataError,
            "not like the calibration split",
        ),
        ({"data": with_training(labels=np.full(8, 5))}, DataError, "out of range"),
        (
            {"data": with_training(images=samples(8).images.astype(np.float32))},
            DataError,
            "not like the calibration split",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_goes_wrong_at_once(
    changes: dict[str, Any], error: type[Exception], match: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"data": splits(), "finetune_epochs": 1} | changes
    with pytest.raises(error, match=match):
        compile_model(network("residual"), output=tmp_path / "x.eexit", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x.eexit").exists()
