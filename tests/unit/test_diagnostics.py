"""Diagnostics: each against a case worked by hand, or one whose answer is known."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import make_data, make_model
from torch import Tensor, nn

from edgeexit.cli.app import main
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.errors import ArgumentError, CheckpointError, DataError, ModelError, StorageError
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.weights_file import weights_bytes
from edgeexit.training.diagnostics import Settings, diagnose, diagnose_run, with_weights
from edgeexit.training.diagnostics.collusion import collusion
from edgeexit.training.diagnostics.confidence import confidence
from edgeexit.training.diagnostics.gradient_dominance import gradient_dominance
from edgeexit.training.diagnostics.layers import collect, find_layers, pooled
from edgeexit.training.diagnostics.mode_connectivity import (
    Plane,
    _filter_normalised,
    barrier,
    collect_statistics,
    line,
    plane,
)
from edgeexit.training.diagnostics.mutual_information import (
    information_of,
    mutual_information,
    principal_components,
)
from edgeexit.training.diagnostics.numerical_rank import (
    effective_rank_of,
    numerical_rank,
    rank_of,
)
from edgeexit.training.diagnostics.overthinking import overthinking
from edgeexit.training.diagnostics.plots import draw_plane, svg_of
from edgeexit.training.diagnostics.report import check_output
from edgeexit.training.diagnostics.run import phase_ends
from edgeexit.training.diagnostics.sample import Sample, draw_sample, log_softmax, logits_of
from edgeexit.training.diagnostics.write import csv_of, json_of
from edgeexit.training.methods import create

TINY = Settings(
    num_samples=30,
    num_landscape_samples=20,
    num_statistics=20,
    num_line_points=3,
    num_plane_points=3,
    num_components=4,
)


pytestmark = pytest.mark.usefixtures("one_thread")


def splits(count: int = 48) -> Splits:
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % 3
    images = rng.integers(0, 90, (count, 8, 8, 3)).astype(np.uint8)
    images[..., 0] += (labels * 80)[:, None, None].astype(np.uint8)
    part = Samples(images, labels)
    scale = Preprocessing((128.0,), (1 / 128,))
    return Splits("colours", part, part, part, ("a", "b", "c"), scale, Augmentation(0, False))


def sample(count: int = 30) -> Sample:
    data = make_data(augmented=False)
    return draw_sample(data.train, data.preprocessing, split="train", num_samples=count, seed=0)


def linear(*weights: list[list[float]]) -> MultiExitModel:
    """Linear layers in a row, without biases; every layer's output is an exit's logits."""
    layers = []
    for weight in weights:
        layer = nn.Linear(len(weight[0]), len(weight), bias=False)
        layer.weight.data = torch.tensor(weight)
        layers.append(layer)
    early = {str(k): nn.Identity() for k in range(len(weights) - 1)}
    return MultiExitModel(nn.Sequential(*layers), early, len(weights[-1]))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------ the sample


def test_a_sample_is_preprocessed_and_the_same_for_one_seed() -> None:
    raw = Samples(np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1), np.arange(10))
    scale = Preprocessing((4.0,), (0.5,))
    drawn = [draw_sample(raw, scale, split="test", num_samples=4, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].labels, drawn[1].labels)
    assert not torch.equal(drawn[0].labels, drawn[2].labels)
    first = int(drawn[0].labels[0])
    # Image i holds 4 i to 4 i + 3; the real value is (raw - 4) / 2.
    assert drawn[0].images[0].flatten().tolist() == [(4 * first + j - 4) / 2 for j in range(4)]
    assert len(draw_sample(raw, scale, split="test", num_samples=99, seed=0)) == 10
    with pytest.raises(DataError, match="the split is empty"):
        draw_sample(raw[:0], scale, split="test", num_samples=4, seed=0)


def test_logits_are_those_of_evaluation_and_the_mode_comes_back() -> None:
    model = make_model().train()
    model.backbone.eval()
    before = state(model)
    found = logits_of(model, sample(), batch_size=7)
    assert (model.training, model.backbone.training) == (True, False)
    assert same(state(model), before)
    with torch.no_grad():
        wanted = torch.stack(model.eval()(sample().images)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(log_softmax(found)).sum(-1), 1)


# ------------------------------------------------------------------ gradient dominance


@pytest.mark.parametrize(
    ("c", "shares", "whole"),
    [
        (3.0, (1 / 4, 3 / 4), (4 / 17, 13 / 17)),
        # The exits pull in opposite directions, the first one harder: its share is above one.
        (-0.5, (2.0, -1.0), (0.5 / 1.25, 0.75 / 1.25)),
    ],
)
def test_shares_by_hand(c: float, shares: tuple[float, ...], whole: tuple[float, ...]) -> None:
    # x = (1, 1), label 0. Exit 0 reads a x with a = I: logits (1, 1), probabilities (.5, .5), so
    # the gradient of its loss in a is G = (-.5, .5)' (1, 1), of norm 1. The last exit reads b a x
    # with b = c I: logits (c, c), its gradient in a is b' (-.5, .5)' (1, 1) = c G.
    # Layer a: <G, G + cG> / |G + cG|^2 = 1 / (1 + c), and c / (1 + c).
    # Layer b: the last exit alone, with gradient G. Both layers: <g_0, g> = 1 + c,
    # <g_1, g> = c + c^2 + 1 and <g, g> is their sum.
    model = linear([[1.0, 0.0], [0.0, 1.0]], [[c, 0.0], [0.0, c]])
    given = Sample("train", torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
    found = gradient_dominance(model, given, batch_size=3)
    assert found.layers == ("0", "1")
    np.testing.assert_allclose(found.shares, [shares, (0, 1)], atol=1e-6)
    np.testing.assert_allclose(found.whole, whole, rtol=1e-5)
    np.testing.assert_allclose(found.backbone, whole, rtol=1e-5)
    np.testing.assert_allclose(found.norms, [(1, abs(c)), (0, 1)], atol=1e-6)
    cosine = c / math.sqrt(c * c + 1)
    np.testing.assert_allclose(found.cosines, [(1, cosine), (cosine, 1)], rtol=1e-5)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_shares_sum_to_one_and_the_network_stays_as_it_was(mode: Any) -> None:
    model = make_model().train()
    model.backbone.eval().requires_grad_(False)
    before = state(model)
    found = gradient_dominance(model, sample(), mode=mode, batch_size=8)
    np.testing.assert_allclose(found.shares.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose([found.whole.sum(), found.backbone.sum()], 1, rtol=1e-6)
    assert same(state(model), before)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad and p.grad is None for p in model.heads.parameters())
    assert (model.training, model.backbone.training) == (True, False)
    assert found.mode == mode
    # A head's parameters hear of its own exit alone.
    (place,) = (k for k, name in enumerate(found.layers) if name == "heads.1.1")
    np.testing.assert_allclose(found.shares[place], (0, 1, 0), atol=1e-9)
    assert not found.in_backbone[place]
    assert found.in_backbone[found.layers.index("fc")]


def test_the_gradient_is_that_of_the_whole_sample() -> None:
    model, given = make_model().eval(), sample()
    loss = F.cross_entropy(model(given.images)[0], given.labels)
    weight = model.backbone.get_submodule("stem.0").weight
    (wanted,) = torch.autograd.grad(loss, [weight])
    found = gradient_dominance(model, given, batch_size=7)
    np.testing.assert_allclose(
        found.norms[found.layers.index("stem.0"), 0], float(wanted.norm()), rtol=1e-4
    )


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_exits_that_are_combined(mode: Any) -> None:
    plain, cascaded = make_model(), make_model()
    create("ztw").rebuild(cascaded)
    combine = cascaded.combine
    wanted = gradient_dominance(plain, sample(), mode=mode)
    found = gradient_dominance(cascaded, sample(), mode=mode)
    # The ensembles let no gradient through to the backbone; the heads are those of the plain one.
    np.testing.assert_allclose(found.backbone, wanted.backbone, rtol=1e-5)
    assert (found.answers, wanted.answers) == ("heads", "network")
    assert cascaded.combine is combine
    merged = make_model()
    create("gpf").rebuild(merged)
    assert gradient_dominance(merged, sample(), mode=mode).answers == "network"


def test_no_gradient_at_all_is_not_a_number() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    given = Sample("train", torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    found = gradient_dominance(model, given)
    assert np.isnan(found.shares).all()
    assert np.isnan(found.whole).all()


# ------------------------------------------------------------------ mode connectivity


def test_barrier_by_hand() -> None:
    # The straight line at 1/2 is (1 + 3) / 2 = 2: 4 is two above it. The other is below everywhere.
    found = barrier(np.array([0, 0.5, 1]), np.array([[1.0, 5.0], [4.0, 1.0], [3.0, 4.0]]))
    assert found.tolist() == [2.0, 0.0]


def test_a_convex_loss_has_no_barrier() -> None:
    first, second = linear([[1.0, -2.0], [0.5, 1.0]]), linear([[-1.0, 3.0], [2.0, 0.0]])
    given = Sample("calibration", torch.randn(20, 2), torch.arange(20) % 2)
    found = line(first, second, given, given, num_points=5)
    assert found.barrier.tolist() == [0.0]
    assert found.mean_barrier == 0.0
    # (2, -5), (-1.5, 1): 4 + 25 + 2.25 + 1
    assert found.distance == pytest.approx(math.sqrt(32.25))
    for end, model in ((0, first), (-1, second)):
        with torch.no_grad():
            (z,) = model(given.images)
        assert found.loss[end, 0] == pytest.approx(float(F.cross_entropy(z, given.labels)))
        assert found.accuracy[end, 0] == int((z.argmax(1) == given.labels).sum()) / 20


def test_barrier_between_two_signs_of_one_function() -> None:
    # Logits (z, -z) with z = u v x; (u, v) and (-u, -v) are one function, and halfway all weights
    # are zero: both classes are equally likely, a loss of ln 2. x = 1: the ends lose ln(1 + e^-2).
    first, second = linear([[1.0]], [[1.0], [-1.0]]), linear([[-1.0]], [[-1.0], [1.0]])
    for model in (first, second):
        model.heads = nn.ModuleList()
        model.attach_points = ()
    given = Sample("calibration", torch.ones(3, 1), torch.zeros(3, dtype=torch.int64))
    found = line(first, second, given, given, num_points=3)
    assert found.barrier[0] == pytest.approx(math.log(2) - math.log(1 + math.exp(-2)), rel=1e-5)
    assert found.accuracy[:, 0].tolist() == [1.0, 1.0, 1.0]


def test_statistics_are_collected_anew_and_the_networks_stay_as_they_were() -> None:
    first, second = make_model(0).train(), make_model(1)
    before = state(first), state(second)
    given = sample()
    found = line(first, second, given, given, num_points=3, batch_size=30)
    assert same(state(first), before[0])
    assert same(state(second), before[1])
    assert first.training
    assert found.loss.shape == (3, 3)
    assert (found.barrier >= 0).all()
    # Statistics of one batch, by hand, in a network of which the first layer is a batch norm.
    normed = MultiExitModel(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), {}, 192)
    normed.backbone[0].running_mean.fill_(9.0)  # type: ignore[index, union-attr]
    collect_statistics(normed, given, batch_size=30)
    channels = given.images.transpose(0, 1).reshape(3, -1)
    torch.testing.assert_close(normed.backbone[0].running_mean, channels.mean(1))  # type: ignore[index]
    torch.testing.assert_close(normed.backbone[0].running_var, channels.var(1))  # type: ignore[index]
    assert normed.backbone[0].momentum == 0.1  # type: ignore[index]
    assert not normed.training


def test_a_plane_through_three_points_by_hand() -> None:
    # Two weights: 0, (3, 4) and (7, 1) = (3, 4) + (4, -3). The first two are 5 apart; the third is
    # as far along the line as the second, and (4, -3), of length 5, off it.
    first, second, third = (linear([[a], [b]]) for a, b in ((0.0, 0.0), (3.0, 4.0), (7.0, 1.0)))
    given = Sample("calibration", torch.tensor([[0.1], [-0.3]]), torch.tensor([0, 1]))
    found = plane(first, second, given, given, third=third, num_points=5)
    assert found.distance == pytest.approx(5.0)
    np.testing.assert_allclose(found.points, [(0, 0), (1, 0), (1, 1)], atol=1e-6)
    assert found.direction == "third network"
    for i, y in enumerate(found.y):
        for j, x in enumerate(found.x):
            weights = x * np.array([3, 4]) + y * np.array([4, -3])
            logits = given.images.numpy() * weights
            wanted = -log_softmax(logits)[[0, 1], [0, 1]].mean()
            assert found.loss[i, j, 0] == pytest.approx(wanted, rel=1e-4)
    # Five points over 1 + 2 x 0.3 would be 0.4 apart; half of the distance lets both ends lie on
    # the grid, and the margin of one step is what comes nearest to 0.3.
    np.testing.assert_allclose(found.x, [-0.5, 0, 0.5, 1, 1.5])
    np.testing.assert_allclose(found.y, found.x)
    np.testing.assert_allclose(np.diff(found.x), np.diff(found.y)[0])


def test_a_plane_of_two_points_takes_a_random_direction() -> None:
    first, second = make_model(0), make_model(1)
    found = plane(first, second, sample(), sample(), num_points=3, batch_size=30)
    assert found.direction == "random"
    assert found.points.tolist() == [[0, 0], [1, 0]]
    assert found.y[0] == -found.y[-1]
    drawn = _filter_normalised(first, seed=0)
    weights = dict(first.named_parameters())
    for name, step in drawn.items():
        assert weights[name].ndim > 1
        torch.testing.assert_close(
            step.flatten(1).norm(dim=1), weights[name].flatten(1).norm(dim=1)
        )


def test_networks_between_which_there_is_no_line_or_plane() -> None:
    first, second, third = (linear([[a], [b]]) for a, b in ((0.0, 0.0), (3.0, 4.0), (6.0, 8.0)))
    given = Sample("calibration", torch.ones(2, 1), torch.tensor([0, 1]))
    with pytest.raises(ArgumentError, match="have the same weights"):
        line(first, first, given, given)
    with pytest.raises(ArgumentError, match="not of one kind"):
        line(first, linear([[1.0, 1.0]]), given, given)
    with pytest.raises(ArgumentError, match="lie on one line"):
        plane(first, second, given, given, third=third)
    with pytest.raises(ArgumentError, match="num_points=1"):
        line(first, second, given, given, num_points=1)
    with pytest.raises(ArgumentError, match="num_points=1"):
        plane(first, second, given, given, num_points=1)


# ------------------------------------------------------------------ layers and ranks


def test_layers_of_a_residual_network() -> None:
    layers = find_layers(make_model(), sample(1).images)
    assert [layer.name for layer in layers] == [
        *("stem", "into layer1.0.conv2", "layer1", "into layer2.0.conv2", "layer2"),
        *("into layer3.0.conv2", "layer3", "pool", "fc"),
    ]


class _Odd(nn.Module):
    """A ReLU in place, an identity, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.ReLU(inplace=True))
        self.nothing = nn.Identity()
        self.twice = nn.Linear(2, 2)
        self.last = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.nothing(self.body(x)))))  # type: ignore[no-any-return]


def test_layers_of_an_odd_network() -> None:
    torch.manual_seed(0)
    model = MultiExitModel(_Odd(), {}, 2).eval()
    layers = find_layers(model, torch.randn(1, 2))
    assert [layer.name for layer in layers] == ["body", "last"]
    given = Sample("test", torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
    body, last = collect(model, given, layers, lambda value: value, batch_size=2)
    with torch.no_grad():
        torch.testing.assert_close(body, model.backbone.body(given.images).relu())  # type: ignore[operator]
        torch.testing.assert_close(last, model(given.images)[0])
    with pytest.raises(ModelError, match="no layers to look at"):
        find_layers(MultiExitModel(nn.Identity(), {}, 2), torch.randn(1, 2))


def test_pooling() -> None:
    maps = torch.arange(32.0).reshape(1, 2, 4, 4)
    # Corners of the first map's four quarters: 0 1 4 5, mean 2.5, and so on.
    assert pooled(maps, 2)[0, :4].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pooled(maps, 9).shape == (1, 32)
    tokens = torch.arange(8.0).reshape(1, 4, 2)
    assert pooled(tokens, 1).tolist() == [[3.0, 4.0]]
    assert pooled(torch.ones(3, 5), 1).shape == (3, 5)


def test_ranks_of_known_matrices() -> None:
    torch.manual_seed(0)
    product = torch.randn(50, 5, dtype=torch.float64) @ torch.randn(5, 20, dtype=torch.float64)
    assert rank_of(torch.linalg.svdvals(product), 1e-3) == 5
    values = torch.tensor([1.0, 0.5, 2e-3, 5e-4], dtype=torch.float64)
    assert [rank_of(values, t) for t in (1e-1, 1e-3, 1e-4)] == [2, 3, 4]
    assert rank_of(torch.zeros(3), 1e-3) == 0
    assert effective_rank_of(torch.ones(7)) == pytest.approx(7)
    # Shares 1/2, 1/4, 1/4: entropy 1.5 ln 2.
    assert effective_rank_of(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)
    assert effective_rank_of(torch.zeros(3)) == 0


def test_numerical_rank_of_a_network_with_a_bottleneck() -> None:
    torch.manual_seed(0)
    wide, narrow, out = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(2, 6)
    model = MultiExitModel(nn.Sequential(wide, narrow, out), {}, 6)
    for layer in (wide, narrow, out):
        nn.init.zeros_(layer.bias)
    given = Sample("calibration", torch.randn(40, 6), torch.zeros(40, dtype=torch.int64))
    found = numerical_rank(model, given)
    assert found.rank.tolist() == [6, 2, 2]
    assert found.num_features.tolist() == [6, 2, 6]
    np.testing.assert_allclose(found.normalised, [1, 1, 2 / 6])
    assert (found.threshold, found.num_samples) == (1e-3, 40)


# ------------------------------------------------------------------ mutual information


def mixture(separation: float) -> float:
    """I(X; Y) in nats for X = N(+-separation, 1), Y the sign, by the trapezoid rule."""
    x = np.linspace(-20, 20, 40_001)

    def density(mean: float) -> Any:
        return np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)

    whole = (density(separation) + density(-separation)) / 2
    entropy = -np.trapezoid(whole * np.log(np.maximum(whole, 1e-300)), x)
    return float(entropy - 0.5 * math.log(2 * math.pi * math.e))


@pytest.mark.parametrize("separation", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("dimensions", [1, 16])
def test_information_of_gaussians(separation: float, dimensions: int) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (2000,), generator=generator)
    features = torch.randn(2000, dimensions, generator=generator, dtype=torch.float64)
    features[:, 0] += separation * (2 * labels - 1)
    # The bias that the module states: a few hundredths too low where classes overlap.
    bias = information_of(features, labels) - mixture(separation)
    assert -0.06 < bias < 0.02


def test_information_of_labels_that_features_tell() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 10
    told = torch.eye(10, dtype=torch.float64)[labels] * 50
    told += torch.randn(1000, 10, generator=generator, dtype=torch.float64)
    assert information_of(told, labels) == pytest.approx(math.log(10), abs=0.01)
    unrelated = torch.randn(1000, 2, generator=generator, dtype=torch.float64)
    assert information_of(unrelated, labels) == pytest.approx(0, abs=0.08)
    # Three clusters of which two share a class: H(Y) of 1/3 and 2/3.
    merged = torch.tensor([0, 0, 1])[torch.arange(999) % 3]
    clusters = torch.eye(3, dtype=torch.float64)[torch.arange(999) % 3] * 50
    clusters += torch.randn(999, 3, generator=generator, dtype=torch.float64)
    wanted = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert information_of(clusters, merged) == pytest.approx(wanted, abs=0.01)


def test_information_of_copies_and_of_small_classes() -> None:
    labels = torch.arange(40) % 2
    # All samples of a class are one point: nothing is closer than its copies.
    assert information_of(labels[:, None].double(), labels) == pytest.approx(math.log(2), abs=0.06)
    with pytest.raises(DataError, match=r"two classes with more than 3(.|\n)*\[3, 3\]"):
        information_of(torch.randn(6, 2).double(), torch.arange(6) % 2)


def test_principal_components() -> None:
    torch.manual_seed(0)
    features = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1])
    reduced, share = principal_components(features, 1)
    assert abs(np.corrcoef(reduced[:, 0], features[:, 1])[0, 1]) > 0.99
    assert share == pytest.approx(100 / 101, abs=0.01)
    whole, share = principal_components(features, 9)
    assert whole.shape == (500, 3)
    assert share == pytest.approx(1)
    assert principal_components(torch.ones(4, 2), 1)[1] == 1.0


def test_information_in_a_network() -> None:
    found = mutual_information(make_model(), sample(48), num_components=4)
    assert found.label_entropy == pytest.approx(math.log(3))
    assert found.layers[0] == "stem"
    # The colour tells the class: every layer that keeps it knows it.
    assert found.information[0] > 0.9
    assert abs(found.shuffled).max() < 0.4
    assert ((found.explained > 0) & (found.explained <= 1 + 1e-9)).all()
    # What each exit knows: the entropy of three equal classes minus its cross-entropy.
    logits = make_model().eval()(sample(48).images)
    losses = [float(F.cross_entropy(z.detach(), sample(48).labels)) for z in logits]
    bounds = dict(zip(found.layers, found.lower_bound, strict=True))
    wanted = [math.log(3) - loss for loss in losses]
    assert [bounds[name] for name in ("layer1", "layer2", "fc")] == pytest.approx(wanted, rel=1e-4)
    assert np.isnan(bounds["stem"])
    combined = make_model()
    create("gpf").rebuild(combined)
    assert np.isnan(mutual_information(combined, sample(48)).lower_bound).all()


# ------------------------------------------------------------------ answers of the exits


def test_confidence_by_hand() -> None:
    # Probabilities of class 0: .9, .6, .3, .8; labels 0, 1, 1, 0: right, wrong, right (.7), right.
    p = np.array([0.9, 0.6, 0.3, 0.8])
    logits = np.log(np.stack([p, 1 - p], -1))[None]
    found = confidence(("final",), logits, np.array([0, 1, 1, 0]), split="test", num_bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.num_right.tolist() == [[0, 0, 1, 2]]
    assert found.num_wrong.tolist() == [[0, 0, 1, 0]]
    assert found.accuracy.tolist() == [0.75]
    assert found.mean_confidence[0] == pytest.approx((0.9 + 0.6 + 0.7 + 0.8) / 4)
    # Third bin: one of two right, confidence 1.3; fourth: two of two, confidence 1.7.
    assert found.calibration_error[0] == pytest.approx((0.3 + 0.3) / 4)


def test_full_confidence_is_in_the_last_bin() -> None:
    found = confidence(("final",), np.array([[[99.0, 0.0]]]), np.array([0]), split="test")
    assert found.num_right[0, -1] == 1


def answers(rows: list[list[int]]) -> Any:
    """Logits of exits that give these answers."""
    return np.eye(3)[np.array(rows)] * 4.0


def test_overthinking_by_hand() -> None:
    # Labels are all 0. Right by exit: 1 1 0 0 0 | 1 0 1 0 0 | 0 1 1 1 0.
    logits = answers([[0, 0, 1, 1, 1], [0, 2, 0, 1, 2], [1, 0, 0, 0, 2]])
    found = overthinking(("a", "b", "c"), logits, np.zeros(5, np.int64), split="test")
    nan = np.nan
    np.testing.assert_allclose(
        found.overthinking, [[nan, 0.2, 0.2], [nan, nan, 0.2], [nan, nan, nan]]
    )
    np.testing.assert_allclose(
        found.underthinking, [[nan, 0.2, 0.4], [nan, nan, 0.4], [nan, nan, nan]]
    )
    np.testing.assert_allclose(found.accuracy, [0.4, 0.4, 0.6])
    np.testing.assert_allclose(found.first_right, [0.4, 0.2, 0.2])
    assert found.destructive == pytest.approx(0.2)
    assert found.oracle_accuracy == pytest.approx(0.8)
    difference = found.underthinking[0, 2] - found.overthinking[0, 2]
    assert difference == pytest.approx(found.accuracy[2] - found.accuracy[0])


def test_collusion_by_hand() -> None:
    # One sample of class 0; the exits give it .9 and .5: their ensemble gives it .7.
    logits = np.log(np.array([[[0.9, 0.1]], [[0.5, 0.5]]]))
    found = collusion(("a", "b"), logits, np.array([0]), split="train")
    np.testing.assert_allclose(found.loss, [-math.log(0.9), -math.log(0.5)])
    np.testing.assert_allclose(found.ensemble_loss, [-math.log(0.9), -math.log(0.7)])
    mean = -(math.log(0.9) + math.log(0.5)) / 2
    np.testing.assert_allclose(found.diversity, [0, mean + math.log(0.7)], atol=1e-12)


def test_collusion_of_answers_by_hand() -> None:
    # Labels are all 0. Wrong: a 0 0 1 1, b 0 1 1 0, c never. Answers of a and b differ in 1, 2 and
    # 3: in 2 both are wrong, with another answer each.
    logits = answers([[0, 0, 1, 1], [0, 1, 2, 0], [0, 0, 0, 0]])
    found = collusion(("a", "b", "c"), logits, np.zeros(4, np.int64), split="test")
    assert found.disagreement[0].tolist() == [0, 0.75, 0.5]
    # Means 1/2; products (-.5)(-.5), (-.5)(.5), (.5)(.5), (.5)(-.5): they cancel.
    assert found.error_correlation[0, 1] == pytest.approx(0)
    assert np.isnan(found.error_correlation[0, 2])
    assert (found.diversity >= 0).all()
    assert found.gain[0] == 0


# ------------------------------------------------------------------ the report


def test_diagnose_writes_a_plot_and_a_table_for_each(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    models = [make_model(seed) for seed in range(3)]
    before = [state(model) for model in models]
    found = diagnose(
        models[0],
        make_data(augmented=False),
        tmp_path / "out",
        other=models[1],
        third=models[2],
        names=("mixed", "joint", "disjoint"),
        settings=TINY,
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert all(same(state(model), was) for model, was in zip(models, before, strict=True))
    names = [
        *("collusion", "confidence", "gradient_dominance", "mode_connectivity_line"),
        *("mode_connectivity_plane", "mutual_information", "numerical_rank", "overthinking"),
    ]
    wanted = [f"{name}.{kind}" for name in names for kind in ("csv", "png", "svg")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [*wanted, "summary.json"]
    assert found.files == (*wanted, "summary.json")
    for name in names:
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[1:4] == b"PNG"
        assert b"<svg" in (tmp_path / "out" / f"{name}.svg").read_bytes()
        table = (tmp_path / "out" / f"{name}.csv").read_text()
        rows = list(csv.DictReader(io.StringIO(table)))
        assert rows[0]["model"].startswith("mixed")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["model"] for entry in summary["models"]] == ["mixed", "joint", "disjoint"]
    assert summary["settings"]["num_samples"] == 30
    assert summary["mode_connectivity"]["plane_through"] == "disjoint"
    assert summary["left_out"] == {}
    assert ("mode connectivity: line", 3, 3) in told
    assert told[-1][0] == "draw the plots"
    with pytest.raises(StorageError):
        diagnose(models[0], make_data(augmented=False), tmp_path / "out", settings=TINY)


def test_a_loss_of_zero_can_be_drawn() -> None:
    """A network that is sure and right everywhere; a warning would be an error here."""
    loss = np.array([[0.0, 0.5, 1.0], [0.1, 0.7, 2.0], [0.2, 0.9, 4.0]])[..., None]
    plane = Plane(
        exits=("final",),
        x=np.arange(3.0),
        y=np.arange(3.0),
        loss=loss,
        accuracy=np.ones((3, 3, 1)),
        points=np.array([[0.0, 0.0], [1.0, 0.0]]),
        direction="random",
        distance=1.0,
        split="calibration",
        num_samples=10,
        num_statistics=10,
    )
    assert svg_of(draw_plane(plane, ("a", "b"))).startswith(b"<?xml")


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        found = diagnose(make_model(), make_data(augmented=False), folder, settings=TINY)
    assert found.line is None
    assert "no second network" in found.left_out["mode_connectivity"]
    for name in found.files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_diagnose_complains_first(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="needs a second"):
        diagnose(make_model(), make_data(augmented=False), tmp_path / "out", third=make_model(1))
    with pytest.raises(ArgumentError, match="not of one kind"):
        diagnose(make_model(), make_data(augmented=False), tmp_path / "out", other=linear([[1.0]]))
    for options in ({"num_samples": 0}, {"num_line_points": 1}, {"rank_threshold": 1.0}):
        with pytest.raises(ArgumentError, match=f"{next(iter(options))}="):
            Settings(**options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="num_neighbours=0"):
        Settings(num_neighbours=0)
    assert not (tmp_path / "out").exists()


def test_only_diagnostics_are_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    check_output(output, replace=False)
    output.mkdir()
    check_output(output, replace=True)
    for name in ("summary.json", "confidence.csv", "collusion.png"):
        (output / name).touch()
    check_output(output, replace=True)
    with pytest.raises(StorageError, match=r"(?s)exists already.*where nothing is"):
        check_output(output, replace=False)
    for foreign in ("model.json", "photo.png", "phases/0.csv"):
        (output / foreign).parent.mkdir(exist_ok=True)
        (output / foreign).touch()
        with pytest.raises(StorageError, match="no other files"):
            check_output(output, replace=True)
        (output / foreign).unlink()
    (output / "phases").rmdir()
    (output / "summary.json").unlink()
    with pytest.raises(StorageError, match="no other files"):
        diagnose(make_model(), make_data(augmented=False), output, replace=True)
    assert sorted(path.name for path in output.iterdir()) == ["collusion.png", "confidence.csv"]


def test_a_run_is_diagnosed_by_the_ends_of_its_phases(tmp_path: Path) -> None:
    phases = tmp_path / "phases"
    phases.mkdir()
    trained = make_model(1)

    def end(name: str, model: nn.Module) -> None:
        (phases / f"{name}.safetensors").write_bytes(weights_bytes(model))

    assert phase_ends(tmp_path, trained)[0] == {}
    end("0_backbone", make_model(0))
    assert "the ends of 1 phases" in str(phase_ends(tmp_path, trained)[1])
    end("1_everything", trained)
    networks, reason = phase_ends(tmp_path, trained)
    assert (list(networks), reason) == (["1_everything", "0_backbone"], None)
    assert same(state(networks["0_backbone"]), state(make_model(0)))
    for number in (2, 10):
        end(f"{number}_heads", make_model(number))
    ends = phase_ends(tmp_path, make_model(10))[0]
    assert list(ends) == ["10_heads", "2_heads", "1_everything"]
    assert "changed the network after its last phase" in str(phase_ends(tmp_path, trained)[1])
    end("2_heads", trained)
    assert "the same weights" in str(phase_ends(tmp_path, trained)[1])
    end("2_heads", linear([[1.0]]))
    assert "another network" in str(phase_ends(tmp_path, trained)[1])
    found = diagnose_run(
        tmp_path, trained, make_data(augmented=False), tmp_path / "out", settings=TINY
    )
    assert found.diagnoses[0].model == tmp_path.name
    assert "another network" in found.left_out["mode_connectivity"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(weights_bytes(linear([[1.0]])))
    with pytest.raises(CheckpointError, match="another network"):
        with_weights(make_model(), path)


def test_what_does_not_exist_is_empty_in_csv_and_null_in_json() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    given = Sample("train", torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    found = gradient_dominance(model, given)
    rows = list(csv.DictReader(io.StringIO(csv_of([("m", found)]).decode())))
    assert {row["share"] for row in rows} == {""}
    assert json.loads(json_of({"a": np.array([np.nan, 1.0]), "b": (np.int64(2), True, None)})) == {
        "a": [None, 1.0],
        "b": [2, True, None],
    }


# ------------------------------------------------------------------ the command

NETWORKS = """
import torch
from edgeexit import attach_exits, heads

def made():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    return attach_exits(net, at={"0": heads.Pooled()}, example=torch.zeros(1, 1, 4, 4))
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "networks_to_diagnose.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (90, 4, 4, 1), dtype=np.uint8)
    np.savez("grey.npz", images=images, labels=np.arange(90) % 3)
    name = "networks_to_diagnose:made"
    words = ["diagnose", name, "--data", "grey.npz", "--samples", "40"]
    words += ["--line-points", "3", "--plane-points", "3"]

    def run(*more: str, code: int = 0) -> str:
        torch.manual_seed(0)
        with pytest.raises(SystemExit) as caught:
            main([*words, *more])
        out, err = capsys.readouterr()
        assert caught.value.code == code, err
        return out or err

    shown = run("-o", "out", "--against", name)
    assert "left out: mutual information: the estimator needs" in shown
    assert "share of gradient" in shown
    assert f"On the line from {name} 1 to {name} 2" in shown
    assert Path("out/mode_connectivity_plane.png").exists()
    run("-o", "out", code=1)
    facts = json.loads(run("-o", "out", "--overwrite", "--json"))
    assert [entry["model"] for entry in facts["models"]] == [name]
    assert facts["barrier_nats"] is None
    assert "no second network" in facts["left_out"]["mode_connectivity"]
    assert not Path("out/mode_connectivity_plane.png").exists()
    Path("run").mkdir()
    Path("run/model.json").write_text("{}")
    kept = json.loads(run("-o", "run", "--overwrite", "--json", code=1))
    assert kept["error"] == "StorageError"
    assert Path("run/model.json").exists()
    assert "x<=" in run("-o", "x", "--seed", "-1", code=2)
    three = ["--against", name] * 3
    assert json.loads(run("-o", "x", *three, "--json", code=1))["error"] == "ArgumentError"
    missing = run("-o", "x", "--against", "absent.safetensors", "--json", code=1)
    assert json.loads(missing)["error"] == "CheckpointError"
    assert not Path("x").exists()
