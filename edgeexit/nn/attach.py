"""Attaches exits to a network that knows nothing of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit.nn.heads import Head
from edgeexit.nn.model import MultiExitModel, evaluating, listening


def attach_exits(module: nn.Module, at: Mapping[str, Head], *, example: Tensor) -> MultiExitModel:
    """Gives a classifier early exits.

    The heads are built for the shapes that ``example`` produces. The module itself is used, not
    copied: its weights are shared with the returned model.

    Args:
        module: Maps float32 ``[N, channels, height, width]`` to logits ``[N, num_classes]``.
        at: Name of a submodule (as in ``named_modules()``) -> a head of `edgeexit.nn.heads`.
        example: One input, float32 ``[1, channels, height, width]``.

    Returns:
        The model, its exits in the order in which the module computes them.

    Raises:
        ModelError: A submodule is unknown, is called ``final``, is not run, runs twice, or does not
            depend on the input; the module does not return logits; a head does not fit.
    """
    if not at:
        raise ModelError("no exits were named", wanted="at={submodule: head}", given="at={}")
    known = dict(module.named_modules())
    for name in at:
        if name not in known or not name:
            near = difflib.get_close_matches(name, [n for n in known if n], n=3, cutoff=0.4)
            children = ", ".join(child for child, _ in module.named_children())
            raise ModelError(
                f"the module has no submodule {name!r}",
                wanted="a name from module.named_modules()",
                given=repr(name),
                where=f"at[{name!r}]",
                hint=f"did you mean {', '.join(map(repr, near))}?"
                if near
                else f"the top level has {children or 'no submodules'}",
            )
    if "final" in at:
        raise ModelError(
            "two exits would have the same name",
            wanted="a submodule that is not called 'final', as the last exit is",
            where="at['final']",
            hint="rename the submodule",
        )
    logits, features = _trace(module, tuple(at), example)
    num_classes = logits.shape[1]
    heads: dict[str, nn.Module] = {}
    for name, feature in features.items():
        heads[name] = at[name].build(tuple(feature.shape), num_classes)
        with torch.no_grad():
            shape = tuple(heads[name].eval()(feature).shape)
        heads[name].train()
        if shape != (example.shape[0], num_classes):
            raise ModelError(
                "a head does not return logits",
                wanted=f"shape {(example.shape[0], num_classes)}",
                given=f"shape {shape}",
                where=f"at[{name!r}]={at[name]!r}",
            )
    shapes = [tuple(feature.shape) for feature in features.values()]
    return MultiExitModel(module, heads, num_classes, shapes)


def _trace(
    module: nn.Module, names: tuple[str, ...], example: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs the example and checks that every named feature is computed, and from the input."""
    probe = example.detach().clone().requires_grad_(True)
    with evaluating(module), torch.enable_grad(), listening(module, names) as features:
        logits = module(probe)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            "the module does not return logits",
            wanted="one tensor [N, num_classes]",
            given=given,
            hint="wrap the module so that it returns the classifier's output alone",
        )
    for name in names:
        if name not in features:
            raise ModelError(
                f"submodule {name!r} did not run on the example",
                wanted="a submodule that the forward pass calls",
                where=f"at[{name!r}]",
            )
        grad = None
        if features[name].requires_grad:
            (grad,) = torch.autograd.grad(
                features[name].sum(), probe, retain_graph=True, allow_unused=True
            )
        if grad is None:
            raise ModelError(
                f"the output of submodule {name!r} does not depend on the input",
                wanted="an exit that shares a tensor with the input",
                where=f"at[{name!r}]",
                hint="attach the exit to a submodule that processes the image",
            )
    detached = {name: feature.detach() for name, feature in features.items()}
    return logits.detach(), detached
