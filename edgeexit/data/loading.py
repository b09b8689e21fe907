"""Loads a dataset, a known one or the user's own, as three checked splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeexit.data.archive import read_npz
from edgeexit.data.cache import default_cache
from edgeexit.data.download import Progress
from edgeexit.data.fetching import fetch_arrays
from edgeexit.data.folder import read_folder
from edgeexit.data.recipes import Recipe, list_recipes, read_recipe
from edgeexit.data.split import sizes_of, stratified_parts
from edgeexit.data.streaming_open import open_stream
from edgeexit.data.streaming_source import StreamedSource, read_source
from edgeexit.data.torch_dataset import Sized, read_dataset
from edgeexit.data.types import Augmentation, Preprocessing, Samples, Splits
from edgeexit.data.validate import agreed_classes, as_samples, check_every_class, check_samples
from edgeexit.errors import ArgumentError, DataError

_PARTS = ("train", "calibration", "test")


@dataclass(frozen=True)
class _Given:
    """What a source held: ``parts`` has ``all``, or ``train`` and ``test``."""

    name: str
    parts: Mapping[str, Samples]
    class_names: tuple[str, ...] | None


def load(
    source: str | Path | Sized | Mapping[str, Sized] | StreamedSource,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Splits:
    """Loads a dataset.

    Data of the user's own is divided by ``fractions``, every class in proportion, unless it comes
    divided into ``train`` and ``test``; ``calibration`` is then taken out of ``train`` where it is
    not given. uint8 images get an offset of 128 and a multiplier of 1/128, which costs a device one
    subtraction; float images are taken as they are. `dataclasses.replace` changes that.

    Args:
        source: The name of a known dataset; an ``.npz`` with ``images`` and ``labels``, or with
            ``train_images``, ``train_labels``, ``test_images`` and ``test_labels`` (and
            ``calibration_images``, ``calibration_labels``), either with ``class_names`` or without;
            a folder of class folders, or of ``train`` and ``test`` (and ``calibration``) folders of
            class folders; a ``torch.utils.data.Dataset``, or a dict of them with the keys ``train``
            and ``test`` (and ``calibration``); a `StreamedSource`, or a ``.toml`` file that
            describes one, for data that do not fit in memory.
        cache: Where known datasets, and the places of samples in shards, are kept; the platform's
            own place by default.
        progress: Called as ``progress(what, bytes_done, bytes_in_all)`` while something is fetched.
        fractions: Shares of train, calibration and test in data that come undivided; what they
            sum to does not matter.
        seed: Decides the division of data that come undivided.

    Raises:
        ArgumentError: The source is of no known kind, or a fraction is not positive.
        DataError: The data are not usable; the error says where and why.
        StorageError: The cache cannot be written.
    """
    if isinstance(source, str) and source in list_recipes():
        return _known(read_recipe(source), cache or default_cache(), progress)
    if isinstance(source, str | Path) and Path(source).suffix == ".toml":
        source = read_source(Path(source))
    if isinstance(source, StreamedSource):
        return open_stream(source, cache=cache or default_cache(), seed=seed, progress=progress)
    given = _read(source)
    return _checked(given, _divide(given.parts, fractions, seed))


def _read(source: object) -> _Given:
    if isinstance(source, str | Path):
        return _read_path(source)
    if isinstance(source, Mapping):
        if not {"train", "test"} <= source.keys() <= set(_PARTS):
            raise ArgumentError(
                "the dict does not name the parts of a dataset",
                wanted="train, test and perhaps calibration",
                given=", ".join(map(str, source)) or "no keys",
            )
        parts = {part: read_dataset(item, where=f"{part} split") for part, item in source.items()}
        stated = ((f"{part} split", _classes_of(item)) for part, item in source.items())
        return _Given("dataset", parts, agreed_classes(stated))
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        name = type(source).__name__
        return _Given(name, {"all": read_dataset(source, where=name)}, _classes_of(source))
    raise ArgumentError(
        "this is not a dataset",
        wanted="a name, a path, or an object with a length and items (image, label)",
        given=type(source).__name__,
        hint="StreamedSource takes the datasets of Hugging Face, streamed ones too; another "
        "IterableDataset has to be turned into a list first",
    )


def _read_path(source: str | Path) -> _Given:
    path = Path(source)
    if path.is_dir():
        parts, class_names = read_folder(path)
        return _Given(path.resolve().name, parts, class_names)
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path)
    if isinstance(source, str) and path.name == source and not path.suffix:
        read_recipe(source)
    raise DataError(
        "there are no data at this path",
        wanted="an .npz file, a folder of class folders, or a .toml file of streamed data",
        given="another kind of file" if path.exists() else "nothing",
        where=path,
        hint=f"known datasets: {', '.join(list_recipes())}",
    )


def _read_npz(path: Path) -> _Given:
    pairs = {part: (f"{part}_images", f"{part}_labels") for part in _PARTS}
    pairs["all"] = ("images", "labels")
    arrays = read_npz(
        path, wanted={"class_names", *(key for keys in pairs.values() for key in keys)}
    )
    for images, labels in pairs.values():
        if (images in arrays) != (labels in arrays):
            raise DataError(
                "the .npz has images without labels, or labels without images",
                wanted=f"{images} and {labels}",
                given=", ".join(arrays),
                where=path,
            )
    parts = {
        part: as_samples(arrays[images], arrays[labels], where=f"{path}, {images}")
        for part, (images, labels) in pairs.items()
        if images in arrays
    }
    if "all" in parts and len(parts) > 1:
        raise DataError(
            "the .npz holds a divided and an undivided dataset",
            wanted="images and labels, or train_images, train_labels, test_images and test_labels",
            given=", ".join(arrays),
            where=path,
        )
    if "all" not in parts and not {"train", "test"} <= parts.keys():
        raise DataError(
            "the .npz does not hold a dataset",
            wanted="images and labels, or train_images, train_labels, test_images and test_labels",
            given=", ".join(arrays) or "none of them",
            where=path,
        )
    names = arrays.get("class_names")
    return _Given(path.stem, parts, None if names is None else tuple(map(str, names.ravel())))


def _classes_of(dataset: object) -> tuple[str, ...] | None:
    # torchvision's name for the class names.
    classes = getattr(dataset, "classes", None)
    return tuple(map(str, classes)) if isinstance(classes, list | tuple) else None


def _divide(
    parts: Mapping[str, Samples], fractions: tuple[float, float, float], seed: int
) -> dict[str, Samples]:
    if "calibration" in parts:
        return dict(parts)
    samples = parts.get("all", parts.get("train"))
    assert samples is not None
    shares = dict(zip(_PARTS, fractions, strict=True))
    if "test" in parts:
        del shares["test"]
    sizes = sizes_of(len(samples), tuple(shares.values()))
    indices = stratified_parts(samples.labels, sizes, seed)
    divided = {name: samples[index] for name, index in zip(shares, indices, strict=True)}
    return {**parts, **divided}


def _checked(given: _Given, parts: Mapping[str, Samples]) -> Splits:
    train = parts["train"]
    names = given.class_names
    if names is None:
        names = _numbered(train, where=f"{given.name}, train split")
    image_shape = train.images.shape[1:]
    for part in _PARTS:
        where = f"{given.name}, {part} split"
        check_samples(parts[part], where=where, num_classes=len(names), image_shape=image_shape)
        if parts[part].images.dtype != train.images.dtype:
            raise DataError(
                "the splits differ in dtype",
                wanted=train.images.dtype,
                given=parts[part].images.dtype,
                where=where,
            )
    check_every_class(train.labels, names, where=f"{given.name}, train split")
    is_uint8 = train.images.dtype == np.uint8
    return Splits(
        name=given.name,
        train=train,
        calibration=parts["calibration"],
        test=parts["test"],
        class_names=names,
        preprocessing=Preprocessing((128.0,), (1 / 128,))
        if is_uint8
        else Preprocessing((0.0,), (1.0,)),
        # Whether a mirrored image is still of its class is not for this code to guess.
        augmentation=Augmentation(crop_padding=0, horizontal_flip=False),
    )


def _numbered(train: Samples, *, where: str) -> tuple[str, ...]:
    """The names 0, 1, ... of classes that only their labels tell of."""
    present = np.unique(train.labels)
    count = int(present[-1]) + 1
    if count > len(train):
        # Some class has no sample, and names for all of them may not fit in memory.
        raise DataError(
            "classes have no training samples",
            wanted=f"a sample of each of {count} classes",
            given=f"none of {np.flatnonzero(present != np.arange(len(present)))[0]}",
            where=where,
            hint="labels count from 0 without gaps",
        )
    return tuple(map(str, range(count)))


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
