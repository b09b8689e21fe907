"""``edgeexit train``: trains a network and its exits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeexit.cli.ignored_options import refuse_given
from edgeexit.cli.models import ModelName, build_model, check_description, write_description
from edgeexit.cli.output import console, data_option, emit, json_option, percent, progress, table
from edgeexit.errors import ArgumentError
from edgeexit.storage import only_writer

if TYPE_CHECKING:
    from rich.console import Console

    from edgeexit.data.types import Splits
    from edgeexit.nn.model import MultiExitModel
    from edgeexit.training import EpochRecord, Progress

_STATE = "resume.safetensors"


@click.command(
    name="train",
    epilog="\b\nExamples:\n"
    "  edgeexit train resnet8 --data cifar10 --strategy mixed --epochs 50 --output runs/r8\n"
    "  torchrun --nproc-per-node 2 -m edgeexit train resnet8 --data cifar10 --output runs/r8",
)
@click.argument("model")
@data_option
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for weights and log.",
)
@click.option("--resume", is_flag=True, help="Continue the interrupted run in the folder.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="A finished run whose first phases this run would repeat: they are taken over.",
)
@click.option(
    "--strategy",
    default="mixed",
    show_default=True,
    help="disjoint (backbone, then heads), joint (everything at once), mixed (backbone, then "
    "everything), or phases with shares and rates: backbone=0.3,everything=0.7@0.5.",
)
@click.option(
    "--method",
    default="uniform",
    show_default=True,
    help="What a step minimises: uniform, sdn, ztw and others (docs/training.md).",
)
@click.option(
    "--method-option",
    "method_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the method; may be given again.",
)
@click.option("--epochs", type=int, default=50, show_default=True, help="Of all phases together.")
@click.option(
    "--budget",
    type=click.Choice(["epochs", "macs"]),
    default="epochs",
    show_default=True,
    help="What is shared out: epochs, or what so many epochs of training everything compute.",
)
@click.option(
    "--backbone-share",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of the budget that the first of two phases gets.",
)
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--learning-rate", type=float, default=0.2, show_default=True, help="The peak.")
@click.option(
    "--second-phase-rate",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor on the peak in the second phase.",
)
@click.option("--momentum", type=float, default=0.9, show_default=True)
@click.option("--weight-decay", type=float, default=2e-4, show_default=True)
@click.option(
    "--schedule",
    type=click.Choice(["one_cycle", "cosine"]),
    default="one_cycle",
    show_default=True,
)
@click.option("--label-smoothing", type=float, default=0.0, show_default=True)
@click.option("--mixup", type=float, default=0.0, show_default=True, help="0 turns it off.")
@click.option("--patience", type=int, help="Stop early after so many epochs without improvement.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option(
    "--precision", type=click.Choice(["no", "bf16", "fp16"]), default="no", show_default=True
)
@click.option(
    "--accumulate",
    type=int,
    default=1,
    show_default=True,
    help="Parts that a batch is computed in, where it does not fit into memory.",
)
@click.option("--checkpoint-steps", type=int, help="Steps between checkpoints within an epoch.")
@click.option(
    "--capture/--no-capture",
    default=True,
    show_default=True,
    help="Replay steps as CUDA graphs, where there is a GPU.",
)
@click.option(
    "--diagnose",
    is_flag=True,
    help="Draw what the exits do to each other into OUTPUT/diagnostics, at the end.",
)
@click.option("--compile", is_flag=True, help="Run the model through torch.compile.")
@json_option
def command(
    model: str,
    source: str,
    output: Path,
    resume: bool,
    reuse: Path | None,
    diagnose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL with its exits and leave weights and log in the output folder.

    MODEL is a network of the zoo (resnet8, resnet20, vit), or package.module:function, called
    without arguments. An interrupted run continues with --resume and the same options. Accuracy is
    that of the calibration split; the test split is not looked at.
    """
    _check_output(output, resume)
    _check_shares(options["strategy"])
    from edgeexit import data
    from edgeexit.training import TrainConfig, train

    options["method_options"] = _method_options(options["method"], options["method_options"])
    TrainConfig(**options)  # complains of an option before anything is fetched or written

    with progress() as report:
        splits = data.load(source, progress=report)
    main_process = os.environ.get("RANK", "0") == "0"
    _seed(options["seed"])
    height, width, channels = splits.image_shape
    name = ModelName(
        *(model, splits.num_classes, channels, (height, width)),
        method=options["method"],
        method_options=options["method_options"],
    )
    network = build_model(name)
    # torchrun starts one process for each device: one of them speaks and writes.
    with only_writer(output) if main_process else nullcontext():
        if main_process:
            _check_output(output, resume)  # another process may have come first
            if resume:
                check_description(output, name)
            else:
                write_description(output, name)
        with _display(network.exit_names, main_process) as shown:
            log = train(network, splits, output=output, reuse=reuse, progress=shown, **options)
        if diagnose and main_process:
            _diagnose(output, network, splits)
    if main_process:
        accuracy = _kept_accuracy(network.exit_names, log, options["patience"])
        facts = {
            "output": output,
            "exits": network.exit_names,
            "accuracy": accuracy,
            "log": [asdict(record) for record in log],
        }
        emit(facts, as_json=as_json, show=lambda out: _show(out, output, accuracy))


def _diagnose(output: Path, network: MultiExitModel, splits: Splits) -> None:
    from edgeexit.training.diagnostics import diagnose_run

    with progress() as report:
        diagnose_run(output, network, splits, output / "diagnostics", progress=report)


def _method_options(method: str, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dict; the method itself complains of what it does not take.

    Raises:
        ArgumentError: A text is of another form, or there is no such method.
    """
    from edgeexit.training.methods import create

    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ArgumentError(
                "an option of a method has no value", wanted="NAME=VALUE", given=text
            )
        options[name] = value
    create(method, options)
    return options


def _check_output(output: Path, resume: bool) -> None:
    """A finished or interrupted run is not written over by accident, nor is one invented."""
    state = output / _STATE
    if resume and not state.exists():
        raise ArgumentError(
            "there is no run to continue", wanted=f"a {_STATE}", where=output, hint="drop --resume"
        )
    if not resume and state.exists():
        raise ArgumentError(
            "the output folder holds a run already",
            wanted="an empty or new folder",
            where=output,
            hint="continue it with --resume, or choose another folder",
        )


def _check_shares(strategy: str) -> None:
    """Options of two phases are not given to a strategy that has others."""
    from edgeexit.training.strategies import has_two_phases

    if not has_two_phases(strategy):
        refuse_given(
            ("backbone_share", "second_phase_rate"),
            f"the strategy {strategy} has no two phases that share a budget",
            wanted="disjoint or mixed with it; a list of phases has shares and rates itself",
        )


def _seed(seed: int) -> None:
    """Makes fresh weights, and so the whole run, a matter of the seed."""
    import torch

    torch.manual_seed(seed)


@contextmanager
def _display(exits: Sequence[str], main_process: bool) -> Iterator[Progress]:
    if not main_process:
        yield _Lines(exits, print_lines=False)
    elif sys.stderr.isatty():
        with _Bars(exits) as bars:
            yield bars
    else:
        yield _Lines(exits, print_lines=True)


def _trained(exits: Sequence[str], record: EpochRecord) -> Sequence[str]:
    """The exits that a record speaks of: the last in the backbone's phase, the first in heads'."""
    count = len(record.accuracy)
    return exits[:count] if record.phase == "heads" else exits[-count:]


def _line(record: EpochRecord, exits: Sequence[str]) -> str:
    names = _trained(exits, record)
    exits_text = ", ".join(
        f"{name} {percent(value)}" for name, value in zip(names, record.accuracy, strict=True)
    )
    return (
        f"{record.phase} {record.epoch + 1}/{record.num_epochs}: loss {record.loss:.4f}, "
        f"{exits_text} ({record.seconds:.0f} s)"
    )


class _Lines:
    """One line for each epoch, where there is no terminal."""

    def __init__(self, exits: Sequence[str], *, print_lines: bool) -> None:
        self.exits = exits
        self.print_lines = print_lines

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        """See `edgeexit.training.Progress`."""

    def step(self) -> None:
        """See `edgeexit.training.Progress`."""

    def epoch(self, record: EpochRecord) -> None:
        """See `edgeexit.training.Progress`."""
        if self.print_lines:
            click.echo(_line(record, self.exits), err=True)


class _Bars:
    """A bar for the phase and one for the epoch; a line for each epoch that is done."""

    def __init__(self, exits: Sequence[str]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.exits = exits
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bars = Progress(
            *columns,
            Remaining(),
            console=console(stderr=True),
            transient=True,
            redirect_stdout=False,  # rich would send it to the terminal
        )
        self.of_phase = self.bars.add_task("", visible=False)
        self.of_epoch = self.bars.add_task("", visible=False)

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        """See `edgeexit.training.Progress`."""
        self.bars.reset(
            self.of_phase,
            description=f"{name}: epochs",
            total=num_epochs,
            completed=done_epochs,
            visible=True,
        )
        self.bars.reset(self.of_epoch, description="batches", total=num_steps, visible=True)

    def step(self) -> None:
        """See `edgeexit.training.Progress`."""
        self.bars.advance(self.of_epoch)

    def epoch(self, record: EpochRecord) -> None:
        """See `edgeexit.training.Progress`."""
        self.bars.console.print(_line(record, self.exits))
        self.bars.advance(self.of_phase)
        self.bars.reset(self.of_epoch)


def _kept_accuracy(
    exits: Sequence[str], log: Sequence[EpochRecord], patience: int | None
) -> dict[str, float]:
    """Exit -> accuracy on the calibration split of the weights that the run leaves."""
    from edgeexit.training.checkpoint import by_phase
    from edgeexit.training.early_stopping import kept_epoch

    accuracy: dict[str, float] = {}
    for records in by_phase(log):
        record = kept_epoch(records, patience)
        if record.phase != "heads":
            accuracy.clear()  # the exits that this phase does not train read other features now
        accuracy.update(zip(_trained(exits, record), record.accuracy, strict=True))
    return {name: accuracy[name] for name in exits if name in accuracy}


def _show(out: Console, output: Path, accuracy: Mapping[str, float]) -> None:
    rows = table("Accuracy of the weights on the calibration split", "exit", "accuracy")
    for name, value in accuracy.items():
        rows.add_row(name, percent(value))
    out.print(rows)
    out.print(f"weights and log are in {output}")
