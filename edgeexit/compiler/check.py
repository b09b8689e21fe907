"""The first look at what the compiler was given, before any minute is spent on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeexit.backends.base import BACKENDS
from edgeexit.data.types import Samples, Splits
from edgeexit.data.validate import check_samples
from edgeexit.errors import (
    ArgumentError,
    BundleError,
    DataError,
    ModelError,
    StorageError,
    TargetError,
)
from edgeexit.nn.model import MultiExitModel
from edgeexit.runtime.decision import MAX_CLASSES
from edgeexit.runtime.manifest import MAX_EXITS, MAX_MANIFEST_BYTES, file_name, plain_text
from edgeexit.targets import Target


def check(
    model: MultiExitModel,
    data: Splits,
    target: Target,
    backends: Sequence[str],
    max_accuracy_drop: float,
    output: Path,
    overwrite: bool,
    finetune_epochs: int = 0,
) -> None:
    """Raises for whatever is already known to go wrong.

    Raises:
        ArgumentError: No backend, an unknown one, a drop that is not a share, or a negative number
            of epochs.
        TargetError: The target does not take one of the backends.
        ModelError: The model has no exits or too many, exits that a manifest cannot name, too many
            classes, or others than the data.
        DataError: The calibration split, or the training split where it is needed, is empty, of
            the wrong shape or dtype, or not finite; or a manifest cannot hold a class's name.
        StorageError: The output exists, or cannot be written.
    """
    if not backends:
        raise ArgumentError("no backend was named", wanted=f"some of {', '.join(BACKENDS)}")
    for backend in backends:
        if backend not in BACKENDS:
            raise ArgumentError("unknown backend", wanted=", ".join(BACKENDS), given=repr(backend))
        if backend not in target.backends:
            raise TargetError(
                f"the target {target.name!r} does not take the backend {backend!r}",
                wanted=", ".join(target.backends),
                given=repr(backend),
            )
    if not 0 <= max_accuracy_drop <= 1:
        raise ArgumentError(
            "the accuracy drop is not a share",
            wanted="0 to 1; 0.01 is one percentage point",
            given=f"max_accuracy_drop={max_accuracy_drop}",
        )
    if finetune_epochs < 0:
        raise ArgumentError(
            "the number of epochs is negative",
            wanted="0, or a few epochs of fine-tuning",
            given=f"finetune_epochs={finetune_epochs}",
        )
    if not 1 <= len(model.exit_names) <= MAX_EXITS or not 2 <= model.num_classes <= MAX_CLASSES:
        raise ModelError(
            "the network does not classify at exits",
            wanted=f"1 to {MAX_EXITS} exits and 2 to {MAX_CLASSES} classes",
            given=f"{len(model.exit_names)} exits, {model.num_classes} classes",
        )
    _check_exit_names(model.exit_names)
    if model.num_classes != data.num_classes:
        raise ModelError(
            "the network and the data have different classes",
            wanted=f"{data.num_classes} classes, as {data.name} has",
            given=f"{model.num_classes} logits at each exit",
            hint=f"create the network with num_classes={data.num_classes}",
        )
    check_samples(data.calibration, where="calibration split", num_classes=data.num_classes)
    if finetune_epochs:
        _check_training_split(data)
    channels = data.calibration.images.shape[-1]
    for name in ("offset", "multiplier"):
        numbers = getattr(data.preprocessing, name)
        if len(numbers) not in (1, channels):
            raise DataError(
                f"the preprocessing has the wrong number of values for {name}",
                wanted=f"1, or {channels} (one for each channel)",
                given=len(numbers),
            )
    _check_texts(data)
    check_output(output, overwrite)


def _check_exit_names(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        where = f"exit {index}"
        if name in names[:index]:
            raise ModelError(
                "two exits have the same name",
                wanted="each name once",
                given=repr(name),
                where=where,
                hint="rename the submodule; the last exit is always called 'final'",
            )
        _check_text(name, where, ModelError, "the name of this exit", "rename the submodule")


def _check_training_split(data: Splits) -> None:
    where = "training split, which fine-tuning needs"
    train, wanted = data.train, data.calibration.images
    if isinstance(train, Samples):
        check_samples(
            train, where=where, num_classes=data.num_classes, image_shape=wanted.shape[1:]
        )
        form = (train.images.dtype, *train.images.shape[1:])
    else:  # labels and images are checked while they are read
        form = (np.dtype(np.uint8), *train.image_shape)
    if len(train) == 0 or form != (wanted.dtype, *wanted.shape[1:]):
        raise DataError(
            "the training split is not like the calibration split",
            wanted=f"samples of {(str(wanted.dtype), *wanted.shape[1:])}",
            given=f"{len(train)} samples of {(str(form[0]), *form[1:])}",
            where=where,
        )


def _check_texts(data: Splits) -> None:
    texts = {f"class_names[{label}]": name for label, name in enumerate(data.class_names)}
    hint = "rename it in the data; of a folder, classes are the folders in it"
    for where, text in {"name": f"{data.name}/calibration", **texts}.items():
        _check_text(text, where, DataError, "this name of the data", hint)


def _check_text(
    text: str, where: str, error: type[ModelError | DataError], what: str, hint: str
) -> None:
    try:
        plain_text(text, where)
    except BundleError as exc:
        raise error(
            f"a bundle cannot hold {what}",
            wanted=exc.wanted,
            given=repr(text),
            where=where,
            hint=hint,
        ) from exc


def check_name(name: str) -> None:
    """Raises `ArgumentError` where a bundle may not be called ``name``."""
    try:
        file_name(name, "name")
    except BundleError as exc:
        raise ArgumentError(
            "a bundle cannot have this name",
            wanted=exc.wanted,
            given=repr(name),
            hint="give it another than its folder's: --name NAME, name=...",
        ) from exc


def check_output(output: Path, overwrite: bool) -> None:
    """Raises `StorageError` where a bundle may not be written."""
    if output.exists() and not (overwrite and _is_bundle(output)):
        raise StorageError(
            "the output exists already",
            wanted="a path where nothing is" if not overwrite else "nothing there, or a bundle",
            given=output,
            hint="choose another path, or overwrite a bundle: --overwrite, overwrite=True",
        )


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle's manifest, of whatever version; others have such a file."""
    try:
        with (folder / "manifest.json").open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
        document = json.loads(content) if len(content) <= MAX_MANIFEST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and {"schema_version", "segments"} <= document.keys()
