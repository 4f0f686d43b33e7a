"""Downloads into the user's cache: whole and checked, or not there at all."""

from __future__ import annotations

import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from gpubackprop.data.idx import read_idx
from gpubackprop.errors import DataError

TIMEOUT = 30.0
"""Seconds that a server may stay silent."""

_BLOCK = 1 << 18


def cache_folder() -> Path:
    """Where downloads are kept: $GPUBACKPROP_CACHE, else $XDG_CACHE_HOME/gpubackprop, else ~/.cache/gpubackprop.

    As the XDG Base Directory Specification asks, a relative XDG_CACHE_HOME is ignored.
    """
    if own := os.environ.get("GPUBACKPROP_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "gpubackprop"


def fetch_idx(
    roots: Sequence[str], name: str, destination: Path, *, sha256: str, limit: int, timeout: float = TIMEOUT
) -> None:
    """Download the IDX file `name` from the first root that delivers it, to `destination`.

    roots: URLs that end in "/". sha256: digest of the uncompressed content. limit: most bytes to accept. The file is
    written beside `destination`, checked, flushed to disk and renamed: destination appears whole or not at all, and
    one that was there stays until then.

    Raises DataError, with every root's reason, when none delivers the right content, or the folder cannot be written.
    """
    reasons = []
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        for root in roots:
            handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=destination.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    reason = _receive(root + name, file.fileno(), limit, timeout)
                    os.fsync(file.fileno())
                if reason is None:
                    read_idx(temporary, sha256=sha256)
                    os.replace(temporary, destination)
                    return
            except DataError as error:
                reason = str(error).replace(f"{temporary}: ", "")
            finally:
                Path(temporary).unlink(missing_ok=True)
            reasons.append(f"{root}{name}: {reason}")
    except OSError as error:
        raise DataError(
            f"{destination}: cannot be written: {error}; set GPUBACKPROP_CACHE to a folder with room"
        ) from error
    raise DataError(
        f"{name} could not be downloaded: {'; '.join(reasons)}. "
        "Check the connection, or put the files into a folder and name it (folder=...)"
    )


def _receive(url: str, descriptor: int, limit: int, timeout: float) -> str | None:
    """Write what `url` sends to the descriptor; the reason why it failed, or None. OSError means the disk's."""
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            declared = response.headers.get("Content-Length")
            while True:
                try:
                    block = response.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    return f"the connection broke after {received:,} bytes: {error}"
                if not block:
                    break
                received += len(block)
                if received > limit:
                    return f"sent more than the {limit:,} bytes that the file can have"
                view = memoryview(block)
                while view:
                    view = view[os.write(descriptor, view) :]
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        return str(error)
    # http.client returns a short body without a word when it is read in blocks
    if declared is not None and declared.isdigit() and received < int(declared):
        return f"the connection broke after {received:,} of {declared} bytes"
    return None
