"""Capturing a network, and bringing its graph into the compiler's words."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import IMAGE, NETWORKS, Exits, network
from torch import Tensor, nn

from edgeexit.compiler.canonicalize import canonicalize
from edgeexit.compiler.export import export
from edgeexit.errors import ExportError
from edgeexit.nn.attach import attach_exits
from edgeexit.nn.heads import Pooled


class OneExit(Exits):
    num_exits = 1

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.function(x),)


def ops(model: Exits) -> list[str]:
    graph = canonicalize(export(model, IMAGE)).module.graph
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


class Function(nn.Module):
    """A function of the image that ends in logits."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function
        self.linear = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(x).mean((2, 3)))


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "assorted"])
def test_canonical_graph_computes_what_the_network_does(name: str) -> None:
    model = network(name)
    batch = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(1))
    graph = canonicalize(export(model, IMAGE)).module
    for wanted, given in zip(model(batch), graph(batch), strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def test_assorted_ops_keep_their_value() -> None:
    # Its reshape names a batch of one, which the canonical graph takes in any number.
    model = network("assorted")
    batch = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    wanted = [model(batch[k : k + 1]) for k in range(3)]
    given = canonicalize(export(model, IMAGE)).module(batch)
    for index, logits in enumerate(given):
        reference = torch.cat([each[index] for each in wanted])
        torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_is() -> None:
    model = network("dense").train()
    state = copy.deepcopy(model.state_dict())
    canonicalize(export(model, IMAGE))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_attached_exits_are_exported_in_order() -> None:
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    model = attach_exits(backbone, {"0": Pooled()}, example=torch.zeros(1, *IMAGE))
    graph = export(model, IMAGE)
    assert graph.exit_names == ("0", "final")
    assert graph.num_classes == 5
    assert graph.example_shape == (1, *IMAGE)


def test_batch_norms_fold_into_what_is_before_them() -> None:
    assert not any("norm" in op for op in ops(network("residual")))
    # In a DenseNet three of them follow a concatenation and become depthwise convolutions.
    model = network("dense")
    graph = canonicalize(export(model, IMAGE)).module.graph
    groups = [n.args[6] for n in graph.nodes if "conv2d" in str(n.target) and len(n.args) > 6]
    assert groups == [8, 12, 16]


class Rows(nn.Module):
    """Linear layers over tokens, each with a batch norm over all tokens of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 7), nn.Linear(7, 5, bias=False)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(7), nn.BatchNorm1d(5)])
        for norm in self.norms:
            nn.init.uniform_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(norm.weight)  # type: ignore[arg-type]
            nn.init.uniform_(norm.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = layer(x)
            x = norm(x.flatten(0, 1)).reshape(x.shape)
        return x.mean(1)


@pytest.mark.parametrize("num_features", [8, 256])  # the latter as many as there are tokens
def test_a_batch_norm_over_positions_is_not_the_layers(num_features: int) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, num_features)
            self.norm = nn.BatchNorm1d(256)
            nn.init.uniform_(self.norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x.flatten(2).transpose(1, 2))).mean(1)[:, :5]

    model = OneExit(Positions()).eval()
    batch = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    (given,) = canonicalize(export(model, IMAGE)).module(batch)
    torch.testing.assert_close(given, model(batch)[0], rtol=1e-4, atol=1e-5)


def test_batch_norms_over_tokens_fold_into_linear_layers() -> None:
    model = OneExit(Rows()).eval()
    names = ops(model)
    assert not any("norm" in name or "add" in name or "mul" in name for name in names)
    assert names.count("aten.linear.default") == 2
    assert names.count("aten.reshape.default") == 1  # of the map to tokens
    batch = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    (given,) = canonicalize(export(model, IMAGE)).module(batch)
    torch.testing.assert_close(given, model(batch)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_attention_becomes_two_products(scale: float | None) -> None:
    def function(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x.flip(2), 2 * x, scale=scale)

    model = OneExit(Function(function)).eval()
    names = ops(model)
    assert names.count("aten.matmul.default") == 2
    assert names.count("aten.softmax.int") == 1
    assert names.count("aten.mul.Tensor") == (1 if scale == 1.0 else 2)
    batch = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(1))
    (given,) = canonicalize(export(model, IMAGE)).module(batch)
    torch.testing.assert_close(given, model(batch)[0], rtol=1e-4, atol=1e-5)


def test_global_pooling_and_flatten_become_one_mean() -> None:
    names = ops(network("dense"))
    assert names.count("aten.mean.dim") == 3
    assert not any("pool2d" in op and "max" not in op for op in names)
    assert not any("reshape" in op for op in names)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: F.relu6(x), "aten.hardtanh.default"),
        (lambda x: x.clamp(0, 6), "aten.hardtanh.default"),
        (lambda x: x.clamp(min=0), "aten.relu.default"),
        (lambda x: x / 2, "aten.mul.Tensor"),
        (lambda x: x.transpose(2, 3), "aten.permute.default"),
        (lambda x: F.avg_pool2d(x, 3, 1, 1), "aten.constant_pad_nd.default"),
        (lambda x: F.adaptive_avg_pool2d(x, (4, 8)), "aten.avg_pool2d.default"),
        (lambda x: F.silu(x), "aten.sigmoid.default"),
        (lambda x: torch.bmm(x.flatten(2), x.flatten(2).mT)[:, :, :, None], "aten.matmul.default"),
    ],
)
def test_one_spelling(function, wanted: str) -> None:  # type: ignore[no-untyped-def]
    assert wanted in ops(OneExit(Function(function)))


@pytest.mark.parametrize("size", [(16, 16), (8, 4), (16, 2), (1, 16), (1, 1)])
def test_adaptive_pooling_of_equal_windows(size: tuple[int, int]) -> None:
    model = OneExit(Function(lambda x: F.adaptive_avg_pool2d(x, size)))
    assert not any("adaptive" in op for op in ops(model))
    batch = torch.randn(2, *IMAGE)
    graph = canonicalize(export(model, IMAGE))
    torch.testing.assert_close(graph.module(batch), model(batch))


def test_control_flow_that_depends_on_data() -> None:
    def function(x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError, match="control flow depends on data"):
        export(OneExit(Function(function)), IMAGE)


def test_control_flow_op() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y + 1, (x,))

    with pytest.raises(ExportError, match="control-flow op"):
        export(OneExit(Function(function)), IMAGE)


def test_other_shape_than_the_network_takes() -> None:
    with pytest.raises(ExportError, match="could not be captured") as error:
        export(network("residual"), (4, 16, 16))
    assert "RuntimeError" in str(error.value)


def test_output_that_is_no_logits() -> None:
    with pytest.raises(ExportError, match="does not return logits") as error:
        export(OneExit(nn.Identity()), IMAGE)
    assert "shape (1, 3, 16, 16)" in str(error.value)


def test_samples_that_influence_each_other() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0, keepdim=True) + x.mean((1, 2, 3), keepdim=True)

    with pytest.raises(ExportError, match="samples of a batch influence each other"):
        canonicalize(export(OneExit(Function(Centred())), IMAGE))


def test_batch_size_in_the_arithmetic() -> None:
    def function(x: Tensor) -> Tensor:
        return x.reshape(3, 1, 16, 16).permute(1, 0, 2, 3)

    with pytest.raises(ExportError, match="number of samples") as error:
        canonicalize(export(OneExit(Function(function)), IMAGE))
    assert error.value.where == "module 'function', node 'view'"
    assert "[3, 1, 16, 16]" in str(error.value)


def test_attention_with_the_batch_second() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(1, 2)
            answer: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return answer.reshape(x.shape)

    with pytest.raises(ExportError, match="number of samples") as error:
        canonicalize(export(OneExit(Function(Attention())), IMAGE))
    assert "module 'function.function.attention'" in str(error.value.where)
    assert "not nn.MultiheadAttention" in str(error.value.hint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged(value: float) -> None:
    model = network("residual")
    with torch.no_grad():
        model.get_parameter("wide.1.weight")[0, 0, 0, 0] = value
    with pytest.raises(ExportError, match="not answer with finite numbers") as error:
        canonicalize(export(model, IMAGE))
    assert error.value.where == "exit 'early1'"


def test_exit_that_does_not_see_the_input() -> None:
    class Blind(Exits):
        num_exits = 1

        def __init__(self) -> None:
            super().__init__()
            self.constant = nn.Parameter(torch.randn(1, 5))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (self.constant * 2,)

    with pytest.raises(ExportError, match="does not depend on the input"):
        export(Blind(), IMAGE)


def test_the_memory_format_of_the_weights_does_not_matter() -> None:
    model = network("residual").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    constants = export(model, IMAGE).module.state_dict().values()
    assert len(list(constants)) > 5
    assert all(value.is_contiguous() for value in constants)
    assert not all(p.is_contiguous() for p in model.parameters())  # the caller's stays as it was
