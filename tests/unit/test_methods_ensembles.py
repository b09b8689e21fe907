"""Methods in which exits share what they know: combinations, class means, and what they train."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.backends.integer_ops import check_op
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.errors import ArgumentError, CheckpointError, DataError, ModelError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.ensembles import CascadedEnsemble, NearestMean, PastAndFuture
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.training import load_checkpoint
from edgeexit.training import train as run_training
from edgeexit.training.methods import Method, Step, create, e2cm
from edgeexit.training.methods.e2cm import E2CM, best_temperature
from edgeexit.training.methods.gpf import GPF
from edgeexit.training.methods.ztw import ZTW
from edgeexit.training.modes import decayed_groups, phase_module, set_modes, trained_exits
from edgeexit.training.strategies import PhaseName

NAMES = ("ztw", "gpf", "e2cm")
PHASES: tuple[PhaseName, ...] = ("backbone", "everything", "heads")


class Given(nn.Module):
    """Six numbers: the features of two exits and the final logits, two each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.first(x[:, :2])
        self.second(x[:, 2:4])
        return x[:, 4:]


def given() -> MultiExitModel:
    """A model whose heads answer with their features."""
    listeners = {"first": nn.Identity(), "second": nn.Identity()}
    return MultiExitModel(Given(), listeners, 2, [(1, 2), (1, 2)])


def set_to(parameter: Tensor, values: object) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


def step(model: MultiExitModel, phase: PhaseName, images: Tensor, labels: Tensor) -> Step:
    return Step(
        module=phase_module(model, phase),
        model=model,
        phase=phase,
        exits=trained_exits(model, phase),
        images=images,
        labels=labels,
        progress=torch.zeros(()),
        generator=None,
        cross_entropy=lambda z: F.cross_entropy(z, labels, reduction="none"),
    )


def small(seed: int = 0) -> MultiExitModel:
    torch.manual_seed(seed)
    backbone = ResNet((1, 1, 1), (8, 8, 8), in_channels=3, num_classes=3)
    at = {"layer1": heads.Pooled(), "layer2": heads.Convolutional((4,), 2)}
    return attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))


def colours(count: int = 24) -> tuple[Tensor, Tensor]:
    """Images whose class is their strongest channel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 8, 8, generator=generator)
    images[torch.arange(count), labels] += 1.5
    return images, labels


def batches() -> Iterable[tuple[Tensor, Tensor]]:
    images, labels = colours()
    return [(images[:10], labels[:10]), (images[10:], labels[10:])]


def train(method: Method, model: MultiExitModel, phase: PhaseName, num_steps: int) -> list[float]:
    """Plain steps on one batch; their losses."""
    images, labels = colours()
    method.start_phase(model, phase)
    set_modes(model, phase)
    groups = decayed_groups(phase_module(model, phase), 1e-4)
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(num_steps):
        loss, logits = method.loss(step(model, phase, images, labels))
        assert [tuple(z.shape) for z in logits] == [(24, 3)] * len(trained_exits(model, phase))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def rebuilt(name: str, seed: int = 0) -> tuple[Method, MultiExitModel]:
    method, model = create(name), small(seed)
    method.rebuild(model)
    return method, model


def state(model: MultiExitModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of the model that changed."""
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    return {name.split(".")[0] for name in changed}


def test_a_plain_model_has_no_combination() -> None:
    model = small()
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "heads"}
    assert model.feature_shapes == ((1, 8, 8, 8), (1, 8, 4, 4))
    assert trained_exits(model, "heads") == range(2)
    with torch.no_grad():
        assert len(phase_module(model, "heads")(torch.zeros(1, 3, 8, 8))) == 2


# ------------------------------------------------------------------------------------------- ZTW


def cascade() -> tuple[MultiExitModel, CascadedEnsemble]:
    model = given()
    ZTW().rebuild(model)
    ensemble = model.combine
    assert isinstance(ensemble, CascadedEnsemble)
    set_to(ensemble.links[0].weight, [[0.0, 1.0], [2.0, 0.0]])  # type: ignore[arg-type]
    for weights, values in zip(ensemble.weights, [[2], [0.5, 1], [1, 0.5, 2]], strict=True):
        for weight, value in zip(weights.parameters(), values, strict=True):
            set_to(weight, value)
    for bias, values in zip(ensemble.biases, [[0, 0], [1, 0], [0, -1]], strict=True):
        set_to(bias, values)
    return model, ensemble


# Exits: (1, 0); the second hears it through the link: (0, 2) + (0, 2 * 1) = (0, 4); (3, 1).
LOGITS = torch.tensor([[1.0, 0.0, 0.0, 2.0, 3.0, 1.0]])
# 2 (1, 0); (1, 0) / 2 + (0, 4) + (1, 0); (1, 0) + (0, 4) / 2 + 2 (3, 1) + (0, -1).
ENSEMBLES = [[2.0, 0.0], [1.5, 4.0], [7.0, 3.0]]


def test_ztw_by_hand() -> None:
    model, _ = cascade()
    assert [z.flatten().tolist() for z in model.eval()(LOGITS)] == ENSEMBLES
    loss, logits = ZTW(ensemble_rate=0.25).loss(
        step(model.train(), "everything", LOGITS, torch.tensor([0]))
    )
    assert [z.flatten().tolist() for z in logits] == ENSEMBLES
    # Of two classes, the cross-entropy of the first is log(1 + exp(second - first)).
    exits = [math.log1p(math.exp(d)) for d in (0 - 1, 4 - 0, 1 - 3)]
    ensembles = [math.log1p(math.exp(d)) for d in (0 - 2, 4 - 1.5, 3 - 7)]
    assert loss.item() == pytest.approx(sum(exits) / 3 + 0.25 * sum(ensembles) / 3)


def test_ztw_is_a_weighted_geometric_mean_of_probabilities() -> None:
    model, ensemble = cascade()
    answers = model.eval()(LOGITS)
    probabilities = torch.softmax(torch.tensor([[1.0, 0.0], [0.0, 4.0], [3.0, 1.0]]), 1)
    for k, answer in enumerate(answers):
        weights = torch.stack(list(ensemble.weights[k].parameters()))
        product = (probabilities[: k + 1] ** weights.unsqueeze(1)).prod(0)
        product = product * ensemble.biases[k].exp()
        assert torch.softmax(answer, 1)[0].allclose(product / product.sum())


def test_ztw_cuts_gradients_between_exits() -> None:
    model, ensemble = cascade()
    images = LOGITS.clone().requires_grad_(True)
    loss, _ = ZTW(ensemble_rate=5.0).loss(
        step(model.train(), "everything", images, torch.tensor([0]))
    )
    loss.backward()  # type: ignore[no-untyped-call]
    # Each exit's own cross-entropy alone: softmax less the label, over three exits.
    own = [torch.softmax(torch.tensor(z), 0) for z in ([1.0, 0.0], [0.0, 4.0], [3.0, 1.0])]
    expected = torch.cat([(p - torch.tensor([1.0, 0.0])) / 3 for p in own])
    assert images.grad is not None
    assert images.grad[0].allclose(expected)
    # The last ensemble's bias: softmax less the label, times the rate.
    wanted = 5 / 3 * (torch.softmax(torch.tensor([7.0, 3.0]), 0) - torch.tensor([1.0, 0.0]))
    assert ensemble.biases[2].grad is not None
    assert ensemble.biases[2].grad.allclose(wanted)


def test_ztw_keeps_weights_positive() -> None:
    model, ensemble = cascade()
    set_to(next(ensemble.weights[1].parameters()), -3.0)
    ZTW().finish(model, batches)
    smallest = CascadedEnsemble.SMALLEST_WEIGHT
    assert [w.item() for w in ensemble.weights[1].parameters()] == [smallest, 1.0]


# ------------------------------------------------------------------------------------------- GPF


def test_gpf_by_hand() -> None:
    model = given()
    GPF(width=2).rebuild(model)
    merged = model.combine
    assert isinstance(merged, PastAndFuture)
    same, swapped = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]
    layers = {
        "states.0.0.1": same,
        "states.1.0.1": same,
        "imputers.0.0": [[1.0, 0.0], [1.0, 0.0]],
        "final_imputer": swapped,
        "merges.0": [[2.0, 0.0], [0.0, 2.0]],
        "merges.1": swapped,
    }
    for name, weight in layers.items():
        linear = merged.get_submodule(name)
        set_to(linear.weight, weight)  # type: ignore[arg-type]
        set_to(linear.bias, [0.0, 0.0])  # type: ignore[arg-type]
    # Features (1, 0), (0, 2); final (3, 1). States: the features. The first exit guesses (1, 1)
    # for the second state and (0, 1) for the final logits, the second guesses (2, 0) for these.
    features = torch.tensor([[1.0, 0.0, 0.0, 2.0, 3.0, 1.0]])
    wanted = [
        [2.0, 2.0],  # (1, 0) + (1, 1) swapped + (0, 1)
        [4.0, 2.0],  # (0, 2) + 2 (1, 0) + (2, 0)
        [7.0, 1.0],  # (3, 1) + 2 (1, 0) + (0, 2) swapped
    ]
    assert [z.flatten().tolist() for z in model.eval()(features)] == wanted
    loss, logits = GPF(width=2, imitation=0.5).loss(
        step(model.train(), "everything", features, torch.tensor([0]))
    )
    assert [z.flatten().tolist() for z in logits] == wanted
    # Cosines: (1, 1) and (0, 2); (0, 1) and (3, 1); (2, 0) and (3, 1).
    cosines = [1 / math.sqrt(2), 1 / math.sqrt(10), 3 / math.sqrt(10)]
    exits = [math.log1p(math.exp(d)) for d in (0, -2, -6)]
    assert loss.item() == pytest.approx(sum(exits) / 3 + 0.5 * (1 - sum(cosines) / 3))


def test_gpf_starts_with_the_backbones_own_answer() -> None:
    _, model = rebuilt("gpf")
    images, _ = colours()
    with torch.no_grad():
        assert torch.equal(model.eval()(images)[-1], model.backbone(images))


def test_gpf_learns_to_imitate() -> None:
    method, model = create("gpf", {"imitation": 1.0}), small()
    method.rebuild(model)
    images, _ = colours()

    def missed() -> float:
        set_modes(model, "heads")
        with torch.no_grad():
            return float(phase_module(model, "heads")(images)[-1].mean())

    before = missed()
    train(method, model, "heads", 30)
    assert missed() < 0.7 * before


# ------------------------------------------------------------------------------------------ E2CM


def test_e2cm_is_the_softmax_of_negative_squared_distances() -> None:
    method, model = create("e2cm", {"temperature": "0.7"}), small()
    method.rebuild(model)
    before = state(model)
    method.finish(model, batches)
    assert moved(before, state(model)) == {"heads"}
    assert not list(model.head_parameters())
    assert model.training
    images, labels = colours()
    with torch.no_grad():
        answers = model.eval()(images)
        feature = model.backbone.layer1(model.backbone.stem(images))  # type: ignore[operator]
        for k, layer in enumerate((nn.Identity(), model.backbone.layer2)):
            feature = layer(feature)
            pooled = feature.mean((2, 3))
            means = torch.stack([pooled[labels == c].mean(0) for c in range(3)])
            distances = (pooled.unsqueeze(1) - means).square().sum(2)
            expected = torch.softmax(-distances / 0.7, 1)
            assert torch.softmax(answers[k], 1).allclose(expected, atol=1e-5)
            assert torch.equal(answers[k].argmax(1), distances.argmin(1))


def test_e2cm_fits_the_temperature() -> None:
    # Three in four are right at logits (2, 0): sigmoid(2 / T) = 3 / 4 where T = 2 / log 3.
    logits = torch.tensor([[2.0, 0.0]] * 4)
    assert best_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2 / math.log(3))
    sure = best_temperature(logits, torch.tensor([0, 0, 0, 0]))
    assert sure == pytest.approx(0.1)  # (1, -1) around their mean, over ten
    assert best_temperature(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])) == 1.0
    # In a network, with some labels wrong: neither hotter nor colder is likelier.
    method, model = rebuilt("e2cm")
    images, labels = colours()
    labels[::4] = (labels[::4] + 1) % 3
    method.finish(model, lambda: [(images, labels)])
    with torch.no_grad():
        answers = model.eval()(images)[:-1]
    for z in answers:
        losses = [float(F.cross_entropy(z * factor, labels)) for factor in (0.95, 1, 1.05)]
        assert losses[1] == min(losses)


def test_e2cm_fits_on_samples_that_are_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = rebuilt("e2cm")
    E2CM(temperature=1.0).finish(model, batches)
    images, labels = colours()
    with torch.no_grad():
        every_seventh = [z[::7] for z in model.eval()(images)[:-1]]
    expected = [best_temperature(z, labels[::7]) for z in every_seventh]
    wide = [head.weight.abs().max().item() for head in model.heads]  # type: ignore[union-attr,operator]
    monkeypatch.setattr(e2cm, "MAX_FITTED_SAMPLES", 24 / 7)  # a stride of 7, across two batches
    E2CM().finish(model, batches)
    given = [head.weight.abs().max().item() for head in model.heads]  # type: ignore[union-attr,operator]
    assert given == pytest.approx([w / t for w, t in zip(wide, expected, strict=True)], rel=1e-3)


def test_e2cm_needs_samples_of_each_class() -> None:
    method, model = rebuilt("e2cm")
    with pytest.raises(DataError, match=r"(?s)a class has no mean.*none of class 2"):
        method.finish(model, lambda: [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))])
    assert model.training


def test_nearest_mean_pools_tokens_too() -> None:
    head = NearestMean((1, 5, 2), 2)
    head.set_means(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), 0.5)
    # At (2, 0) the squared distances are 4 and 0.
    answer = head(torch.tensor([[[4.0, 0.0], [0.0, 0.0]]]))
    assert float(answer[0, 1] - answer[0, 0]) == pytest.approx((4 - 0) / 0.5)


# ----------------------------------------------------------------------------------------- common


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_stays(name: str) -> None:
    method, model = rebuilt(name)
    before = state(model)
    losses = train(method, model, "backbone", 5)
    assert losses[-1] < losses[0]
    assert moved(before, state(model)) == {"backbone"}
    before = state(model)
    train(method, model, "heads", 5)
    assert moved(before, state(model)) == ({"heads", "combine"} if name != "e2cm" else set())
    before = state(model)
    train(method, model, "everything", 5)
    own = {"heads", "combine"} if name != "e2cm" else set()
    assert moved(before, state(model)) == {"backbone"} | own


@pytest.mark.parametrize("name", ["ztw", "gpf"])
def test_heads_are_trained_with_the_combination(name: str) -> None:
    method, model = rebuilt(name)
    assert trained_exits(model, "heads") == range(3)
    assert trained_exits(model, "backbone") == range(2, 3)
    losses = train(method, model, "heads", 40)
    assert losses[-1] < 0.9 * losses[0]
    with_combination = sum(p.numel() for p in model.head_parameters())
    assert with_combination == sum(
        p.numel() for n, p in model.named_parameters() if not n.startswith("backbone.")
    )


def one_split() -> Splits:
    """`colours` as a dataset: the channels' means tell the classes apart."""
    images, labels = colours()
    raw = (images.permute(0, 2, 3, 1) * 30 + 128).clamp(0, 255).to(torch.uint8).numpy()
    part = Samples(raw, labels.numpy())
    scaling = Preprocessing((128.0,), (1 / 30,))
    return Splits("colours", part, part, part, ("r", "g", "b"), scaling, Augmentation(0, False))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", ["disjoint", "joint", "mixed"])
def test_each_strategy_trains_all_exits(name: str, strategy: str) -> None:
    model, data = small(), one_split()
    log = run_training(model, data, method=name, strategy=strategy, epochs=16, batch_size=8,
                       learning_rate=0.05, backbone_share=0.5)  # fmt: skip
    num_exits = {"backbone": 1, "everything": 3, "heads": 2 if name == "e2cm" else 3}
    assert all(len(record.accuracy) == num_exits[record.phase] for record in log)
    images, labels = colours()
    with torch.no_grad():
        accuracy = [float((z.argmax(1) == labels).float().mean()) for z in model.eval()(images)]
    assert min(accuracy) >= 0.6, accuracy  # a third by chance


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_loads_into_a_network_without_the_methods_parts(
    name: str, tmp_path: Path
) -> None:
    model, fresh = small(), small(seed=1)
    options = {"gpf": {"width": 3}}.get(name, {})
    run_training(model, one_split(), output=tmp_path, method=name, method_options=options,
                 strategy="joint", epochs=1, batch_size=8)  # fmt: skip
    load_checkpoint(tmp_path, fresh)
    wanted, given = model.state_dict(), fresh.state_dict()
    assert wanted.keys() == given.keys()
    assert all(torch.equal(wanted[key], given[key]) for key in wanted)
    (tmp_path / "run.json").write_text('{"config": {"method": 3}}')
    with pytest.raises(CheckpointError, match="report of the run cannot be read"):
        load_checkpoint(tmp_path, small())


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuilt_network_takes_the_weights_and_exports(name: str) -> None:
    method, model = rebuilt(name)
    for phase in PHASES:
        train(method, model, phase, 2)
    method.finish(model, batches)
    assert not any(module._forward_hooks for module in model.modules())
    _, fresh = rebuilt(name, seed=1)
    fresh.load_state_dict(model.state_dict())
    images, _ = colours(1)
    exported = canonicalize(export(fresh, (3, 8, 8)))
    for node in exported.module.graph.nodes:
        if node.op == "call_function":
            check_op(node)
    with torch.no_grad():
        wanted, given = model.eval()(images), exported.module(images)
    assert len(wanted) == 3
    for a, b in zip(wanted, given, strict=True):
        assert a.allclose(b, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("ztw", {"ensemble_rate": 0}, "ensemble_rate must be positive"),
        ("ztw", {"ensemble_rate": "nan"}, "ensemble_rate must be positive"),
        ("gpf", {"width": 0}, "width must be at least 1"),
        ("gpf", {"imitation": -0.1}, "imitation must not be negative"),
        ("gpf", {"imitation": "inf"}, "imitation must not be negative"),
        ("e2cm", {"temperature": -1}, "temperature must not be negative"),
    ],
)
def test_options_that_cannot_be_used(name: str, options: dict[str, float], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        create(name, options)


@pytest.mark.parametrize("name", ["gpf", "e2cm"])
def test_features_must_be_known(name: str) -> None:
    model = MultiExitModel(Given(), {"first": nn.Identity()}, 2)
    with pytest.raises(ModelError, match=r"(?s)shapes of its features.*attach_exits"):
        create(name).rebuild(model)
