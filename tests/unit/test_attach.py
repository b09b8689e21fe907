"""Attaching exits: the shapes, the order, what is left alone, and every refusal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit.nn import heads, zoo
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.model import example_logits
from edgeexit.training.budget import macs_per_sample

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Two convolutions and, beside them, modules that no exit can use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.shared = nn.ReLU()
        self.unused = nn.Linear(1, 1)
        self.constant = nn.Linear(2, 2)
        self.split = Split()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.constant(torch.ones(1, 2)).sum()
        x = self.shared(self.first(x))
        x = self.shared(self.second(x))
        x, _ = self.split(x)
        return self.fc(x.mean((2, 3))) + bias


class Split(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_exits_come_in_the_order_of_computation_whatever_the_order_of_at() -> None:
    model = attach_exits(
        Small(), {"second": heads.Pooled(), "first": heads.Pooled()}, example=IMAGE
    )
    assert model.exit_names == ("first", "second", "final")
    assert [tuple(z.shape) for z in model(IMAGE)] == [(1, 5)] * 3


def test_the_last_exit_is_the_module_itself() -> None:
    module = Small()
    model = attach_exits(module, {"first": heads.Pooled()}, example=IMAGE)
    assert torch.equal(model(IMAGE)[-1], module(IMAGE))


def test_a_head_sees_what_its_submodule_returns() -> None:
    module = Small()
    model = attach_exits(module, {"first": heads.Pooled()}, example=IMAGE)
    by_hand = model.heads[0][1](module.first(IMAGE).mean((2, 3)))
    assert torch.equal(model(IMAGE)[0], by_hand)


def test_no_hook_stays_behind_and_copies_are_independent() -> None:
    model = attach_exits(Small(), {"first": heads.Pooled()}, example=IMAGE)
    model(IMAGE)
    assert not model.backbone.first._forward_hooks
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.heads[0][1].bias.add_(1.0)
    assert not torch.equal(twin(IMAGE)[0], model(IMAGE)[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frist", r"(?s)no submodule 'frist'.*did you mean 'first'"),
        ("zzz", r"(?s)no submodule 'zzz'.*the top level has first, second"),
        ("", "no submodule ''"),
        ("unused", "'unused' did not run on the example"),
        ("constant", r"(?s)'constant' does not depend on the input.*shares a tensor"),
        ("shared", "'shared' runs more than once"),
        ("split", r"(?s)'split' does not return one tensor.*tuple"),
    ],
)
def test_a_place_that_cannot_carry_an_exit(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        attach_exits(Small(), {name: heads.Pooled()}, example=IMAGE)


def test_frozen_parts_stay_frozen() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip
    module[1].eval()
    model = attach_exits(module, {"0": heads.Pooled()}, example=IMAGE)
    assert model.training
    assert [part.training for part in module] == [True, False, True, True, True]
    example_logits(model, IMAGE)
    assert model.training
    assert [part.training for part in module] == [True, False, True, True, True]
    with pytest.raises(RuntimeError):
        example_logits(model, IMAGE[:, :1])
    assert [part.training for part in module] == [True, False, True, True, True]


def test_a_submodule_with_the_name_of_the_last_exit() -> None:
    module = nn.Sequential()
    module.add_module("final", nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match=r"(?s)two exits would have the same name.*'final'"):
        attach_exits(module, {"final": heads.Pooled()}, example=IMAGE)


def test_no_exit_at_all() -> None:
    with pytest.raises(ModelError, match="no exits were named"):
        attach_exits(Small(), {}, example=IMAGE)


def test_a_module_that_returns_no_logits() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ModelError, match="does not return logits"):
        attach_exits(features, {"0": heads.Pooled()}, example=IMAGE)


def test_a_convolutional_head_on_a_map_that_is_too_small() -> None:
    with pytest.raises(ModelError, match="at least stride=16"):
        attach_exits(Small(), {"first": heads.Convolutional(stride=16)}, example=IMAGE)


def test_a_flattened_head_by_hand() -> None:
    head = heads.Flattened(channels=(4, 6), kernels=(2, 3), strides=(2, 1))
    built = head.build((1, 3, 8, 8), 5).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # 8 -> (8 - 2) / 2 + 1 = 4 -> 4 - 3 + 1 = 2 positions in each direction.
    first, second, linear = built[0], built[3], built[7]
    assert linear.in_features == 6 * 2 * 2
    norm = (1 + 1e-5) ** -0.5  # a fresh batch norm divides by sqrt(1 + eps)
    y = torch.relu(F.conv2d(x, first.weight, stride=2) * norm)
    y = torch.relu(F.conv2d(y, second.weight) * norm)
    torch.testing.assert_close(built(x), F.linear(y.flatten(1), linear.weight, linear.bias))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": (3,)}, r"(?s)as many kernels and strides.*2 of each"),
        ({"kernels": (2, 9)}, "no smaller than the kernels"),
    ],
)
def test_a_flattened_head_that_does_not_fit(options: dict[str, Any], message: str) -> None:
    fields = {"channels": (4, 6), "kernels": (2, 3), "strides": (2, 1)} | options
    with pytest.raises(ModelError, match=message):
        attach_exits(Small(), {"first": heads.Flattened(**fields)}, example=IMAGE)


def test_heads_on_tokens_and_vectors() -> None:
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(64, 7), nn.Flatten(), nn.Linear(21, 5))
    model = attach_exits(tokens, {"1": heads.Pooled(), "2": heads.Pooled()}, example=IMAGE)
    assert [tuple(z.shape) for z in model(IMAGE)] == [(1, 5)] * 3


def test_a_failed_attachment_leaves_the_mode_of_the_module() -> None:
    module = Small().train()
    with pytest.raises(ModelError):
        attach_exits(module, {"unused": heads.Pooled()}, example=IMAGE)
    assert module.training
    assert not module.first._forward_hooks


def test_resnet8_has_the_published_size_and_cheap_heads() -> None:
    model = zoo.create("resnet8")
    # He et al., by hand: kernels 3x3x3x16 + 2(3x3x16x16) + (3x3x16x32 + 3x3x32x32 + 16x32)
    # + (3x3x32x64 + 3x3x64x64 + 32x64), classifier 64x10 + 10, and two numbers a channel of norm.
    kernels = 432 + 2 * 2304 + (4608 + 9216 + 512) + (18432 + 36864 + 2048)
    norms = 2 * (16 * 3 + 32 * 3 + 64 * 3)
    assert sum(p.numel() for p in model.backbone_parameters()) == kernels + norms + 650
    backbone = 442_368 + 2 * 2_359_296 + (1_179_648 + 2_359_296 + 131_072) * 2 + 640
    first = 8 * 8 * 4 * 16 * 16 + 3 * 3 * 9 * 16 * 32 + 9 * 32 * 10
    second = 4 * 4 * 9 * 32 * 16 + 16 * 16 * 10
    macs = macs_per_sample(model, torch.zeros(1, 3, 32, 32))
    assert macs["backbone"] == 3 * backbone
    assert macs["everything"] == 3 * (backbone + first + second)
    assert (first + second) / backbone < 0.016


def test_the_zoo_fits_other_images() -> None:
    for name in zoo.MODELS:
        model = zoo.create(name, num_classes=7, in_channels=1, image_size=(28, 28))
        logits = model(torch.zeros(2, 1, 28, 28))
        assert [tuple(each.shape) for each in logits] == [(2, 7)] * len(model.exit_names)


def test_a_vision_transformer_refuses_images_that_are_not_square() -> None:
    with pytest.raises(ModelError, match="takes square images"):
        zoo.create("vit", image_size=(32, 48))
