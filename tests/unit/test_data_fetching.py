"""A made-up dataset goes the whole way: sources in order, decoding, cache, damage, two at once."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import logging
import multiprocessing
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.data import fetch, list_recipes, read_recipe
from edgeexit.data.decode import decode
from edgeexit.data.fetching import fetch_arrays
from edgeexit.data.recipes import ROLES, Archive, Recipe, Source, parse_recipe
from edgeexit.data.sources import open_source
from edgeexit.errors import ArgumentError, DataError, FetchError
from edgeexit.resources import resource_folder

SHAPE = (4, 3, 1)


def made_up(num_train: int = 20, num_test: int = 6) -> dict[str, NDArray[np.uint8]]:
    random = np.random.RandomState(0)
    return {
        "train_images": random.randint(0, 256, (num_train, *SHAPE)).astype(np.uint8),
        "train_labels": (np.arange(num_train) % 2).astype(np.uint8),
        "test_images": random.randint(0, 256, (num_test, *SHAPE)).astype(np.uint8),
        "test_labels": (np.arange(num_test) % 2).astype(np.uint8),
    }


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.tobytes())


def write_folder(folder: Path, arrays: dict[str, NDArray[np.uint8]]) -> None:
    folder.mkdir(exist_ok=True)
    for role, array in arrays.items():
        write_idx(folder / f"{role}.gz", array.reshape(array.shape[:3]))


def source(folder: Path, kind: str = "folder") -> Source:
    return Source(
        kind=kind,
        format="idx_gzip",
        archives=(Archive(str(folder), None, None),),
        members={role: (f"{role}.gz",) for role in ROLES},
    )


def recipe(*sources: Source) -> Recipe:
    return dataclasses.replace(
        read_recipe("fashion-mnist"),
        name="made-up",
        title="Made up",
        image_shape=SHAPE,
        sha256={role: hashlib.sha256(a.tobytes()).hexdigest() for role, a in made_up().items()},
        sources=sources,
    )


def same(given: dict[str, Any], wanted: dict[str, NDArray[np.uint8]]) -> bool:
    return all(np.array_equal(given[role], wanted[role]) for role in ROLES)


def test_sources_are_tried_in_order_until_one_delivers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_folder(tmp_path / "there", made_up())
    told: list[str] = []
    # Nothing listens there, and an earlier try has left a part of the archive.
    archive = Archive("http://127.0.0.1:9/made-up.tar.gz", 100, "0" * 64)
    broken = Source("url", "idx_gzip", (archive,), {"train_images": ("a",)})
    (tmp_path / "cache/datasets").mkdir(parents=True)
    (tmp_path / "cache/datasets/made-up.tar.gz.part").write_bytes(b"half")
    all_three = recipe(source(tmp_path / "missing"), broken, source(tmp_path / "there"))
    arrays = fetch_arrays(all_three, tmp_path / "cache", lambda what, *_: told.append(what))
    assert same(arrays, made_up())
    assert "folder does not exist" in caplog.text
    assert "source url failed: the download broke off" in caplog.text
    assert told[-1] == "write made-up.npz"
    # From here on the sources are not asked.
    assert same(fetch_arrays(recipe(), tmp_path / "cache"), made_up())
    names = sorted(path.name for path in (tmp_path / "cache/datasets").iterdir())
    assert names == ["made-up.lock", "made-up.npz"]


def test_when_no_source_delivers_each_reason_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "other", {**made_up(), "test_labels": np.zeros(6, np.uint8)})
    nowhere = recipe(source(tmp_path / "missing"), source(tmp_path / "other"))
    wanted = r"(?s)no source delivered Made up.*missing: the folder does not.*other: .*checksum"
    with pytest.raises(FetchError, match=wanted):
        fetch_arrays(nowhere, tmp_path / "cache")
    assert not (tmp_path / "cache/datasets/made-up.npz").exists()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def write_other_pixels(path: Path) -> None:
    np.savez(path, **{role: array ^ 1 for role, array in made_up().items()})


def write_other_shape(path: Path) -> None:
    np.savez(path, **{role: array.reshape(-1) for role, array in made_up().items()})


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, write_other_pixels, write_other_shape])
def test_a_damaged_cache_is_noticed_and_fetched_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    write_folder(tmp_path / "there", made_up())
    one = recipe(source(tmp_path / "there"))
    fetch_arrays(one, tmp_path)
    damage(tmp_path / "datasets/made-up.npz")
    assert same(fetch_arrays(one, tmp_path), made_up())
    assert "is damaged and is fetched again" in caplog.text
    assert same(fetch_arrays(recipe(), tmp_path), made_up())


def _fetch_in_a_process(folder: Path, barrier: Any, results: Any) -> None:
    decoded: list[str] = []
    barrier.wait()
    arrays = fetch_arrays(
        recipe(source(folder / "there")),
        folder / "cache",
        lambda what, *_: decoded.append(what) if what.startswith("write") else None,
    )
    results.put((same(arrays, made_up()), bool(decoded)))


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "there", made_up())
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=_fetch_in_a_process, args=(tmp_path, barrier, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    given = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert [whole for whole, _ in given] == [True, True]
    assert sorted(wrote for _, wrote in given) == [False, True]


def test_an_unknown_dataset_names_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)unknown dataset.*cifar10 or fashion-mnist.*mnst"):
        fetch("mnst")


# ------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_whole(name: str) -> None:
    known = read_recipe(name)
    assert known.name == name
    assert len(known.class_names) == len(set(known.class_names))
    assert known.num_calibration % len(known.class_names) == 0
    assert len(known.preprocessing.offset) in (1, known.image_shape[2])
    for one in known.sources:
        assert "train_images" in one.members
        assert "test_images" in one.members
        if one.kind in ("url", "npm"):
            assert all(archive.sha256 and archive.num_bytes for archive in one.archives)


def test_preprocessing_of_the_shipped_recipes_is_one_subtraction() -> None:
    # int8 = uint8 - 128 needs an input scale of 1/128 and a zero point of 0.
    for name in list_recipes():
        known = read_recipe(name)
        assert known.preprocessing.offset == (128.0,)
        assert known.preprocessing.multiplier == (1 / 128,)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("schema = 1", "schema = 2", "(?s)another schema.*schema = 2"),
        ('name = "cifar10"', "", "(?s)cannot be read.*KeyError.*name"),
        ("[split]", "[split", "(?s)cannot be read.*TOMLDecodeError"),
        ("[32, 32, 3]", "[32, 32]", "(?s)cannot be read.*ValueError"),
    ],
)
def test_a_recipe_that_is_not_one_is_an_error(
    tmp_path: Path, old: str, new: str, wanted: str
) -> None:
    text = (resource_folder("calibration") / "cifar10.toml").read_text(encoding="utf-8")
    (tmp_path / "x.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=wanted):
        parse_recipe(tmp_path / "x.toml")


# ------------------------------------------------------------------ formats


def test_cifar_binary_turns_planes_into_pixels() -> None:
    # Two records of 2 x 2 pixels: a label, then all red, all green, all blue values.
    content = bytes([7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, *range(100, 112)])
    one = Source("url", "cifar_binary", (), {"train_images": ("a", "a"), "test_images": ("b",)})
    arrays = decode(dataclasses.replace(recipe(), image_shape=(2, 2, 3)), one, lambda name: content)
    assert arrays["test_labels"].tolist() == [7, 0]
    assert arrays["train_labels"].tolist() == [7, 0, 7, 0]
    assert arrays["test_images"][0].tolist() == [[[1, 5, 9], [2, 6, 10]], [[3, 7, 11], [4, 8, 12]]]


def decode_one(format_name: str, content: bytes, labels: bytes = b"[0]") -> None:
    members = {role: (role,) for role in ROLES}
    decode(
        dataclasses.replace(recipe(), image_shape=(2, 2, 3)),
        Source("url", format_name, (), members),
        lambda name: labels if name.endswith("labels") else content,
    )


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("format_name", "content", "wanted"),
    [
        ("cifar_binary", bytes(14), "multiple of 13 bytes"),
        ("png_sheets", b"not a png", "a PNG image"),
        ("idx_gzip", b"not gzip", "a gzip file"),
        ("idx_gzip", gz(b"\0\0\x0d\3" + bytes(12)), "an IDX file of uint8"),
        ("idx_gzip", gz(b"\0\0\x08"), "an IDX file of uint8"),
        ("idx_gzip", gz(b"\0\0\x08\3\0\0"), "the lengths of 3 axes"),
        ("idx_gzip", gz(b"\0\0\x08\3" + b"\xff" * 12), "at most 536870912 bytes"),
        ("idx_gzip", gz(b"\0\0\x08\3" + struct.pack(">III", 9, 2, 2) + bytes(4)), "36 bytes of d"),
        ("idx_gzip", gz(b"\0\0\x08\3" + struct.pack(">III", 1, 2, 2) + bytes(9)), "4 bytes of d"),
        ("idx_gzip", gz(b"\0\0\x08\3" + struct.pack(">III", 1, 1, 4) + bytes(4)), "images of"),
        ("idx_gzip", gz(b"\0\0\x08\1\0\0\0\x63" + bytes(range(99)))[:40], "a gzip file"),
    ],
)
def test_a_file_of_another_format_is_an_error(
    format_name: str, content: bytes, wanted: str
) -> None:
    with pytest.raises(FetchError, match=rf"(?s)another format.*{wanted}"):
        decode_one(format_name, content)


def test_labels_with_axes_of_their_own_are_an_error() -> None:
    images = gz(b"\0\0\x08\3" + struct.pack(">III", 1, 2, 2) + bytes(4))
    labels = gz(b"\0\0\x08\2" + struct.pack(">II", 1, 1) + bytes(1))
    with pytest.raises(FetchError, match=r"(?s)another format.*labels of shape \(\)"):
        decode(
            dataclasses.replace(recipe(), image_shape=(2, 2, 1)),
            Source("url", "idx_gzip", (), {role: (role,) for role in ROLES}),
            lambda name: labels if name.endswith("labels") else images,
        )


@pytest.mark.parametrize("labels", [b"{", b'{"a": 1}', b"[1, 2.5]", b"[256]", b"[-1]", b"[true]"])
def test_json_labels_that_are_none_are_an_error(labels: bytes) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="pip install pillow")
    import io

    buffer = io.BytesIO()
    image_module.new("RGB", (4, 1)).save(buffer, "PNG")
    with pytest.raises(FetchError, match=r"(?s)another format.*JSON list"):
        decode_one("png_sheets", buffer.getvalue(), labels)


# ------------------------------------------------------------------ kinds of sources


def tar_source(path: Path, *members: str) -> Source:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(
        kind="url",
        format="idx_gzip",
        archives=(Archive(f"http://127.0.0.1:9/{path.name}", path.stat().st_size, sha256),),
        members={"train_images": members},
    )


def test_a_downloaded_archive_is_read_and_then_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a", "inside/a")
    with open_source(tar_source(tmp_path / "x.tar.gz", "inside/a"), tmp_path, None) as read:
        assert read("inside/a") == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_archive_that_lacks_a_file_or_has_a_link_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("inside/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with (
        pytest.raises(FetchError, match=r"(?s)lacks files.*inside/a"),
        open_source(tar_source(tmp_path / "x.tar.gz", "inside/a"), tmp_path, None),
    ):
        pass
    with (
        pytest.raises(FetchError, match=r"(?s)not a file.*inside/link"),
        open_source(tar_source(tmp_path / "x.tar.gz", "inside/link"), tmp_path, None),
    ):
        pass


def test_an_archive_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gz(b"no tar in here"))
    with (
        pytest.raises(FetchError, match=r"(?s)archive is damaged.*x.tar.gz"),
        open_source(tar_source(tmp_path / "x.tar.gz", "a"), tmp_path, None),
    ):
        pass


def test_a_download_without_a_checksum_is_not_taken(tmp_path: Path) -> None:
    one = Source("url", "idx_gzip", (Archive("http://127.0.0.1:9/x.gz", None, None),), {})
    with (
        pytest.raises(FetchError, match="without a checksum is not taken"),
        open_source(one, tmp_path, None),
    ):
        pass


@pytest.mark.parametrize(("kind", "client"), [("npm", "npm"), ("apt", "apt-get")])
def test_a_client_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, client: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    one = Source(kind, "idx_gzip", (Archive("some-package", 1, "0" * 64),), {})
    with (
        pytest.raises(FetchError, match=f"{client} is not installed"),
        open_source(one, tmp_path, None),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def fake_npm(folder: Path, script: str) -> None:
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("echo one >&2; echo 'npm error 404' >&2; exit 3", "exit status 3: npm error 404"),
        ("exit 0", "(?s)did not leave one tarball"),
        ("echo x > p-1.tgz", "(?s)package has the wrong checksum"),
    ],
)
def test_what_npm_does_wrong_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, wanted: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "work").mkdir()
    fake_npm(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    one = Source("npm", "idx_gzip", (Archive("p@1", 1, "0" * 64),), {})
    with pytest.raises(FetchError, match=wanted), open_source(one, tmp_path / "work", None):
        pass
    assert list((tmp_path / "work").iterdir()) == []


def test_npm_is_told_to_run_no_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, f'for a; do echo "$a"; done > {tmp_path}/arguments; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    one = Source("npm", "idx_gzip", (Archive("p@1", 1, "0" * 64),), {})
    with pytest.raises(FetchError), open_source(one, tmp_path, None):
        pass
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:3] == ["pack", "p@1", "--ignore-scripts"]


def test_facts_of_a_failure_can_be_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        fetch_arrays(recipe(source(tmp_path / "missing")), tmp_path)
    facts = json.loads(json.dumps(caught.value.facts()))
    assert facts["error"] == "FetchError"
    assert "missing" in facts["given"]
