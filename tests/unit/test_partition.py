"""Cutting a quantized graph at its exits."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from networks import IMAGE, NETWORKS, PREPROCESSING, Exits, int8_images, pieces, samples
from torch import Tensor, nn

from edgeexit.compiler import verify
from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.chain import run_chain
from edgeexit.compiler.export import export
from edgeexit.compiler.partition import partition
from edgeexit.compiler.quantize import quantize
from edgeexit.errors import PartitionError, VerificationError


def real_logits(spec, values: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    return (values.float() - spec.zero_point) * spec.scale


@pytest.mark.parametrize("name", NETWORKS)
def test_chain_and_static_equal_the_uncut_graph(name: str) -> None:
    made = pieces(name)
    inputs = int8_images(32)
    with torch.no_grad():
        wanted = made.quantized.module(inputs.float() / 128)
        values = run_chain(made.segments, inputs)
        (static,) = made.static.module(inputs)
    for segment, reference in zip(made.segments, wanted, strict=True):
        spec = segment.spec.logits
        assert torch.equal(real_logits(spec, values[spec.name]), reference)
    assert torch.equal(real_logits(made.static.spec.logits, static), wanted[-1])
    assert all(value.dtype == torch.int8 for value in values.values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("residual", [(1, 1), (1, 1), (1, 0)]),
        ("dense", [(1, 1), (1, 1), (1, 0)]),
        ("two_scale", [(1, 2), (2, 2), (2, 0)]),
        ("ensemble", [(1, 1), (2, 1), (3, 0)]),
        ("mobile", [(1, 1), (1, 0)]),
    ],
)
def test_what_crosses_the_cuts(name: str, wanted: list[tuple[int, int]]) -> None:
    specs = [segment.spec for segment in pieces(name).segments]
    assert [(len(spec.inputs), len(spec.outputs)) for spec in specs] == wanted
    assert pieces(name).static.spec.outputs == ()


def test_earlier_logits_and_earlier_features_may_cross() -> None:
    first, second, third = (segment.spec for segment in pieces("ensemble").segments)
    assert [tensor.name for tensor in second.inputs] == [first.outputs[0].name, "logits_0"]
    assert {tensor.name for tensor in third.inputs} == {
        first.outputs[0].name,
        second.outputs[0].name,
        "logits_1",
    }
    # A tensor has one description, wherever it is named.
    known = {t.name: t for spec in (first, second) for t in (*spec.outputs, spec.logits)}
    assert all(known[tensor.name] == tensor for tensor in (*second.inputs, *third.inputs))


def test_specs_describe_the_device() -> None:
    spec = pieces("residual").segments[1].spec
    assert spec.inputs[0].shape == (1, 16, 16, 8)
    assert spec.inputs[0].layout == "NHWC"
    assert spec.outputs[0].shape == (1, 8, 8, 16)
    assert (spec.logits.name, spec.logits.shape, spec.logits.layout) == ("logits_1", (1, 5), "ND")
    assert (spec.index, spec.exit_name) == (1, "early1")


def test_costs_by_hand() -> None:
    # Second stage of the residual network: 3x3 and 1x1 from 8 to 16 channels on 8 x 8 positions,
    # the head's 3x3 from 16 to 8 channels on 4 x 4, and its linear layer.
    spec = pieces("residual").segments[1].spec
    wide, short, head = 8 * 8 * 16 * 8 * 9, 8 * 8 * 16 * 8, 4 * 4 * 8 * 16 * 9
    assert spec.macs == wide + short + head + 8 * 5
    parameters = (16 * 8 * 9 + 16) + (16 * 8 + 16) + (8 * 16 * 9 + 8) + (8 * 5 + 5)
    assert spec.num_parameters == parameters


def test_depthwise_costs_by_hand() -> None:
    # Depthwise 5x5 on 8 x 8 x 8, two 1x1 on one position, a projection, and the linear layer.
    spec = pieces("mobile").segments[1].spec
    assert spec.macs == 64 * 8 * 25 + 8 * 4 + 4 * 8 + 64 * 8 * 8 + 8 * 5


def test_static_is_the_network_without_its_early_heads() -> None:
    made = pieces("residual")
    heads = 8 * 8 * 8 * 8 * 9 + 4 * 4 * 8 * 16 * 9 + 2 * 8 * 5
    assert made.static.spec.macs == sum(s.spec.macs for s in made.segments) - heads


def cut(model: Exits):  # type: ignore[no-untyped-def]
    graph = quantize(
        canonicalize(export(model, IMAGE)),
        samples(8),
        PREPROCESSING,
        num_range_samples=4,
        num_compared_samples=4,
    )
    return partition(graph)


class TwoHeads(Exits):
    num_exits = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.heads = nn.ModuleList([nn.Linear(5, 5) for _ in range(2)])


def test_exit_that_comes_too_late() -> None:
    class Late(TwoHeads):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            early = self.heads[0](self.conv(x).mean((2, 3)))
            return self.heads[1](early), early

    with pytest.raises(PartitionError, match="computes nothing of its own") as error:
        cut(Late())
    assert error.value.where == "exit 'final'"


def test_exit_that_does_not_see_the_input() -> None:
    made = pieces("residual").quantized
    module = copy.deepcopy(made.module)
    output = module.graph.output_node()
    first, *_ = output.args[0]  # type: ignore[misc]
    quantize_node = first.all_input_nodes[0]  # type: ignore[union-attr]
    bias = quantize_node.all_input_nodes[0].args[2]
    quantize_node.replace_input_with(quantize_node.args[0], bias)
    module.graph.lint()
    with pytest.raises(PartitionError, match="does not depend on the input") as error:
        partition(replace(made, module=module))
    assert error.value.where == "exit 'early0'"


def test_the_verifier_notices_a_wrong_segment() -> None:
    made = pieces("residual")
    verify.partitioned(made.segments, made.static, made.quantized, samples(4), PREPROCESSING)
    first, second, third = made.segments
    swapped = (first, second, replace(third, module=third_with_other_bias(third.module)))
    with pytest.raises(VerificationError, match="the chain disagrees") as error:
        verify.partitioned(swapped, made.static, made.quantized, samples(4), PREPROCESSING)
    assert error.value.where == "logits_2"


def third_with_other_bias(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    changed = copy.deepcopy(module)
    node = next(n for n in changed.graph.nodes if str(n.target) == "aten.linear.default")
    bias = changed
    for part in str(node.args[2].target).split("."):
        bias = getattr(bias, part)
    with torch.no_grad():
        bias.add_(0.5)  # type: ignore[operator]
    return changed
