"""What one optimizer step minimises: a file for each method, and the list of them.

A method goes with any strategy. Its options are the fields of its class; `create` makes one from
its name and options as a command line or a checkpoint gives them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields

from edgeexit.errors import ArgumentError
from edgeexit.training.methods.base import Batches, Method, Step

__all__ = ["METHODS", "Batches", "Method", "Step", "create"]

METHODS: dict[str, str] = {
    "uniform": "Uniform",
    "sdn": "SDN",
    "branchynet": "BranchyNet",
    "pbee": "PBEE",
    "gpf": "GPF",
    "ztw": "ZTW",
    "e2cm": "E2CM",
    "l2w_den": "L2WDEN",
    "self_distillation": "SelfDistillation",
    "gradient_scaling": "GradientScaling",
    "gradient_equilibrium": "GradientEquilibrium",
    "raptr": "RaPTr",
    "partially_masked": "PartiallyMasked",
}
"""Name of a method, which is that of its file -> its class there."""

Option = str | int | float | bool


def create(name: str, options: Mapping[str, Option] | None = None) -> Method:
    """A method by name.

    Args:
        name: A key of ``METHODS``.
        options: Fields of its class that differ from their defaults; texts are read as the field's
            type.

    Raises:
        ArgumentError: No such method or option, or a value that it does not take.
    """
    if name not in METHODS:
        raise ArgumentError("unknown method", wanted=", ".join(METHODS), given=repr(name))
    module = importlib.import_module(f"{__name__}.{name}")
    cls: type[Method] = getattr(module, METHODS[name])
    defaults = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Option] = {}
    for option, given in (options or {}).items():
        if option not in defaults:
            raise ArgumentError(
                f"method {name!r} has no option {option!r}",
                wanted=", ".join(defaults) or "no options",
                given=f"{option}={given}",
            )
        values[option] = _as_type_of(defaults[option], option, given)
    return cls(**values)


def _as_type_of(default: object, option: str, given: Option) -> Option:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(given).lower()]
        if kind in (int, float, str):
            return kind(given)
    except (KeyError, ValueError):
        pass
    raise ArgumentError(
        f"option {option!r} has the wrong type", wanted=kind.__name__, given=f"{option}={given}"
    )
