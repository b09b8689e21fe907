"""The multi-exit network: a backbone that is left as it is, and heads that listen to its modules.

The heads hear their submodule through a forward hook that lives only while ``forward`` runs. The
backbone's code needs no change, and a copy of the model carries no hidden state. `torch.export`
follows the hooks like any other Python, and sees one plain graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit.nn.ensembles import Combination


class MultiExitModel(nn.Module):
    """A classifier that answers at several depths.

    Args:
        backbone: Any module that maps float32 ``[N, channels, height, width]`` to logits
            ``[N, num_classes]``; its own output is the last exit.
        heads: Submodule name -> head, in the order in which the backbone computes the submodules.
            A head maps the submodule's output to logits ``[N, num_classes]``.
        num_classes: The number of classes of every exit.
        feature_shapes: For each head, the shape of what it listens to, batch first. Only methods
            that build modules of their own ask for it.

    Attributes:
        combine: What turns the logits of all exits into those that the network answers with; None,
            the default, leaves them as they are.
    """

    combine: Combination | None

    def __init__(
        self,
        backbone: nn.Module,
        heads: Mapping[str, nn.Module],
        num_classes: int,
        feature_shapes: Sequence[tuple[int, ...]] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attach_points = tuple(heads)
        self.heads = nn.ModuleList(heads.values())
        self.combine = None
        self.num_classes = num_classes
        self._feature_shapes = tuple(feature_shapes)

    @property
    def exit_names(self) -> tuple[str, ...]:
        """One name for each exit; the last, the backbone's own output, is called ``final``."""
        return (*self.attach_points, "final")

    @property
    def feature_shapes(self) -> tuple[tuple[int, ...], ...]:
        """For each head, the shape of what it listens to, batch first.

        Raises:
            ModelError: The model was made without them.
        """
        if len(self._feature_shapes) != len(self.attach_points):
            raise ModelError(
                "the model does not know the shapes of its features",
                wanted=f"a shape for each of {', '.join(self.attach_points)}",
                given=self._feature_shapes,
                hint="make the model with attach_exits, or name feature_shapes",
            )
        return self._feature_shapes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of every exit, first to last.

        Args:
            x: float32 ``[N, channels, height, width]``.

        Returns:
            ``num_exits`` tensors, each float32 ``[N, num_classes]``; in training mode a combination
            may add others after them.
        """
        with listening(self.backbone, self.attach_points) as features:
            final = self.backbone(x)
        return self.exits_of(features, final)

    def exits_of(self, features: Mapping[str, Tensor], final: Tensor) -> tuple[Tensor, ...]:
        """What `forward` returns, from what the backbone computed.

        Args:
            features: Submodule name -> its output, for each attach point.
            final: The backbone's own logits, float32 ``[N, num_classes]``.
        """
        heard = [features[name] for name in self.attach_points]
        early = [head(feature) for feature, head in zip(heard, self.heads, strict=True)]
        if self.combine is None:
            return (*early, final)
        combined: tuple[Tensor, ...] = self.combine(heard, (*early, final))
        return combined

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that phase 3 freezes: those of the network without early exits."""
        return self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the early heads, and of what combines the exits."""
        yield from self.heads.parameters()
        if self.combine is not None:
            yield from self.combine.parameters()


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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode while the block runs; then every submodule has its own mode again."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def example_logits(model: MultiExitModel, example: Tensor) -> tuple[Tensor, ...]:
    """One forward pass in evaluation mode, without gradients; all modes are as before after it."""
    with evaluating(model), torch.no_grad():
        logits: tuple[Tensor, ...] = model(example)
    return logits
