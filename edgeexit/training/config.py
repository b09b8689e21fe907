"""How a multi-exit model is trained: plain data, written word for word into every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeexit.errors import ArgumentError

Strategy = Literal["disjoint", "joint", "mixed"]
Schedule = Literal["one_cycle", "cosine"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """The options of one run.

    Attributes:
        strategy: Which phases run; see `edgeexit.training.strategies`.
        epochs: Epochs in all, shared out between the phases, so that strategies compare at equal
            budgets.
        backbone_share: Share of the epochs that phase 1 gets where a strategy has one.
        batch_size: Samples in one optimizer step, over all processes together.
        learning_rate: Peak rate of SGD with Nesterov momentum.
        second_phase_rate: Factor on the peak rate in the last phase of a strategy with two.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty on convolution and linear weights; not on batch norm or biases.
        schedule: ``one_cycle`` (linear up over the first fifth, cosine down to zero) or ``cosine``.
        label_smoothing: In [0, 1).
        mixup: Parameter of the Beta distribution of Zhang et al. 2018; 0 turns it off.
        patience: Epochs without improvement on the calibration split before a head is done (the
            run stops when all are, and the last improved weights are kept); None trains for the
            fixed budget and keeps the last weights.
        seed: Of the initialization, the order of the samples and the augmentation.
        precision: As ``accelerate`` names it.
        compile: Whether the model runs through ``torch.compile``.
    """

    strategy: Strategy = "mixed"
    epochs: int = 50
    backbone_share: float = 0.2
    batch_size: int = 128
    learning_rate: float = 0.2
    second_phase_rate: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 2e-4
    schedule: Schedule = "one_cycle"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    patience: int | None = None
    seed: int = 0
    precision: Precision = "no"
    compile: bool = False

    def __post_init__(self) -> None:
        """Checks every option once, where it enters."""
        positive = ("epochs", "batch_size", "learning_rate", "second_phase_rate")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ArgumentError(
                    f"{name} must be positive", given=f"{name}={getattr(self, name)}"
                )
        bounds = {"backbone_share": 1.0, "label_smoothing": 1.0, "momentum": 1.0}
        for name, above in bounds.items():
            if not 0 <= getattr(self, name) < above:
                raise ArgumentError(
                    f"{name} is out of range",
                    wanted=f"0 <= {name} < {above}",
                    given=f"{name}={getattr(self, name)}",
                )
        if self.weight_decay < 0 or self.mixup < 0:
            raise ArgumentError(
                "weight_decay and mixup must not be negative",
                given=f"weight_decay={self.weight_decay}, mixup={self.mixup}",
            )
        if self.patience is not None and self.patience < 1:
            raise ArgumentError("patience must be at least 1", given=f"patience={self.patience}")
        choices = {
            "strategy": ("disjoint", "joint", "mixed"),
            "schedule": ("one_cycle", "cosine"),
            "precision": ("no", "bf16", "fp16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ArgumentError(
                    f"unknown {name}",
                    wanted=", ".join(allowed),
                    given=f"{name}={getattr(self, name)!r}",
                )
