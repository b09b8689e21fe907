"""Reads ``calibration/*.toml``: where a dataset comes from, and how to tell that it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeexit.data.types import Augmentation, Preprocessing
from edgeexit.errors import ArgumentError, DataError
from edgeexit.resources import resource_folder
from edgeexit.toml_text import parse_toml

ROLES = ("train_images", "train_labels", "test_images", "test_labels")
_SCHEMA = 1


@dataclass(frozen=True)
class Archive:
    """One thing to get: an URL, a package name for npm or apt, or a folder.

    ``num_bytes`` and ``sha256`` are None where the client that gets it verifies signatures itself.
    """

    location: str
    num_bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class Source:
    """One way to get a whole dataset.

    ``kind`` names a row of `edgeexit.data.sources`, ``format`` one of `edgeexit.data.decode`.
    ``members`` maps a role (``train_images``, ...) to files inside the archives.
    """

    kind: str
    format: str
    archives: tuple[Archive, ...]
    members: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Recipe:
    """A known dataset. ``sha256`` holds one checksum of decoded bytes for each of `ROLES`."""

    name: str
    title: str
    homepage: str
    licence: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sha256: Mapping[str, str]
    num_train: int
    num_calibration: int
    num_test: int
    seed: int
    preprocessing: Preprocessing
    augmentation: Augmentation
    sources: tuple[Source, ...]


def list_recipes() -> tuple[str, ...]:
    """The names of all known datasets, sorted."""
    return tuple(sorted(path.stem for path in resource_folder("calibration").glob("*.toml")))


def read_recipe(name: str) -> Recipe:
    """Reads the recipe of a known dataset.

    Raises:
        ArgumentError: No recipe has that name.
        DataError: The recipe is not one that this version understands.
    """
    if name not in list_recipes():
        raise ArgumentError(
            "unknown dataset",
            wanted=" or ".join(list_recipes()),
            given=repr(name),
            hint="give the path of an .npz file or of an image folder for data of your own",
        )
    return parse_recipe(resource_folder("calibration") / f"{name}.toml")


def parse_recipe(path: Path) -> Recipe:
    """Reads one recipe file.

    Raises:
        DataError: A field is missing or has another meaning than this version knows.
        EdgeExitError: This Python has no reader of TOML.
    """
    try:
        table = parse_toml(path)
        if table["schema"] != _SCHEMA:
            raise DataError(
                "the recipe has another schema",
                wanted=f"schema = {_SCHEMA}",
                given=f"schema = {table['schema']!r}",
                where=path.name,
            )
        return _recipe(table)
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(
            "the recipe cannot be read",
            given=f"{type(exc).__name__}: {exc}",
            where=path.name,
            hint="calibration/cifar10.toml shows every field",
        ) from exc


def _recipe(table: Mapping[str, Any]) -> Recipe:
    height, width, channels = table["image_shape"]
    split = table["split"]
    return Recipe(
        name=table["name"],
        title=table["title"],
        homepage=table["homepage"],
        licence=table["licence"],
        image_shape=(height, width, channels),
        class_names=tuple(table["class_names"]),
        sha256={role: table["sha256"][role] for role in ROLES},
        num_train=split["num_train"],
        num_calibration=split["num_calibration"],
        num_test=split["num_test"],
        seed=split["seed"],
        preprocessing=Preprocessing(
            offset=tuple(table["preprocessing"]["offset"]),
            multiplier=tuple(table["preprocessing"]["multiplier"]),
        ),
        augmentation=Augmentation(**table["augmentation"]),
        sources=tuple(_source(source) for source in table["sources"]),
    )


def _source(table: Mapping[str, Any]) -> Source:
    return Source(
        kind=table["kind"],
        format=table["format"],
        archives=tuple(
            Archive(archive["location"], archive.get("num_bytes"), archive.get("sha256"))
            for archive in table["archives"]
        ),
        members={role: tuple(files) for role, files in table["members"].items()},
    )
