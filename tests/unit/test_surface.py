from __future__ import annotations

import re

import pytest

import edgeexit as ee

# Adding a name is a decision to keep it; removing one breaks somebody's program.
PUBLIC = [
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


def test_public_names_are_frozen() -> None:
    assert ee.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_explains_itself(name: str) -> None:
    value = getattr(ee, name)
    assert name in dir(ee)
    assert name == "__version__" or value.__doc__


def test_every_error_is_in_the_tree() -> None:
    assert ee.errors.__doc__ is not None
    drawn = set(re.findall(r"\w+Error\b", ee.errors.__doc__))
    assert drawn == {name for name in vars(ee.errors) if name.endswith("Error")}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_torch(name: str) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("importlib.import_module", without_torch)
    monkeypatch.delitem(vars(ee), "train", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs torch.*pip install 'edgeexit\[compile\]'"
    ):
        _ = ee.train


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        _ = ee.tarin  # type: ignore[attr-defined]
