"""Methods that weigh losses or gradients: cases by hand, autograd as reference, no trace left."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_training import make_model
from torch import Tensor, nn

from edgeexit.errors import ArgumentError, ModelError
from edgeexit.nn import heads
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods import Method, Step, create
from edgeexit.training.modes import phase_module, set_modes, trained_exits
from edgeexit.training.strategies import PhaseName

PHASES: tuple[PhaseName, ...] = ("backbone", "everything", "heads")
METHODS = (
    "sdn",
    "branchynet",
    "pbee",
    "self_distillation",
    "gradient_scaling",
    "gradient_equilibrium",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def make_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def make_step(
    model: MultiExitModel, phase: PhaseName, progress: float = 0.0, **changes: Any
) -> Step:
    images, labels = make_batch()
    values: dict[str, Any] = {
        "module": phase_module(model, phase),
        "model": model,
        "phase": phase,
        "exits": trained_exits(model, phase),
        "images": images,
        "labels": labels,
        "progress": torch.tensor(progress),
        "generator": None,
        "cross_entropy": lambda z: F.cross_entropy(z, labels, reduction="none"),
        **changes,
    }
    return Step(**values)


# Two classes, one sample of the first: softmax (1/2, 1/2), (3/4, 1/4) and (7/8, 1/8).
LOGITS = tuple(torch.tensor([[math.log(odds), 0.0]]) for odds in (1, 3, 7))
# - ln of the above: ln 2, ln 4/3, ln 8/7.
L1, L2, L3 = 0.693147, 0.287682, 0.133531


def loss_of(
    name: str,
    phase: PhaseName = "everything",
    progress: float = 0.0,
    logits: Sequence[Tensor] = LOGITS,
    **options: Any,
) -> float:
    """A method's loss on `LOGITS`, of which a phase sees those of its exits."""
    model = make_model()
    exits = trained_exits(model, phase)
    labels = torch.tensor([0])
    seen = tuple(logits[k] for k in exits)
    step = make_step(
        model,
        phase,
        progress,
        module=lambda images: seen,
        cross_entropy=lambda z: F.cross_entropy(z, labels, reduction="none"),
    )
    loss, returned = create(name, options).loss(step)
    assert loss.shape == ()
    assert all(a is b for a, b in zip(returned, seen, strict=True))
    return float(loss)


def near(value: float) -> Any:
    return pytest.approx(value, abs=2e-6)


# ------------------------------------------------------------------ losses by hand


@pytest.mark.parametrize("name", METHODS)
def test_the_backbone_alone_is_plain_cross_entropy(name: str) -> None:
    assert loss_of(name, "backbone", progress=0.5) == near(L3)


def test_sdn_ramps_from_the_start_to_the_relative_depth() -> None:
    # tau = 1/3, 2/3. At 0: 0.01 (ln 2 + ln 4/3) + ln 8/7 = 0.00980829 + 0.133531.
    assert loss_of("sdn") == near(0.143339)
    # At 1/2: 0.01 + (1/3 - 0.01) / 2 = 0.171667 and 0.01 + (2/3 - 0.01) / 2 = 0.338333:
    # 0.118990 + 0.097332 + 0.133531.
    assert loss_of("sdn", progress=0.5) == near(0.349854)
    # Fixed, wherever the phase stands: 0.231049 + 0.191788 + 0.133531.
    assert loss_of("sdn", progress=0.1, ramped=False) == near(0.556368)


def test_sdn_takes_weights_of_ones_own() -> None:
    # 0.25 ln 2 + 0.5 ln 4/3 + ln 8/7 = 0.173287 + 0.143841 + 0.133531.
    assert loss_of("sdn", ramped=False, weights="0.25, 0.5") == near(0.450659)


def test_sdn_counts_heads_alike_on_a_frozen_backbone() -> None:
    assert loss_of("sdn", "heads") == near(L1 + L2)


def test_branchynet_weighs_early_exits_more() -> None:
    # ln 2 + ln 4/3 + 0.3 ln 8/7 = 0.693147 + 0.287682 + 0.040059.
    assert loss_of("branchynet") == near(1.020888)
    # As the paper's B-ResNet: 0.207944 + 0.086305 + 0.133531.
    assert loss_of("branchynet", early=0.3, final=1.0) == near(0.427780)
    # 0.3 (ln 2 + ln 4/3).
    assert loss_of("branchynet", "heads", early=0.3) == near(0.294249)


def test_pbee_weighs_exits_by_their_number() -> None:
    # (1 ln 2 + 2 ln 4/3 + 3 ln 8/7) / 6 = (0.693147 + 0.575364 + 0.400594) / 6.
    assert loss_of("pbee") == near(0.278184)
    # (ln 2 + 2 ln 4/3) / 3.
    assert loss_of("pbee", "heads") == near(0.422837)
    assert create("pbee").rule == "patience"


def test_the_last_exit_teaches() -> None:
    # KL((7/8, 1/8) || (1/2, 1/2)) = 7/8 ln 7/4 + 1/8 ln 1/4 = 0.489664 - 0.173287 = 0.316377
    # KL((7/8, 1/8) || (3/4, 1/4)) = 7/8 ln 7/6 + 1/8 ln 1/2 = 0.134881 - 0.086643 = 0.048238
    # (0.5 (0.693147 + 0.316377) + 0.5 (0.287682 + 0.048238) + 0.133531) / 3
    assert loss_of("self_distillation", alpha=0.5, temperature=1.0) == near(0.268751)


def test_the_next_exit_teaches() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.304099 - 0.173287 = 0.130812
    # (0.5 (0.693147 + 0.130812) + 0.5 (0.287682 + 0.048238) + 0.133531) / 3
    loss = loss_of("self_distillation", alpha=0.5, temperature=1.0, teacher="next")
    assert loss == near(0.237824)


def test_the_temperature_divides_logits_and_its_square_multiplies() -> None:
    # Twice the logits at T = 2 are the same distributions. Only the teacher counts (alpha = 1), but
    # for the final exit, whose softmax is (49/50, 1/50):
    # (4 * 0.316377 + 4 * 0.048238 + ln 50/49) / 3 = (1.265508 + 0.192952 + 0.020203) / 3
    doubled = [2 * z for z in LOGITS]
    loss = loss_of("self_distillation", logits=doubled, alpha=1.0, temperature=2.0)
    assert loss == near(0.492887)


def test_without_a_share_for_the_teacher_it_is_uniform() -> None:
    assert loss_of("self_distillation", alpha=0.0) == near((L1 + L2 + L3) / 3)


def test_gradient_methods_leave_the_loss_as_it_is() -> None:
    assert loss_of("gradient_scaling") == near((L1 + L2 + L3) / 3)
    assert loss_of("gradient_scaling", "heads") == near((L1 + L2) / 2)
    assert loss_of("gradient_equilibrium") == near(L1 + L2 + L3)
    assert loss_of("gradient_equilibrium", "heads") == near(L1 + L2)


# ------------------------------------------------------------------ who teaches whom


@pytest.mark.parametrize("teacher", ["last", "next"])
def test_no_gradient_flows_into_a_teacher(teacher: str) -> None:
    logits = [z.clone().requires_grad_() for z in LOGITS]
    model = make_model()
    labels = torch.tensor([0])
    step = make_step(
        model,
        "everything",
        module=lambda images: tuple(logits),
        cross_entropy=lambda z: F.cross_entropy(z, labels, reduction="none"),
    )
    method = create("self_distillation", {"alpha": 0.5, "temperature": 1.0, "teacher": teacher})
    method.loss(step)[0].backward()
    # d L_3 / d z = p - y = (-1/8, 1/8), a third of it; nothing from what exit 3 teaches.
    assert logits[2].grad is not None
    torch.testing.assert_close(logits[2].grad, torch.tensor([[-1 / 24, 1 / 24]]))
    # Exit 2: (1/2 (p2 - y) + 1/2 (p2 - p3)) / 3 = (1/2 (-1/4) + 1/2 (-1/8)) / 3 = -1/16.
    assert logits[1].grad is not None
    torch.testing.assert_close(logits[1].grad, torch.tensor([[-1 / 16, 1 / 16]]))


@pytest.mark.parametrize(("teacher", "teachers"), [("last", (2, 2)), ("next", (1, 2))])
def test_the_frozen_final_exit_teaches_heads(teacher: str, teachers: tuple[int, int]) -> None:
    model = make_model()
    method = create("self_distillation", {"alpha": 1.0, "temperature": 1.0, "teacher": teacher})
    set_modes(model, "heads")
    method.start_phase(model, "heads")
    step = make_step(model, "heads")
    loss, logits = method.loss(step)
    probabilities = [z.softmax(1) for z in model(step.images)]
    wanted = [
        (probabilities[t] * (probabilities[t].log() - probabilities[k].log())).sum(1).mean()
        for k, t in enumerate(teachers)
    ]
    assert len(logits) == 2
    torch.testing.assert_close(loss, torch.stack(wanted).mean())
    loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.heads.parameters())


def test_a_phase_that_was_not_started_is_noticed() -> None:
    model = make_model()
    with pytest.raises(ModelError, match="logits were not kept"):
        create("self_distillation").loss(make_step(model, "heads"))


# ------------------------------------------------------------------ gradients


def gradients(model: MultiExitModel, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(named.items(), found, strict=True)
    }


def reference(model: MultiExitModel) -> list[dict[str, Tensor]]:
    """Each exit's gradient by itself, in a network that nobody has touched."""
    step = make_step(model, "everything")
    return [gradients(model, step.cross_entropy(z).mean()) for z in model(step.images)]


def sums(parts: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    return {
        name: torch.stack([w * part[name] for w, part in zip(weights, parts, strict=True)]).sum(0)
        for name in parts[0]
    }


def started(method: Method, phase: PhaseName = "everything", times: int = 1) -> MultiExitModel:
    model = make_model()
    set_modes(model, phase)
    for _ in range(times):
        method.start_phase(model, phase)
    return model


def assert_same(given: dict[str, Tensor], wanted: dict[str, Tensor], prefix: str) -> None:
    names = [name for name in wanted if name.startswith(prefix)]
    assert names
    assert any(wanted[name].abs().max() > 1e-3 for name in names)
    for name in names:
        torch.testing.assert_close(given[name], wanted[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_scaled_gradients(factor: float, times: int) -> None:
    parts = reference(make_model().train())
    method = create("gradient_scaling", {"factor": factor})
    model = started(method, times=times)
    given = gradients(model, method.loss(make_step(model, "everything"))[0])
    assert_same(given, sums(parts, (factor / 3, factor / 3, 1 / 3)), "backbone.")
    assert_same(given, sums(parts, (1 / 3, 1 / 3, 1 / 3)), "heads.")


@pytest.mark.parametrize("times", [1, 2])
def test_blocks_hear_the_mean_of_the_exits_behind_them(times: int) -> None:
    parts = reference(make_model().train())
    method = create("gradient_equilibrium")
    model = started(method, times=times)
    given = gradients(model, method.loss(make_step(model, "everything"))[0])
    # Exits follow layer1 and layer2; K = 3.
    assert_same(given, sums(parts, (1 / 3, 1 / 3, 1 / 3)), "backbone.stem.")
    assert_same(given, sums(parts, (1 / 3, 1 / 3, 1 / 3)), "backbone.layer1.")
    assert_same(given, sums(parts, (0, 1 / 2, 1 / 2)), "backbone.layer2.")
    assert_same(given, sums(parts, (0, 0, 1)), "backbone.layer3.")
    assert_same(given, sums(parts, (0, 0, 1)), "backbone.fc.")
    assert_same(given, sums(parts, (1, 1, 1)), "heads.")


def test_equilibrium_refuses_features_that_change_in_place() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    model = attach_exits(backbone, {"0": heads.Pooled()}, example=torch.zeros(1, 3, 8, 8))
    method = create("gradient_equilibrium")
    method.start_phase(model, "everything")
    with pytest.raises(RuntimeError, match="modified inplace"):
        method.loss(make_step(model, "everything"))


# ------------------------------------------------------------------ what is left of it


def num_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", METHODS)
def test_answers_and_names_stay_and_nothing_is_left(name: str) -> None:
    plain, method = make_model().eval(), create(name)
    model = make_model().eval()
    method.rebuild(model)
    images, _ = make_batch()
    for phase in PHASES:
        method.start_phase(model, phase)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(model(images), plain(images), strict=True))
        copied = copy.deepcopy(model)
        assert num_hooks(copied) == num_hooks(model)
        method.take_off(copied)
        assert num_hooks(copied) == 0
    method.take_off(model)
    assert num_hooks(model) == 0


def test_only_the_phase_that_needs_hooks_has_them() -> None:
    counts = {
        name: [num_hooks(started(create(name), phase)) for phase in PHASES] for name in METHODS[3:]
    }
    assert counts == {
        "self_distillation": [0, 0, 1],
        "gradient_scaling": [0, 2, 0],
        "gradient_equilibrium": [0, 4, 0],
    }


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_frozen_stays_and_what_moves_learns(name: str, phase: PhaseName) -> None:
    method = create(name)
    model = started(method, phase)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    moving = list(phase_module(model, phase).parameters())
    optimizer = torch.optim.SGD(moving, lr=0.05)
    losses = []
    for index in range(8):
        step = make_step(model, phase, index / 8)
        loss, logits = method.loss(step)
        assert len(logits) == len(trained_exits(model, phase))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # SDN's weights grow, so that its loss may too; what is compared is the sum.
        losses.append(sum(float(step.cross_entropy(z.detach()).mean()) for z in logits))
    assert losses[-1] < losses[0]
    frozen = {"backbone": "heads.", "everything": "nothing", "heads": "backbone."}[phase]
    for key, value in model.state_dict().items():
        if key.startswith(frozen):
            assert torch.equal(value, before[key]), key
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("sdn", {"start": -0.1}, "start is not a weight"),
        ("sdn", {"start": 1.5}, "start=1.5"),
        ("sdn", {"weights": "0.1,two"}, "weights='0.1,two'"),
        ("sdn", {"weights": "0.1,1.2"}, "numbers from 0 to 1"),
        ("sdn", {"weights": "nan"}, "numbers from 0 to 1"),
        ("branchynet", {"early": 0.0}, "early is not a weight"),
        ("branchynet", {"final": math.inf}, "final is not a weight"),
        ("self_distillation", {"alpha": 1.1}, "alpha=1.1"),
        ("self_distillation", {"temperature": 0.0}, "temperature=0.0"),
        ("self_distillation", {"temperature": math.nan}, "temperature=nan"),
        ("self_distillation", {"teacher": "first"}, "last, next"),
        ("gradient_scaling", {"factor": -1.0}, "factor=-1.0"),
        ("gradient_scaling", {"factor": math.nan}, "factor=nan"),
        ("pbee", {"patience": 2}, "has no option 'patience'"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        create(name, options)


def test_sdn_needs_a_weight_for_each_early_exit() -> None:
    method = create("sdn", {"weights": "0.1,0.2,0.3"})
    with pytest.raises(ArgumentError, match="2 numbers, for layer1, layer2"):
        method.start_phase(make_model(), "backbone")
