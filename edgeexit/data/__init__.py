"""Datasets: fetching known ones, loading one's own, checks, and splits that never change."""

from edgeexit.data.cache import default_cache
from edgeexit.data.describe import describe
from edgeexit.data.fetching import fetch
from edgeexit.data.loading import load
from edgeexit.data.recipes import Recipe, list_recipes, read_recipe
from edgeexit.data.streaming import StreamedSplit
from edgeexit.data.streaming_source import StreamedSource
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.data.validate import as_samples, check_samples

__all__ = [
    "Augmentation",
    "Preprocessing",
    "Recipe",
    "Samples",
    "Splits",
    "StreamedSource",
    "StreamedSplit",
    "as_samples",
    "check_samples",
    "default_cache",
    "describe",
    "fetch",
    "list_recipes",
    "load",
    "read_recipe",
]
