"""Weights that ship: each comes with how it was made and what it was measured to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgeexit.data.recipes import read_recipe
from edgeexit.errors import CheckpointError
from edgeexit.nn import zoo

RECORDS = sorted(zoo.WEIGHTS_FOLDER.glob("*.json"))


def test_every_file_of_weights_has_its_record() -> None:
    stems = {path.stem for path in zoo.WEIGHTS_FOLDER.glob("*.safetensors")}
    assert stems == {path.stem for path in RECORDS}
    assert {"resnet8-cifar10", "resnet20-cifar10", "resnet8-fashion-mnist"} <= stems


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_how_and_how_well(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert path.stem == f"{record['model']}-{record['dataset']}"
    assert record["command"].startswith(f"edgeexit train {record['model']} ")
    assert len(record["log"]) == record["config"]["epochs"]
    measured = record["measured"]
    assert measured["command"].startswith("scripts/bench accuracy")
    assert measured["split"].startswith(f"{record['dataset']}/test")
    saved = [measured[point]["macs_saved"] for point in ("accurate", "balanced", "frugal")]
    assert saved == sorted(saved)
    assert saved[0] > 0


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_weights_fit_their_network(path: Path) -> None:
    name, dataset = path.stem.split("-", 1)
    recipe = read_recipe(dataset)
    model = zoo.create(
        name,
        num_classes=len(recipe.class_names),
        in_channels=recipe.image_shape[2],
        image_size=recipe.image_shape[:2],
        pretrained=dataset,
    ).eval()
    height, width, channels = recipe.image_shape
    with torch.inference_mode():
        logits = model(torch.zeros(1, channels, height, width))
    assert all(each.shape == (1, len(recipe.class_names)) for each in logits)
    assert all(bool(each.isfinite().all()) for each in logits)


def test_weights_for_images_of_another_size_are_refused() -> None:
    with pytest.raises(CheckpointError, match="image_size"):
        zoo.create("resnet8", image_size=(48, 64), pretrained="cifar10")
