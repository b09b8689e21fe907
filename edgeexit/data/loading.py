"""Loads a dataset, known or of the user's own, as three splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeexit.data.cache import default_cache
from edgeexit.data.download import Progress
from edgeexit.data.fetching import fetch_arrays
from edgeexit.data.recipes import Recipe, read_recipe
from edgeexit.data.split import stratified_parts
from edgeexit.data.types import Samples, Splits


def load(source: str, *, cache: Path | None = None, progress: Progress | None = None) -> Splits:
    """Load a dataset."""
    return _known(read_recipe(source), cache or default_cache(), progress)


def _known(recipe: Recipe, cache: Path, progress: Progress | None) -> Splits:
    arrays = fetch_arrays(recipe, cache, progress)
    published = Samples(arrays["train_images"], arrays["train_labels"].astype(np.int64))
    train, calibration = stratified_parts(
        published.labels, (recipe.num_train, recipe.num_calibration), recipe.seed
    )
    return Splits(
        name=recipe.name,
        train=published[train],
        calibration=published[calibration],
        test=Samples(arrays["test_images"], arrays["test_labels"].astype(np.int64)),
        class_names=recipe.class_names,
        preprocessing=recipe.preprocessing,
        augmentation=recipe.augmentation,
    )
