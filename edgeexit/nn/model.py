"""The multi-exit network: a backbone that is left as it is, and heads that listen to its modules.

The heads hear their submodule through a forward hook that lives only while ``forward`` runs. The
backbone's code needs no change, and a copy of the model carries no hidden state. `torch.export`
follows the hooks like any other Python, and sees one plain graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError


class MultiExitModel(nn.Module):
    """A classifier that answers at several depths.

    Args:
        backbone: Any module that maps float32 ``[N, channels, height, width]`` to logits
            ``[N, num_classes]``; its own output is the last exit.
        heads: Submodule name -> head, in the order in which the backbone computes the submodules.
            A head maps the submodule's output to logits ``[N, num_classes]``.
        num_classes: The number of classes of every exit.
    """

    def __init__(
        self, backbone: nn.Module, heads: Mapping[str, nn.Module], num_classes: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attach_points = tuple(heads)
        self.heads = nn.ModuleList(heads.values())
        self.num_classes = num_classes

    @property
    def exit_names(self) -> tuple[str, ...]:
        """One name for each exit; the last, the backbone's own output, is called ``final``."""
        return (*self.attach_points, "final")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of every exit, first to last.

        Args:
            x: float32 ``[N, channels, height, width]``.

        Returns:
            ``num_exits`` tensors, each float32 ``[N, num_classes]``.
        """
        with listening(self.backbone, self.attach_points) as features:
            final = self.backbone(x)
        early = [
            head(features[name]) for name, head in zip(self.attach_points, self.heads, strict=True)
        ]
        return (*early, final)

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that phase 3 freezes: those of the network without early exits."""
        return self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the early heads."""
        return self.heads.parameters()


@contextmanager
def listening(backbone: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of the named submodules while the block runs.

    The dict fills up in the order of computation. A submodule that runs twice raises: the exit
    would not know which of the two it listens to.
    """
    features: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise ModelError(
                f"submodule {name!r} does not return one tensor",
                wanted="a submodule whose output is a torch.Tensor",
                given=type(output).__name__,
                hint="attach the exit to the module that computes the tensor itself",
            )
        if name in features:
            raise ModelError(
                f"submodule {name!r} runs more than once in a forward pass",
                wanted="a submodule that is called exactly once",
                hint="attach the exit to the module around it, which is called once",
            )
        features[name] = output

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda _module, _args, output: keep(name, output)

    with ExitStack() as stack:
        for name in names:
            handle = backbone.get_submodule(name).register_forward_hook(hook(name))
            stack.callback(handle.remove)
        yield features


def example_logits(model: MultiExitModel, example: Tensor) -> tuple[Tensor, ...]:
    """One forward pass in evaluation mode, without gradients; the model's mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits: tuple[Tensor, ...] = model(example)
    finally:
        model.train(training)
    return logits
