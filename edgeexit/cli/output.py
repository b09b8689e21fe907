"""How commands speak: tables for people, JSON for programs, progress on standard error."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Called with what is being done, how much of it is done, and of how much.
Report = Callable[[str, int, int], None]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for programs; errors are JSON too."
)

data_option = click.option(
    "--data",
    "source",
    required=True,
    metavar="SOURCE",
    help="A name, an .npz file, a folder, or a .toml of a stream.",
)


def emit(value: object, *, as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints ``value`` as JSON, or calls ``show`` with a console for people."""
    if as_json:
        print(json.dumps(jsonable(value), indent=2, allow_nan=False))
    else:
        show(console())


def jsonable(value: object) -> Any:
    """``value`` made of what JSON knows: dataclasses become objects, paths become texts.

    Infinities and what is not a number become null.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def console(*, stderr: bool = False) -> Console:
    """A console that keeps tables whole where the output is not a terminal.

    It prints texts as they are: names and paths are foreign, and may hold what rich takes for
    markup or the name of an emoji.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 110
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def line(*parts: str | tuple[str, str]) -> Text:
    """A line for a console, of texts and of pairs of a text and its style."""
    from rich.text import Text

    return Text.assemble(*parts)


def table(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table whose first ``left`` columns are texts and whose others are numbers."""
    from rich import box
    from rich.table import Table

    # As wide as its title, which rich would otherwise fold.
    width = min(len(title) + 1, 100)
    made = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        min_width=width,
        collapse_padding=True,
        pad_edge=False,
    )
    for position, column in enumerate(columns):
        made.add_column(
            column,
            justify="left" if position < left else "right",
            overflow="fold",
            # Words of the head stay whole where a terminal is narrow.
            min_width=max(map(len, column.split()), default=0),
        )
    return made


@contextmanager
def progress(*, still: bool = False) -> Iterator[Report]:
    """A progress bar for as long as the block runs; lines of text where there is no terminal.

    A still one is drawn when something is reported and never in between, where it would take
    time from what is being measured.
    """
    if not sys.stderr.isatty():
        yield _LinesOfProgress()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    # Standard output stays what it is: rich would send it to the terminal.
    terminal = console(stderr=True)
    with Progress(
        *columns, console=terminal, transient=True, redirect_stdout=False, auto_refresh=not still
    ) as bars:
        # One bar that is called what is being done; it pulses where the amount is not known.
        bars.add_task("", total=None)
        (bar,) = bars.tasks

        def report(what: str, done: int, total: int) -> None:
            # update() takes a total of None for "as before".
            bar.total = total or None
            bars.update(bar.id, description=what, completed=done, refresh=still)

        yield report


class _LinesOfProgress:
    """Says each thing once, when it begins."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self.last:
            self.last = what
            click.echo(what, err=True)


def number_of_samples(number: int, dataset: str | None) -> str:
    """How many samples, and of what where that is known."""
    return f"{number:,} samples" + ("" if dataset is None else f" of {dataset}")


def percent(share: float | None) -> str:
    """A share of one as a percentage; a missing one as a dash."""
    return "-" if share is None else f"{100 * share:.2f} %"


def count(number: float | None) -> str:
    """A count with the suffix k, M or G; a missing one as a dash."""
    if number is None:
        return "-"
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.2f}{suffix}"
    return f"{number:.0f}"


def duration(nanoseconds: float | None) -> str:
    """A time in microseconds or milliseconds; a missing one as a dash."""
    if nanoseconds is None:
        return "-"
    if nanoseconds >= 1e6:
        return f"{nanoseconds / 1e6:.2f} ms"
    return f"{nanoseconds / 1e3:.1f} us"
