"""Downloads into the user's cache: whole and checked, or not there at all."""

from __future__ import annotations

import http.client
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO

from gpubackprop.data.idx import read_idx
from gpubackprop.errors import DataError, GpuBackpropError
from gpubackprop.files.atomic import replacing

TIMEOUT = 30.0
"""Seconds that a server may stay silent."""
WHOLE_TIMEOUT = 1800.0
"""Seconds that a file may take, from the request to its last byte."""
SCHEMES = ("https",)
"""How files may come, after a redirect too."""

_BLOCK = 1 << 18


def fetch_idx(roots: Sequence[str], name: str, destination: Path, *, sha256: str, limit: int) -> None:
    """Download the IDX file `name` from the first root that delivers it, to `destination`.

    roots: URLs that end in "/". sha256: digest of the uncompressed content. limit: most bytes to accept. The file is
    written beside `destination`, checked, flushed to disk and renamed: destination appears whole or not at all, and
    one that was there stays until then.

    Raises DataError, with every root's reason, when none delivers the right content, or the folder cannot be written.
    """
    reasons = []
    for root in roots:
        try:
            with replacing(destination, _NoRoomError) as file:
                _receive(root + name, file, limit)
                file.flush()
                read_idx(file.name, sha256=sha256)
            return
        except _NoRoomError as error:
            raise DataError(f"{error}; set GPUBACKPROP_CACHE to a folder with room") from error
        except DataError as error:
            reasons.append(f"{root}{name}: {re.sub(r'^[^:]*partial: ', '', str(error))}")
    raise DataError(
        f"{name} could not be downloaded: {'; '.join(reasons)}. "
        "Check the connection, or put the files into a folder and name it (folder=...)"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to what `SCHEMES` allows."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise DataError(f"is at {url!r}, and only {' and '.join(SCHEMES)} is trusted, not {scheme!r}")


class _NoRoomError(GpuBackpropError):
    """The disk's fault, not the server's."""


def _receive(url: str, file: BinaryIO, limit: int) -> None:
    """Write what `url` sends to the file. Raises DataError for the server's faults, OSError for the disk's."""
    failed: list[Exception] = []

    def work() -> None:
        try:
            _copy(url, file, limit)
        except Exception as error:
            failed.append(error)

    # In a thread, which can be left: of a server that sends one byte at a time, in its headers too, no single read takes long.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WHOLE_TIMEOUT)
    if thread.is_alive():
        raise DataError(f"took longer than {WHOLE_TIMEOUT:g} seconds")
    if failed:
        raise failed.pop()


def _copy(url: str, file: BinaryIO, limit: int) -> None:
    received = 0
    _check_scheme(url)
    try:
        with urllib.request.build_opener(_Redirects).open(url, timeout=TIMEOUT) as response:
            declared = response.headers.get("Content-Length")
            while True:
                try:
                    block = response.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise DataError(f"the connection broke after {received:,} bytes: {error}") from error
                if not block:
                    break
                received += len(block)
                if received > limit:
                    raise DataError(f"sent more than the {limit:,} bytes that the file can have")
                file.write(block)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise DataError(str(error)) from error
    # http.client returns a short body without a word when it is read in blocks
    if declared is not None and declared.isdigit() and received < int(declared):
        raise DataError(f"the connection broke after {received:,} of {declared} bytes")
