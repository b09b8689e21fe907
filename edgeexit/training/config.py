"""How a multi-exit model is trained: plain data, written word for word into every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgeexit.errors import ArgumentError
from edgeexit.training.strategies import BudgetUnit, PhaseShare, phases, shares

Schedule = Literal["one_cycle", "cosine"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """The options of one run.

    Attributes:
        strategy: Which phases run: ``disjoint``, ``joint``, ``mixed``, or a list of phases such as
            ``backbone=0.3,everything=0.7@0.5``; see `edgeexit.training.strategies`.
        method: What a step minimises: a name of `edgeexit.training.methods.METHODS`.
        method_options: Options of the method that differ from its defaults.
        epochs: The budget, shared out between the phases, so that strategies compare at equal cost.
        budget: Unit in which it is shared out: ``epochs``, or ``macs``, the multiply-accumulates
            that so many epochs of training everything take; a cheaper phase then gets more epochs.
        backbone_share: Share of the budget that phase 1 gets in a named strategy that has one.
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
        accumulate: Parts that a process's share of a batch is computed in, where it does not fit
            into memory at once; batch norm sees one part at a time.
        checkpoint_steps: Steps between two checkpoints within an epoch; None leaves one after each
            epoch only.
        compile: Whether the model runs through ``torch.compile``.
        capture: Whether a step is captured and replayed as a CUDA graph, where there is a GPU and
            the method allows it.
    """

    strategy: str = "mixed"
    method: str = "uniform"
    method_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    epochs: int = 50
    budget: BudgetUnit = "epochs"
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
    accumulate: int = 1
    checkpoint_steps: int | None = None
    compile: bool = False
    capture: bool = True

    def __post_init__(self) -> None:
        """Checks every option once, where it enters."""
        positive = ("epochs", "batch_size", "learning_rate", "second_phase_rate", "accumulate")
        for name in positive:
            if not 0 < getattr(self, name) < math.inf:
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
        for name in ("weight_decay", "mixup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(
                    f"{name} must not be negative", given=f"{name}={getattr(self, name)}"
                )
        if not 0 <= self.seed < 2**63:
            raise ArgumentError(
                "the seed is out of range", wanted="0 to 2**63 - 1", given=f"seed={self.seed}"
            )
        for name in ("patience", "checkpoint_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name} must be at least 1", given=f"{name}={value}")
        choices = {
            "budget": ("epochs", "macs"),
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
        listed = self.phase_shares  # complains of a strategy that is none
        if self.budget == "epochs":  # whether each phase gets one is known without a model
            phases(
                listed,
                epochs=self.epochs,
                unit="epochs",
                learning_rate=self.learning_rate,
                steps_per_epoch=1,
                macs={},
            )

    @property
    def phase_shares(self) -> tuple[PhaseShare, ...]:
        """The phases of the strategy with their shares of the budget."""
        return shares(self.strategy, self.backbone_share, self.second_phase_rate)
