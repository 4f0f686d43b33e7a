from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import cache_folder, images, load
from gpubackprop.data.download import fetch_idx
from gpubackprop.data.images import IMAGE_SETS, STEMS
from gpubackprop.errors import DataError

from .conftest import idx_bytes

CONTENT = idx_bytes(np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8))
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BODY = gzip.compress(CONTENT)
OTHER = gzip.compress(idx_bytes(np.zeros((40, 28, 28), np.uint8)))
LIMIT = 1 << 20

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(http.server.ThreadingHTTPServer):
    """On loopback; answers[path] says how, anything else is a 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
        else:
            answer(self)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def send(body: bytes, *, declared: int | None = None, chunked: bool = False) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif declared is not None:
            handler.send_header("Content-Length", str(declared))
        handler.end_headers()
        handler.wfile.write(b"%x\r\n" % (len(body) + 1) + body if chunked else body)

    return answer


def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[:100])
    handler.wfile.flush()
    time.sleep(0.6)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine has no certificate."""
    monkeypatch.setattr("gpubackprop.data.download.SCHEMES", ("https", "http"))
    monkeypatch.setattr("gpubackprop.data.download.TIMEOUT", 0.3)


def fetch(roots: list[str], destination: Path) -> None:
    fetch_idx(roots, "a.gz", destination, sha256=DIGEST, limit=LIMIT)


def test_a_good_body_arrives_whole(server: Server, tmp_path: Path) -> None:
    server.answers["/a.gz"] = send(BODY, declared=len(BODY))
    destination = tmp_path / "a.gz"
    fetch([server.root], destination)
    assert destination.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["a.gz"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (send(BODY[:-100], declared=len(BODY)), "connection broke after"),
        (send(BODY[:-100]), "truncated"),
        (send(BODY[:-100], chunked=True), "connection broke after"),
        (send(b"", declared=0), "empty"),
        (send(OTHER, declared=len(OTHER)), f"expected {DIGEST}"),
        (send(b"<html>Moved</html>"), "not an IDX file"),
        (send(BODY + bytes(LIMIT)), "sent more than the 1,048,576 bytes"),
        (stall, "timed out"),
        (None, "404"),
    ],
)
def test_a_bad_body_leaves_nothing(server: Server, tmp_path: Path, answer: Answer | None, reason: str) -> None:
    if answer:
        server.answers["/a.gz"] = answer
    destination = tmp_path / "a.gz"
    with pytest.raises(DataError, match=reason) as caught:
        fetch([server.root], destination)
    assert "folder=" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_keeps_the_file_that_was_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"before")
    with pytest.raises(DataError, match="404"):
        fetch([server.root], tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == b"before"


def test_the_next_root_is_tried(server: Server, tmp_path: Path) -> None:
    server.answers["/one/a.gz"] = send(OTHER, declared=len(OTHER))
    server.answers["/three/a.gz"] = send(BODY, declared=len(BODY))
    fetch([f"{server.root}{part}/" for part in ("one", "two", "three")], tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == BODY
    assert server.asked == ["/one/a.gz", "/two/a.gz", "/three/a.gz"]


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused"):
        fetch(["http://127.0.0.1:9/"], tmp_path / "a.gz")


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written.*GPUBACKPROP_CACHE"):
        fetch([server.root], tmp_path / "file" / "a.gz")


def test_mnist_is_downloaded_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    shapes = ((30, 28, 28), (30,), (10, 28, 28), (10,))
    contents = [idx_bytes(rng.integers(0, 10, shape, dtype=np.uint8)) for shape in shapes]
    for stem, content in zip(STEMS, contents, strict=True):
        body = gzip.compress(content)
        server.answers[f"/{stem}.gz"] = send(body, declared=len(body))
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    monkeypatch.setitem(IMAGE_SETS, "mnist", replace(IMAGE_SETS["mnist"], roots=(server.root,), sha256=digests))
    monkeypatch.setattr(images, "SYSTEM_FOLDER", tmp_path / "none")
    first, again = load("mnist"), load("mnist", download=False)
    np.testing.assert_array_equal(first.x, again.x)
    assert len(server.asked) == 4
    assert {path.name for path in (cache_folder() / "mnist").iterdir()} == {f"{stem}.gz" for stem in STEMS}


def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for i in range(0, len(BODY), 50):
            handler.wfile.write(BODY[i : i + 50])
            handler.wfile.flush()
            time.sleep(0.05)


def test_a_server_that_never_ends_is_left(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.download.WHOLE_TIMEOUT", 0.12)
    server.answers["/a.gz"] = drip
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"took longer than 0.12 seconds"):
        fetch([server.root], tmp_path / "a.gz")
    assert time.monotonic() - begun < 5
    assert list(tmp_path.iterdir()) == []


def test_nothing_comes_but_by_https(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at once nor by way of a redirect; what is allowed is followed."""

    def redirect(url: str) -> Answer:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", url)
            handler.end_headers()

        return answer

    server.answers["/b.gz"] = send(BODY, declared=len(BODY))
    server.answers["/a.gz"] = redirect(server.root + "b.gz")
    fetch([server.root], tmp_path / "a.gz")
    (tmp_path / "a.gz").unlink()
    server.answers["/a.gz"] = redirect("ftp://127.0.0.1/b.gz")
    with pytest.raises(DataError, match=r"only https and http is trusted, not 'ftp'"):
        fetch([server.root], tmp_path / "a.gz")
    monkeypatch.setattr("gpubackprop.data.download.SCHEMES", ("https",))
    before = len(server.asked)
    with pytest.raises(DataError, match=r"only https is trusted, not 'http'"):
        fetch([server.root], tmp_path / "a.gz")
    assert len(server.asked) == before
    assert list(tmp_path.iterdir()) == []


def drip_headers(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    for _ in range(60):
        handler.wfile.write(b"X")
        handler.wfile.flush()
        time.sleep(0.05)


def test_headers_that_never_end_are_left_too(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.download.WHOLE_TIMEOUT", 0.1)
    server.answers["/a.gz"] = drip_headers
    started = time.monotonic()
    with pytest.raises(DataError, match=r"took longer than 0.1 seconds"):
        fetch([server.root], tmp_path / "a.gz")
    assert time.monotonic() - started < 2
    assert list(tmp_path.iterdir()) == []
