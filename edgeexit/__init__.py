"""edgeexit turns a PyTorch classifier into an early-exit program for a device.

Every name below is loaded on first use, so that a device which only runs bundles never imports
PyTorch, and a shell that only asks for ``--help`` imports next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from edgeexit._version import __version__

if TYPE_CHECKING:
    from edgeexit import data, errors
    from edgeexit.compiler.pipeline import compile_model as compile
    from edgeexit.nn import heads, zoo
    from edgeexit.nn.attach import attach_exits
    from edgeexit.nn.model import MultiExitModel
    from edgeexit.profiling import profile
    from edgeexit.runtime.bundle import Bundle, open_bundle
    from edgeexit.runtime.session import Session
    from edgeexit.targets import list_targets, load_target
    from edgeexit.training import load_checkpoint, train
    from edgeexit.types import OperatingPoint, Result

__all__ = [
    "Bundle",
    "MultiExitModel",
    "OperatingPoint",
    "Result",
    "Session",
    "__version__",
    "attach_exits",
    "compile",
    "data",
    "errors",
    "heads",
    "list_targets",
    "load_checkpoint",
    "load_target",
    "open_bundle",
    "profile",
    "train",
    "zoo",
]

# Public name -> (module that owns it, its name there); None stands for the module itself.
_OWNERS: dict[str, tuple[str, str | None]] = {
    "Bundle": ("edgeexit.runtime.bundle", "Bundle"),
    "MultiExitModel": ("edgeexit.nn.model", "MultiExitModel"),
    "OperatingPoint": ("edgeexit.types", "OperatingPoint"),
    "Result": ("edgeexit.types", "Result"),
    "Session": ("edgeexit.runtime.session", "Session"),
    "attach_exits": ("edgeexit.nn.attach", "attach_exits"),
    "compile": ("edgeexit.compiler.pipeline", "compile_model"),
    "data": ("edgeexit.data", None),
    "errors": ("edgeexit.errors", None),
    "heads": ("edgeexit.nn.heads", None),
    "list_targets": ("edgeexit.targets", "list_targets"),
    "load_checkpoint": ("edgeexit.training", "load_checkpoint"),
    "load_target": ("edgeexit.targets", "load_target"),
    "open_bundle": ("edgeexit.runtime.bundle", "open_bundle"),
    "profile": ("edgeexit.profiling", "profile"),
    "train": ("edgeexit.training", "train"),
    "zoo": ("edgeexit.nn.zoo", None),
}


def __getattr__(name: str) -> object:
    if name not in _OWNERS:
        raise AttributeError(f"module 'edgeexit' has no attribute {name!r}")
    module, attribute = _OWNERS[name]
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("edgeexit"):
            raise
        hint = "pip install 'edgeexit[compile]'"
        raise ModuleNotFoundError(
            f"edgeexit.{name} needs {exc.name}, which is not installed; {hint}", name=exc.name
        ) from exc
    value = owner if attribute is None else getattr(owner, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
