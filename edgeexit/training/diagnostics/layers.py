"""Which activations of a backbone are looked at, and how they are collected.

A layer's activation is what the next layer eats. It is found by one forward pass: the input of
every module with a matrix or kernel, the output of every module at the top level, and what the
exits listen to, each tensor once. So the result of a ReLU that a block's code calls as a function
counts as well. A tensor is named by the outermost module that returns it, or ``into X`` if no
module returns it and X is the first to eat it. The image itself is left out, and so is what a
module that runs more than once in a pass eats or returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.diagnostics.sample import Sample, Tick, batches, evaluating, no_tick


@dataclass(frozen=True)
class Layer:
    """A place where an activation can be read: a module's output, or its first input."""

    name: str
    module: str
    is_input: bool


def find_layers(model: MultiExitModel, image: Tensor) -> tuple[Layer, ...]:
    """The activations of a backbone, in the order of computation.

    Args:
        model: Its backbone is run once, in evaluation mode.
        image: float32 ``[1, channels, height, width]``.
    """
    backbone = model.backbone
    calls: Counter[str] = Counter()
    # Tensors stay alive until the end, so that no two have the same id. A tensor that is changed in
    # place has a new version and counts as another activation.
    alive: list[Tensor] = [image]
    found: dict[tuple[int, int], Layer] = {}
    wanted: list[tuple[int, int]] = []

    def eats(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[name] += 1
        if _has_matrix(module) and args and _is_feature(args[0]) and args[0] is not image:
            key = _key(args[0])
            alive.append(args[0])
            found.setdefault(key, Layer(f"into {name}", name, True))
            wanted.append(key)

    def returns(name: str, _module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if not isinstance(output, Tensor) or not _is_feature(output):
            return
        key = _key(output)
        if key in found and any(output is arg for arg in args):
            return  # an identity: the activation has a name already
        alive.append(output)
        found[key] = Layer(name, name, False)
        if "." not in name or name in model.attach_points:
            wanted.append(key)

    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for name, module in backbone.named_modules():
            if name:
                before = module.register_forward_pre_hook(_named_pre(name, eats))
                after = module.register_forward_hook(_named(name, returns))
                stack.callback(before.remove)
                stack.callback(after.remove)
        backbone(image)
    ordered = dict.fromkeys(wanted)
    layers = tuple(found[key] for key in ordered if calls[found[key].module] == 1)
    if not layers:
        raise ModelError(
            "the backbone has no layers to look at",
            wanted="submodules that run once and return [N, C, H, W], [N, tokens, C] or [N, C]",
            given=type(backbone).__name__,
        )
    return layers


def collect(
    model: MultiExitModel,
    sample: Sample,
    layers: tuple[Layer, ...],
    reduce: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 250,
    tick: Tick = no_tick,
) -> list[Tensor]:
    """Runs the backbone in evaluation mode and keeps a reduced form of each layer's activation.

    Args:
        model: The network.
        sample: What it is run on.
        layers: What `find_layers` found.
        reduce: Activation of a batch -> float ``[batch, num_features]``.
        batch_size: Of the forward passes.
        tick: Hears of every batch.

    Returns:
        For each layer, float32 ``[N, num_features]`` on the CPU.
    """
    parts: dict[Layer, list[Tensor]] = {layer: [] for layer in layers}

    def keep(layer: Layer, value: Tensor) -> None:
        parts[layer].append(reduce(value.detach()).float().cpu())

    with ExitStack() as stack, evaluating(model), torch.no_grad():
        for layer in layers:
            module = model.backbone.get_submodule(layer.module)
            handle = (
                module.register_forward_pre_hook(_keep_input(layer, keep))
                if layer.is_input
                else module.register_forward_hook(_keep_output(layer, keep))
            )
            stack.callback(handle.remove)
        for done, (images, _) in enumerate(batches(sample, batch_size, model)):
            model.backbone(images)
            tick(done + 1, -(-len(sample) // batch_size))
    return [torch.cat(parts[layer]) for layer in layers]


def pooled(activation: Tensor, side: int) -> Tensor:
    """Averages positions down to a few and flattens them.

    Args:
        activation: ``[N, C, H, W]``, ``[N, tokens, C]`` or ``[N, C]``.
        side: A map keeps at most ``side x side`` positions, tokens at most ``side * side``.

    Returns:
        ``[N, num_features]``.
    """
    if activation.ndim == 4:
        height, width = (min(side, size) for size in activation.shape[2:])
        return F.adaptive_avg_pool2d(activation, (height, width)).flatten(1)
    if activation.ndim == 3:
        tokens = min(side * side, activation.shape[1])
        return F.adaptive_avg_pool1d(activation.transpose(1, 2), tokens).flatten(1)
    return activation


def _has_matrix(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _is_feature(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim in (2, 3, 4) and value.is_floating_point()


def _key(tensor: Tensor) -> tuple[int, int]:
    return id(tensor), tensor._version


def _named_pre(name: str, call: Callable[[str, nn.Module, tuple[Any, ...]], None]) -> Any:
    return lambda module, args: call(name, module, args)


def _named(name: str, call: Callable[[str, nn.Module, tuple[Any, ...], object], None]) -> Any:
    return lambda module, args, output: call(name, module, args, output)


def _keep_input(layer: Layer, keep: Callable[[Layer, Tensor], None]) -> Any:
    return lambda _module, args: keep(layer, args[0])


def _keep_output(layer: Layer, keep: Callable[[Layer, Tensor], None]) -> Any:
    return lambda _module, _args, output: keep(layer, output)
