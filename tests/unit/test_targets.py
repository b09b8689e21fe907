from __future__ import annotations

from pathlib import Path

import pytest

from edgeexit.errors import TargetError
from edgeexit.targets import list_targets, load_target

GOOD = """
name = "bench"
description = "A board on the bench"
system = "Linux"
architectures = ["aarch64"]
[engines]
tflite = "litert_reference"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "bench.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_host_ships_and_takes_both_backends() -> None:
    host = load_target("host")
    assert host.backends == ("tflite", "executorch")
    assert host.engines == {"tflite": "litert", "executorch": "executorch"}
    assert host in list_targets()


def test_shipped_files_are_called_what_they_describe() -> None:
    assert all(load_target(target.name) == target for target in list_targets())


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    target = load_target(write(tmp_path, GOOD))
    assert (target.name, target.backends) == ("bench", ("tflite",))
    assert target.engines["tflite"] == "litert_reference"


def test_unknown_target_names_near_ones() -> None:
    with pytest.raises(TargetError, match=r"no target 'hots'(.|\n)*did you mean host"):
        load_target("hots")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "bench"', "", "has no name"),
        ('name = "bench"', "name = 3", "name has the wrong type(.|\n)*given: 3"),
        ('name = "bench"', 'name = ""', "not empty"),
        ('["aarch64"]', "[]", "architectures has the wrong type"),
        ('["aarch64"]', "[7]", "architectures has the wrong type"),
        ("tflite =", "tflight =", "unknown backend(.|\n)*'tflight'"),
        ('"litert_reference"', "1", "engines.tflite has the wrong type"),
        ('"litert_reference"', '"litert_referenz"', "no such engine"),
        ('"litert_reference"', '"executorch"', "does not run"),
        ('tflite = "litert_reference"', "", "no backend"),
        ("system =", "sistem =", "no system"),
        ('name = "bench"', 'name = "bench"\nflash_kib = 3', "unknown key 'flash_kib'"),
        ("[engines]", "[engines", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TargetError, match=message) as caught:
        load_target(path)
    assert "bench.toml" in str(caught.value)


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot be read(.|\n)*No such file"):
        load_target(tmp_path / "absent.toml")
    path = write(tmp_path, "#" * (1 << 20) + GOOD)
    with pytest.raises(TargetError, match="too large"):
        load_target(path)
