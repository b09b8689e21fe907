"""``edgeexit data``: fetches and describes data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeexit.cli.output import emit, json_option, progress, table

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
    from edgeexit.data.recipes import list_recipes, read_recipe

    recipes = [read_recipe(name) for name in list_recipes()]
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
    """Show the splits of SOURCE: a name, an .npz file or a folder of class folders."""
    from edgeexit import data

    splits = data.load(source, cache=cache)
    rows = table(splits.name, "split", "samples", "image", "dtype", left=1)
    facts = {}
    for name, samples in splits.parts().items():
        shape, dtype = samples.images.shape[1:], str(samples.images.dtype)
        rows.add_row(name, f"{len(samples):,}", " x ".join(map(str, shape)), dtype)
        facts[name] = {"num_samples": len(samples), "image_shape": shape, "dtype": dtype}

    def show(out: Console) -> None:
        out.print(rows)
        out.print(f"{splits.num_classes} classes: {', '.join(splits.class_names)}")

    emit(
        {
            "name": splits.name,
            "splits": facts,
            "class_names": splits.class_names,
            "preprocessing": splits.preprocessing,
            "augmentation": splits.augmentation,
        },
        as_json=as_json,
        show=show,
    )
