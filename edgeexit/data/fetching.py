"""Gets a known dataset into the cache: source after source, checked, and safe beside others."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.archive import read_npz
from edgeexit.data.cache import check_free, default_cache, exclusive, write_arrays
from edgeexit.data.decode import Arrays, decode
from edgeexit.data.download import Progress, step
from edgeexit.data.recipes import ROLES, Recipe, read_recipe
from edgeexit.data.sources import open_source, remove_downloads
from edgeexit.errors import DataError, FetchError

_log = logging.getLogger(__name__)


def fetch(name: str, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Gets a known dataset, unless it is in the cache already.

    Args:
        name: ``cifar10``, ``fashion-mnist`` or another name of `list_recipes`.
        cache: The cache folder; the platform's own by default.
        progress: Called as ``progress(what, bytes_done, bytes_in_all)`` while something is done;
            ``bytes_in_all`` is 0 where it is not known.

    Returns:
        An ``.npz`` with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``.

    Raises:
        ArgumentError: There is no such dataset.
        FetchError: No source delivered it.
        StorageError: The cache cannot be written.
    """
    recipe = read_recipe(name)
    folder = cache or default_cache()
    fetch_arrays(recipe, folder, progress)
    return _target(recipe, folder)


def fetch_arrays(recipe: Recipe, cache: Path, progress: Progress | None = None) -> Arrays:
    """The checked arrays of a known dataset, out of the cache or, once, out of its sources.

    Raises:
        FetchError: No source delivered it.
        StorageError: The cache cannot be written.
    """
    arrays = _cached(recipe, cache)
    if arrays is not None:
        return arrays
    target = _target(recipe, cache)
    with exclusive(target.with_suffix(".lock")):
        # Another process may have fetched it while this one waited.
        arrays = _cached(recipe, cache)
        if arrays is not None:
            return arrays
        arrays = _from_sources(recipe, target.parent, progress)
        with step(progress, f"write {target.name}"):
            write_arrays(target, arrays)
        # Sources that broke off before another one delivered have left their downloads.
        for source in recipe.sources:
            remove_downloads(source, target.parent)
        return arrays


def _from_sources(recipe: Recipe, folder: Path, progress: Progress | None) -> Arrays:
    num_samples = recipe.num_train + recipe.num_calibration + recipe.num_test
    num_bytes = num_samples * (math.prod(recipe.image_shape) + 1)
    failures = []
    for source in recipe.sources:
        # The archives are gone before the decoded arrays are written: the larger must fit.
        archives = sum(archive.num_bytes or 0 for archive in source.archives)
        check_free(folder, max(num_bytes, archives))
        try:
            with (
                open_source(source, folder, progress) as read,
                step(progress, f"decode {recipe.title}"),
            ):
                arrays = decode(recipe, source, read)
                _check(recipe, arrays)
                return arrays
        except FetchError as exc:
            _log.info("%s: source %s failed: %s", recipe.name, source.kind, exc)
            reason = f"{exc.problem} ({exc.given})" if exc.given else exc.problem
            failures.append(f"{source.kind} {source.archives[0].location}: {reason}")
    raise FetchError(
        f"no source delivered {recipe.title}",
        given="; ".join(failures),
        where=folder,
        hint=f"check the network, or see {recipe.homepage}; a broken download continues next time",
    )


def _cached(recipe: Recipe, cache: Path) -> Arrays | None:
    target = _target(recipe, cache)
    if not target.exists():
        return None
    try:
        arrays = read_npz(target, required=ROLES, wanted=ROLES)
        _check(recipe, arrays)
    except DataError as exc:
        _log.warning("%s is damaged and is fetched again: %s", target, exc)
        return None
    return arrays


def _check(recipe: Recipe, arrays: Mapping[str, NDArray[Any]]) -> None:
    for role in ROLES:
        array = arrays[role]
        shape = recipe.image_shape if role.endswith("_images") else ()
        if array.dtype != np.uint8 or array.shape[1:] != shape:
            raise FetchError(
                "decoded data have the wrong form",
                wanted=f"uint8 [N, {', '.join(map(str, shape))}]",
                given=f"{array.dtype} {array.shape}",
                where=f"{recipe.name}, {role}",
            )
        given = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if given != recipe.sha256[role]:
            raise FetchError(
                "decoded data has the wrong checksum",
                wanted=f"sha256 {recipe.sha256[role]}",
                given=f"sha256 {given}",
                where=f"{recipe.name}, {role}",
            )


def _target(recipe: Recipe, cache: Path) -> Path:
    return cache / "datasets" / f"{recipe.name}.npz"
