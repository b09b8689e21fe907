"""How a command line names a network: a zoo name, a checkpoint folder, or a function of one's own.

A folder that ``edgeexit train`` fills also gets a ``model.json``, which says which network its
weights belong to.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeexit.errors import ArgumentError, CheckpointError, EdgeExitError, ModelError

if TYPE_CHECKING:
    from edgeexit.data.types import Splits
    from edgeexit.nn.model import MultiExitModel

_DESCRIPTION = "model.json"
_MAX_DESCRIPTION_BYTES = 1 << 16
_FUNCTION = "package.module:function"


@dataclass(frozen=True)
class ModelName:
    """A network by name: a key of the zoo, or ``package.module:function``.

    ``image_size`` is height and width, the network's usual ones if None. ``method`` and its options
    say what training made of it, which may have changed its structure.
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: tuple[int, int] | None = None
    method: str = "uniform"
    method_options: Mapping[str, str] = field(default_factory=dict)


def build_model(model: ModelName, *, weights: str | None = None) -> MultiExitModel:
    """Builds a network by its name, as it is before a training method changes it.

    Args:
        model: Which, and for how many classes and channels (a function of one's own is called
            without arguments and decides for itself).
        weights: Data set whose shipped weights are loaded; zoo networks only.

    Raises:
        ArgumentError: There is no such network, function or weights.
        ModelError: The module cannot be imported, or the function failed or did not return a
            network with exits.
    """
    if ":" not in model.name:
        from edgeexit.nn import zoo

        return zoo.create(
            model.name,
            num_classes=model.num_classes,
            in_channels=model.in_channels,
            image_size=model.image_size,
            pretrained=weights,
        )
    if weights is not None:
        raise ArgumentError(
            "shipped weights are for networks of the zoo",
            wanted="a zoo network with --weights, or a function without it",
            given=f"{model.name} --weights {weights}",
            hint="let the function load its own weights",
        )
    return _call(model.name)


def load_trained(
    name_or_folder: str,
    *,
    weights: str | None,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int] | None = None,
) -> MultiExitModel:
    """A trained network: a checkpoint folder, or as `build_model`.

    Raises:
        CheckpointError: The folder is missing, or not one that ``edgeexit train`` filled.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        if len(folder.parts) > 1 and ":" not in name_or_folder:
            raise CheckpointError(
                "there is no trained network here",
                wanted="a folder made by `edgeexit train`",
                given="a file" if folder.exists() else "nothing",
                where=folder,
            )
        name = ModelName(name_or_folder, num_classes, in_channels, image_size)
        return build_model(name, weights=weights)
    if weights is not None:
        raise ArgumentError(
            "a checkpoint has weights of its own",
            wanted="a checkpoint folder without --weights",
            given=f"{folder} --weights {weights}",
        )
    from edgeexit.training import load_checkpoint

    model = build_model(_read_description(folder / _DESCRIPTION))
    load_checkpoint(folder, model)
    return model


def trained_core(name_or_folder: str, whole: MultiExitModel, splits: Splits) -> MultiExitModel:
    """The low-rank core that a run of ``partially_masked`` trained, as a network of its own.

    Args:
        name_or_folder: Where ``whole`` comes from.
        whole: The network that the run trained; it is left as it is.
        splits: The run's data: batch-norm statistics of the core come from the training split.

    Raises:
        ArgumentError: The network is not of such a run.
        CheckpointError: The folder is not one that ``edgeexit train`` filled.
    """
    import torch

    from edgeexit.training.batches import training_samples
    from edgeexit.training.methods import create
    from edgeexit.training.methods.partially_masked import PartiallyMasked, split_core

    folder = Path(name_or_folder)
    description = _read_description(folder / _DESCRIPTION) if folder.is_dir() else None
    method = create(description.method, description.method_options) if description else None
    if not isinstance(method, PartiallyMasked):
        raise ArgumentError(
            "there is no core to split off",
            wanted="a folder that edgeexit train --method partially_masked filled",
            given=name_or_folder + (f", trained with {description.method}" if description else ""),
            hint="leave --core out to compile the whole network",
        )
    batch = 500
    samples = training_samples(
        splits.train,
        splits.preprocessing,
        torch.device("cpu"),
        torch.contiguous_format,
        batch_size=batch,
        rank=0,
        world=1,
    )
    return split_core(whole, method.rank_share, lambda: samples.unaugmented(batch))


def trained_rule(name_or_folder: str) -> str:
    """The rule of decision that a checkpoint's training method was made for.

    Raises:
        CheckpointError: The folder is not one that ``edgeexit train`` filled.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        return "confidence"
    from edgeexit.training.methods import create

    description = _read_description(folder / _DESCRIPTION)
    return create(description.method, description.method_options).rule


def write_description(folder: Path, model: ModelName) -> None:
    """Writes into a checkpoint folder which network it is of.

    Raises:
        StorageError: The folder cannot be written.
    """
    from edgeexit.training.checkpoint import write_whole

    content = json.dumps(asdict(model), indent=2) + "\n"
    write_whole(folder / _DESCRIPTION, content.encode())


def check_description(folder: Path, model: ModelName) -> None:
    """Checks that a checkpoint folder is of this network, trained by this method.

    Raises:
        CheckpointError: It is of another, or not a checkpoint.
    """
    found = _read_description(folder / _DESCRIPTION)
    if found != model:
        raise CheckpointError(
            "the folder holds a run of another network or method",
            wanted=_words(found),
            given=_words(model),
            where=folder,
            hint="repeat what that run was started with, or choose another output folder",
        )


def _words(model: ModelName) -> str:
    return ", ".join(f"{key}={value}" for key, value in asdict(model).items())


def _read_description(path: Path) -> ModelName:
    try:
        if path.stat().st_size > _MAX_DESCRIPTION_BYTES:
            raise ValueError("it is too large")
        fields = json.loads(path.read_text(encoding="utf-8"))
        name, num_classes, channels = (
            fields[key] for key in ("name", "num_classes", "in_channels")
        )
        size, method = fields.get("image_size"), fields.get("method", "uniform")
        options = fields.get("method_options", {})
        texts, numbers = (name, method, *options.values()), (num_classes, channels, *(size or ()))
        if (
            not all(isinstance(text, str) for text in texts)
            or not all(type(number) is int for number in numbers)
            or len(size or (0, 0)) != 2
        ):
            raise ValueError("a field has the wrong type")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise CheckpointError(
            "the folder is not a checkpoint of edgeexit train",
            wanted=f"a folder with {_DESCRIPTION}",
            given=exc,
            where=path.parent,
            hint="train one: edgeexit train resnet8 --data cifar10 --output FOLDER",
        ) from exc
    return ModelName(name, num_classes, channels, tuple(size) if size else None, method, options)


def _call(name: str) -> MultiExitModel:
    from edgeexit.nn.model import MultiExitModel

    module_name, _, function_name = name.partition(":")
    if not function_name or not module_name or module_name.startswith("."):
        raise ArgumentError(
            "a function is named with its module", wanted=_FUNCTION, given=repr(name)
        )
    # As `python -m` does: a module beside the user is found, an installed command otherwise not.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except EdgeExitError:
        raise
    except Exception as exc:
        # The module or a package around it; what it imports itself is another matter.
        if isinstance(exc, ModuleNotFoundError) and f"{module_name}.".startswith(f"{exc.name}."):
            raise ArgumentError(
                f"there is no module {module_name!r}",
                wanted=f"{_FUNCTION}, importable from this folder",
                given=name,
            ) from exc
        raise ModelError(
            "the module of the network cannot be imported",
            given=f"{type(exc).__name__}: {exc}",
            where=name,
        ) from exc
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ArgumentError(
            f"module {module_name!r} has no function {function_name!r}",
            wanted=_FUNCTION,
            given=name,
            where=module.__file__,
        )
    try:
        model = function()
    except EdgeExitError:
        raise
    except Exception as exc:
        raise ModelError(
            "the function that makes the network failed",
            given=f"{type(exc).__name__}: {exc}",
            where=name,
        ) from exc
    if not isinstance(model, MultiExitModel):
        raise ModelError(
            "the function did not return a network with exits",
            wanted="a MultiExitModel, as attach_exits makes",
            given=type(model).__name__,
            where=name,
        )
    return model
