"""Reads and writes a model's weights as safetensors: numbers and shapes, nothing that runs."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from edgeexit.errors import CheckpointError


def read_weights(path: Path, model: nn.Module) -> None:
    """Loads every parameter and buffer of ``model`` from ``path``.

    Raises:
        CheckpointError: The file is missing or damaged, or names and shapes are not the model's.
    """
    try:
        state = load_file(path)
    except FileNotFoundError as exc:
        raise CheckpointError("no weights file", wanted="a .safetensors file", where=path) from exc
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(
            "the weights file cannot be read", given=exc, where=path, hint="train or copy it again"
        ) from exc
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise CheckpointError(
            "the weights are of another network",
            wanted=f"{len(own)} tensors",
            given=f"missing {missing[:3]}, unknown {unknown[:3]}",
            where=path,
            hint="create the model as it was trained: same backbone, same exits",
        )
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                "a tensor has another shape",
                wanted=f"{name} {tuple(tensor.shape)}",
                given=f"{name} {tuple(state[name].shape)}",
                where=path,
                hint="check num_classes, in_channels and image_size",
            )
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(
                "a tensor is of another type",
                wanted=f"{name} {tensor.dtype}",
                given=f"{name} {state[name].dtype}",
                where=path,
                hint="give the weights of the float network",
            )
    model.load_state_dict(state)


def weights_bytes(model: nn.Module) -> bytes:
    """Every parameter and buffer of ``model`` as the content of a safetensors file."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    return save(state)
