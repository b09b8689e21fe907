"""The user's own data: .npz files, image folders and datasets, good, bad and hostile."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.data import Samples, as_samples, check_samples, describe, load
from edgeexit.data.archive import read_npz
from edgeexit.errors import ArgumentError, DataError

SHAPE = (4, 5, 3)


def images(count: int, dtype: str = "uint8") -> NDArray[Any]:
    random = np.random.RandomState(count)
    if dtype == "uint8":
        return random.randint(0, 256, (count, *SHAPE)).astype(np.uint8)
    return random.standard_normal((count, *SHAPE)).astype(dtype)


def labels(count: int, num_classes: int = 2) -> NDArray[np.int64]:
    return np.arange(count) % num_classes


# ------------------------------------------------------------------ .npz


def test_an_undivided_npz_is_divided_by_fractions(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=images(40), labels=labels(40))
    splits = load(path)
    assert splits.name == "mine"
    assert [len(part) for part in splits.parts().values()] == [32, 4, 4]
    assert splits.class_names == ("0", "1")
    assert splits.image_shape == SHAPE
    assert splits.preprocessing.offset == (128.0,)
    assert splits.preprocessing.multiplier == (1 / 128,)
    # Each image keeps its label, and none is lost or doubled.
    given = {image.tobytes(): label for image, label in zip(images(40), labels(40), strict=True)}
    for part in splits.parts().values():
        for image, label in zip(part.images, part.labels, strict=True):
            assert given.pop(image.tobytes()) == label
    assert given == {}
    again = load(str(path))
    assert np.array_equal(again.train.images, splits.train.images)
    other = load(path, seed=1, fractions=(0.5, 0.25, 0.25))
    assert [len(part) for part in other.parts().values()] == [20, 10, 10]


def test_a_divided_npz_stays_divided(tmp_path: Path) -> None:
    arrays = {
        "train_images": images(10, "float64"),
        "train_labels": labels(10).astype(np.uint8)[:, np.newaxis],
        "calibration_images": images(4, "float64"),
        "calibration_labels": labels(4),
        "test_images": images(6, "float64"),
        "test_labels": labels(6),
        "class_names": np.array(["cat", "dog"]),
    }
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    splits = load(tmp_path / "mine.npz")
    for name, part in splits.parts().items():
        assert part.images.dtype == np.float32
        assert part.labels.dtype == np.int64
        assert np.array_equal(part.images, arrays[f"{name}_images"].astype(np.float32))
        assert np.array_equal(part.labels, arrays[f"{name}_labels"].ravel())
    assert splits.class_names == ("cat", "dog")
    assert splits.preprocessing.offset == (0.0,)
    assert splits.preprocessing.multiplier == (1.0,)


def test_calibration_comes_out_of_train_where_it_is_not_given(tmp_path: Path) -> None:
    train, test = (images(36), labels(36)), (images(6), labels(6))
    np.savez(
        tmp_path / "mine.npz",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
    )
    splits = load(tmp_path / "mine.npz")
    assert [len(part) for part in splits.parts().values()] == [32, 4, 6]
    assert np.array_equal(splits.test.images, test[0])


def test_grey_images_get_a_channel_axis(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=images(20)[..., 0], labels=labels(20))
    assert load(tmp_path / "mine.npz").image_shape == (4, 5, 1)


@pytest.mark.parametrize(
    ("arrays", "wanted"),
    [
        ({"x": images(4)}, r"does not hold a dataset.*images and labels.*none of them"),
        ({"train_images": images(4), "train_labels": labels(4)}, "does not hold a dataset"),
        ({"images": images(4)}, "images without labels"),
        (
            {
                "images": images(4),
                "labels": labels(4),
                "test_images": images(4),
                "test_labels": labels(4),
            },
            "divided and an undivided",
        ),
        ({"images": images(0), "labels": labels(0)}, r"no samples.*at least one.*\(0, 4, 5, 3\)"),
        ({"images": images(4)[0, 0], "labels": labels(4)}, r"number of axes.*shape = \(5, 3\)"),
        ({"images": images(4).astype(int), "labels": labels(4)}, "dtype.*uint8 or float32.*int64"),
        ({"images": images(4), "labels": labels(5)}, "not as many labels.*4 labels.*5 labels"),
        ({"images": images(4), "labels": np.eye(4)}, "not a list of integers.*argmax"),
        (
            {"images": images(4), "labels": labels(4) / 2},
            "not a list of integers.*float64.*try: give the number of a class",
        ),
        ({"images": images(4), "labels": labels(4) - 1}, "out of range.*from -1 to 0"),
        ({"images": images(40), "labels": labels(40) * 2}, "no training samples.*none of 1"),
        (
            {"images": images(40), "labels": labels(40, 3), "class_names": np.array(["a", "b"])},
            "out of range.*0 to 1.*from 0 to 2",
        ),
        (
            {"images": images(40), "labels": labels(40), "class_names": np.array(["a", "b", "c"])},
            "no training samples.*each of 3 classes.*none of c",
        ),
        ({"images": images(4), "labels": labels(4)}, "cannot be divided"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8), "labels": labels(4)}, "channels come first"),
        # Names of that many classes would not fit in memory.
        (
            {"images": images(40), "labels": np.where(labels(40) == 1, 2**32 - 1, 0)},
            "no training samples.*train split.*each of 4294967296 classes.*none of 1",
        ),
    ],
)
def test_an_npz_that_is_no_dataset_is_an_error(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], wanted: str
) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises((DataError, ArgumentError), match=f"(?s){wanted}"):
        load(tmp_path / "mine.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_placed(tmp_path: Path, value: float) -> None:
    wrong = images(40, "float32")
    wrong[7, 0, 0, 0] = wrong[9, 3, 4, 2] = value
    np.savez(tmp_path / "mine.npz", images=wrong, labels=labels(40))
    with pytest.raises(DataError, match=r"(?s)not finite.*2 of 40 images; the first is 7"):
        load(tmp_path / "mine.npz")


def test_splits_of_other_shape_or_dtype_are_an_error(tmp_path: Path) -> None:
    arrays = {"train_images": images(36), "train_labels": labels(36), "test_labels": labels(6)}
    np.savez(tmp_path / "shape.npz", test_images=images(6)[:, :3], **arrays)
    with pytest.raises(DataError, match=r"(?s)another shape.*test split.*\(4, 5, 3\).*\(3, 5, 3\)"):
        load(tmp_path / "shape.npz")
    np.savez(tmp_path / "dtype.npz", test_images=images(6, "float32"), **arrays)
    with pytest.raises(DataError, match=r"(?s)differ in dtype.*test split.*uint8.*float32"):
        load(tmp_path / "dtype.npz")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_pickled_array_is_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hostile = np.array([Bomb(trace)], dtype=object)
    np.savez(tmp_path / "mine.npz", images=hostile, labels=labels(1))
    with pytest.raises(DataError, match=r"(?s)Python objects are never loaded.*dtype = object"):
        load(tmp_path / "mine.npz")
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("images.npy", pickle.dumps(Bomb(trace)))
        archive.writestr("labels.npy", pickle.dumps(Bomb(trace)))
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "raw.npz")
    assert not trace.exists()


def npy(shape: str, content: bytes, descr: str = "'|u1'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("member", "wanted"),
    [
        (npy("(1000000000000, 4, 5, 3)", bytes(60)), "states another size.*60 bytes"),
        (npy("(1, 4, 5, 2)", bytes(60)), "states another size.*60 bytes.*40 bytes"),
        (npy("(-1, -4, 5, 3)", bytes(60)), "states another size"),
        (npy("(1,)", bytes(8), "'|O'"), "Python objects are never loaded"),
        (npy("(1,)", bytes(8), "[('a', '<u8')]"), "another kind than numbers"),
        (npy("(1,)", bytes(8), "'<M8[s]'"), "another kind than numbers"),
        (npy("(1000000000000,)", b"", "'<U0'"), "another kind than numbers.*<U0"),
        (npy("(__import__('os').getpid(),)", bytes(8)), "cannot be read"),
        (b"\x93NUMPY\3\0" + bytes(60), "named fields"),
        (b"\x93NUMPY\1\0\1\0{", "cannot be read.*TokenError"),
        (b"\x93NUMPY\1\0\x88\x13" + b"(" * 5000, "cannot be read"),
        (npy("(1,)", bytes(8), "None"), "cannot be read.*not a valid dtype"),
        (npy(f"({10**400},)", b""), "states another size"),
        (b"short", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_header_that_lies_is_noticed_before_anything_is_loaded(
    tmp_path: Path, member: bytes, wanted: str
) -> None:
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("images.npy", member)
    with pytest.raises(DataError, match=f"(?s){wanted}"):
        read_npz(tmp_path / "mine.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_unpack_without_limit_are_refused(
    tmp_path: Path, compression: int
) -> None:
    with zipfile.ZipFile(tmp_path / "mine.npz", "w", compression) as archive:
        archive.writestr("images.npy", npy("(1,)", b"1"))
    with pytest.raises(DataError, match=rf"(?s)another way than NumPy.*compression {compression}"):
        read_npz(tmp_path / "mine.npz")


def test_an_npz_larger_than_memory_allows_is_refused_by_its_directory(tmp_path: Path) -> None:
    # A hostile directory: the size that it states for the member is 2^32 - 2 bytes, five times.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(5):
            archive.writestr(f"{index}.npy", b"x")
    content = bytearray(buffer.getvalue())
    start = 0
    while (start := content.find(b"PK\1\2", start)) >= 0:
        content[start + 24 : start + 28] = (2**32 - 2).to_bytes(4, "little")
        start += 4
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)too large.*17179869184 bytes.*21474836470 bytes"):
        read_npz(tmp_path / "mine.npz")


@pytest.mark.parametrize("keep", [0, 10, 100, 400, -30])
def test_a_cut_npz_is_an_error(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "mine.npz", images=images(4), labels=labels(4))
    content = (tmp_path / "mine.npz").read_bytes()
    (tmp_path / "mine.npz").write_bytes(content[:keep])
    with pytest.raises(DataError, match=r"(?s)cannot be read.*mine.npz"):
        load(tmp_path / "mine.npz")


def test_a_flipped_byte_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", images=images(4), labels=labels(4))
    content = bytearray((tmp_path / "mine.npz").read_bytes())
    content[250] ^= 1
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)cannot be read.*CRC"):
        load(tmp_path / "mine.npz")


def test_a_missing_array_or_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", a=labels(4))
    with pytest.raises(DataError, match=r"(?s)lacks an array.*wanted: b.*given: a"):
        read_npz(tmp_path / "mine.npz", required=("a", "b"))
    with pytest.raises(DataError, match="does not exist"):
        read_npz(tmp_path / "other.npz")


# ------------------------------------------------------------------ image folders


@pytest.fixture
def image_module() -> Any:
    return pytest.importorskip("PIL.Image", reason="pip install 'edgeexit[images]'")


def write_images(image_module: Any, folder: Path, count: int, mode: str = "RGB") -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        # An image that tells its class folder and its number.
        image = image_module.new(mode, (5, 4), (index, len(folder.name), 9)[: len(mode)])
        image.save(folder / f"{index}.png")


def test_a_folder_of_class_folders(tmp_path: Path, image_module: Any) -> None:
    root = tmp_path / "animals"
    write_images(image_module, root / "zebra", 10)
    write_images(image_module, root / "cat", 20)
    (root / "cat" / "notes.txt").write_text("passed over")
    (root / ".hidden").mkdir()
    splits = load(root)
    assert splits.name == "animals"
    assert splits.class_names == ("cat", "zebra")
    assert splits.image_shape == SHAPE
    assert [len(part) for part in splits.parts().values()] == [24, 3, 3]
    seen = set()
    for part in splits.parts().values():
        for image, label in zip(part.images, part.labels, strict=True):
            index, length, blue = image[0, 0].tolist()
            assert (length, blue) == (len(splits.class_names[label]), 9)
            seen.add((label, index))
    assert len(seen) == 30


def test_folders_that_are_divided_already(tmp_path: Path, image_module: Any) -> None:
    for part, count in (("train", 8), ("calibration", 3), ("test", 5)):
        for name in ("a", "b"):
            write_images(image_module, tmp_path / part / name, count, "L")
    splits = load(str(tmp_path))
    assert [len(part) for part in splits.parts().values()] == [16, 6, 10]
    assert splits.image_shape == (4, 5, 1)
    # Classes alternate, so that the first few samples are of all classes.
    assert sorted(splits.test.labels[:2].tolist()) == [0, 1]


def test_one_colour_image_makes_all_colour(tmp_path: Path, image_module: Any) -> None:
    write_images(image_module, tmp_path / "a", 10, "L")
    write_images(image_module, tmp_path / "b", 10, "RGB")
    assert load(tmp_path).image_shape == SHAPE


def test_folders_that_are_no_dataset(tmp_path: Path, image_module: Any) -> None:
    with pytest.raises(DataError, match=r"(?s)no class folders.*FOLDER/CLASS/IMAGE"):
        load(tmp_path)
    write_images(image_module, tmp_path / "a", 2)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"(?s)class folder has no images.*\.png"):
        load(tmp_path)
    image_module.new("RGB", (6, 4)).save(tmp_path / "b" / "wide.png")
    with pytest.raises(DataError, match=r"(?s)differ in size.*wide.png.*5 x 4.*6 x 4"):
        load(tmp_path)
    (tmp_path / "b" / "wide.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"(?s)cannot be read.*wide.png"):
        load(tmp_path)
    image_module.new("I;16", (5, 4)).save(tmp_path / "b" / "wide.png")
    with pytest.raises(DataError, match=r"(?s)another pixel format.*8 bits.*I;16"):
        load(tmp_path)


def test_images_are_turned_as_their_exif_data_say(tmp_path: Path, image_module: Any) -> None:
    exif = image_module.Exif()
    exif[274] = 6
    # Stored on its side: what is left here is seen on top.
    stored = np.zeros((5, 4, 3), np.uint8)
    stored[:, :2] = 200
    for name in ("a", "b"):
        write_images(image_module, tmp_path / name, 9)
        image_module.fromarray(stored).save(tmp_path / name / "9.png", exif=exif)
    splits = load(tmp_path)
    assert splits.image_shape == SHAPE
    turned = [
        image for part in splits.parts().values() for image in part[:].images if image.max() == 200
    ]
    assert len(turned) == 2
    assert all((image[:2] == 200).all() and (image[2:] == 0).all() for image in turned)


def test_parts_of_other_names_are_an_error(tmp_path: Path, image_module: Any) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            write_images(image_module, tmp_path / part / name, 4)
    with pytest.raises(
        DataError, match=r"(?s)holds folders instead.*called train and test.*given: train, val"
    ):
        load(tmp_path)


def test_an_image_that_is_cut_short_is_an_error(tmp_path: Path, image_module: Any) -> None:
    write_images(image_module, tmp_path / "a", 2)
    noise = np.random.RandomState(0).randint(0, 256, SHAPE).astype(np.uint8)
    image_module.fromarray(noise).save(tmp_path / "a" / "9.png")
    content = (tmp_path / "a" / "9.png").read_bytes()
    (tmp_path / "a" / "9.png").write_bytes(content[:60])
    with pytest.raises(DataError, match=r"(?s)cannot be read.*9.png"):
        load(tmp_path)


def test_parts_with_other_classes_are_an_error(tmp_path: Path, image_module: Any) -> None:
    for folder in ("train/a", "train/b", "test/a"):
        write_images(image_module, tmp_path / folder, 2)
    with pytest.raises(DataError, match=r"(?s)same classes.*wanted: a, b.*given: a"):
        load(tmp_path)


# ------------------------------------------------------------------ datasets


class Pairs:
    """A dataset as torch knows it, without torch."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Named(Pairs):
    classes = ("cat", "dog")


def pairs(given: NDArray[Any]) -> list[Any]:
    return [(image, int(label)) for image, label in zip(given, labels(len(given)), strict=True)]


def test_a_dataset_of_arrays() -> None:
    splits = load(Named(pairs(images(40))))
    assert splits.name == "Named"
    assert splits.class_names == ("cat", "dog")
    assert splits.image_shape == SHAPE
    assert [len(part) for part in splits.parts().values()] == [32, 4, 4]


def test_a_dict_of_datasets() -> None:
    train, test = images(36), images(6)
    splits = load({"train": Pairs(pairs(train)), "test": Pairs(pairs(test))})
    assert [len(part) for part in splits.parts().values()] == [32, 4, 6]
    assert np.array_equal(splits.test.images, test)
    with pytest.raises(ArgumentError, match=r"(?s)train, test and perhaps.*given: train, val"):
        load({"train": Pairs(pairs(train)), "val": Pairs(pairs(test))})


@pytest.mark.parametrize("part", ["test", "calibration"])
def test_datasets_that_state_other_classes_are_an_error(part: str) -> None:
    class Other(Pairs):
        classes = ("dog", "cat")

    given: dict[str, Pairs] = {
        "train": Named(pairs(images(36))),
        "test": Pairs(pairs(images(6))),
        part: Other(pairs(images(6))),
    }
    with pytest.raises(
        DataError, match=rf"(?s)same classes.*{part} split.*wanted: .*0 is 'cat'.*0 is 'dog'"
    ):
        load(given)


def test_class_names_may_be_stated_by_any_part() -> None:
    given = {"train": Pairs(pairs(images(36))), "test": Named(pairs(images(6)))}
    assert load(given).class_names == ("cat", "dog")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_channels_are_found(dtype: str, channels_first: bool) -> None:
    given = np.random.RandomState(0).uniform(0, 255, (40, 8, 6, 3)).astype(dtype)
    laid_out = given.transpose(0, 3, 1, 2) if channels_first else given
    splits = load({"train": Pairs(pairs(laid_out)), "test": Pairs(pairs(laid_out))})
    assert np.array_equal(splits.test.images, given)


def test_channels_that_could_be_either_are_first_in_floats_and_last_in_uint8() -> None:
    both = np.random.RandomState(0).uniform(0, 255, (40, 3, 8, 1))
    floats = load(Pairs(pairs(both.astype(np.float32))))
    assert floats.image_shape == (8, 1, 3)
    assert load(Pairs(pairs(both.astype(np.uint8)))).image_shape == (3, 8, 1)


def test_a_torch_dataset() -> None:
    torch = pytest.importorskip("torch", reason="pip install 'edgeexit[compile]'")
    given = np.random.RandomState(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(given), torch.from_numpy(labels(40)))
    splits = load({"train": dataset, "test": dataset})
    assert np.array_equal(splits.test.images, given.transpose(0, 2, 3, 1))
    assert np.array_equal(splits.test.labels, labels(40))


def test_a_dataset_of_pil_images(image_module: Any) -> None:
    given = [(image_module.fromarray(image), label) for image, label in pairs(images(40))]
    splits = load({"train": Pairs(given), "test": Pairs(given)})
    assert np.array_equal(splits.test.images, images(40))


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_a_dataset_of_pil_images_of_more_than_8_bits_is_an_error(
    image_module: Any, dtype: str
) -> None:
    deep = image_module.fromarray(np.full((4, 5), 1000, dtype))
    items = [(images(1)[0], 0), (deep, 1)]
    with pytest.raises(DataError, match=rf"(?s)item 1.*8 bits a channel.*mode = {deep.mode}"):
        load(Pairs(items))


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        ([], "no samples"),
        ([np.zeros(3)], "not a pair.*item 0.*image, label.*ndarray"),
        ([(images(1)[0], 0.5)], "label is not an integer.*0.5"),
        ([(images(1)[0], np.array([0, 1]))], "label is not an integer"),
        ([("a.png", 0)], "an image is not an image.*item 0"),
        ([(np.zeros(3, np.uint8), 0)], "an image is not an image.*uint8 .3,."),
        (
            [(images(1)[0], 0), (images(1)[0, :2], 1)],
            r"differ in shape.*item 1.*\(4, 5, 3\).*\(2, 5, 3\)",
        ),
        ([(images(1)[0], 0), (images(1, "float32")[0], 1)], "differ in shape or type.*float32"),
        ([(np.full((4, 4, 3), np.nan), 0)] * 20, "not finite.*20 of 20"),
    ],
)
def test_a_dataset_that_is_none_is_an_error(items: list[Any], wanted: str) -> None:
    with pytest.raises(DataError, match=f"(?s){wanted}"):
        load(Pairs(items))


# ------------------------------------------------------------------ what else may be given


def endless() -> Iterator[int]:
    yield 0


def test_what_is_no_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)not a dataset.*generator.*IterableDataset"):
        load(endless())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"(?s)unknown dataset.*cifar10.*'cifar11'"):
        load("cifar11")
    with pytest.raises(DataError, match=r"(?s)no data at this path.*given: nothing"):
        load(tmp_path / "x.npz")
    (tmp_path / "x.zip").write_text("")
    with pytest.raises(DataError, match=r"(?s)no data at this path.*another kind of file"):
        load(tmp_path / "x.zip")


def test_fractions_that_are_not_positive_are_an_error() -> None:
    with pytest.raises(ArgumentError, match="shares do not divide"):
        load(Pairs(pairs(images(40))), fractions=(1.0, 0.0, 0.0))


def test_samples_are_picked_by_slices_and_positions() -> None:
    samples = as_samples(images(6), labels(6), where="here")
    assert len(samples[:4]) == 4
    picked = samples[np.array([5, 0])]
    assert np.array_equal(picked.images, samples.images[[5, 0]])
    assert picked.labels.tolist() == [1, 0]


def test_samples_made_by_hand_are_checked_against_a_model() -> None:
    samples = Samples(images(6), labels(6, 3))
    check_samples(samples, where="here", num_classes=3, image_shape=SHAPE)
    with pytest.raises(DataError, match=r"(?s)out of range.*here.*0 to 1.*from 0 to 2"):
        check_samples(samples, where="here", num_classes=2)
    with pytest.raises(DataError, match=r"(?s)another shape.*\(32, 32, 3\)"):
        check_samples(samples, where="here", image_shape=(32, 32, 3))


def test_a_description_is_plain_data() -> None:
    given = describe(load(Named(pairs(images(40)))))
    assert given == {
        "name": "Named",
        "image_shape": [4, 5, 3],
        "dtype": "uint8",
        "class_names": ["cat", "dog"],
        "preprocessing": {"offset": [128.0], "multiplier": [1 / 128]},
        "augmentation": {"crop_padding": 0, "horizontal_flip": False},
        "splits": {
            "train": {"num_samples": 32, "per_class": {"cat": 16, "dog": 16}},
            "calibration": {"num_samples": 4, "per_class": {"cat": 2, "dog": 2}},
            "test": {"num_samples": 4, "per_class": {"cat": 2, "dog": 2}},
        },
    }


def test_classes_of_one_name_are_described_apart(tmp_path: Path) -> None:
    names = np.array(["crane", "dog", "crane"])
    counts = np.repeat([0, 1, 2], [10, 20, 30])
    np.savez(tmp_path / "mine.npz", images=images(60), labels=counts, class_names=names)
    given = describe(load(tmp_path / "mine.npz"))
    assert given["class_names"] == ["0: crane", "1: dog", "2: crane"]
    assert given["splits"]["train"]["per_class"] == {"0: crane": 8, "1: dog": 16, "2: crane": 24}


def test_importing_loads_neither_torch_nor_pillow() -> None:
    code = (
        "import sys; from edgeexit.data import load, fetch;"
        "print([name for name in ('torch', 'PIL', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
