"""Checks that every reader makes before it opens a file or inflates one."""

from __future__ import annotations

import os
import re
import stat
from difflib import get_close_matches
from pathlib import Path

from gpubackprop.errors import DataError

INFLATION_FLOOR = 256 << 20
"""Compressed files that inflate to at most this many bytes are read whatever their ratio is."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

INFLATION_RATIO = 100
"""Beyond `INFLATION_FLOOR`, a file may inflate to at most this many times its size (deflate can reach 1032)."""


def regular_file(path: str | os.PathLike[str]) -> tuple[Path, int]:
    """The path and its size in bytes (> 0).

    Raises DataError when nothing is there (naming near misses beside it, or where a link leads), for a URL, a folder, a
    device, a pipe, an empty file, and a file that may not be read.
    """
    if _URL.match(os.fspath(path)):
        raise DataError(f"{os.fspath(path)}: is a URL, and only files are read; download it first, then name the file")
    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DataError(f"{path}: is a link to {os.readlink(path)}, which is not there") from None
        raise DataError(f"{path}: no such file{_near_misses(path)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path}: is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is not a regular file; copy its content to a file first")
    if status.st_size == 0:
        raise DataError(f"{path}: the file is empty; write or download it again")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: permission denied; make the file readable")
    return path, status.st_size


def check_inflation(path: Path, stored: int, inflated: int) -> None:
    """Refuse a file of `stored` bytes that would inflate to far more bytes than honest data does (DataError)."""
    if inflated > max(INFLATION_FLOOR, INFLATION_RATIO * stored):
        raise DataError(
            f"{path}: {stored:,} bytes would inflate to {inflated:,} or more, over {INFLATION_RATIO} times as much: "
            "refused as damaged or hostile; if it is neither, save the data uncompressed, as .npy"
        )


def memory() -> int:
    """Bytes of memory that the machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 16 << 30


def check_memory(where: str | Path, size: int) -> None:
    """Refuse what would take more bytes than the machine has (DataError): files may be larger than what is written in them."""
    if size > memory():
        raise DataError(f"{where}: takes {size:,} bytes, and this machine has {memory():,}; take fewer rows")


def _near_misses(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent))
    except OSError:
        return f"; the folder {path.parent} cannot be listed either: check the path"
    near = get_close_matches(path.name, names, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else "; check the path"
