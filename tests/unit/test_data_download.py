"""Downloads against a server on this machine that breaks off, forgets how to resume, or lies."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeexit.data.cache import check_free, default_cache, exclusive, storage_errors
from edgeexit.data.download import download
from edgeexit.errors import FetchError, StorageError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; sends at most ``cut`` bytes of a reply, for the next ``num_cuts``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cut = len(CONTENT)
        self.num_cuts = 0
        self.ranges = True
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/folder/data.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        if self.path == "/missing":
            self.send_error(404)
            return
        body = self.server.content
        start = 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.num_cuts > 0:
            self.server.num_cuts -= 1
            body = body[: self.server.cut]
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(server: Server, target: Path, sha256: str = SHA256, num_bytes: int = len(CONTENT)) -> None:
    download(server.url, target, num_bytes=num_bytes, sha256=sha256)


def test_a_whole_download_appears_and_leaves_no_part(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    target = tmp_path / "data.bin"
    download(
        server.url,
        target,
        num_bytes=len(CONTENT),
        sha256=SHA256,
        progress=lambda *step: told.append(step),
    )
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]
    assert told[-1] == ("data.bin", len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_continued_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cut, server.num_cuts = 300_000, 2
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-"]


def test_a_later_call_continues_an_earlier_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_part_with_wrong_bytes_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_a_part_longer_than_the_server_has_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * (len(CONTENT) + 1))
    get(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_connection_that_keeps_breaking_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cut, server.num_cuts = 10, 100
    with pytest.raises(FetchError, match=r"(?s)broke off.*1024000 bytes.*50 bytes.*continues"):
        get(server, tmp_path / "data.bin")
    assert not (tmp_path / "data.bin").exists()
    assert (tmp_path / "data.bin.part").stat().st_size == 50


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=rf"(?s)wrong checksum.*{'0' * 64}.*{SHA256}"):
        get(server, tmp_path / "data.bin", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_longer_file_is_refused_before_it_fills_the_disk(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"(?s)longer than it should be.*1000 bytes"):
        get(server, tmp_path / "data.bin", num_bytes=1000)
    assert not (tmp_path / "data.bin").exists()


def test_a_missing_file_is_an_error_at_once(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("/folder/data.bin", "/missing")
    with pytest.raises(FetchError, match=r"(?s)refused.*HTTP 404"):
        download(url, tmp_path / "data.bin", num_bytes=1, sha256=SHA256)
    assert server.asked == [None]


def test_a_server_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="could not be reached"):
        download("http://127.0.0.1:9/x", tmp_path / "x", num_bytes=1, sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"(?s)disk is full.*EDGEEXIT_CACHE"),
        storage_errors(tmp_path),
    ):
        raise OSError(28, "No space left on device")


def test_too_little_space_is_noticed_before_anything_is_fetched(tmp_path: Path) -> None:
    check_free(tmp_path, 1)
    with pytest.raises(StorageError, match=rf"(?s)disk is full.*{2**62} bytes free.*EDGEEXIT_"):
        check_free(tmp_path, 2**62)


def test_a_file_in_the_place_of_the_cache_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(StorageError, match="in the way"), exclusive(tmp_path / "cache" / "x.lock"):
        pass


def test_the_cache_folder_follows_the_environment(tmp_path: Path) -> None:
    assert default_cache({"EDGEEXIT_CACHE": str(tmp_path)}) == tmp_path
    assert default_cache({}).name == "edgeexit"
