"""Pass 3: makes every value of the graph int8, with NNCF's post-training quantization.

The whole multi-exit graph is quantized at once, so that both sides of a later cut share scale and
zero point. Whether outliers should be cut off, and whether biases should be corrected, differs from
network to network: all four ways are tried, and the one whose answers are closest to the float
network's on the calibration split is kept. Closeness is the Kullback-Leibler divergence of the
softmax, because accuracies on some hundred samples differ by chance more than by method.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeexit.backends.integer_ops import (
    INTEGER_OPS,
    args_of,
    check_op,
    fused_activation,
    get_constant,
    has_bias,
    is_quantize,
    is_quantize_any,
    parameter_groups,
    parameters_of,
    set_constant,
    set_weight_scales,
    weight_scales,
    where_of,
)
from edgeexit.backends.silence import silenced
from edgeexit.compiler.samples import raw_input_parameters, real_batches, spread
from edgeexit.data.types import Preprocessing, Samples
from edgeexit.errors import QuantizationError
from edgeexit.types import ExportedGraph, QuantizedGraph

_OUTLIER_SHARE = 1e-3
_CAT = torch.ops.aten.cat.default


def quantize(
    exported: ExportedGraph,
    samples: Samples,
    preprocessing: Preprocessing,
    *,
    num_range_samples: int = 512,
    num_compared_samples: int = 512,
) -> QuantizedGraph:
    """Quantizes activations and linear layers' weights per tensor, other weights per channel.

    Args:
        exported: A canonical graph; it is left as it is.
        samples: The calibration split.
        preprocessing: From raw samples to what the network eats.
        num_range_samples: Samples, evenly spread over the split, whose ranges are collected.
        num_compared_samples: Samples, as evenly spread, on which the ways are compared.

    Returns:
        The quantized graph; all scales are float32 numbers. Where raw uint8 samples differ from
        the network's input by one offset and one factor, the input's int8 is ``raw - 128``.

    Raises:
        QuantizationError: An op has no integer form, or NNCF failed.
    """
    for node in exported.module.graph.nodes:
        if node.op == "call_function" and not _is_fused(node):
            check_op(node)
    ranges = list(real_batches(spread(samples, num_range_samples), preprocessing, 1))
    judges = list(real_batches(spread(samples, num_compared_samples), preprocessing))
    wanted = _log_probabilities(exported.module, judges)
    best, least = None, math.inf
    for outlier_share in (0.0, _OUTLIER_SHARE):
        corrected = _quantize_with_nncf(exported.module, ranges, outlier_share)
        _settle_parameters(corrected, raw_input_parameters(samples, preprocessing))
        for module in (_with_biases_of(exported.module, corrected), corrected):
            _keep_biases_in_32_bits(module)
            _round_biases(module)
            divergence = _divergence(wanted, _log_probabilities(module, judges))
            if best is None or divergence < least:
                best, least = module, divergence
    assert best is not None
    return QuantizedGraph(best, exported.example_shape, exported.exit_names, exported.num_classes)


def _is_fused(node: Node) -> bool:
    return any(fused_activation(source) is node for source in node.all_input_nodes)


def _log_probabilities(module: GraphModule, batches: Sequence[Tensor]) -> list[Tensor]:
    """Log of the softmax at each exit, float32 [num_samples, num_classes] each."""
    with torch.no_grad():
        logits = zip(*(module(batch) for batch in batches), strict=True)
        return [torch.log_softmax(torch.cat(parts), dim=1) for parts in logits]


def _divergence(wanted: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    """Kullback-Leibler divergence from the float network, in nats, mean over samples and exits."""
    each = [
        torch.nn.functional.kl_div(b, a, log_target=True, reduction="batchmean")
        for a, b in zip(wanted, given, strict=True)
    ]
    return float(torch.stack(each).mean())


def _quantize_with_nncf(
    module: GraphModule, samples: list[Tensor], outlier_share: float
) -> GraphModule:
    with silenced(QuantizationError, "NNCF could not quantize the network"):
        nncf, fx, adapter = _import_nncf()
        from edgeexit.compiler.quantizer import IntegerQuantizer  # torchao is loud when imported

        with _all_weight_bits():
            quantized: GraphModule = fx.quantize_pt2e(
                module,
                _SignedWeights(adapter(IntegerQuantizer())),
                nncf.Dataset(samples),
                subset_size=len(samples),
                fast_bias_correction=True,
                activations_range_estimator_params=_range_of(outlier_share),
                fold_quantize=False,
                do_copy=True,
            )
        fx.constant_folding.constant_fold(quantized, is_quantize_any)
    return quantized


def _range_of(outlier_share: float) -> Any:
    """Ranges that hold every value of every sample, but for a share of each sample's values.

    NNCF's default is the mean of the samples' extremes. That cuts off the more confident half of
    all logits, which is what an exit decides by.
    """
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    if outlier_share == 0:
        low, high, options = StatisticsType.MIN, StatisticsType.MAX, {}
    else:
        low = high = StatisticsType.QUANTILE
        options = {"quantile_outlier_prob": outlier_share}
    return RangeEstimatorParameters(
        StatisticsCollectorParameters(low, AggregatorType.MIN, **options),
        StatisticsCollectorParameters(high, AggregatorType.MAX, **options),
    )


@contextmanager
def _all_weight_bits() -> Iterator[None]:
    """Lets the first convolution use all eight bits.

    By default NNCF gives it seven, because x86 processors of before 2019 saturate a sum of two
    products. None of our engines does, and the first layer needs its bits. ``quantize_pt2e`` hands
    no such option on.
    """
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.algorithms.min_max.algorithm import MODE_BASED_DEFAULTS

    defaults = MODE_BASED_DEFAULTS[None]
    known, defaults.overflow_fix = defaults.overflow_fix, OverflowFix.DISABLE
    try:
        yield
    finally:
        defaults.overflow_fix = known


class _SignedWeights:
    """Says to NNCF that weights are signed even where all of them are positive.

    NNCF's adapter for torchao's quantizers says the contrary. All weights of a channel are positive
    where a batch norm became a depthwise convolution; they would be quantized from 0 to 255 and
    then stored in int8. NNCF asks an object with these two methods for its setup directly.
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def transform_for_annotation(self, module: GraphModule) -> GraphModule:
        """Passed on."""
        transformed: GraphModule = self._adapter.transform_prior_quantization(module)
        return transformed

    def get_nncf_quantization_setup(self, module: GraphModule, graph: Any) -> Any:
        """What the adapter says, with signed weights."""
        setup = self._adapter.get_quantization_setup(module, graph)
        for point in setup.quantization_points.values():
            if point.is_weight_quantization_point():
                point.qconfig.signedness_to_force = True
        return setup


def _import_nncf() -> tuple[Any, Any, Any]:
    """Imports NNCF, its part for graphs and its adapter such that it reports to nobody.

    Without the package ``openvino_telemetry`` NNCF puts a dummy in its place; that is what it finds
    here. A copy that somebody imported before gets the dummy too.
    """
    telemetry = "openvino_telemetry"
    known, sys.modules[telemetry] = sys.modules.get(telemetry), None  # type: ignore[assignment]
    try:
        import nncf
        from nncf.experimental.torch import fx
        from nncf.experimental.torch.fx.quantization.quantizer.torch_ao_adapter import (
            TorchAOQuantizerAdapter,
        )
        from nncf.telemetry import decorator, wrapper
    finally:
        del sys.modules[telemetry]
        if known is not None:
            sys.modules[telemetry] = known
    decorator.telemetry = wrapper.telemetry = wrapper.NNCFTelemetryStub()
    return nncf, fx, TorchAOQuantizerAdapter


def _with_biases_of(original: GraphModule, corrected: GraphModule) -> GraphModule:
    """A copy of the quantized graph in which no bias is corrected.

    Bias correction changes nothing else, so that one calibration pass serves both graphs.
    """
    module = copy.deepcopy(corrected)
    biases = {
        node.name: get_constant(original, args_of(node)[2])
        for node in original.graph.nodes
        if has_bias(node)
    }
    for node in module.graph.nodes:
        if has_bias(node) and node.name in biases:
            set_constant(module, node.args[2], biases[node.name].clone())
    return module


def _keep_biases_in_32_bits(module: GraphModule) -> None:
    """Enlarges the scales of weights that are (almost) zero where their bias is not.

    Integer kernels hold a bias in steps of input scale * weight scale; with a tiny weight scale it
    would not fit 32 bits. Half of their range is left for the sum of the products.
    """
    for node in module.graph.nodes:
        if not has_bias(node):
            continue
        source, weight_node, bias_node = node.args[:3]
        bias = get_constant(module, bias_node).abs().double()
        scales = weight_scales(module, weight_node)
        smallest = (bias / (parameters_of(source)[0] * 2.0**30)).float()
        if len(scales) == 1:
            smallest = smallest.max().reshape(1)
        small = scales < smallest
        if bool(small.any()):
            weight = get_constant(module, weight_node.args[0])
            ratio = torch.where(small, scales / smallest, 1.0).reshape(-1, *[1] * (weight.ndim - 1))
            set_constant(module, weight_node.args[0], (weight * ratio).round().to(torch.int8))
            set_weight_scales(module, weight_node, torch.where(small, smallest, scales))


def _round_biases(module: GraphModule) -> None:
    """Rounds biases to the steps in which integer kernels hold them, input scale * weight scale.

    Left in float, they would move a result across the middle of two integers now and then, and the
    engines would answer another number than this graph.
    """
    for node in module.graph.nodes:
        if has_bias(node):
            source, weight_node, bias_node = node.args[:3]
            steps = weight_scales(module, weight_node).double() * parameters_of(source)[0]
            bias = get_constant(module, bias_node).double()
            set_constant(module, bias_node, ((bias / steps).round() * steps).float())


def _settle_parameters(module: GraphModule, raw_input: tuple[float, int] | None) -> None:
    """Rounds scales to float32 and sets the parameters that are given and not measured.

    What is set for one value holds for all values that share its parameters.
    """
    wanted: dict[Node, tuple[float, int]] = {}
    group = parameter_groups(module)
    for node in module.graph.nodes:
        if not is_quantize(node):
            continue
        source = node.args[0]
        fixed = None
        if source.op == "placeholder":
            fixed = raw_input
        elif source.target in INTEGER_OPS:
            fixed = INTEGER_OPS[source.target].fixed_output
        if fixed is None:
            continue
        root = group[node]
        if wanted.setdefault(root, fixed) != fixed:
            raise QuantizationError(
                "two values with given scales must share one",
                wanted=f"scale, zero point = {fixed}",
                given=wanted[root],
                where=f"node {source.name!r}",
                hint="do not concatenate, pool or reshape them together",
            )
    for root, fixed in wanted.items():
        members = [node for node in group if group[node] is root]
        joined = [node for node in members if _source(node).target is _CAT]
        if joined and not _holds(fixed, parameters_of(root)):
            raise QuantizationError(
                "a value of a given range is joined with one that needs a wider range",
                wanted="values within {:.3g} to {:.3g}".format(*_range(fixed)),
                given="{:.3g} to {:.3g}".format(*_range(parameters_of(root))),
                where=where_of(_source(joined[0])),
                hint="join it after a layer of its own: the input, a sigmoid and a softmax have "
                "fixed scales, and what is concatenated shares one",
            )
    for node in module.graph.nodes:
        if is_quantize(node):
            scale, zero_point = wanted.get(group[node], parameters_of(group[node]))
            _set_parameters(node, float(np.float32(scale)), zero_point)
    module.recompile()


def _source(quantize_node: Node) -> Node:
    source = quantize_node.args[0]
    assert isinstance(source, Node)
    return source


def _range(parameters: tuple[float, int]) -> tuple[float, float]:
    """The lowest and the highest value that int8 steps reach."""
    scale, zero_point = parameters
    return scale * (-128 - zero_point), scale * (127 - zero_point)


def _holds(outer: tuple[float, int], inner: tuple[float, int]) -> bool:
    """Whether one range lies in another, but for a hundredth of that."""
    (low, high), (least, most) = _range(outer), _range(inner)
    slack = (high - low) / 100
    return low - slack <= least and most <= high + slack


def _set_parameters(quantize_node: Node, scale: float, zero_point: int) -> None:
    for node in (quantize_node, *quantize_node.users):
        node.args = (node.args[0], scale, zero_point, *node.args[3:])
