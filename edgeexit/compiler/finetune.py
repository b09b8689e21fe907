"""Between passes 3 and 4, if asked for: trains the weights of the quantized graph on their grids.

Quantization-aware training: the forward pass rounds every weight and every value to the int8 grid
that the device will use, the backward pass treats rounding as if it were not there. It starts from
the post-training quantized graph and is kept only where it answers more samples of the calibration
split; so it can be the last phase of any strategy, and whatever comes later sees a graph of the
same form.

Scales and zero points stay as `quantize` settled them, for values and for weights. What values
share across a cut, and what a kernel prescribes, therefore still holds. torchao's PT2E training
instead places fake quantization before ranges are known and tracks the ranges of each batch, which
would lose both, along with the corrected biases; its folding of batch norms comes down to the same,
since the graph that is tuned here has them folded already, with their statistics frozen.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 3 (simulated quantization); Bengio et al. 2013,
"Estimating or Propagating Gradients Through Stochastic Neurons" (the straight-through estimator;
none passes where a value is clipped). Deviations: ranges are fixed and not moving averages; batch
norms are folded with frozen statistics from the first step.

Not handled: numbers of the network that are no weights of convolutions and linear layers stay as
they are; dropout is off; the loss is the mean cross-entropy over exits, whatever loss a training
method had; it runs on the CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgeexit.backends.integer_ops import (
    INT8_MAX,
    INTEGER_OPS,
    args_of,
    get_constant,
    has_bias,
    is_dequantize,
    is_quantize,
    parameters_of,
    set_constant,
    weight_scales,
)
from edgeexit.compiler.samples import real_batches
from edgeexit.data.augment import crop_flip, draw
from edgeexit.data.streaming import StreamedSplit
from edgeexit.data.types import Augmentation, Samples, Splits
from edgeexit.nn.onednn import Convolution, sound_convolutions
from edgeexit.types import QuantizedGraph

_ROUND = torch.fake_quantize_per_tensor_affine
# Half of what 32 bits hold, as `quantize` leaves it; the rest is for the sum of the products.
_MAX_BIAS_STEPS = 2.0**30


@dataclass(frozen=True)
class FineTuned:
    """The better of two graphs, and how good both are.

    Attributes:
        graph: The tuned graph if ``kept``, else the one that was given.
        kept: Whether the tuned one has the higher accuracy, as the mean over exits.
        before: Accuracy of the given graph at each exit, on the whole calibration split.
        after: That of the tuned graph; all 0 where training diverged.
    """

    graph: QuantizedGraph
    kept: bool
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """In a short line: whether it was kept, and what it did to the calibration split."""
        before, after = (sum(exits) / len(exits) for exits in (self.before, self.after))
        verdict = "kept" if self.kept else "no better, dropped"
        return f"{verdict}; mean accuracy {100 * before:.2f} -> {100 * after:.2f} %"

    @property
    def by_exit(self) -> str:
        """In a line that grows with the exits: what it did to the accuracy of each."""
        return ", ".join(
            f"{100 * old:.2f} -> {100 * new:.2f} %"
            for old, new in zip(self.before, self.after, strict=True)
        )


def finetune(
    quantized: QuantizedGraph,
    data: Splits,
    *,
    epochs: int,
    learning_rate: float = 0.05,
    batch_size: int = 128,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> FineTuned:
    """Trains weights and biases for a few epochs, with Adam.

    Adam moves every number by about the learning rate, whatever its gradient; here the unit is one
    step of the number's grid, so that one rate does for all layers and all networks. (SGD on the
    folded weights themselves diverged on ResNet-8 at a rate of 0.01.)

    Tried on ResNet-8 and CIFAR-10 with ranges out of two samples, one epoch of 10,000: a rate of
    0.02 wins back 3.6 points of the 7.5 that were lost, 0.1 wins back 5.7. With ranges out of 512
    nothing is lost, and nothing was won.

    The same arguments give the same bits on one machine with one number of threads.

    Args:
        quantized: It is left as it is.
        data: The training split is trained on, with its augmentation; the calibration split
            decides whether the result is kept.
        epochs: At least one.
        learning_rate: Of the first step, in steps of a weight's grid, and for biases in steps of
            their layer's output; it falls to zero along a cosine.
        batch_size: Samples of a step, or as many as there are.
        seed: Of the order and the augmentation.
        report: Told what each epoch came to, in a line.
    """
    student = _Student(quantized.module)
    num_steps = epochs * (len(data.train) // min(batch_size, len(data.train)))
    optimizer = torch.optim.Adam(student.parameters(), learning_rate)
    step = 0
    for epoch in range(epochs):
        losses = []
        for images, labels in _training_batches(data, batch_size, (seed, epoch)):
            optimizer.param_groups[0]["lr"] = (
                learning_rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            )
            with sound_convolutions(student.convolutions(), images.device):
                each = [F.cross_entropy(logits, labels) for logits in student.module(images)]
                mean = torch.stack(each).mean()
                optimizer.zero_grad()
                mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(mean.detach()))
            step += 1
        if report is not None:
            loss = sum(losses) / len(losses)
            report(f"fine-tune, epoch {epoch + 1} of {epochs}: loss {loss:.4f}")
    before = _accuracies(quantized.module, data)
    if not all(bool(number.isfinite().all()) for number in student.parameters()):
        return FineTuned(quantized, False, before, (0.0,) * len(before))
    tuned = student.on_the_grid_of(quantized.module)
    after = _accuracies(tuned, data)
    kept = sum(after) > sum(before)
    return FineTuned(replace(quantized, module=tuned) if kept else quantized, kept, before, after)


class _Student:
    """A copy of a quantized graph that gradients can pass, with its weights and biases in float."""

    def __init__(self, quantized: GraphModule) -> None:
        self.module = copy.deepcopy(quantized)
        self._weights: dict[str, nn.Parameter] = {}
        self._biases: dict[str, nn.Parameter] = {}
        for node in list(self.module.graph.nodes):
            if is_quantize(node):
                self._fake_quantize(node)
            elif _weight_of(node) is not None:
                self._free_weight(node)
        self.module.graph.eliminate_dead_code()
        self.module.graph.lint()
        self.module.recompile()

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: weights, then biases."""
        return [*self._weights.values(), *self._biases.values()]

    def convolutions(self) -> list[Convolution]:
        """Those with a stride, which the other layers' arguments do not reach."""
        return [
            (self._weights[node.name].shape, args_of(node)[3])
            for node in self.module.graph.nodes
            if node.name in self._weights and len(args_of(node)) > 3
        ]

    def on_the_grid_of(self, quantized: GraphModule) -> GraphModule:
        """A copy of the graph this was made of, with the weights as they are now."""
        module = copy.deepcopy(quantized)
        for node in module.graph.nodes:
            dequantize = _weight_of(node)
            if dequantize is None:
                continue
            steps = self._weights[node.name].detach().round().clamp(-INT8_MAX, INT8_MAX)
            set_constant(module, args_of(dequantize)[0], steps.to(torch.int8).contiguous())
            if has_bias(node):
                # As kernels hold it: in whole steps of input scale * weight scale.
                size = weight_scales(module, dequantize).double() * parameters_of(node.args[0])[0]
                bias = self._biases[node.name].detach().double() * _output_scale(node)
                steps = (bias / size).round().clamp(-_MAX_BIAS_STEPS, _MAX_BIAS_STEPS)
                set_constant(module, node.args[2], (steps * size).float())
        return module

    def _fake_quantize(self, node: Node) -> None:
        """Rounds a value: quantized and dequantized in one op that has a gradient."""
        with self.module.graph.inserting_before(node):
            fake = self.module.graph.call_function(_ROUND, node.args[:5])
        for user in list(node.users):
            user.replace_all_uses_with(fake)

    def _free_weight(self, node: Node) -> None:
        """Makes weight and bias parameters, in steps; the op sees the weight rounded."""
        graph, dequantize = self.module.graph, _weight_of(node)
        assert dequantize is not None
        integers = get_constant(self.module, args_of(dequantize)[0])
        weight = integers.float()
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        scales = weight_scales(self.module, dequantize).reshape(-1, *[1] * (weight.ndim - 1))
        self._weights[node.name] = nn.Parameter(weight)
        stem = f"_edgeexit_tuned_{node.name}"
        self.module.register_parameter(f"{stem}_weight", self._weights[node.name])
        self.module.register_buffer(f"{stem}_scales", scales)
        with graph.inserting_before(node):
            free = graph.get_attr(f"{stem}_weight")
            whole = graph.call_function(_ROUND, (free, 1.0, 0, -INT8_MAX, INT8_MAX))
            node.update_arg(
                1, graph.call_function(torch.mul, (whole, graph.get_attr(f"{stem}_scales")))
            )
        if has_bias(node):
            scale = _output_scale(node)
            bias = get_constant(self.module, args_of(node)[2]) / scale
            self._biases[node.name] = nn.Parameter(bias)
            self.module.register_parameter(f"{stem}_bias", self._biases[node.name])
            with graph.inserting_before(node):
                free = graph.get_attr(f"{stem}_bias")
                node.update_arg(2, graph.call_function(torch.mul, (free, scale)))


def _weight_of(node: Node) -> Node | None:
    """The dequantize node behind the int8 weight of a convolution or linear layer."""
    rule = INTEGER_OPS.get(node.target)
    if rule is None or rule.weight is None:
        return None
    weight = args_of(node)[rule.weight]
    assert isinstance(weight, Node)
    return weight if is_dequantize(weight) else None


def _output_scale(node: Node) -> float:
    """The scale of what a layer, with its activation, results in."""
    result = next(iter(node.users))
    return parameters_of(result if is_quantize(result) else next(iter(result.users)))[0]


def _training_batches(
    data: Splits, batch_size: int, seed: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches of one epoch; the samples left over differ from epoch to epoch."""
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(state)
    for raw in _raw_batches(data.train, min(batch_size, len(data.train)), seed, generator):
        samples = _augmented(raw, data.augmentation, data, generator)
        images = next(real_batches(samples, data.preprocessing, len(samples)))
        yield (
            images.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(samples.labels),
        )


def _raw_batches(
    train: Samples | StreamedSplit, size: int, seed: tuple[int, ...], generator: torch.Generator
) -> Iterator[Samples]:
    if not isinstance(train, Samples):
        for images, labels in train.batches(seed, batch_size=size):
            yield Samples(images, labels)
        return
    order = torch.randperm(len(train), generator=generator).numpy()
    for start in range(0, len(train) - size + 1, size):
        yield train[order[start : start + size]]


def _augmented(
    samples: Samples, augmentation: Augmentation, data: Splits, generator: torch.Generator
) -> Samples:
    if not (augmentation.crop_padding or augmentation.horizontal_flip):
        return samples
    images = torch.from_numpy(samples.images).permute(0, 3, 1, 2)
    moved = crop_flip(
        images,
        draw(augmentation, len(samples), generator),
        padding=augmentation.crop_padding,
        fill=float(np.mean(data.preprocessing.offset)),  # what the network sees as zero
    )
    return Samples(moved.permute(0, 2, 3, 1).numpy(), samples.labels)


def _accuracies(module: GraphModule, data: Splits) -> tuple[float, ...]:
    """Accuracy at each exit, on the calibration split."""
    batches = real_batches(data.calibration, data.preprocessing)
    with torch.no_grad():
        logits = zip(*(module(batch) for batch in batches), strict=True)
        labels = torch.from_numpy(data.calibration.labels)
        return tuple(
            float((torch.cat(parts).argmax(1) == labels).double().mean()) for parts in logits
        )
