"""Streamed data: shards, Parquet files and datasets, good, bad and hostile."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.data import Samples, StreamedSource, StreamedSplit, describe, load
from edgeexit.data.streaming import ShuffledRecords
from edgeexit.data.streaming_decode import Decoding, decode_image
from edgeexit.data.streaming_files import find_files
from edgeexit.data.streaming_labels import label_numbers
from edgeexit.data.streaming_parquet import ParquetRecords, read_parquet
from edgeexit.data.streaming_webdataset import TarRecords, read_shards
from edgeexit.data.types import Augmentation, Preprocessing
from edgeexit.errors import ArgumentError, DataError

image_module = pytest.importorskip("PIL.Image", reason="pip install 'edgeexit[images]'")

PER_SHARD, NUM_SHARDS = 10, 4
NUM_TRAIN = PER_SHARD * NUM_SHARDS


def encoded(number: int, size: tuple[int, int] = (8, 8), file_format: str = "PNG") -> bytes:
    """An image file that tells its number: width and height are ``size``."""
    image = image_module.new("RGB", size, (number, 255 - number, 7))
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def members(numbers: Sequence[int], num_classes: int = 2) -> list[tuple[str, bytes]]:
    return [
        member
        for n in numbers
        for member in (
            (f"{n:04d}.png", encoded(n)),
            (f"{n:04d}.cls", str(n % num_classes).encode()),
        )
    ]


@pytest.fixture
def shards(tmp_path: Path) -> StreamedSource:
    """Four shards of ten images to train on, and one of six to test."""
    for shard in range(NUM_SHARDS):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        write_tar(tmp_path / f"train-{shard:03d}.tar", members(numbers))
    write_tar(tmp_path / "test.tar", members(range(200, 206)))
    return StreamedSource(
        kind="webdataset",
        train="train-{000..003}.tar",
        test="test.tar",
        image_size=(8, 8),
        num_classes=2,
        num_calibration=8,
        shuffle_window=15,
        num_threads=2,
        folder=tmp_path,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def stream(source: StreamedSource, cache: Path) -> StreamedSplit:
    train = load(source, cache=cache).train
    assert isinstance(train, StreamedSplit)
    return train


def numbers_of(images: NDArray[np.uint8]) -> list[int]:
    """The numbers that `encoded` wrote, after checking that nothing else was mixed in."""
    assert (images[..., 0].astype(int) + images[..., 1] == 255).all()
    assert (images[..., 0].min((1, 2)) == images[..., 0].max((1, 2))).all()
    return [int(number) for number in images[:, 0, 0, 0]]


def epoch(
    train: StreamedSplit, seed: tuple[int, ...] = (0, 0), **share: int
) -> list[tuple[int, ...]]:
    """The numbers of each batch of eight."""
    found = []
    for images, labels in train.batches(seed, batch_size=8, **share):
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        numbers = numbers_of(images)
        assert [n % 2 for n in numbers] == labels.tolist()
        found.append(tuple(numbers))
    return found


# ------------------------------------------------------------------ any source


def test_a_streamed_dataset_has_three_splits(shards: StreamedSource, cache: Path) -> None:
    splits = load(replace(shards, name="numbers"), cache=cache)
    assert [len(part) for part in splits.parts().values()] == [32, 8, 6]
    assert splits.image_shape == (8, 8, 3)
    assert splits.class_names == ("0", "1")
    held = [numbers_of(splits.calibration.images), numbers_of(splits.test.images)]
    assert sorted(held[1]) == list(range(200, 206))
    # Calibration is taken out of train, both classes in proportion and alternating.
    trained = [n for batch in epoch(load(shards, cache=cache).train) for n in batch]  # type: ignore[arg-type]
    assert sorted(trained + held[0]) == list(range(NUM_TRAIN))
    assert splits.calibration.labels.tolist() == [0, 1] * 4
    facts = describe(splits)
    assert facts["splits"]["train"] == {"num_samples": 32, "per_class": {"0": 16, "1": 16}}
    some = splits.train[:4]
    assert isinstance(some, Samples)
    assert some.labels.tolist() == [0, 1, 0, 1]


def test_orders_differ_between_epochs_and_repeat_for_a_seed(
    shards: StreamedSource, cache: Path
) -> None:
    train = stream(shards, cache)
    first, second, again = epoch(train, (0, 0)), epoch(train, (0, 1)), epoch(train, (0, 0))
    assert first == again
    assert first != second
    assert sorted(sum(first, ())) == sorted(sum(second, ()))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch_and_leave_nothing_out(
    shards: StreamedSource, cache: Path, world: int
) -> None:
    train = stream(shards, cache)
    alone = epoch(train)
    shares = [epoch(train, rank=rank, world=world) for rank in range(world)]
    for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
        # Process r has samples r, r + world, ...: together they are the batch of one process.
        assert tuple(np.stack(parts, axis=1).ravel().tolist()) == batch


def test_a_later_batch_is_the_same_when_a_run_begins_with_it(
    shards: StreamedSource, cache: Path
) -> None:
    train = stream(replace(shards, smallest_crop=0.3), cache)
    whole = list(train.batches((5,), batch_size=8))
    resumed = list(train.batches((5,), batch_size=8, rank=1, world=2, first=2))
    assert len(resumed) == len(whole) - 2
    for (images, labels), (later, later_labels) in zip(whole[2:], resumed, strict=True):
        assert np.array_equal(images[1::2], later)
        assert np.array_equal(labels[1::2], later_labels)


def test_threads_change_nothing(shards: StreamedSource, cache: Path) -> None:
    many, one = (
        stream(replace(shards, smallest_crop=0.2, num_threads=count), cache) for count in (4, 1)
    )
    for (a, _), (b, _) in zip(
        many.batches((1,), batch_size=16), one.batches((1,), batch_size=16), strict=True
    ):
        assert np.array_equal(a, b)


def test_a_shuffle_stays_near_the_order_on_disk() -> None:
    count, per_unit, window = 10_000, 100, 500
    unit = np.arange(count) // per_unit
    records = TarRecords((), np.zeros(count, np.int64), unit, np.zeros((count, 3), np.int64))
    order = ShuffledRecords(records, np.arange(count), window).order((3,))
    assert np.array_equal(np.sort(order), np.arange(count))
    # Shards follow one another in a new order; the samples that are under way at any time lie in
    # no more of them than a window and the two at its ends.
    first, last = np.full(100, count), np.zeros(100, int)
    np.minimum.at(first, unit[order], np.arange(count))
    np.maximum.at(last, unit[order], np.arange(count))
    open_at = np.array([((first <= at) & (at <= last)).sum() for at in range(0, count, 50)])
    assert open_at.max() <= window // per_unit + 3
    assert np.any(np.diff(unit[order[::per_unit]]) < 0)
    # A window as large as the split is a uniform permutation: no trace of the order on disk.
    uniform = ShuffledRecords(records, np.arange(count), count).order((3,))
    assert abs(np.corrcoef(uniform, np.arange(count))[0, 1]) < 0.05


def test_batches_that_cannot_be_shared_are_an_error(shards: StreamedSource, cache: Path) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)shared evenly.*batch_size=8, rank=0, world=3"):
        next(stream(shards, cache).batches((0,), batch_size=8, world=3))


def test_more_classes_than_memory_should_hold_names_for() -> None:
    with pytest.raises(ArgumentError, match=r"too many classes"):
        StreamedSource(
            kind="webdataset", image_size=(8, 8), train="a", test="b", num_classes=1 << 40
        )


def test_names_of_classes_that_are_not_told_apart() -> None:
    names = ("crane", "heron", "crane")
    assert label_numbers([2, 0], names, "here").tolist() == [2, 0]
    with pytest.raises(DataError, match=r"(?s)two classes have the same one.*crane"):
        label_numbers(["heron"], names, "here")


def test_labels_of_a_shard_are_numbers_where_names_are_not_told_apart(
    tmp_path: Path, cache: Path
) -> None:
    names = ("crane", "heron", "crane")

    def labels(label: bytes) -> list[int]:
        path = write_tar(tmp_path / "a.tar", [("a.png", encoded(1)), ("a.cls", label)])
        records = read_shards((path,), image=None, label="cls", class_names=names, cache=cache)
        return records.labels.tolist()

    assert labels(b"2") == [2]
    with pytest.raises(DataError, match=r"(?s)two classes have the same one.*a.tar, a.*crane"):
        labels(b"crane")


def test_labels_are_whatever_counts_as_an_integer() -> None:
    class Tensor:
        def __index__(self) -> int:
            return 1

    given = label_numbers([np.int64(1), np.uint8(0), True, Tensor()], ("a", "b"), "here")
    assert given.tolist() == [1, 0, 1, 1]
    assert given.dtype == np.int64
    for wrong in (np.int64(2), 1.0, np.array([0, 1]), None, 2**70):
        with pytest.raises(DataError, match="not one of the classes"):
            label_numbers([wrong], ("a", "b"), "here")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"kind": "zip"}, "unknown kind.*'zip'"),
        ({"num_threads": 0}, "out of range.*num_threads=0"),
        ({"num_test": True}, "out of range.*num_test=True"),
        ({"num_train": 10}, "num_train is for an IterableDataset.*num_train=10"),
        ({"class_names": ("a", "b", "c")}, "do not agree.*3 class_names.*num_classes=2"),
        ({"image_size": (0, 8)}, "no image has that shape"),
        ({"fit": "tile"}, "unknown fit.*'tile'"),
        ({"smallest_crop": 0.0}, "smallest_crop=0.0"),
        ({"grey": "no"}, "wrong type.*wanted: bool.*grey='no'"),
        ({"image": 3}, "wrong type.*image=3"),
        ({"preprocessing": Preprocessing((float("nan"),), (1.0,))}, r"1 finite.*offset=\(nan,\)"),
        ({"preprocessing": Preprocessing((0.0,), (1.0,) * 4)}, r"or 3 \(one.*multiplier=\(1.0, "),
        ({"preprocessing": Preprocessing((), (1.0,))}, r"offset=\(\)"),
        ({"grey": True, "preprocessing": Preprocessing((0.0,) * 3, (1.0,))}, "or 1 .one for each"),
    ],
)
def test_options_out_of_range_are_an_error(
    shards: StreamedSource, change: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(ArgumentError, match=f"(?s){wanted}"):
        replace(shards, **change)


@pytest.mark.parametrize(
    ("padding", "flip", "wanted"),
    [
        ("x", True, "crop_padding='x'"),
        (-1, True, "crop_padding=-1"),
        (True, True, "crop_padding=True"),
        (0, "x", "horizontal_flip='x'"),
        (0, 1, "horizontal_flip=1"),
    ],
)
def test_augmentations_of_other_types_are_an_error(padding: Any, flip: Any, wanted: str) -> None:
    with pytest.raises(ArgumentError, match=wanted):
        Augmentation(padding, flip)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"num_classes": None}, "what the classes are"),
        ({"num_classes": 3}, "no training samples.*none of 2"),
        ({"num_classes": 1}, r"not one of the classes.*train-000.tar, 0001.*'1'"),
        ({"num_test": 7}, "fewer samples.*num_test=7.*6 samples"),
        ({"test": "other.tar"}, "no such file.*other.tar"),
        ({"test": 3}, "not where a split lies.*test split.*int"),
        ({"num_calibration": 40}, "cannot be divided"),
        ({"label": "txt"}, "lacks its image or its label.*train-000.tar, 0000.*0000.png"),
    ],
)
def test_a_source_that_is_no_dataset_is_an_error(
    shards: StreamedSource, cache: Path, change: dict[str, Any], wanted: str
) -> None:
    with pytest.raises((DataError, ArgumentError), match=f"(?s){wanted}"):
        load(replace(shards, **change), cache=cache)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            {"train": "*.tar"},
            r"in two splits.*test.tar.*given: train = '\*.tar', test = 'test.tar'",
        ),
        ({"train": ["train-{000..001}.tar", "train-*.tar"]}, "twice in the train split.*000.tar"),
        ({"calibration": "./test.tar"}, "in two splits.*calibration = .*test = 'test.tar'"),
        ({"test": "links/a.tar"}, "in two splits.*links/a.tar.*train = .*test = 'links/a.tar'"),
    ],
)
def test_a_file_that_is_used_twice_is_an_error(
    shards: StreamedSource, cache: Path, change: dict[str, Any], wanted: str
) -> None:
    (shards.folder / "links").mkdir()
    (shards.folder / "links" / "a.tar").symlink_to("../train-002.tar")
    change = {"train": "train-*.tar", **change}
    with pytest.raises(DataError, match=f"(?s)a file is {wanted}"):
        load(replace(shards, **change), cache=cache)


def test_splits_that_do_not_fit_in_memory_are_refused_before_they_are_read(
    shards: StreamedSource, cache: Path
) -> None:
    # 14 images of 3 * 30,000^2 bytes.
    with pytest.raises(DataError, match=r"(?s)too large.*37800000000 bytes.*set num_calibration"):
        load(replace(shards, image_size=(30_000, 30_000)), cache=cache)


def test_a_toml_file_describes_a_stream(shards: StreamedSource, cache: Path) -> None:
    path = shards.folder / "numbers.toml"
    (shards.folder / "names.txt").write_text("even\nodd\n")
    path.write_text(
        """
        kind = "webdataset"
        train = ["train-{000..001}.tar", "*-002.tar", "train-003.tar"]
        test = "test.tar"
        image_size = [4, 6]
        class_names = "names.txt"
        num_test = 2
        [preprocessing]
        offset = [1, 2, 3]
        multiplier = [0.5, 0.5, 0.25]
        [augmentation]
        crop_padding = 1
        horizontal_flip = true
        """
    )
    splits = load(path, cache=cache)
    assert splits.name == "numbers"
    assert splits.class_names == ("even", "odd")
    # A tenth of train is for calibration.
    assert [len(part) for part in splits.parts().values()] == [36, 4, 2]
    assert splits.image_shape == (4, 6, 3)
    assert splits.preprocessing.multiplier == (0.5, 0.5, 0.25)
    assert splits.augmentation.horizontal_flip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("kind = ", "cannot be read.*d.toml.*TOMLDecodeError"),
        ("kind = 'webdataset'\ntrain = 'a'\ntest = 'b'", "cannot be read.*image_size"),
        ("kind = 'webdataset'\nfolder = '/'", "unknown fields.*given: folder"),
        ("kind = 'webdataset'\nimage_size = [4]\ntrain = 'a'\ntest = 'b'", "cannot be read"),
        ("kind = 'webdataset'\nimage_size = 'ab'\ntrain = 'a'\ntest = 'b'", "cannot be read"),
        ("train = " + "[" * 5000, "cannot be read.*RecursionError"),
        ("preprocessing = 3", "cannot be read.*AttributeError"),
        ("kind = 'webdataset'\nimage_size = [inf, 4]\ntrain = 'a'\ntest = 'b'", "OverflowError"),
    ],
)
def test_a_toml_file_that_describes_none_is_an_error(
    tmp_path: Path, text: str, wanted: str
) -> None:
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(DataError, match=f"(?s){wanted}"):
        load(tmp_path / "d.toml")


# ------------------------------------------------------------------ images


def decoded(content: Any, random: Any = None, **options: Any) -> NDArray[np.uint8]:
    return decode_image(content, Decoding((8, 8, 3), **options), random, lambda: "shard, key")


def test_images_are_cropped_or_stretched() -> None:
    # Left third red, middle green, right blue.
    bands = np.zeros((10, 30, 3), np.uint8)
    for index in range(3):
        bands[:, 10 * index : 10 * (index + 1), index] = 255
    buffer = io.BytesIO()
    image_module.fromarray(bands).save(buffer, "PNG")
    cropped, stretched = decoded(buffer.getvalue()), decoded(buffer.getvalue(), fit="stretch")
    # A filter looks a little past the edge of the part that is kept.
    assert (cropped[:, 1:-1] == [0, 255, 0]).all()
    assert cropped[..., 1].min() > 220
    assert stretched[0, 0].tolist() == [255, 0, 0]
    assert stretched[7, 7].tolist() == [0, 0, 255]


def test_random_crops_have_areas_of_the_range() -> None:
    # A pixel's value is its column: the first and last column that are seen tell the width.
    columns = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    image = image_module.fromarray(np.stack([columns] * 3, axis=2))
    shares = []
    for seed in range(200):
        row = decoded(image, np.random.RandomState(seed), smallest_crop=0.25)[4, :, 0].astype(int)
        shares.append(((row[7] - row[0]) * 8 / 7 / 200) ** 2)
    # Width squared is area times proportions: 1/4 * 3/4 to 1 at most, with some rounding.
    assert 0.17 < min(shares) < 0.25
    assert 0.9 < max(shares) < 1.05
    assert len(set(shares)) > 50


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "PPM", "WEBP"])
def test_formats(file_format: str) -> None:
    image = decoded(encoded(99, (20, 10), file_format))
    assert np.abs(image.astype(int) - [99, 156, 7]).max() <= 2


@pytest.mark.parametrize("smallest_crop", [1.0, 0.3])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(smallest_crop: float) -> None:
    coarse = np.random.RandomState(0).randint(0, 256, (6, 8, 3)).astype(np.uint8)
    image = image_module.fromarray(coarse).resize((403, 301), image_module.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    crops = []
    for reduced in (True, False):
        opened = image_module.open(io.BytesIO(buffer.getvalue()))
        given = opened if reduced else opened.convert("RGB")
        random = np.random.RandomState(1)
        crops.append(decoded(given, random, smallest_crop=smallest_crop).astype(int))
        assert (opened.size == (403, 301)) != reduced
    # Filters that see other pixels differ by a few levels; a shift by one pixel does by far more.
    assert np.abs(crops[0] - crops[1]).mean() < 4
    assert np.abs(np.roll(crops[0], 1, axis=1) - crops[1]).mean() > 20


def oriented(orientation: Any, file_format: str, size: tuple[int, int] = (16, 8)) -> bytes:
    """Stored with a red left and a black right half."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2, 0] = 255
    exif = image_module.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    image_module.fromarray(pixels).save(buffer, file_format, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
# Where the red half is seen, from a table of the eight orientations.
@pytest.mark.parametrize(
    ("orientation", "red"),
    [
        (1, "left"),
        (2, "right"),
        (3, "right"),
        (4, "left"),
        (5, "top"),
        (6, "top"),
        (7, "bottom"),
        (8, "bottom"),
        (9, "left"),
    ],
)
def test_images_are_turned_as_their_exif_data_say(
    file_format: str, orientation: int, red: str
) -> None:
    content = oriented(orientation, file_format)
    image = decoded(content, fit="stretch")[..., 0].astype(int)
    sides = {"left": image[:, 1], "right": image[:, 6], "top": image[1], "bottom": image[6]}
    assert max(sides, key=lambda side: sides[side].mean()) == red
    assert sides[red].min() > 200
    # The part that is kept is one of the image as it is seen: of a high one, the middle.
    wide = Decoding((2, 8, 3))
    middle = decode_image(content, wide, None, str)[..., 0]
    across = red in ("left", "right")
    assert (np.ptp(middle.astype(int), axis=1).min() > 200) == across
    # A large JPEG that is turned is decoded whole, and looks the same.
    if file_format == "JPEG":
        large = decoded(oriented(orientation, "JPEG", (640, 320)), fit="stretch")[..., 0]
        assert np.abs(large.astype(int) - image).mean() < 8


def test_damaged_exif_data_turn_nothing() -> None:
    content = oriented(6, "JPEG")
    start = content.index(b"Exif\0\0") + 6
    damaged = content[:start] + b"XX" + content[start + 2 :]
    image = decoded(damaged, fit="stretch")[..., 0]
    assert image[:, 1].min() > 200
    assert image[:, 6].max() < 50


def test_grey_in_colour_and_colour_in_grey() -> None:
    buffer = io.BytesIO()
    image_module.new("L", (8, 8), 77).save(buffer, "PNG")
    assert np.unique(decoded(buffer.getvalue())).tolist() == [77]
    grey = decode_image(encoded(100), Decoding((8, 8, 1)), None, str)
    # ITU-R 601-2: (299 * 100 + 587 * 155 + 114 * 7) / 1000 = 121.7
    assert grey.shape == (8, 8, 1)
    assert abs(int(grey[0, 0, 0]) - 121.7) < 1


def bomb(width: int, height: int) -> bytes:
    """The header of a PNG that states a size, and next to nothing of its pixels."""
    content = bytearray(encoded(0))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("size", [(10_000, 10_000), (14_000, 14_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"(?s)too large.*shard, key.*wanted: at most \d+ pixels"):
        decoded(bomb(*size))


def test_the_limit_of_pixels_is_an_option() -> None:
    assert decoded(encoded(1, (20, 20)), max_pixels=400).shape == (8, 8, 3)
    with pytest.raises(
        DataError, match=r"(?s)too large.*at most 399 pixels.*20 x 20 pixels.*raise max_pixels"
    ):
        decoded(encoded(1, (20, 20)), max_pixels=399)


def test_the_limit_of_pixels_is_not_above_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)Pillow's own limit.*at most 89478485.*268435456"):
        Decoding((8, 8, 3), max_pixels=1 << 28)
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 1 << 28)
    assert Decoding((8, 8, 3), max_pixels=1 << 28).max_pixels == 1 << 28


def test_what_no_option_allows_is_not_told_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeexit.data.streaming_decode.MAX_IMAGE_BYTES", 9)
    for content in (encoded(1), bomb(14_000, 14_000)):
        with pytest.raises(DataError, match=r"(?s)too large.*try: scale it down$"):
            decoded(content)
        monkeypatch.undo()


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    image_module.new("I;16", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "cannot be read"),
        (b"no image at all", "cannot be read"),
        (encoded(1)[:-30], "cannot be read"),
        (encoded(1, (64, 64), "JPEG")[:300], "cannot be read"),
        (encoded(1, file_format="GIF"), "cannot be read"),
        (sixteen_bits(), "another pixel format"),
    ],
)
def test_bytes_that_are_no_image_are_an_error(content: bytes, wanted: str) -> None:
    with pytest.raises(DataError, match=f"(?s){wanted}.*shard, key"):
        decoded(content)


# ------------------------------------------------------------------ WebDataset


def test_shards_are_read_as_webdataset_reads_them(tmp_path: Path, cache: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(12):
            # Names with folders, long ones (a pax header), and members that are passed over.
            key = f"folder.d/{'long' * 40 * (number % 2)}{number}"
            sample = {"__key__": key, "png": encoded(number), "cls": str(number % 3)}
            writer.write({**sample, "seg.png": b"another member", "json": {"a": 1}})
    records = read_shards(
        (path,), image=None, label="cls", class_names=("a", "b", "c"), cache=cache
    )
    tariterators = webdataset.tariterators
    with path.open("rb") as file:
        files = tariterators.tar_file_iterator(file)
        theirs = list(tariterators.group_by_keys({**f, "__url__": ""} for f in files))
    assert len(records.labels) == len(theirs) == 12
    for position, sample in enumerate(theirs):
        assert records.read(position) == sample["png"]
        assert records.labels[position] == int(sample["cls"])
        assert records.where(position) == f"{path}, {sample['__key__']}"


def test_labels_may_be_names_and_other_members(tmp_path: Path, cache: Path) -> None:
    content = encoded(3, file_format="JPEG")
    path = write_tar(
        tmp_path / "a.tar",
        [("x.JPG", content), ("x.txt", b"dog\n"), ("y.txt", b"1"), ("y.jpg", content)],
    )
    names = ("cat", "dog")
    records = read_shards((path,), image="jpg", label="txt", class_names=names, cache=cache)
    assert records.labels.tolist() == [1, 1]
    assert records.read(0) == content


def test_places_are_kept_until_a_shard_changes(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members(range(4)))

    def read(messages: list[str]) -> TarRecords:
        def note(what: str, done: int, total: int) -> None:
            messages.append(what)

        return read_shards(
            (path,), image=None, label="cls", class_names=("0", "1"), cache=cache, progress=note
        )

    first, second, third = [], [], []
    assert len(read(first).labels) == 4
    assert np.array_equal(read(second).places, read([]).places)
    write_tar(path, members(range(30)))
    assert len(read(third).labels) == 30
    assert first == third == ["read the headers of 1 shards"] * 2
    assert second == []
    # What is kept is read without a lock: the cache may be one that cannot be written.
    for lock in (cache / "shards").glob("*.lock"):
        lock.unlink()
    assert len(read([]).labels) == 30
    assert list((cache / "shards").glob("*.lock")) == []
    for file in (cache / "shards").glob("*.npz"):
        file.write_bytes(b"damaged")
    assert len(read([]).labels) == 30


def cut(content: bytes) -> bytes:
    return content[: len(content) - 15_000]


def cut_between_members(content: bytes) -> bytes:
    return content[: content.index(b"0002.png")]


def flipped(content: bytes) -> bytes:
    # The checksum of the second member's header.
    at = content.index(b"0000.cls") + 150
    return content[:at] + b"\xff" + content[at + 1 :]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (cut, "shard.*a.tar"),
        (cut_between_members, "ends without its end mark.*a.tar, byte 4096.*given: 0 bytes"),
        (flipped, "the shard is damaged.*a.tar, byte"),
        (lambda content: b"\x1f\x8b" + content[2:], "cannot be read.*a.tar.*not compressed"),
        (lambda content: b"", "cannot be read.*a.tar"),
        (lambda content: content.replace(b"0001.cls", b"0000.cls"), "is damaged"),
    ],
)
def test_a_damaged_shard_is_an_error(tmp_path: Path, cache: Path, change: Any, wanted: str) -> None:
    path = write_tar(tmp_path / "a.tar", [*members(range(4)), ("z.png", bytes(20_000))])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"(?s){wanted}"):
        read_shards((path,), image=None, label="cls", class_names=("0", "1"), cache=cache)


def with_size(content: bytes, kind: bytes, size: int) -> bytes:
    """The first header with another type and size, and the checksum that belongs to them."""
    header = bytearray(content[: tarfile.BLOCKSIZE])
    field = (
        b"\x80" + size.to_bytes(11, "big") if size >= 0 else (256**12 + size).to_bytes(12, "big")
    )
    header[124:136], header[156:157], header[148:156] = field, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[tarfile.BLOCKSIZE :]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [2**87, 2**62, -512, -1024])
def test_a_header_with_an_impossible_size_is_an_error(
    tmp_path: Path, cache: Path, kind: bytes, size: int
) -> None:
    path = write_tar(tmp_path / "a.tar", members(range(4)))
    path.write_bytes(with_size(path.read_bytes(), kind, size))
    with pytest.raises(DataError, match=r"(?s)shard.*a.tar"):
        read_shards((path,), image=None, label="cls", class_names=("0", "1"), cache=cache)


def test_long_names_of_long_names_are_an_error(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members(range(4)))
    first = path.read_bytes()
    name = with_size(first, tarfile.GNUTYPE_LONGNAME, 0)[: tarfile.BLOCKSIZE]
    path.write_bytes(name * 5000 + first)
    with pytest.raises(DataError, match=r"(?s)cannot be read.*a.tar.*RecursionError"):
        read_shards((path,), image=None, label="cls", class_names=("0", "1"), cache=cache)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"0")], "two images.*a.png, a.jpg"),
        ([("a.cls", b"0"), ("a.cls", b"0")], "two labels"),
        ([("a.png", b"x"), ("b.png", b"x")], "lacks its image or its label.*a.tar, a"),
        ([("a.png", b"x"), ("a.cls", b"2")], "not one of the classes.*a.tar, a.*'2'"),
        ([("a.png", b"x"), ("a.cls", b"-1")], "not one of the classes.*'-1'"),
        ([("a.png", b"x"), ("a.cls", "١".encode())], "not one of the classes"),
        ([("a.png", b"x"), ("a.cls", b"0" * 300)], "member is too large.*300 bytes"),
    ],
)
def test_a_sample_that_is_none_is_named(
    tmp_path: Path, cache: Path, content: list[tuple[str, bytes]], wanted: str
) -> None:
    path = write_tar(tmp_path / "a.tar", content)
    with pytest.raises(DataError, match=f"(?s){wanted}"):
        read_shards((path,), image=None, label="cls", class_names=("0", "1"), cache=cache)


def test_links_and_devices_are_passed_over(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
        for name, content in members(range(2)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    records = read_shards((path,), image=None, label="cls", class_names=("0", "1"), cache=cache)
    assert records.labels.tolist() == [0, 1]


def test_a_corrupt_image_is_one_error_that_names_shard_and_key(
    shards: StreamedSource, cache: Path
) -> None:
    path = shards.folder / "train-002.tar"
    wrong = members(range(20, 30))
    wrong[8] = ("0024.png", b"\x89PNG\r\n\x1a\n and no more")
    write_tar(path, wrong)
    write_tar(shards.folder / "calibration.tar", members(range(100, 104)))
    train = stream(replace(shards, num_calibration=None, calibration="calibration.tar"), cache)
    with pytest.raises(DataError, match=r"(?s)cannot be read.*train-002.tar, 0024") as error:
        epoch(train)
    assert str(error.value).count("\n") <= 3


def test_a_shard_that_shrinks_while_it_is_read_is_an_error(
    shards: StreamedSource, cache: Path
) -> None:
    train = stream(shards, cache)
    path = shards.folder / "train-000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"(?s)has changed.*train-000.tar"):
        epoch(train)


def test_a_shard_is_never_a_command(tmp_path: Path, cache: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(DataError, match="no such file"):
        find_files([f"pipe:touch {trace}"], tmp_path)
    assert not trace.exists()


def test_ranges_of_files(tmp_path: Path) -> None:
    for number in range(8, 12):
        (tmp_path / f"{number:03d}.tar").touch()
    names = [path.name for path in find_files(["{008..011}.tar"], tmp_path)]
    assert names == ["008.tar", "009.tar", "010.tar", "011.tar"]
    for number in range(2):
        (tmp_path / f"part-{number} [x]").mkdir()
        (tmp_path / f"part-{number} [x]" / f"{number}.tar").touch()
    (tmp_path / "part-1 [x]" / "0.tar").mkdir()
    for pattern in ("part-* [x]/*.tar", str(tmp_path / "part-{0..1} [*]/*.tar")):
        found = find_files([pattern], tmp_path)
        assert [str(path.relative_to(tmp_path)) for path in found] == [
            "part-0 [x]/0.tar",
            "part-1 [x]/1.tar",
        ]
    with pytest.raises(DataError, match="no such file"):
        find_files(["00[89].tar"], tmp_path)
    for pattern in ("{011..008}.tar", "{0..99999999}.tar"):
        with pytest.raises(DataError, match="range of files"):
            find_files([pattern], tmp_path)


# ------------------------------------------------------------------ Hugging Face


@pytest.fixture
def dataset_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("datasets", reason="pip install 'edgeexit[huggingface]'")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def dataset(module: Any, numbers: Sequence[int], names: Sequence[str] = ("even", "odd")) -> Any:
    images = [{"bytes": encoded(n), "path": None} for n in numbers]
    features = module.Features(
        {"image": module.Image(), "label": module.ClassLabel(names=list(names))}
    )
    labels = [n % 2 for n in numbers]
    return module.Dataset.from_dict({"image": images, "label": labels}, features=features)


def huggingface(train: Any, test: Any, **options: Any) -> StreamedSource:
    options = {"num_calibration": 8, "shuffle_window": 10, "num_threads": 2, **options}
    return StreamedSource(kind="huggingface", train=train, test=test, image_size=(8, 8), **options)


@pytest.fixture(params=["parquet", "saved", "object", "iterable"])
def hf_source(
    request: pytest.FixtureRequest, dataset_module: Any, tmp_path: Path
) -> StreamedSource:
    train, test = (dataset(dataset_module, n) for n in (range(NUM_TRAIN), range(200, 206)))
    if request.param == "parquet":
        for shard in range(2):
            half = train.shard(2, shard, contiguous=True)
            half.to_parquet(str(tmp_path / f"train-{shard}.parquet"), batch_size=7)
        test.to_parquet(str(tmp_path / "test.parquet"))
        return huggingface("train-*.parquet", "test.parquet", folder=tmp_path)
    if request.param == "saved":
        train.save_to_disk(tmp_path / "train")
        test.save_to_disk(tmp_path / "test")
        return huggingface("train", tmp_path / "test", folder=tmp_path)
    if request.param == "object":
        return huggingface(train, test)
    whole = train.to_iterable_dataset(num_shards=4)
    return huggingface(
        whole.skip(8),
        test.to_iterable_dataset(),
        calibration=whole.take(8),
        num_train=32,
        num_test=6,
    )


def test_a_hugging_face_dataset_is_streamed(hf_source: StreamedSource, cache: Path) -> None:
    splits = load(hf_source, cache=cache)
    assert splits.class_names == ("even", "odd")
    assert sorted(numbers_of(splits.test.images)) == list(range(200, 206))
    assert np.array_equal(np.array(numbers_of(splits.test.images)) % 2, splits.test.labels)
    train = splits.train
    assert isinstance(train, StreamedSplit)
    first = epoch(train)
    assert first == epoch(train)
    assert first != epoch(train, (0, 1))
    held = numbers_of(splits.calibration.images)
    assert sorted([*sum(first, ()), *held]) == list(range(NUM_TRAIN))
    shares = [epoch(train, rank=rank, world=2, first=1) for rank in range(2)]
    assert [
        tuple(np.stack(p, axis=1).ravel().tolist()) for p in zip(*shares, strict=True)
    ] == first[1:]
    per_class = describe(splits)["splits"]["train"]["per_class"]
    assert per_class in ({"even": 16, "odd": 16}, None)


@pytest.mark.parametrize("kind", ["parquet", "saved", "object", "iterable"])
@pytest.mark.parametrize(
    ("others", "given"),
    [(("odd", "even"), "2 classes, 0 is 'odd'"), (("even", "odd", "none"), "3 classes, 2 is 'no")],
)
def test_parts_that_state_other_classes_are_an_error(
    dataset_module: Any, tmp_path: Path, kind: str, others: tuple[str, ...], given: str
) -> None:
    train = dataset(dataset_module, range(20))
    test = dataset(dataset_module, range(8), others)
    if kind == "parquet":
        train.to_parquet(str(tmp_path / "train.parquet"))
        test.to_parquet(str(tmp_path / "test.parquet"))
        source = huggingface("train.parquet", "test.parquet", folder=tmp_path)
    elif kind == "saved":
        train.save_to_disk(tmp_path / "train")
        test.save_to_disk(tmp_path / "test")
        source = huggingface("train", "test", folder=tmp_path)
    elif kind == "object":
        source = huggingface(train, test)
    else:
        source = huggingface(train, test.to_iterable_dataset(), num_test=8)
    for change in ({}, {"num_classes": 3}):
        with pytest.raises(DataError, match=rf"(?s)the same classes.*test.*given: {given}"):
            load(replace(source, **change), cache=tmp_path)


def test_files_of_one_part_that_state_other_classes_are_an_error(
    dataset_module: Any, tmp_path: Path
) -> None:
    for number, names in enumerate([("even", "odd"), ("odd", "even"), ("even", "odd")]):
        file = tmp_path / f"{number}.parquet"
        dataset(dataset_module, range(20), names).to_parquet(str(file))
    with pytest.raises(DataError, match=r"(?s)the same classes.*1.parquet.*wanted: 2 .*0 is 'even"):
        load(huggingface("{0..1}.parquet", "2.parquet", folder=tmp_path), cache=tmp_path)


def test_labels_are_compared_with_names_that_a_later_part_states(
    dataset_module: Any, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    test = dataset(dataset_module, range(8))
    images = [encoded(n) for n in range(20)]
    path = tmp_path / "train.parquet"
    source = huggingface("train.parquet", test, folder=tmp_path)
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 10}), path)
    assert load(source, cache=tmp_path).class_names == ("even", "odd")
    pq.write_table(pa.table({"image": images, "label": [0, 1, 2, 3] * 5}), path)
    with pytest.raises(DataError, match=r"(?s)not one of the classes.*train.parquet.*given: 2"):
        load(source, cache=tmp_path)


def test_a_folder_of_several_parts_is_named(dataset_module: Any, tmp_path: Path) -> None:
    parts = {part: dataset(dataset_module, range(20)) for part in ("train", "test")}
    dataset_module.DatasetDict(parts).save_to_disk(tmp_path / "all")
    with pytest.raises(DataError, match=r"(?s)holds several parts.*train, test.*FOLDER/train"):
        load(huggingface("all", "all", folder=tmp_path), cache=tmp_path)
    splits = load(huggingface("all/train", "all/test", folder=tmp_path), cache=tmp_path)
    assert splits.class_names == ("even", "odd")
    with pytest.raises(DataError, match=r"(?s)a file is in two splits.*all/train"):
        load(huggingface("all/train", "all/train", folder=tmp_path), cache=tmp_path)


def test_groups_of_rows_are_dropped_behind_the_window(dataset_module: Any, tmp_path: Path) -> None:
    whole = dataset(dataset_module, [n % 200 for n in range(400)])
    whole.to_parquet(str(tmp_path / "a.parquet"), batch_size=10)
    source = huggingface("a.parquet", whole, folder=tmp_path, num_test=2)
    train = load(source, cache=tmp_path).train
    assert isinstance(train, StreamedSplit)
    assert isinstance(train.stream, ShuffledRecords)
    records: Any = train.stream.records
    read = []
    column = type(records)._column
    object.__setattr__(
        records, "_column", lambda group: read.append(group) or column(records, group)
    )
    records._held.clear()
    for _ in train.batches((0,), batch_size=8):
        assert sum(map(len, records._held.values())) <= records.max_rows == 12 + 40
    # Every group was read once: nothing was dropped too early.
    assert len(read) == len(set(read)) == 40


def test_parquet_files_that_are_no_dataset(dataset_module: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"

    def loaded(**columns: Any) -> None:
        for file in (path, tmp_path / "b.parquet"):
            pq.write_table(pa.table(columns), file)
        load(source, cache=tmp_path)

    source = huggingface("a.parquet", "b.parquet", folder=tmp_path, num_classes=2)
    images = [encoded(n) for n in range(20)]
    with pytest.raises(DataError, match=r"(?s)lacks a column.*image and label.*given: picture"):
        loaded(picture=images)
    with pytest.raises(DataError, match=r"(?s)not hold image files.*column image.*int64"):
        loaded(image=[1, 2], label=[0, 1])
    with pytest.raises(DataError, match=r"(?s)not one of the classes.*parquet, label 1.*given: 2"):
        loaded(image=images[:2], label=[0, 2])
    with pytest.raises(DataError, match=r"(?s)not one of the classes.*given: None"):
        loaded(image=images[:2], label=pa.array([0, None]))
    with pytest.raises(DataError, match=r"(?s)holds no image.*NoneType"):
        loaded(image=[None, *images[1:]], label=[0, 1] * 10)
    loaded(image=images, label=[0, 1] * 10)
    # Eight million rows that all refer to one image.
    rows = np.zeros(1 << 23, np.int8)
    same = pa.DictionaryArray.from_arrays(pa.array(rows.astype(np.int32)), [encoded(0)])
    bomb = pa.table({"image": same, "label": rows})
    pq.write_table(bomb, path, row_group_size=len(rows))
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"(?s)too large.*a.parquet, group 0.*8388608 rows"):
        load(source, cache=tmp_path)
    loaded(image=images, label=[0, 1] * 10)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"(?s)Parquet file cannot be read.*a.parquet"):
        load(source, cache=tmp_path)


def test_a_parquet_file_that_is_larger_in_memory_than_it_says(
    dataset_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    monkeypatch.setattr("edgeexit.data.streaming_parquet.MAX_GROUP_BYTES", 20 << 20)

    def write(image: bytes, label: str) -> ParquetRecords:
        # All rows refer to one image and one label, which the file holds once.
        rows = pa.array(np.zeros(400, np.int32))
        columns = {
            name: pa.DictionaryArray.from_arrays(rows, [value])
            for name, value in (("image", image), ("label", label))
        }
        pq.write_table(pa.table(columns), path, store_schema=False)
        assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size < 200_000
        names = (label, "other")
        return read_parquet([path], image="image", label="label", class_names=names, window=10)

    records = write(bytes(10_000), "one")
    assert records.labels.tolist() == [0] * 400
    assert records.read(399) == bytes(10_000)
    large = write(bytes(100_000), "one")
    with pytest.raises(DataError, match=r"(?s)too large.*a.parquet, group 0, column image.*209715"):
        large.read(0)
    with pytest.raises(DataError, match=r"(?s)too large.*a.parquet, column label.*at most 2097152"):
        write(b"", "x" * 100_000)
    monkeypatch.setattr("edgeexit.data.streaming_parquet.MAX_ROWS", 399)
    with pytest.raises(DataError, match=r"(?s)too many rows.*a.parquet, group 0.*at most 399"):
        write(b"", "one")


def test_labels_of_a_dictionary_type(dataset_module: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = pa.array(["dog", "cat", "dog"]).dictionary_encode()
    pq.write_table(pa.table({"image": [b""] * 3, "label": labels}), tmp_path / "a.parquet")
    records = read_parquet(
        [tmp_path / "a.parquet"],
        image="image",
        label="label",
        class_names=("cat", "dog"),
        window=10,
    )
    assert records.labels.tolist() == [1, 0, 1]


def test_streams_that_are_no_dataset(dataset_module: Any, tmp_path: Path) -> None:
    train = dataset(dataset_module, range(16))
    flowing = train.to_iterable_dataset()
    with pytest.raises(DataError, match="does not say how many samples"):
        load(huggingface(flowing, train, calibration=train), cache=tmp_path)
    with pytest.raises(DataError, match=r"(?s)cannot be taken out.*take\(5000\)"):
        load(huggingface(flowing, train, num_train=16), cache=tmp_path)
    short = load(huggingface(flowing, train, num_train=30, calibration=train), cache=tmp_path).train
    with pytest.raises(DataError, match=r"(?s)ended early.*number 16"):
        list(short.batches((0,), batch_size=8))  # type: ignore[union-attr]

    def failing() -> Iterator[dict[str, Any]]:
        yield {"image": {"bytes": encoded(0)}, "label": 0}
        raise RuntimeError("the line went dead")

    broken = dataset_module.IterableDataset.from_generator(failing)
    split = load(
        huggingface(broken, train, calibration=train, num_train=8, num_classes=2), cache=tmp_path
    ).train
    with pytest.raises(DataError, match=r"(?s)stream cannot be read.*line went dead"):
        list(split.batches((0,), batch_size=8))  # type: ignore[union-attr]


def test_nothing_is_asked_of_the_network(dataset_module: Any, tmp_path: Path) -> None:
    train = dataset(dataset_module, range(20))
    train.save_to_disk(tmp_path / "saved")
    train.to_parquet(str(tmp_path / "a.parquet"))
    train.to_parquet(str(tmp_path / "b.parquet"))
    code = f"""
import socket
def refuse(*arguments):
    raise SystemExit("a connection was tried")
socket.socket.connect = socket.getaddrinfo = refuse
from edgeexit.data import StreamedSource, load
for train in ("saved", "a.parquet"):
    source = StreamedSource(kind="huggingface", train=train, test="b.parquet", image_size=(8, 8),
                            folder=__import__("pathlib").Path({str(tmp_path)!r}))
    assert len(list(load(source).train.batches((0,), batch_size=8))) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)
