"""The trainings behind the table of strategies: what they are, and how they are run to the end.

Every run has the same budget of training MACs: what `Table.epochs` epochs of training the whole
multi-exit network compute. A run is a folder that ``edgeexit.training`` fills; a run that is cut
short resumes, a finished one is not repeated.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from strategies_measure import Precision, measure_run, measured_of, network_macs
from strategies_report import Run
from torch import nn

from edgeexit import data
from edgeexit.data.types import Splits
from edgeexit.nn import zoo
from edgeexit.nn.model import MultiExitModel
from edgeexit.nn.zoo.resnet import ResNet
from edgeexit.nn.zoo.vit import VisionTransformer
from edgeexit.training import EpochRecord, TrainConfig, train
from edgeexit.training.budget import macs_per_sample
from edgeexit.training.checkpoint import write_whole

PRECISIONS: tuple[Precision, ...] = ("float", "int8")


def _resnet(
    blocks: tuple[int, int, int], widths: tuple[int, int, int]
) -> Callable[[int, int, int], nn.Module]:
    return lambda channels, classes, _: ResNet(blocks, widths, channels, classes)


def _vit(depth: int) -> Callable[[int, int, int], nn.Module]:
    return lambda channels, classes, size: VisionTransformer(
        channels, classes, image_size=size, depth=depth
    )


ROWS: Mapping[str, Mapping[str, Any]] = {
    "joint": {"strategy": "joint"},
    "mixed 20 %": {"strategy": "mixed", "backbone_share": 0.2},
    "mixed 40 %": {"strategy": "mixed", "backbone_share": 0.4},
    "mixed 60 %": {"strategy": "mixed", "backbone_share": 0.6},
    "disjoint 80 %": {"strategy": "disjoint", "backbone_share": 0.8},
    "disjoint 60 %": {"strategy": "disjoint", "backbone_share": 0.6},
    "mixed 20 %, half rate": {"strategy": "mixed", "backbone_share": 0.2, "second_phase_rate": 0.5},
    "mixed 40 %, half rate": {"strategy": "mixed", "backbone_share": 0.4, "second_phase_rate": 0.5},
    "mixed 60 %, half rate": {"strategy": "mixed", "backbone_share": 0.6, "second_phase_rate": 0.5},
}
"""Name of a row -> the options of `edgeexit.training.TrainConfig` that make it."""

TRIED: Mapping[str, Mapping[str, Any]] = {
    "mixed 10 %": {"strategy": "mixed", "backbone_share": 0.1},
    "mixed 20 %, early exits twice": {
        "strategy": "mixed",
        "backbone_share": 0.2,
        "method": "branchynet",
        "method_options": {"early": 0.4, "final": 0.2},
    },
}
"""Schedules that were tried in search of a better mixed, beside the small and the full table."""

BEGINS_LIKE: Mapping[str, str] = {
    "disjoint 60 %": "mixed 60 %",
    "mixed 20 %, half rate": "mixed 20 %",
    "mixed 40 %, half rate": "mixed 40 %",
    "mixed 60 %, half rate": "mixed 60 %",
}
"""Rows -> one with the same first phase, which is taken over from there if it was trained here."""

STATIC: Mapping[str, Mapping[str, Callable[[int, int, int], nn.Module]]] = {
    "resnet8": {
        "static, all channels": _resnet((1, 1, 1), (16, 32, 64)),
        "static, 3/4 of the channels": _resnet((1, 1, 1), (12, 24, 48)),
        "static, 1/2 of the channels": _resnet((1, 1, 1), (8, 16, 32)),
    },
    "resnet20": {
        "static, 20 layers": _resnet((3, 3, 3), (16, 32, 64)),
        "static, 14 layers": _resnet((2, 2, 2), (16, 32, 64)),
        "static, 8 layers": _resnet((1, 1, 1), (16, 32, 64)),
    },
    "vit": {
        "static, 6 blocks": _vit(depth=6),
        "static, 4 blocks": _vit(depth=4),
        "static, 2 blocks": _vit(depth=2),
    },
}
"""Networks without early exits, made of channels, classes and image size."""


@dataclass(frozen=True)
class Job:
    """One training: a network on a dataset, a row of the table, and a seed."""

    model: str
    dataset: str
    row: str
    seed: int

    @property
    def folder(self) -> str:
        """Where it lives below the folder of all runs."""
        row = "".join(c if c.isalnum() else "-" for c in self.row)
        return f"{self.model}-{self.dataset}-{row}-s{self.seed}"


@dataclass(frozen=True)
class Table:
    """Which trainings make a table, the ones that matter most first."""

    epochs: int
    jobs: tuple[Job, ...]


def _jobs(model: str, dataset: str, seeds: int) -> list[Job]:
    rows = (*ROWS, *STATIC[model])
    return [Job(model, dataset, row, seed) for seed in range(seeds) for row in rows]


TABLES: Mapping[str, Table] = {
    "small": Table(
        30,
        (
            *_jobs("resnet8", "cifar10", 3),
            *_jobs("resnet20", "cifar10", 1),
            *_jobs("resnet8", "fashion-mnist", 3),
        ),
    ),
    "full": Table(
        100,
        tuple(
            job
            for dataset in ("cifar10", "fashion-mnist")
            for model in ("resnet8", "resnet20", "vit")
            for job in _jobs(model, dataset, 3)
        ),
    ),
    "tried": Table(
        30,
        (
            Job("resnet8", "cifar10", "mixed 10 %", 0),
            Job("resnet8", "cifar10", "mixed 10 %", 1),
            Job("resnet8", "cifar10", "mixed 20 %, early exits twice", 0),
        ),
    ),
    # Three epochs say that everything runs; they do not say which strategy is best.
    "quick": Table(
        3,
        tuple(
            Job("resnet8", "cifar10", row, 0)
            for row in ("joint", "mixed 40 %", "disjoint 60 %", "static, all channels")
        ),
    ),
}


def build(job: Job, splits: Splits) -> MultiExitModel:
    """The network of a job, with the fresh weights of its seed."""
    size, _, channels = splits.image_shape
    torch.manual_seed(job.seed)
    if job.row in STATIC[job.model]:
        backbone = STATIC[job.model][job.row](channels, splits.num_classes, size)
        return MultiExitModel(backbone, {}, splits.num_classes)
    return _whole(job, splits)


def _whole(job: Job, splits: Splits) -> MultiExitModel:
    height, width, channels = splits.image_shape
    return zoo.create(
        job.model,
        num_classes=splits.num_classes,
        in_channels=channels,
        image_size=(height, width),
    )


def options(job: Job, splits: Splits, epochs: int) -> dict[str, Any]:
    """The options of a job's training: equal MACs, whatever the network and the strategy."""
    multi_exit = {**ROWS, **TRIED}
    if job.row in multi_exit:
        return {"epochs": epochs, "budget": "macs", "seed": job.seed, **multi_exit[job.row]}
    height, width, channels = splits.image_shape
    image = torch.zeros(1, channels, height, width)
    whole = macs_per_sample(_whole(job, splits), image)["everything"]
    ratio = whole / macs_per_sample(build(job, splits), image)["backbone"]
    return {"epochs": round(epochs * ratio), "seed": job.seed, "strategy": "backbone=1"}


def run_job(
    job: Job, folder: Path, results: Path, epochs: int, tell: Callable[[str, str], None]
) -> None:
    """Trains and measures one job, or what is missing of it, and leaves its row in ``results``."""
    row = results / f"{job.folder}.json"
    if row.exists():
        check_row(row, epochs)
        return
    splits = data.load(job.dataset)
    chosen = options(job, splits, epochs)
    if not (folder / "run.json").exists():
        train(
            build(job, splits),
            splits,
            output=folder,
            reuse=_trained_before(job, folder.parent),
            progress=_Watch(job, tell),
            **chosen,
        )
    run = _finished(folder, chosen)
    reference = network_macs(_whole(job, splits), splits.image_shape)[1]
    measured = {}
    for precision in PRECISIONS:
        tell(job.folder, f"measuring in {precision}")
        measured[precision] = measure_run(
            folder,
            lambda: build(job, splits),
            splits,
            precision=precision,
            reference_macs=reference,
        )
    content = {
        "job": asdict(job),
        "epochs": epochs,
        "options": {name: run["config"][name] for name in chosen},
        "budget_macs": run["budget_macs"],
        "trained_with": run["trained_with"],
        "measured": {precision: asdict(each) for precision, each in measured.items()},
        "log": run["log"],
    }
    write_whole(row, (json.dumps(content, indent=1) + "\n").encode())


def check_row(path: Path, epochs: int) -> dict[str, Any]:
    """Reads a row, and stops where it is of a table with another budget."""
    row: dict[str, Any] = json.loads(path.read_bytes())
    if row["epochs"] != epochs:
        raise SystemExit(
            f"{path} is of a table of {row['epochs']} epochs, and this one has {epochs}: "
            "give other folders with --runs and --results"
        )
    return row


def _finished(folder: Path, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the report of a finished run, and stops where its options were others."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    trained, wanted = run["config"], asdict(TrainConfig(**chosen))
    # An option that came into being after the run has no other value in it.
    others = [name for name in wanted if trained.get(name, wanted[name]) != wanted[name]]
    if others:
        raise SystemExit(
            f"{folder} holds a training with other options than this table's ("
            + ", ".join(f"{name}: {trained[name]!r} -> {wanted[name]!r}" for name in others)
            + "): give other folders with --runs and --results"
        )
    return run


def _trained_before(job: Job, runs: Path) -> Path | None:
    """The run of the same network, data and seed that begins like a job, if it ended here."""
    run = runs / replace(job, row=BEGINS_LIKE.get(job.row, "")).folder
    if not (run / "run.json").exists():
        return None
    report = json.loads((run / "run.json").read_bytes())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    here = {"torch": torch.__version__, "device": device}
    return run if "fingerprint" in report and report["trained_with"] == here else None


def measured_runs(table: Table, results: Path) -> list[Run]:
    """The jobs of a table whose rows are there, once for each precision."""
    runs = []
    for job in table.jobs:
        path = results / f"{job.folder}.json"
        if not path.exists():
            continue
        row = check_row(path, table.epochs)
        for precision in PRECISIONS:
            measured = measured_of(row["measured"][precision])
            budget = row["budget_macs"]
            runs.append(Run(job.model, job.dataset, job.row, job.seed, budget, measured))
    return runs


class _Watch:
    """Passes the epochs of one training on."""

    def __init__(self, job: Job, tell: Callable[[str, str], None]) -> None:
        self.job, self.tell = job, tell

    def phase(self, name: str, num_epochs: int, num_steps: int, done_epochs: int) -> None:
        """See `edgeexit.training.Progress`."""

    def step(self) -> None:
        """See `edgeexit.training.Progress`."""

    def epoch(self, record: EpochRecord) -> None:
        """See `edgeexit.training.Progress`."""
        accuracy = ", ".join(f"{share:.1%}" for share in record.accuracy)
        text = f"{record.phase} {record.epoch + 1}/{record.num_epochs}: {accuracy}"
        self.tell(self.job.folder, text)


_told: Any = None  # the queue of a worker process


def _start_worker(queue: Any) -> None:
    global _told
    _told = queue
    # One run a core: two threads that share a small network's step wait for each other.
    torch.set_num_threads(1)
    # A run is a process of its own; under torchrun it must not join the others.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _work(job: Job, folder: Path, results: Path, epochs: int) -> None:
    run_job(job, folder, results, epochs, lambda name, text: _told.put((name, text)))


def run_all(
    table: Table, runs: Path, results: Path, *, workers: int, tell: Callable[[str, str], None]
) -> dict[str, BaseException]:
    """Trains and measures all jobs of a table, as many at a time as there are workers.

    Under ``torchrun`` each process takes every ``WORLD_SIZE``-th job, on the GPU of its rank.

    Args:
        table: The jobs, those that matter most first.
        runs: Folder of the trainings.
        results: Folder of the rows.
        workers: Processes.
        tell: Hears the name of a job and how far it is.

    Returns:
        The jobs that failed, with the reason; the others are done.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(os.environ["LOCAL_RANK"]) % len(devices)]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    failed: dict[str, BaseException] = {}
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(queue,)
    ) as pool:
        pending = {
            pool.submit(_work, job, runs / job.folder, results, table.epochs): job
            for job in table.jobs[rank::world]
        }
        while pending:
            done, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
            while not queue.empty():
                tell(*queue.get())
            for future in done:
                job = pending.pop(future)
                error = future.exception()
                if error is not None:
                    failed[job.folder] = error
                tell(job.folder, "done" if error is None else f"failed: {error}")
    return failed
