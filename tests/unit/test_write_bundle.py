"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import errno
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeexit import storage
from edgeexit.compiler import bundle as writer
from edgeexit.compiler.bundle import golden_bytes, write_bundle
from edgeexit.errors import StorageError
from edgeexit.runtime.bundle import open_bundle
from edgeexit.storage import write_folder
from edgeexit.types import Artifact, Manifest

VECTORS = {
    "inputs": np.arange(32, dtype=np.int8).reshape(2, 4, 4, 1),
    "labels": np.array([1, 2]),
    "logits_tflite": np.zeros((2, 2, 3), np.int8),
    "exits_tflite": np.array([0, 1]),
}


def artifacts() -> list[Artifact]:
    files = {0: "segments/0.tflite", 1: "segments/1.tflite", None: "segments/static.tflite"}
    return [
        Artifact("tflite", path, path.encode(), ((segment, None),), "NHWC")
        for segment, path in files.items()
    ]


@pytest.fixture
def manifest(bundle_folder: Path) -> Manifest:
    return replace(open_bundle(bundle_folder).manifest, artifacts=())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_opens_again(manifest: Manifest, tmp_path: Path) -> None:
    output = tmp_path / "new" / "a.eexit"
    bundle = write_bundle(manifest, artifacts(), VECTORS, output)
    assert bundle.path == output
    assert left(output.parent) == ["a.eexit"]
    assert left(output) == ["golden.npz", "manifest.json", "segments"]
    assert bundle.read(bundle.manifest.artifacts[1]) == b"segments/1.tflite"
    assert np.array_equal(bundle.golden()["inputs"], VECTORS["inputs"])


def test_the_same_bytes_under_any_name(manifest: Manifest, tmp_path: Path) -> None:
    outputs = [tmp_path / "a.eexit", tmp_path / "other" / "b.eexit"]
    for output in outputs:
        write_bundle(manifest, artifacts(), VECTORS, output)
    files = [
        {str(p.relative_to(o)): p.read_bytes() for p in o.rglob("*") if p.is_file()}
        for o in outputs
    ]
    assert files[0] == files[1]


def test_golden_vectors_are_a_plain_npz() -> None:
    content = golden_bytes(VECTORS)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert {name: array.tolist() for name, array in arrays.items()} == {
            name: array.tolist() for name, array in VECTORS.items()
        }
    assert b"1980" not in content


def test_nothing_is_replaced_unless_asked(manifest: Manifest, tmp_path: Path) -> None:
    output = tmp_path / "a.eexit"
    write_bundle(manifest, artifacts(), VECTORS, output)
    with pytest.raises(StorageError, match="exists already"):
        write_bundle(manifest, artifacts(), VECTORS, output)
    changed = replace(manifest, name="renamed")
    write_bundle(changed, artifacts(), VECTORS, output, overwrite=True)
    assert open_bundle(output).manifest.name == "renamed"
    assert "a.eexit" in left(tmp_path)
    assert not [name for name in left(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(
    "theirs",
    [
        None,
        b'{"manifest_version": 3, "name": "a browser extension"}',
        b'{"schema_version": 1, "name": "something else"}',
        b'["schema_version", "segments"]',
        b"not JSON",
        b'{"schema_version": 1, "segments": [' + b"[" * 100_000,
        b'{"schema_version": 1, "segments": "' + b"x" * (4 << 20) + b'"}',
    ],
)
def test_overwriting_takes_bundles_only(
    theirs: bytes | None, manifest: Manifest, tmp_path: Path
) -> None:
    output = tmp_path / "photos"
    output.mkdir()
    (output / "me.png").write_bytes(b"precious")
    if theirs is not None:
        (output / "manifest.json").write_bytes(theirs)
    with pytest.raises(StorageError, match="exists already"):
        write_bundle(manifest, artifacts(), VECTORS, output, overwrite=True)
    assert "me.png" in left(output)


def test_a_bundle_of_another_version_is_overwritten(manifest: Manifest, tmp_path: Path) -> None:
    output = tmp_path / "a.eexit"
    output.mkdir()
    (output / "manifest.json").write_bytes(b'{"schema_version": 0, "segments": []}')
    write_bundle(manifest, artifacts(), VECTORS, output, overwrite=True)
    assert open_bundle(output).manifest.name == manifest.name


@pytest.mark.parametrize(
    ("failure", "error", "match"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "disk is full"),
        (OSError(errno.EACCES, "Permission denied"), StorageError, "cannot be written"),
        (KeyboardInterrupt("by hand"), KeyboardInterrupt, "by hand"),
    ],
)
def test_interrupted_writes_leave_nothing(
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    error: type[BaseException],
    match: str,
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write = Path.write_bytes

    def fails(path: Path, content: bytes) -> int:
        if path.name == "1.tflite":
            raise failure
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(error, match=match):
        write_bundle(manifest, artifacts(), VECTORS, folder / "a.eexit")
    assert left(folder) == []


def test_a_failed_replacement_keeps_the_old_bundle(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "a.eexit"
    write_bundle(manifest, artifacts(), VECTORS, output)
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(manifest, artifacts(), VECTORS, output, overwrite=True)
    assert left(output.parent) == ["a.eexit"]
    assert open_bundle(output).manifest == open_bundle(output).manifest


DEATH = """
import os, pathlib, sys
from edgeexit.storage import write_folder
rename = pathlib.Path.rename
def dies(path, target):
    if path.suffix == ".partial":
        os._exit(9)
    return rename(path, target)
output = pathlib.Path(sys.argv[1])
write_folder({"a": b"old"}, output)
pathlib.Path.rename = dies
write_folder({"a": b"new"}, output, replace=True)
"""


def test_a_death_between_the_renames_leaves_both_and_is_in_nobodys_way(tmp_path: Path) -> None:
    output = tmp_path / "a"
    assert subprocess.run([sys.executable, "-c", DEATH, str(output)], check=False).returncode == 9
    old, partial = left(tmp_path)
    assert re.fullmatch(r"\.a\.[0-9a-f]{8}\.old", old)
    assert partial == old.replace(".old", ".partial")
    assert (tmp_path / old / "a").read_bytes() == b"old"
    write_folder({"a": b"newer"}, output)
    assert (output / "a").read_bytes() == b"newer"
    assert left(tmp_path) == [old, partial, "a"]


def test_files_are_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(storage, "_to_disk", lambda path: events.append(path.name))

    def noted(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", noted)
    write_folder({"a": b"1", "b/c": b"2"}, tmp_path / "x")
    assert sorted(events[:-2])[1:] == ["a", "b", "c"]
    assert events[-2:] == ["rename", tmp_path.name]


def test_a_link_goes_on_naming_its_folder(tmp_path: Path) -> None:
    write_folder({"a": b"old"}, tmp_path / "v1" / "x")
    for name, target in {"latest": "v1/x", "next": "v2/x"}.items():
        (tmp_path / name).symlink_to(target)
        write_folder({"a": b"new"}, tmp_path / name, replace=True)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target / "a").read_bytes() == b"new"
        assert left((tmp_path / target).parent) == ["x"]
    assert left(tmp_path) == ["latest", "next", "v1", "v2"]


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(StorageError, match="cannot be written"):
        write_folder({"a": b"1"}, tmp_path / "x", replace=True)
    assert left(tmp_path) == ["x"]


def test_a_folder_is_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_folder({"a": b"1"}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_somebody_else_was_faster(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "a.eexit"

    def meanwhile(folder: Path) -> None:
        output.mkdir()
        (output / "theirs").write_bytes(b"x")

    monkeypatch.setattr(writer, "open_bundle", meanwhile)
    with pytest.raises(StorageError, match="somebody else"):
        write_bundle(manifest, artifacts(), VECTORS, output)
    assert left(output) == ["theirs"]
    assert left(output.parent) == ["a.eexit"]


def test_output_below_a_file(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        write_bundle(manifest, artifacts(), VECTORS, tmp_path / "file" / "a.eexit")
