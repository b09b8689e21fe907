"""RaPTr: each step trains a random sub-network, and the sub-networks grow in stages.

A sub-network is a prefix of the network with all exits in it, in which some of the residual blocks
are bypassed. Early in a phase prefixes may be short and many blocks are bypassed; in the last stage
the whole network is trained. Short sub-networks cost less, and the exits of short prefixes are
trained in every step.

Source: Panigrahi et al. 2024, "Efficient Stagewise Pretraining via Progressive Subnetworks", arXiv
2402.05913: random paths through residual layers, first and last layer always on them, lengths that
grow in stages of equal numbers of steps (6, 8, 10 and 12 of BERT-Base's 12 layers), the loss at the
end of the path, and a last stage that trains everything. Deviations:

- The paper's networks have one output. Here the depth of the prefix is drawn as well: uniformly
  from a least depth, which grows with the stages, to the full depth; the loss of a sub-network is
  the mean over all its exits, since each of them is the end of a path.
- Kept besides the first and last block are those that an exit listens to, the last of their prefix,
  and those with an exit inside.
- A block stays with the stage's probability. That is the share of the bypassable blocks on the path
  and not of all blocks, so paths are a little longer than the paper's.
- Outputs are not scaled to make up for bypassed blocks: batch norm follows each convolution here.
- The forward pass beyond the prefix is computed, because its logits are logged and its batch norms
  stay fit for evaluation; no gradient flows back from there. The saving is bypassed blocks, and the
  backward pass of what lies behind the prefix.
- Phase "backbone" has one exit and draws paths only, which is the paper's method. Phase "heads"
  draws nothing: heads must learn the features that the frozen backbone gives them at run time.
- A network whose blocks all change shape or feed an exit, such as ResNet-8, has none to bypass:
  only the depth of the prefix is drawn there, and phase "backbone" is plain training.

Under ``torch.compile`` most of a network with bypassable blocks runs as if it were not compiled.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgeexit.errors import ArgumentError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training.methods.base import Method, Step


@dataclass(frozen=True)
class RaPTr(Method):
    """Random prefixes and paths, growing with the phase.

    Attributes:
        stages: Stages of equal length, at least 2; the last trains the whole network.
        start: Share of the depth in the first stage, in (0, 1]; it grows by equal amounts to 1.
    """

    capturable: ClassVar[bool] = False

    stages: int = 4
    start: float = 0.5

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            ArgumentError: One is out of range.
        """
        if self.stages < 2:
            raise ArgumentError("stages must be at least 2", given=f"stages={self.stages}")
        if not 0 < self.start <= 1:
            raise ArgumentError(
                "start is out of range", wanted="0 < start <= 1", given=f"start={self.start}"
            )

    def share(self, progress: float) -> float:
        """The share of the depth that a sub-network has at least, at this point of a phase."""
        stage = min(int(progress * self.stages), self.stages - 1)
        return self.start + (1 - self.start) * stage / (self.stages - 1)

    def loss(self, step: Step) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Method.loss`."""
        num_exits = len(step.exits)
        if step.phase == "heads":
            logits = step.module(step.images)
            return torch.stack([step.cross_entropy(z).mean() for z in logits]).mean(), logits
        if not hasattr(step.model, "bypassable"):
            cast(Any, step.model).bypassable = make_bypassable(step.model, step.images[:1])
        blocks = cast(tuple[_Bypassable, ...], step.model.bypassable)
        share = self.share(float(step.progress))
        least = math.ceil(share * num_exits - 1e-9)
        depth = int(torch.randint(least, num_exits + 1, (), generator=step.generator))
        kept = torch.rand(len(blocks), generator=step.generator) < share
        for block, stays in zip(blocks, kept.tolist(), strict=True):
            block.bypassed = not stays
        try:
            logits = step.module(step.images)
        finally:
            for block in blocks:
                block.bypassed = False
        loss = torch.stack([step.cross_entropy(z).mean() for z in logits[:depth]]).mean()
        # Every parameter gets a gradient, if only zero: processes wait for all of each other's, and
        # momentum goes on alike on one process and on many.
        moving = [p.sum() for p in step.model.parameters() if p.requires_grad]
        return loss + 0.0 * torch.stack(moving).sum(), logits

    def take_off(self, model: MultiExitModel) -> None:
        """Makes the blocks what they were."""
        for block in cast(tuple[_Bypassable, ...], getattr(model, "bypassable", ())):
            block.__class__ = type(block).__bases__[1]
            del block.bypassed
        if hasattr(model, "bypassable"):
            del model.bypassable


class _Bypassable(nn.Module):
    """Comes before a block's own class: hands its input on while ``bypassed`` is set."""

    bypassed: bool

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator, no-untyped-call]
    def forward(self, x: Tensor) -> Tensor:
        return x if self.bypassed else cast(Tensor, super().forward(x))


def make_bypassable(model: MultiExitModel, image: Tensor) -> tuple[nn.Module, ...]:
    """Finds the residual blocks that a path may leave out, and gives each a switch ``bypassed``.

    A residual block is a module that returns its input when all its parameters are zero, and that
    holds no smaller one. The first and the last of them are not taken, nor those whose output is
    the last that an exit hears, nor those with an exit inside.

    Args:
        model: The network; the classes of its blocks change, its weights and modes do not.
        image: float32 ``[1, channels, height, width]``.

    Returns:
        The blocks, in the order of computation.
    """
    blocks = [model.backbone.get_submodule(name) for name in bypassable_names(model, image)]
    for block in blocks:
        own = type(block)
        block.__class__ = type(f"Bypassable{own.__name__}", (_Bypassable, own), {})
        cast(_Bypassable, block).bypassed = False
    return tuple(blocks)


def bypassable_names(model: MultiExitModel, image: Tensor) -> list[str]:
    """The names of the blocks of `make_bypassable`, as the backbone has them."""
    outputs: list[tuple[str, Tensor | None]] = []

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(_module: nn.Module, args: tuple[object, ...], _output: object) -> None:
            only = args[0] if len(args) == 1 else None
            outputs.append((name, only if isinstance(only, Tensor) else None))

        return keep

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with ExitStack() as stack, torch.no_grad():
            for name, module in model.backbone.named_modules():
                if name:
                    handle = module.register_forward_hook(hook(name))
                    stack.callback(handle.remove)
            model.backbone(image)
        done = [name for name, _ in outputs]
        residual = [
            name
            for name, x in outputs
            if x is not None
            and done.count(name) == 1
            and _is_residual(model.backbone.get_submodule(name), x)
        ]
    finally:
        for module, training in modes:
            module.training = training
    smallest = [
        name for name in residual if not any(other.startswith(name + ".") for other in residual)
    ]
    kept, last = set(smallest[:1]), ""
    kept |= {n for n in smallest if any(p.startswith(n + ".") for p in model.attach_points)}
    for name in done:
        last = name if name in smallest else last
        if name in model.attach_points:
            kept.add(last)
    kept.add(last)
    return [name for name in smallest if name not in kept]


def _is_residual(module: nn.Module, x: Tensor) -> bool:
    """Whether the module returns its input once its parameters are zero."""
    zeros = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    if not zeros or not any(module.children()):
        return False
    # Positive, so that a ReLU at the end lets it through, and nowhere the same.
    probe = torch.linspace(1, 2, x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape)
    with torch.no_grad():
        output = functional_call(module, zeros, (probe,))
    return isinstance(output, Tensor) and torch.equal(output, probe)
