"""L2W-DEN, RaPTr and partially masked training: losses by hand, frozen bits, what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.errors import ArgumentError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import Block, ResNet
from edgeexit.training import Progress, load_checkpoint, train
from edgeexit.training.methods import Method, Step, create
from edgeexit.training.methods.l2w_den import (
    L2WDEN,
    WEIGHT_DECAY,
    WeightNetwork,
    exit_shares,
    leaving_exits,
)
from edgeexit.training.methods.partially_masked import (
    PartiallyMasked,
    chosen_layers,
    core_of,
    split_core,
)
from edgeexit.training.methods.raptr import RaPTr, bypassable_names, make_bypassable
from edgeexit.training.methods.uniform import Uniform
from edgeexit.training.modes import decayed_groups, phase_module, set_modes, trained_exits
from edgeexit.training.strategies import PhaseName

METHODS = [
    L2WDEN(hidden=8),
    L2WDEN(hidden=8, pseudo="heads", interval=2),
    RaPTr(),
    PartiallyMasked(),
]
PHASES: tuple[PhaseName, ...] = ("backbone", "everything", "heads")


pytestmark = pytest.mark.usefixtures("one_thread")


def small(seed: int = 0, blocks: tuple[int, int, int] = (3, 2, 2)) -> MultiExitModel:
    torch.manual_seed(seed)
    backbone = ResNet(blocks, (8, 8, 16), in_channels=3, num_classes=3)
    at = {"layer1": heads.Convolutional((8,), 2), "layer2": heads.Pooled()}
    return attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))


def samples(seed: int = 1, count: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return images, torch.arange(count) % 3


def step_of(
    model: MultiExitModel,
    phase: PhaseName,
    images: Tensor,
    labels: Tensor,
    *,
    progress: float = 0.0,
    seed: int = 0,
    module: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
) -> Step:
    return Step(
        module=phase_module(model, phase) if module is None else module,
        model=model,
        phase=phase,
        exits=trained_exits(model, phase),
        images=images,
        labels=labels,
        progress=torch.tensor(progress),
        generator=torch.Generator().manual_seed(seed),
        cross_entropy=lambda z: F.cross_entropy(z, labels, reduction="none"),
    )


def trained(
    model: MultiExitModel,
    method: Method,
    phases: tuple[PhaseName, ...],
    steps: int = 4,
    *,
    start: int = 0,
    images: Tensor | None = None,
    labels: Tensor | None = None,
) -> list[float]:
    """Steps as a loop would do them; their losses."""
    losses = []
    for phase in phases:
        set_modes(model, phase)
        method.start_phase(model, phase)
        module = phase_module(model, phase)
        optimizer = SGD(decayed_groups(module, 1e-4), lr=0.05, momentum=0.9)
        for index in range(start, start + steps):
            drawn = samples(index) if images is None or labels is None else (images, labels)
            step = step_of(
                model,
                phase,
                *drawn,
                progress=(index - start) / steps,
                seed=index,
                module=cast("Callable[[Tensor], tuple[Tensor, ...]]", module),
            )
            loss, logits = method.loss(step)
            assert len(logits) == len(step.exits)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What all three keep to


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_seeds_reproduce_and_a_finished_model_is_a_plain_one(method: Method) -> None:
    ended, losses = [], []
    for _ in range(2):
        model = small()
        method.rebuild(model)
        losses.append(trained(model, method, PHASES))
        method.take_off(model)
        ended.append(state(model))
    assert losses[0] == losses[1]
    assert same(ended[0], ended[1])
    fresh = small(seed=5)
    method.rebuild(fresh)
    assert fresh.state_dict().keys() == ended[0].keys()
    fresh.load_state_dict(ended[0])
    images, _ = samples(9)
    with torch.no_grad():
        pairs = list(zip(fresh.eval()(images), model.eval()(images), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert {type(m) for m in model.modules()} == {type(m) for m in fresh.modules()}
    assert vars(model).keys() == vars(fresh).keys()
    torch.export.export(copy.deepcopy(model), (images[:1],))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_is_frozen_keeps_its_bits(method: Method) -> None:
    model = small()
    before = state(model)
    trained(model, method, ("backbone",))
    after = state(model)
    assert same(*(part_of(s, "heads.") for s in (before, after)))
    assert not same(*(part_of(s, "backbone.") for s in (before, after)))
    trained(model, method, ("heads",))
    last = state(model)
    assert same(*(part_of(s, "backbone.") for s in (after, last)))
    assert not same(*(part_of(s, "heads.") for s in (after, last)))


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(method: Method) -> None:
    whole = small()
    trained(whole, method, ("everything",), 4)
    first = small()
    trained(first, method, ("everything",), 4)
    saved = state(first)
    resumed = small(seed=7)
    method.start_phase(resumed, "everything")
    resumed.load_state_dict(saved)
    for model in (whole, resumed):
        trained(model, method, ("everything",), 3, start=4)
    assert same(state(whole), state(resumed))


class Cut(Exception):
    """Stands for a kill: raised from where the loop reports a step."""


@dataclass
class CutAfter(Progress):
    steps: int

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Cut


@pytest.mark.parametrize("name", ["l2w_den", "raptr", "partially_masked"])
def test_the_loop_trains_and_resumes(name: str, tmp_path: Path) -> None:
    images = samples(3, 48)[0].mul(40).add(128).clamp(0, 255).permute(0, 2, 3, 1)
    part = Samples(images.to(torch.uint8).numpy(), np.arange(48, dtype=np.int64) % 3)
    plain = Preprocessing((128.0,), (1 / 128,))
    data = Splits("noise", part, part, part, ("a", "b", "c"), plain, Augmentation(1, True))
    options: dict[str, Any] = {
        "strategy": "backbone=0.25,everything=0.5,heads=0.25",
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 0.1,
        "mixup": 0.2,
        "checkpoint_steps": 1,
        "method": name,
        "method_options": {"l2w_den": {"hidden": 8}}.get(name, {}),
    }
    whole = small()
    log = train(whole, data, output=tmp_path / "whole", **options)
    assert [record.phase for record in log] == ["backbone", *["everything"] * 2, "heads"]
    assert all(0 < record.loss < 3 for record in log)
    # Three steps an epoch: cut within each phase, and where a phase begins.
    for steps in (1, 2, 4, 3):
        with pytest.raises(Cut):
            train(small(), data, output=tmp_path / "cut", progress=CutAfter(steps), **options)
    cut = small()
    train(cut, data, output=tmp_path / "cut", **options)
    assert same(state(cut), state(whole))
    again = small(seed=3)
    load_checkpoint(tmp_path / "whole", again)
    assert same(state(again), state(whole))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("l2w_den", {"epsilon": 0.0}, "epsilon is out of range"),
        ("l2w_den", {"epsilon": 1.0}, "epsilon is out of range"),
        ("l2w_den", {"exit_ratio": 0.0}, "exit_ratio must be positive"),
        ("l2w_den", {"hidden": 0}, "hidden must be positive"),
        ("l2w_den", {"interval": 0}, "interval must be positive"),
        ("l2w_den", {"meta_rate": -1.0}, "meta_rate must be positive"),
        ("l2w_den", {"pseudo_rate": float("inf")}, "pseudo_rate must be positive"),
        ("l2w_den", {"pseudo": "all"}, "unknown extent"),
        ("raptr", {"stages": 1}, "stages must be at least 2"),
        ("raptr", {"start": 0.0}, "start is out of range"),
        ("raptr", {"start": 1.5}, "start is out of range"),
        ("partially_masked", {"rank_share": 0.0}, "rank_share is out of range"),
        ("partially_masked", {"rank_share": 1.0}, "rank_share is out of range"),
        ("partially_masked", {"probability": 1.5}, "probability is out of range"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        create(name, options)


def test_defaults() -> None:
    assert [create(name) for name in ("l2w_den", "raptr", "partially_masked")] == [
        L2WDEN(),
        RaPTr(),
        PartiallyMasked(),
    ]
    assert not any(type(method).capturable for method in METHODS)


# L2W-DEN


def linear_exits(dtype: torch.dtype = torch.float32) -> MultiExitModel:
    """Two exits that are linear in the same two numbers, all weights zero."""
    backbone = nn.Sequential(nn.Identity(), nn.Linear(2, 2, bias=False))
    model = MultiExitModel(backbone, {"0": nn.Linear(2, 2, bias=False)}, num_classes=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.to(dtype)


def linear_step(model: MultiExitModel, dtype: torch.dtype = torch.float32) -> Step:
    images = torch.tensor([[1, 0], [0, 1], [2, 0], [0, 1]], dtype=dtype)
    return step_of(model, "everything", images, torch.tensor([0, 1, 0, 0]))


def test_l2w_meta_loss_by_hand() -> None:
    # Weights of zero: every loss is ln 2, its gradient (p - y) x has p = 1/2. The pseudo step on
    # samples 0 and 1 at a rate of 8 is 8/4 times the sum of w (y - p) x, which makes both exits
    # ((w0, -w1), (-w0, w1)), w0 and w1 being the weights of the samples at that exit.
    # Sample 2 is (2, 0), its margin 4 w0; sample 3 is (0, 1) with the other label, margin -2 w1.
    # Half of them leave at the first exit: sample 2, the more confident one. All w being 1:
    # ln(1 + e^-4) + ln(1 + e^2) = 0.018150 + 2.126928.
    model = linear_exits()
    method = L2WDEN(epsilon=0.5, exit_ratio=1, hidden=3, pseudo_rate=8)
    network = WeightNetwork(2, 3)
    values = cast(Tensor, network.values).clone().requires_grad_()
    loss = method.meta_loss(linear_step(model), network, values, slice(0, 2), slice(2, 4))
    assert float(loss.detach()) == pytest.approx(2.145078, abs=1e-6)
    # By w0 of exit 0: -4 sigmoid(-4) = -0.071945. By w1 of exit 1: 2 sigmoid(2) = 1.761594.
    # The last two values are biases b; w at exit 0 is 1 + 0.5 (b0 - b1) / 2, at exit 1 the
    # opposite: by b0, 0.25 (-0.071945 - 1.761594) = -0.458385.
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient[-2:].tolist() == pytest.approx([-0.458385, 0.458385], abs=1e-6)
    # Nothing of the model moved, and nothing of it has a gradient.
    assert all((p == 0).all() and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("pseudo", ["everything", "heads"])
def test_l2w_meta_gradient_is_that_of_finite_differences(pseudo: str) -> None:
    # In double precision, with batch norm, and through all layers of a network.
    model = small(blocks=(1, 1, 1)).double()
    images, labels = samples()
    step = step_of(model, "everything", images.double(), labels)
    method = L2WDEN(epsilon=0.5, hidden=3, pseudo_rate=0.3, pseudo=pseudo)
    network = WeightNetwork(3, 3)
    generator = torch.Generator().manual_seed(3)
    size = len(cast(Tensor, network.values))
    values = torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
    before = state(model)

    def loss_at(point: Tensor) -> Tensor:
        return method.meta_loss(step, network, point, slice(0, 8), slice(8, 16))

    (gradient,) = torch.autograd.grad(loss_at(values), values)
    assert same(before, state(model))  # running statistics included
    found, apart = [], 1e-5
    for index in range(size):
        away = torch.zeros(size, dtype=torch.float64)
        away[index] = apart
        ends = [float(loss_at((values + sign * away).detach()).detach()) for sign in (1, -1)]
        found.append((ends[0] - ends[1]) / (2 * apart))
    assert float(gradient.abs().max()) > 1e-4
    np.testing.assert_allclose(gradient.numpy(), found, rtol=1e-4, atol=1e-8)


def test_l2w_loss_by_hand() -> None:
    # Sample (1, 0), label 0, a margin of 2 at the first exit and none at the second: losses of
    # ln(1 + e^-2) = 0.126928 and ln 2 = 0.693147. The weight network says 0.5 and -0.5, whose mean
    # is zero: weights 1.15 and 0.85. (1.15 x 0.126928 + 0.85 x 0.693147) / 2 = 0.367571.
    model = linear_exits()
    method = L2WDEN(epsilon=0.3, hidden=3)
    method.start_phase(model, "everything")
    network = cast(WeightNetwork, model.method_state)
    with torch.no_grad():
        cast(Tensor, cast(nn.Linear, model.heads[0]).weight)[:, 0] = torch.tensor([1.0, -1.0])
        cast(Tensor, network.values)[-2:] = torch.atanh(torch.tensor([0.5, -0.5]))
    step = step_of(model, "everything", torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    loss, _ = method.loss(step)  # one sample has no two halves: no meta step
    assert float(loss.detach()) == pytest.approx(0.367571, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    # By the first logit: 1.15 / 2 x (p - 1) = -0.575 x sigmoid(-2) = -0.575 x 0.119203.
    grad = cast(Tensor, cast(nn.Linear, model.heads[0]).weight.grad)
    assert float(grad[0, 0]) == pytest.approx(-0.068542, abs=1e-6)


def test_l2w_starts_as_the_mean() -> None:
    model, (images, labels) = small(), samples()
    method = L2WDEN(hidden=8, meta_rate=1e-9)
    set_modes(model, "everything")
    twin = copy.deepcopy(model)
    method.start_phase(model, "everything")
    for phase in PHASES:
        ours, _ = method.loss(step_of(model, phase, images, labels))
        mean, _ = Uniform().loss(step_of(twin, phase, images, labels))
        assert float(ours.detach()) == pytest.approx(float(mean.detach()), abs=1e-6)


def test_l2w_weights_are_one_on_average_and_bounded() -> None:
    method, network = L2WDEN(epsilon=0.4), WeightNetwork(3, 500)
    generator = torch.Generator().manual_seed(0)
    values = 0.1 * torch.randn(len(cast(Tensor, network.values)), generator=generator)
    losses = torch.rand(64, 2, generator=generator) * 3
    weights = method.weights(network, values, losses, range(2))
    assert weights.shape == (64, 2)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-6)
    assert float((weights - 1).abs().max()) < 0.8
    assert float(weights.std()) > 0.05


def test_l2w_adam_is_that_of_torch() -> None:
    network = WeightNetwork(2, 3)
    values = nn.Parameter(cast(Tensor, network.values).clone())
    optimizer = torch.optim.Adam([values], weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(0)
    for rate in (0.1, 0.05, 0.02):
        gradient = torch.randn(len(values), generator=generator)
        network.update(gradient, rate)
        values.grad, optimizer.param_groups[0]["lr"] = gradient.clone(), rate
        optimizer.step()
    torch.testing.assert_close(cast(Tensor, network.values), values.data, rtol=1e-5, atol=1e-6)


def test_l2w_learns_at_its_interval() -> None:
    model, method = small(blocks=(1, 1, 1)), L2WDEN(hidden=4, interval=3)
    set_modes(model, "everything")
    method.start_phase(model, "everything")
    network = cast(WeightNetwork, model.method_state)
    counts = []
    for index in range(7):
        method.loss(step_of(model, "everything", *samples(index)))
        counts.append(int(cast(Tensor, network.num_updates)))
    assert counts == [1, 1, 1, 2, 2, 2, 3]
    assert not list(network.parameters())


def test_l2w_halves_change_places_and_the_rate_falls() -> None:
    model, method = small(blocks=(1, 1, 1)), L2WDEN(hidden=4, meta_rate=0.1)
    set_modes(model, "everything")
    method.start_phase(model, "everything")
    network = cast(WeightNetwork, model.method_state)
    twin = copy.deepcopy(network)
    # Half through a phase the cosine leaves 1/2, three quarters through (1 - 1/sqrt 2) / 2.
    for index, rate in enumerate((0.1, 0.05, 0.1 * (1 - 0.5**0.5) / 2)):
        progress = (0.0, 0.5, 0.75)[index]
        step = step_of(model, "everything", *samples(index), progress=progress)
        halves = [slice(0, 8), slice(8, 16)]
        train_half, meta_half = halves if index != 1 else halves[::-1]
        values = cast(Tensor, twin.values).clone().requires_grad_()
        loss = method.meta_loss(step, twin, values, train_half, meta_half)
        twin.update(torch.autograd.grad(loss, values)[0], rate)
        method.loss(step)
        torch.testing.assert_close(cast(Tensor, network.values), cast(Tensor, twin.values))


def test_l2w_shares() -> None:
    # 1, 1/2, 1/4 of 7/4.
    assert exit_shares(3, 0.5) == pytest.approx((4 / 7, 2 / 7, 1 / 7))
    assert exit_shares(2, 1.0) == (0.5, 0.5)


def test_l2w_samples_leave_the_most_confident_first() -> None:
    # Half of four leave at the first exit: samples 1 and 3. A quarter at the second: of 0 and 2 the
    # more confident there is 2. Sample 0 is left over.
    confidence = torch.tensor([[0.5, 0.6], [0.9, 0.9], [0.6, 0.8], [0.8, 0.99]])
    assert leaving_exits(confidence, (0.5, 0.25, 0.25)).tolist() == [2, 0, 1, 0]
    # Shares that are nearly whole numbers are those.
    assert leaving_exits(torch.rand(7, 2), exit_shares(3, 0.5)).bincount().tolist() == [4, 2, 1]


def test_l2w_wants_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ArgumentError, match="one process"):
        L2WDEN().start_phase(small(), "everything")


# RaPTr


def test_raptr_shares_grow_in_stages() -> None:
    method = RaPTr(stages=4, start=0.4)
    shares = [method.share(progress) for progress in (0, 0.24, 0.25, 0.5, 0.75, 0.999)]
    assert shares == pytest.approx([0.4, 0.4, 0.6, 0.8, 1, 1])


def test_raptr_finds_the_blocks_of_a_path() -> None:
    # Of layer1's three blocks the first is the network's first, the last feeds an exit. The first
    # blocks of layer2 and layer3 change the shape of what they read or, in layer2, halve its size;
    # their second blocks are the last before an exit.
    image = torch.zeros(1, 3, 8, 8)
    assert bypassable_names(small(), image) == ["layer1.1"]
    assert bypassable_names(small(blocks=(3, 3, 3)), image) == [
        "layer1.1",
        "layer2.1",
        "layer3.1",
    ]
    assert bypassable_names(small(blocks=(1, 1, 1)), image) == []


def test_raptr_keeps_a_block_with_an_exit_inside() -> None:
    torch.manual_seed(0)
    backbone = ResNet((5, 1, 1), (8, 8, 8), in_channels=3, num_classes=3)
    at = {"layer1.2.conv1": heads.Pooled()}
    model = attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))
    # Also kept: the first, the last, and the one before the exit's block, the last that it hears.
    assert bypassable_names(model, torch.zeros(1, 3, 8, 8)) == ["layer1.3"]
    assert all(loss < 3 for loss in trained(model, RaPTr(start=0.1), ("everything",), 8))


class PreNorm(nn.Module):
    """A residual block of tokens, as in a transformer, with one inside that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.inner(x))


def test_raptr_tells_residual_blocks_from_others() -> None:
    plain = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    backbone = nn.Sequential(PreNorm(), *plain, PreNorm(), PreNorm(), nn.Linear(4, 3))
    model = MultiExitModel(backbone, {"1": nn.Linear(4, 3)}, num_classes=3).train()
    assert bypassable_names(model, torch.zeros(1, 4)) == ["4"]
    assert all(module.training for module in model.modules())


def test_raptr_loss_by_hand() -> None:
    # Three exits, half of the depth: prefixes of two or three exits. The network is linear with
    # weights of zero: each loss is ln 3; the head of exit 1 has a margin that makes its own
    # ln(1 + 2 e^-1) = 0.551445. Depth 1 is never drawn: (ln 3 + 0.551445) / 2 = 0.825028 for two
    # exits, (2 ln 3 + 0.551445) / 3 = 0.916223 for three.
    parts = [nn.Identity(), nn.Identity(), nn.Linear(2, 3)]
    at = {"0": nn.Linear(2, 3), "1": nn.Linear(2, 3)}
    model = MultiExitModel(nn.Sequential(*parts), at, num_classes=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        cast(Tensor, cast(nn.Linear, model.heads[1]).bias)[0] = 1.0
    method, seen = RaPTr(), set()
    for seed in range(20):
        step = step_of(model, "everything", torch.ones(4, 2), torch.zeros(4).long(), seed=seed)
        loss, logits = method.loss(step)
        assert len(logits) == 3
        seen.add(round(float(loss.detach()), 5))
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        last = cast(Tensor, cast(nn.Linear, parts[2]).bias.grad)
        # Beyond the prefix gradients are there and zero.
        assert bool((last == 0).all()) == (float(loss.detach()) < 0.9)
    assert seen == {0.82503, 0.91622}


def test_raptr_runs_the_path_it_drew() -> None:
    model, (images, labels) = small(), samples()
    set_modes(model, "everything")
    method = RaPTr(start=0.3)
    twin = copy.deepcopy(model)
    cast(nn.Sequential, twin.backbone.layer1)[1] = nn.Identity()
    variants = {}
    for seed in range(8):
        network = copy.deepcopy(model)
        loss, logits = method.loss(step_of(network, "everything", images, labels, seed=seed))
        loss.backward()  # type: ignore[no-untyped-call]
        block = cast(Block, network.backbone.get_submodule("layer1.1"))
        grad = cast(Tensor, block.conv1.weight.grad)
        variants[bool((grad == 0).all())] = logits
        assert all(p.grad is not None for p in network.parameters())
    # Both were drawn; a path without the block is the network without it.
    for bypassed, network in ((True, twin), (False, model)):
        wanted = copy.deepcopy(network)(images)
        assert all(map(torch.equal, variants[bypassed], wanted))


def test_raptr_ends_with_the_whole_network() -> None:
    model, (images, labels) = small(), samples()
    set_modes(model, "everything")
    twin = copy.deepcopy(model)
    for seed in range(5):
        for phase in PHASES:
            ours, _ = RaPTr().loss(step_of(model, phase, images, labels, progress=0.75, seed=seed))
            mean, _ = Uniform().loss(step_of(twin, phase, images, labels))
            assert torch.equal(ours, mean)


def test_raptr_heads_learn_from_whole_features() -> None:
    model, (images, labels) = small(), samples()
    set_modes(model, "heads")
    for seed in range(5):
        ours, _ = RaPTr(start=0.1).loss(step_of(model, "heads", images, labels, seed=seed))
        mean, _ = Uniform().loss(step_of(model, "heads", images, labels))
        assert torch.equal(ours, mean)


def test_raptr_blocks_run_in_evaluation_between_steps() -> None:
    model, (images, _) = small(), samples()
    set_modes(model, "everything")
    trained(model, RaPTr(start=0.1), ("everything",), 2)
    twin = small()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert all(map(torch.equal, model.eval()(images), twin.eval()(images)))


def test_raptr_blocks_work_under_dynamo() -> None:
    model, (images, _) = small(blocks=(3, 1, 1)), samples()
    (block,) = make_bypassable(model, images[:1])
    model.eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for bypassed in (False, True, False):
            cast(Any, block).bypassed = bypassed
            assert all(map(torch.equal, compiled(images), model(images)))


# Partially masked training


def test_core_by_hand() -> None:
    # Singular values 3 and 1 along the axes: the core of rank 1 keeps the 3. Projected on the
    # tangent space there, a gradient of ones loses what is neither in the row nor in the column.
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    core = core_of(weight, 1)
    assert core.flatten().tolist() == pytest.approx([3, 0, 0, 0])
    core.sum().backward()  # type: ignore[no-untyped-call]
    assert cast(Tensor, weight.grad).flatten().tolist() == pytest.approx([1, 1, 1, 0])


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (12, 4, 1, 1), (5, 9), (9, 5)])
def test_core_is_the_truncated_decomposition(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).normal(size=shape)
    left, scale, right = np.linalg.svd(weight.reshape(shape[0], -1), full_matrices=False)
    wanted = (left[:, :2] * scale[:2] @ right[:2]).reshape(shape)
    np.testing.assert_allclose(core_of(torch.from_numpy(weight), 2), wanted, atol=1e-12)


def test_core_gradient_is_exact_where_there_is_no_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in ((5, 2), (2, 7))]
    weight = (factors[0] @ factors[1]).requires_grad_()
    slope = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    (core_of(weight, 2) * slope).sum().backward()  # type: ignore[no-untyped-call]
    apart = 1e-6
    for row, column in ((0, 0), (2, 5), (4, 6)):
        away = torch.zeros_like(weight)
        away[row, column] = apart
        ends = [float((core_of(weight.detach() + s * away, 2) * slope).sum()) for s in (1, -1)]
        found = (ends[0] - ends[1]) / (2 * apart)
        assert float(cast(Tensor, weight.grad)[row, column]) == pytest.approx(found, abs=1e-5)


def test_masked_loss_by_hand() -> None:
    # One layer with a core, diag(3, 1, ..., 1) of which rank 1 is kept, and a classifier that hands
    # on its first two outputs. The sample is ones: the whole network's logits are 3 and 1, the
    # core's 3 and 0; ln(1 + e^-2) = 0.126928 and ln(1 + e^-3) = 0.048587.
    layer, classifier = nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False)
    model = MultiExitModel(nn.Sequential(layer, classifier), {}, num_classes=2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(8))
        layer.weight[0, 0] = 3
        classifier.weight.copy_(torch.eye(8)[:2])
    method, seen = PartiallyMasked(rank_share=0.125), []
    method.start_phase(model, "everything")
    for seed in range(40):
        step = step_of(model, "everything", torch.ones(1, 8), torch.tensor([0]), seed=seed)
        loss, logits = method.loss(step)
        seen.append(round(float(loss.detach()), 6))
        assert logits[0][0].tolist() == pytest.approx([3, float(seen[-1] > 0.1)], abs=1e-6)
    assert set(seen) == {0.126928, 0.048587}
    assert 10 < seen.count(0.048587) < 30


def test_layers_with_a_core() -> None:
    # Ranks are a quarter of the outputs. Not chosen: classifiers, and 1 x 1 shortcuts of which the
    # factors would cost as much. The stem reads 27 numbers for 8 outputs.
    chosen = chosen_layers(small(blocks=(1, 1, 1)), 0.25)
    ranks = {name: rank for name, (_, rank) in chosen.items()}
    assert ranks == {
        "backbone.stem.0": 2,
        "backbone.layer1.0.conv1": 2,
        "backbone.layer1.0.conv2": 2,
        "backbone.layer2.0.conv1": 2,
        "backbone.layer2.0.conv2": 2,
        "backbone.layer2.0.shortcut.0": 2,
        "backbone.layer3.0.conv1": 4,
        "backbone.layer3.0.conv2": 4,
        "backbone.layer3.0.shortcut.0": 2,
        "heads.0.0": 2,
    }
    assert "backbone.layer2.0.shortcut.0" not in chosen_layers(small(blocks=(1, 1, 1)), 0.5)
    grouped = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 2))
    assert chosen_layers(MultiExitModel(grouped, {}, 2), 0.25) == {}


def test_a_masked_step_trains_what_is_split_off() -> None:
    model, (images, labels) = small(blocks=(1, 1, 1)), samples()
    set_modes(model, "everything")
    method = PartiallyMasked(probability=1.0)
    core = split_core(model, 0.25).train()
    method.start_phase(model, "everything")
    before = state(model)
    loss, logits = method.loss(step_of(model, "everything", images, labels))
    for ours, theirs in zip(logits, core(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in model.parameters())
    # Running statistics are those of the whole network.
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("num_batches_tracked")}
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_heads_are_not_masked() -> None:
    model, (images, labels) = small(), samples()
    set_modes(model, "heads")
    method = PartiallyMasked(probability=1.0)
    method.start_phase(model, "heads")
    ours, _ = method.loss(step_of(model, "heads", images, labels))
    mean, _ = Uniform().loss(step_of(model, "heads", images, labels))
    assert torch.equal(ours, mean)


def test_no_masking_is_the_mean() -> None:
    models = [small(), small()]
    trained(models[0], PartiallyMasked(probability=0), PHASES)
    trained(models[1], Uniform(), PHASES)
    assert same(state(models[0]), state(models[1]))


def test_a_core_is_smaller_and_has_statistics_of_its_own() -> None:
    model = small(blocks=(1, 1, 1))
    before = state(model)
    images, labels = samples()
    core = split_core(model, 0.25, lambda: [(images[:8], labels[:8]), (images[8:], labels[8:])])
    assert same(before, state(model))
    assert core.exit_names == model.exit_names
    assert not core.training
    count = [sum(p.numel() for p in m.parameters()) for m in (core, model)]
    assert count[0] < 0.5 * count[1]
    # The stem's statistics are the means over both batches of what the core's stem computes.
    stem = cast(nn.Sequential, core.backbone.stem)
    with torch.no_grad():
        means = [stem[0](part).mean((0, 2, 3)) for part in (images[:8], images[8:])]
    norm = cast(nn.BatchNorm2d, stem[1])
    torch.testing.assert_close(cast(Tensor, norm.running_mean), (means[0] + means[1]) / 2)
    assert norm.momentum == 0.1
    # Saved weights go into the core of a fresh model.
    again = split_core(small(seed=4, blocks=(1, 1, 1)), 0.25)
    again.load_state_dict(core.state_dict())
    with torch.no_grad():
        assert all(map(torch.equal, again(images), core(images)))


def test_a_core_with_biases_and_linear_layers() -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, 2, bias=True), nn.Flatten(), nn.Linear(72, 16), nn.Linear(16, 3)]
    model = MultiExitModel(nn.Sequential(*parts), {}, num_classes=3)
    x, labels = samples()
    method = PartiallyMasked(probability=1.0)
    core = split_core(model, 0.25, lambda: [(x, labels)])
    method.start_phase(model, "everything")
    _, logits = method.loss(step_of(model, "everything", x, labels))
    torch.testing.assert_close(core(x)[0], logits[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ArgumentError, match="rank_share"):
        split_core(model, 1.0)


def test_masked_training_makes_a_core_that_works_alone() -> None:
    # Four classes of 8 x 8 patterns in noise. The core of a network that was trained as usual is
    # a truncation that nobody trained.
    torch.manual_seed(0)
    patterns = torch.randn(4, 3, 8, 8)
    labels = torch.arange(128) % 4
    images = patterns[labels] + 2.0 * torch.randn(128, 3, 8, 8)
    found = {}
    for method in (PartiallyMasked(0.2), Uniform()):
        torch.manual_seed(1)
        backbone = ResNet((1, 1, 1), (8, 8, 16), in_channels=3, num_classes=4)
        at = {"layer1": heads.Pooled()}
        model = attach_exits(backbone, at, example=torch.zeros(1, 3, 8, 8))
        trained(model, method, ("everything",), 60, images=images, labels=labels)
        method.take_off(model)
        core = split_core(model, 0.2, lambda: [(images, labels)])
        with torch.no_grad():
            found[type(method)] = float(F.cross_entropy(core(images)[-1], labels))
    assert found[PartiallyMasked] < 0.5 * found[Uniform]
