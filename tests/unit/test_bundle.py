"""Bundles that somebody damaged, or made to do harm."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.errors import BundleError, BundleVersionError
from edgeexit.runtime import bundle as bundle_module
from edgeexit.runtime.bundle import open_bundle, read_arrays


def test_a_whole_bundle_opens(bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    assert bundle.manifest.name == "tiny"
    assert bundle.read(bundle.manifest.artifacts[1]) == b"one"
    assert open_bundle(str(bundle_folder)) == bundle


def test_other_files_are_left_alone(bundle_folder: Path) -> None:
    (bundle_folder / "notes.txt").write_text("mine")
    open_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["segments/0.tflite", "static.tflite", "golden.npz"])
def test_a_flipped_byte_is_noticed(bundle_folder: Path, name: str) -> None:
    content = bytearray((bundle_folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"(?s)damaged.*tiny.eexit/{name}"):
        open_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["manifest.json", "segments/1.tflite", "golden.npz"])
def test_a_missing_file_is_named(bundle_folder: Path, name: str) -> None:
    (bundle_folder / name).unlink()
    with pytest.raises(BundleError, match=rf"(?s)missing.*{name}"):
        open_bundle(bundle_folder)


def test_a_file_of_another_size(bundle_folder: Path) -> None:
    (bundle_folder / "static.tflite").write_bytes(b"static and more")
    with pytest.raises(BundleError, match=r"(?s)too large.*up to 6 bytes.*15 bytes"):
        open_bundle(bundle_folder)
    (bundle_folder / "static.tflite").write_bytes(b"stat")
    with pytest.raises(BundleError, match=r"(?s)damaged.*6 bytes.*4 bytes"):
        open_bundle(bundle_folder)


def test_a_file_that_changes_after_opening(bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    (bundle_folder / "segments/0.tflite").write_bytes(b"zerO")
    with pytest.raises(BundleError, match="damaged"):
        bundle.read(bundle.manifest.artifacts[0])


def test_a_newer_schema(bundle_folder: Path) -> None:
    (bundle_folder / "manifest.json").write_text('{"schema_version": 2}')
    with pytest.raises(BundleVersionError, match="newer"):
        open_bundle(bundle_folder)


def test_a_huge_manifest_is_not_read(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module.manifest_json, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(BundleError, match=r"(?s)too large.*manifest.json.*up to 10 bytes"):
        open_bundle(bundle_folder)


@pytest.mark.parametrize("target", ["segments/1.tflite", "/etc/passwd", "nowhere"])
@pytest.mark.parametrize("name", ["segments/0.tflite", "extra", "segments/extra"])
def test_links_are_refused(bundle_folder: Path, name: str, target: str) -> None:
    (bundle_folder / name).unlink(missing_ok=True)
    (bundle_folder / name).symlink_to(target)
    with pytest.raises(BundleError, match=r"(?s)holds a link.*symbolic link"):
        open_bundle(bundle_folder)


def test_a_linked_folder_is_refused(bundle_folder: Path) -> None:
    (bundle_folder / "segments").rename(bundle_folder.parent / "elsewhere")
    (bundle_folder / "segments").symlink_to("../elsewhere")
    with pytest.raises(BundleError, match="holds a link"):
        open_bundle(bundle_folder)


def test_a_link_that_appears_after_the_search(bundle_folder: Path) -> None:
    bundle = open_bundle(bundle_folder)
    (bundle_folder / "static.tflite").rename(bundle_folder.parent / "static.tflite")
    (bundle_folder / "static.tflite").symlink_to("../static.tflite")
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.read(bundle.manifest.artifacts[2])


def test_the_folder_itself_may_be_a_link(bundle_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.eexit"
    link.symlink_to(bundle_folder)
    assert open_bundle(link).manifest.name == "tiny"


def test_a_pipe_does_not_block(bundle_folder: Path) -> None:
    (bundle_folder / "golden.npz").unlink()
    os.mkfifo(bundle_folder / "golden.npz")
    with pytest.raises(BundleError, match="no plain file"):
        open_bundle(bundle_folder)


def test_a_path_that_leaves_the_folder(bundle_folder: Path) -> None:
    document = json.loads((bundle_folder / "manifest.json").read_bytes())
    document["golden"]["path"] = "../golden.npz"
    (bundle_folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"(?s)leaves the folder.*\.\./golden.npz"):
        open_bundle(bundle_folder)


def test_no_bundle_here(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"(?s)no bundle here.*nothing"):
        open_bundle(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"(?s)no bundle here.*a file"):
        open_bundle(tmp_path / "file")
    with pytest.raises(BundleError, match=r"(?s)missing.*manifest.json"):
        open_bundle(tmp_path)


def test_a_folder_that_cannot_be_read(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: Path) -> Any:
        if path.name == "segments":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(BundleError, match=r"(?s)cannot be read.*tiny.eexit/segments.*denied"):
        open_bundle(bundle_folder)


def test_a_folder_in_one_that_cannot_be_read(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(BundleError, match=r"(?s)cannot be read.*tiny.eexit.*denied"):
        open_bundle(bundle_folder)


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


GOLDEN = {
    "inputs": np.zeros((2, 4, 4, 1), np.int8),
    "labels": np.zeros(2, np.int64),
    "logits": np.zeros((2, 2, 3), np.int8),
    "logits_tflite": np.zeros((2, 2, 3), np.int8),
    "exits_tflite": np.zeros(2, np.int64),
}


def with_golden(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    content = npz(**arrays)
    document = json.loads((folder / "manifest.json").read_bytes())
    document["golden"].update(
        sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content), path="golden.npz"
    )
    (folder / "manifest.json").write_text(json.dumps(document))
    (folder / "golden.npz").write_bytes(content)
    return folder


def test_golden_vectors_with_and_without_labels(bundle_folder: Path) -> None:
    golden = open_bundle(with_golden(bundle_folder, GOLDEN)).golden()
    assert {name: array.shape for name, array in golden.items()} == {
        name: array.shape for name, array in GOLDEN.items()
    }
    bare = {name: GOLDEN[name] for name in ("inputs", "logits_tflite", "exits_tflite")}
    assert open_bundle(with_golden(bundle_folder, bare)).golden().keys() == bare.keys()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("inputs", None, r"wanted: inputs: int8 \[1, 4, 4, 1\].*given: nothing"),
        ("inputs", np.zeros((0, 4, 4, 1), np.int8), r"int8 \[1, 4, 4, 1\].*int8 \[0, 4, 4, 1\]"),
        ("inputs", np.int8(0), r"int8 \[1, 4, 4, 1\].*given: int8 \[\]"),
        ("inputs", np.zeros((2, 4, 4, 1)), r"int8 \[2, 4, 4, 1\].*given: float64"),
        ("inputs", np.zeros((2, 4, 4, 2), np.int8), r"given: int8 \[2, 4, 4, 2\]"),
        ("labels", np.zeros(3, np.int64), r"labels: int64 \[2\].*given: int64 \[3\]"),
        ("logits", np.zeros((2, 3, 2), np.int8), r"logits: int8 \[2, 2, 3\]"),
        ("logits_tflite", None, "logits_tflite: int8.*nothing"),
        ("exits_tflite", None, "exits_tflite: int64.*nothing"),
    ],
)
def test_golden_vectors_that_do_not_fit(
    bundle_folder: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    arrays = {key: value for key, value in {**GOLDEN, name: array}.items() if value is not None}
    bundle = open_bundle(with_golden(bundle_folder, arrays))
    with pytest.raises(BundleError, match=rf"(?s)do not fit the manifest.*golden.npz.*{message}"):
        bundle.golden()


def npy(shape: str, data: bytes, descr: str = "'|i1'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def raw_header(text: str) -> bytes:
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


def moved_directory(content: bytes) -> bytes:
    """With an end record that says that the directory is longer than the file."""
    at = content.rindex(b"PK\5\6") + 12
    return content[:at] + (1 << 20).to_bytes(4, "little") + content[at + 4 :]


class Tripwire:
    """Unpickling one of these would be noticed."""

    fired = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (setattr, (Tripwire, "fired", True))


def test_arrays_round_trip() -> None:
    arrays = {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b": np.array([True, False])}
    read = read_arrays(npz(**arrays), "golden")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)


def test_nothing_is_unpickled() -> None:
    objects = np.array([Tripwire()], dtype=object)
    stream = io.BytesIO()
    np.savez(stream, a=objects)
    assert b"Tripwire" in zipfile.ZipFile(stream).read("a.npy")
    with pytest.raises(BundleError, match="an array of object"):
        read_arrays(stream.getvalue(), "golden")
    with pytest.raises(BundleError, match="an array cannot be read"):
        read_arrays(zipped(a=pickle.dumps(Tripwire())), "golden")
    assert not Tripwire.fired


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "archive of arrays cannot be read"),
        (b"PK\x03\x04 not a zip", "archive of arrays cannot be read"),
        (zipped(a=b""), "array cannot be read"),
        (zipped(a=npy("(4,)", b"123")), r"3 bytes for int8 \(4,\)"),
        (zipped(a=npy("(4,)", b"12345")), r"5 bytes for int8 \(4,\)"),
        (zipped(a=npy("(-1,)", b"")), "array cannot be read"),
        (zipped(a=npy("(2**40,)", b"")), "array cannot be read"),
        (zipped(a=npy("(1099511627776,)", b"1")), "array cannot be read"),
        (zipped(a=npy("(1,)", b"1", "'O'")), "array of object"),
        (zipped(a=npy("(1,)", b"1", "__import__('os')")), "array cannot be read"),
        (zipped(a=npy("(1,)", b"1")[:9]), "array cannot be read"),
        (zipped(**{f"a{i}": npy("(1,)", b"1") for i in range(65)}), "too large"),
        # Headers on which Python's tokenizer and parser give up, each in its own way.
        (zipped(a=raw_header("{")), "array cannot be read"),
        (zipped(a=raw_header("(" * 5000)), "array cannot be read"),
        (zipped(a=raw_header("\0")), "array cannot be read"),
        # A name that is no UTF-8 although its flag says so, and a directory before the file.
        (zipped(ä=b"x").replace("ä".encode(), b"\xff\xff"), "archive of arrays cannot be read"),
        (moved_directory(zipped(a=b"x")), "archive of arrays cannot be read"),
    ],
)
def test_bad_archives(content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_arrays(content, "golden")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "_MAX_ARRAY_BYTES", 1000)
    with pytest.raises(BundleError, match=r"(?s)too large.*1000 bytes"):
        read_arrays(zipped(a=npy("(100000,)", bytes(100_000))), "golden")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_unpack_without_limit_are_refused(compression: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("a.npy", npy("(1,)", b"1"))
    with pytest.raises(BundleError, match=rf"(?s)cannot be read.*compression {compression}"):
        read_arrays(stream.getvalue(), "golden")


def test_a_member_that_is_longer_than_stated_is_not_unpacked() -> None:
    content = bytearray(zipped(a=npy("(1000000,)", bytes(10**6))))
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")
    with pytest.raises(BundleError, match="cannot be read"):
        read_arrays(bytes(content), "golden")


def test_an_archive_with_something_else() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("run.py", "1")
    with pytest.raises(BundleError, match=r"(?s)something else.*run\.py"):
        read_arrays(stream.getvalue(), "golden")


def test_a_damaged_member_is_noticed() -> None:
    content = bytearray(npz(a=np.arange(1000)))
    content[500] ^= 255
    with pytest.raises(BundleError, match="cannot be read"):
        read_arrays(bytes(content), "golden")
    assert hashlib.sha256(content).digest() != hashlib.sha256(npz(a=np.arange(1000))).digest()
