"""Training from a stream: the batches of the split, and runs that are cut short."""

from __future__ import annotations

import io
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_model
from torch import Tensor

from edgeexit.data import Samples, StreamedSource, StreamedSplit, load
from edgeexit.data.types import Augmentation, Splits
from edgeexit.errors import DataError
from edgeexit.nn.model import MultiExitModel
from edgeexit.training import train
from edgeexit.training.batches import augmented, epoch_order, training_samples

image_module = pytest.importorskip("PIL.Image", reason="pip install 'edgeexit[images]'")

NUM_TRAIN, PER_SHARD = 48, 12


pytestmark = pytest.mark.usefixtures("one_thread")


def write_shard(path: Path, numbers: range) -> None:
    """Images 10 x 9 of three colours, with noise."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            pixels = np.random.RandomState(number).randint(0, 90, (9, 10, 3))
            pixels[..., 0] += 80 * (number % 3)
            buffer = io.BytesIO()
            image_module.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            for extension, content in (("png", buffer.getvalue()), ("cls", b"%d" % (number % 3))):
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def data(tmp_path: Path) -> Splits:
    for start in range(0, NUM_TRAIN, PER_SHARD):
        write_shard(tmp_path / f"train-{start}.tar", range(start, start + PER_SHARD))
    write_shard(tmp_path / "calibration.tar", range(100, 112))
    write_shard(tmp_path / "test.tar", range(200, 212))
    source = StreamedSource(
        kind="webdataset",
        train="train-*.tar",
        calibration="calibration.tar",
        test="test.tar",
        image_size=(8, 8),
        class_names=("a", "b", "c"),
        smallest_crop=0.5,
        shuffle_window=20,
        num_threads=2,
        augmentation=Augmentation(1, True),
        folder=tmp_path,
    )
    return load(source, cache=tmp_path / "cache")


SHORT = {"epochs": 4, "backbone_share": 0.5, "batch_size": 16, "learning_rate": 0.1}


def state(model: MultiExitModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("strategy", ["disjoint", "joint", "mixed"])
def test_a_stream_trains(data: Splits, strategy: str) -> None:
    options = {**SHORT, "epochs": 8, "strategy": strategy, "mixup": 0.1}
    log = train(make_model(), data, **options)
    assert all(math.isfinite(record.loss) for record in log)
    assert log[-1].loss < log[0].loss
    # Three colours are easy.
    assert log[-1].accuracy[-1] > 0.8


def test_a_step_from_a_stream_is_one_from_memory(data: Splits) -> None:
    """One batch of all samples: the order does not matter then."""
    split = data.train
    assert isinstance(split, StreamedSplit)
    plain = replace(split, decoding=replace(split.decoding, smallest_crop=1.0))
    held = plain[:]
    assert isinstance(held, Samples)
    models = []
    for part in (plain, held):
        model = make_model()
        train(model, replace(data, train=part, augmentation=Augmentation(0, False)),
              strategy="joint", epochs=1, batch_size=NUM_TRAIN, schedule="cosine")  # fmt: skip
        models.append(state(model))
    for name, value in models[0].items():
        # Sums in another order differ in their last bits.
        assert torch.allclose(value, models[1][name], atol=1e-6), name
    assert not torch.equal(
        models[0]["backbone.fc.weight"], state(make_model())["backbone.fc.weight"]
    )


def test_a_run_that_is_cut_short_within_an_epoch_resumes_to_the_same_bits(
    data: Splits, tmp_path: Path
) -> None:
    class Cut:
        steps = 0

        def phase(self, *_: object) -> None: ...

        def epoch(self, *_: object) -> None: ...

        def step(self) -> None:
            self.steps += 1
            if self.steps == 6:
                raise KeyboardInterrupt

    # Three batches an epoch, a state after each: the fifth is in the middle of the second epoch.
    options = {**SHORT, "checkpoint_steps": 1}
    whole, resumed = make_model(), make_model(seed=1)
    log = train(whole, data, **options)
    with pytest.raises(KeyboardInterrupt):
        train(make_model(), data, output=tmp_path / "run", progress=Cut(), **options)
    again = train(resumed, data, output=tmp_path / "run", **options)
    assert same(state(whole), state(resumed))
    assert [record.loss for record in again] == [record.loss for record in log]


@pytest.mark.parametrize("world", [1, 2])
def test_each_process_trains_on_its_share_of_a_batch(data: Splits, world: int) -> None:
    split = data.train
    assert isinstance(split, StreamedSplit)
    seed = (3, 0, 1)
    for rank in range(world):
        share = {"batch_size": 16, "rank": rank, "world": world}
        place = (torch.device("cpu"), torch.channels_last)
        samples = training_samples(split, data.preprocessing, *place, **share)
        none = Augmentation(0, False)
        epoch = epoch_order(samples, none, batch_size=16, mixup=0.0, seed=seed)
        filled = samples.filled(seed, 0)
        for number, (raw, labels) in enumerate(split.batches(seed, **share)):
            next(filled)
            index = torch.arange(rank, 16, world) + number * 16
            images, given = augmented(samples, none, epoch, index)
            assert given.tolist() == labels.tolist()
            wanted = (torch.from_numpy(raw).permute(0, 3, 1, 2).float() - 128) / 128
            assert torch.equal(images, wanted)


def test_methods_go_over_all_samples_once(data: Splits) -> None:
    place = (torch.device("cpu"), torch.channels_last)
    samples = training_samples(
        data.train, data.preprocessing, *place, batch_size=16, rank=0, world=1
    )
    batches = list(samples.unaugmented(20))
    assert [len(labels) for _, labels in batches] == [20, 20, 8]
    assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [16, 16, 16]
    assert all(images.dtype == torch.float32 for images, _ in batches)


def test_a_stream_shorter_than_a_batch_is_an_error(data: Splits) -> None:
    with pytest.raises(DataError, match=r"(?s)smaller than one batch.*64.*48 samples"):
        train(make_model(), data, **{**SHORT, "batch_size": 64})
