"""``edgeexit data``: fetches and describes data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeexit.cli.output import emit, json_option, line, progress, table

if TYPE_CHECKING:
    from rich.console import Console

_cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for fetched data; EDGEEXIT_CACHE, or the user's cache folder, if not given.",
)


@click.group(name="data", epilog="\b\nExample:\n  edgeexit data fetch cifar10")
def command() -> None:
    """Fetch and describe data sets."""


@command.command(epilog="\b\nExample:\n  edgeexit data fetch cifar10 --cache /data/edgeexit")
@click.argument("name")
@_cache_option
@json_option
def fetch(name: str, cache: Path | None, as_json: bool) -> None:
    """Download the data set NAME into the cache, unless it is there already."""
    from edgeexit import data

    with progress() as report:
        path = data.fetch(name, cache=cache, progress=report)
    emit({"name": name, "path": path}, as_json=as_json, show=lambda out: out.print(str(path)))


@command.command(name="list", epilog="\b\nExample:\n  edgeexit data list --json")
@json_option
def list_(as_json: bool) -> None:
    """List the data sets that can be fetched."""
    from edgeexit import data

    recipes = [data.read_recipe(name) for name in data.list_recipes()]
    rows = table("Data sets", "name", "title", "licence", "classes", "samples", left=3)
    for recipe in recipes:
        num_samples = recipe.num_train + recipe.num_calibration + recipe.num_test
        rows.add_row(
            recipe.name,
            recipe.title,
            recipe.licence,
            str(len(recipe.class_names)),
            f"{num_samples:,}",
        )
    emit(
        [
            {
                "name": recipe.name,
                "title": recipe.title,
                "homepage": recipe.homepage,
                "licence": recipe.licence,
                "class_names": recipe.class_names,
                "num_train": recipe.num_train,
                "num_calibration": recipe.num_calibration,
                "num_test": recipe.num_test,
            }
            for recipe in recipes
        ],
        as_json=as_json,
        show=lambda out: out.print(rows),
    )


@command.command(epilog="\b\nExample:\n  edgeexit data describe ./my-images")
@click.argument("source")
@_cache_option
@json_option
def describe(source: str, cache: Path | None, as_json: bool) -> None:
    """Show the splits of SOURCE: a name, an .npz or .toml file or a folder of class folders."""
    from edgeexit import data

    with progress() as report:
        splits = data.load(source, cache=cache, progress=report)
    facts = data.describe(splits)
    emit(facts, as_json=as_json, show=lambda out: _show(out, facts))


def _show(out: Console, facts: Mapping[str, Any]) -> None:
    image = " x ".join(map(str, facts["image_shape"]))
    out.print(line((facts["name"], "bold"), f": images {image} {facts['dtype']}"))
    offset, multiplier = facts["preprocessing"].values()
    out.print(f"real value = (raw - {_numbers(offset)}) * {_numbers(multiplier)}")
    splits = facts["splits"]
    rows = table("Samples", "class", *splits)
    for name in facts["class_names"]:
        rows.add_row(
            name,
            *(f"{s['per_class'][name]:,}" if s["per_class"] else "?" for s in splits.values()),
        )
    rows.add_section()
    rows.add_row("all", *(f"{split['num_samples']:,}" for split in splits.values()))
    out.print(rows)


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"
