"""Datasets: fetching known ones, loading one's own, splits that never change."""

from edgeexit.data.fetching import fetch
from edgeexit.data.loading import load
from edgeexit.data.recipes import list_recipes
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits

__all__ = ["Augmentation", "Preprocessing", "Samples", "Splits", "fetch", "list_recipes", "load"]
