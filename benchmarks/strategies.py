"""Which strategy trains the better network at the same budget, and at which cost of inference?

Strategies, networks without early exits and seeds of a table are trained with the same number of
training MACs, thresholds are chosen on the calibration split, and accuracy is that of the test
split at 25, 50, 75 and 100 % of the backbone's MACs and at any cost, in float and in int8.

A run that is interrupted continues where it stood, and a row that is there is not made again: the
trainings are in --runs, the rows in --results. Under ``torchrun`` the processes share the jobs.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from figures import arguments
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from strategies_plot import plots
from strategies_report import aggregate, compare, tables
from strategies_runs import TABLES, measured_runs, run_all

from edgeexit.cli.output import console
from edgeexit.data.cache import default_cache
from edgeexit.training.checkpoint import write_whole

BASE = "joint"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--table", choices=sorted(TABLES), default="small")
    parser.add_argument("--quick", action="store_true", help="four rows of three epochs")
    parser.add_argument("--runs", type=Path, help="folder of the trainings; default: in the cache")
    parser.add_argument("--results", type=Path, help="folder of the rows; default: in --runs")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of torchrun on this machine
    cores = max(1, (os.cpu_count() or 1) // local)
    parser.add_argument("--workers", type=int, default=cores, help="trainings at a time")
    parser.add_argument("--report", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--against", default=BASE, metavar="ROW", help="compare the others with it")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw SVGs here")
    chosen = parser.parse_args()
    name = "quick" if chosen.quick else chosen.table
    table = TABLES[name]
    names = dict.fromkeys(job.row for job in table.jobs)
    if chosen.against not in (*names, BASE):
        parser.error(f"--against {chosen.against!r}: the table {name} has {'; '.join(names)}")
    runs = chosen.runs or default_cache() / "benchmarks" / f"strategies-{name}"
    results = chosen.results or runs / "rows"
    screen = console()
    failed: dict[str, BaseException] = {}
    if not chosen.report:
        failed = _train(table, runs, results, chosen.workers, screen)
    measured = measured_runs(table, results)
    rows, differences = aggregate(measured), compare(measured, chosen.against)
    for each in tables(rows, differences):
        screen.print(each)
    missing = [job.folder for job in table.jobs if not (results / f"{job.folder}.json").exists()]
    figures = {
        "table": name,
        "epochs": table.epochs,
        "num_missing": len(missing),
        "missing": missing,
        "rows": rows,
        "differences": differences,
    }
    if chosen.json is not None:
        write_whole(chosen.json, (json.dumps(figures, indent=1) + "\n").encode())
    if chosen.plots is not None:
        for file, content in plots(rows).items():
            write_whole(chosen.plots / file, content.encode())
    if missing:
        screen.print(f"not trained yet: {len(missing)} of {len(table.jobs)}")
    if failed:
        raise SystemExit(
            "these trainings failed; the same command tries them again: "
            + "; ".join(f"{job}: {error}" for job, error in failed.items())
        )


def _train(
    table: Any, runs: Path, results: Path, workers: int, screen: Console
) -> dict[str, BaseException]:
    """All jobs, with a bar on a terminal and one line for each step of a job in a log."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    start = time.monotonic()
    with Progress(*columns, TimeElapsedColumn(), console=screen, transient=True) as bars:
        bar = bars.add_task("trainings", total=len(table.jobs))

        def tell(job: str, text: str) -> None:
            bars.console.print(f"{time.monotonic() - start:7.0f} s  {job}: {text}")
            if text.startswith(("done", "failed")):
                bars.advance(bar)

        return run_all(table, runs, results, workers=workers, tell=tell)


if __name__ == "__main__":
    main()
