"""The user's cache: where it is, and what in it can be believed.

What the library keeps there for itself decides which code runs: compiled steps, kernels, chosen algorithms. It lies in a
folder that nobody else can write, each entry under its SHA-256; what is damaged counts as absent and is made again.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from pathlib import Path

from gpubackprop.errors import DataError
from gpubackprop.files.atomic import replacing

_CODE = "code"
_DIGEST = 64
"""Characters of a SHA-256 in hexadecimal."""


def cache_folder() -> Path:
    """$GPUBACKPROP_CACHE, else $XDG_CACHE_HOME/gpubackprop, else ~/.cache/gpubackprop; it may not exist yet.

    As the XDG Base Directory Specification asks, a relative XDG_CACHE_HOME is ignored. A user without a home gets a
    temporary folder for this process.
    """
    if own := os.environ.get("GPUBACKPROP_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base, "gpubackprop")
    try:
        return Path.home() / ".cache" / "gpubackprop"
    except RuntimeError:
        return _temporary("there is no home folder")


def folder_for(name: str) -> Path:
    """The folder `name` in the cache, made if need be, or in a temporary one for this process where that cannot be written.

    Raises OSError where not even a temporary folder can be made.
    """
    folder = cache_folder() / name
    try:
        _make(folder)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = f"{folder} cannot be written"
    except OSError as error:
        reason = f"{folder} cannot be made: {error.strerror}"
    temporary = _temporary(reason) / name
    temporary.mkdir(exist_ok=True)
    return temporary


def digest(*parts: object) -> str:
    """A name for what depends on all of these."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def load(name: str) -> bytes | None:
    """The bytes that `store` wrote under this name; None for nothing, for a damaged file and for one of another user."""
    for folder in _folders():
        try:
            content = _own_bytes(folder / name)
        except OSError:
            continue
        if hashlib.sha256(content[_DIGEST:]).hexdigest().encode() == content[:_DIGEST]:
            return content[_DIGEST:]
    return None


def store(name: str, content: bytes) -> None:
    """Keep `content` under this name. A full disk or a read-only home is no reason to stop: it is kept for this process then."""
    _store(name, hashlib.sha256(content).hexdigest().encode() + content)


def forget(pattern: str) -> int:
    """Remove what is kept under names of a pattern such as "algorithms-*"; how many entries that were."""
    found = [path for folder in _folders() for path in folder.glob(pattern)]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def file_with(name: str, content: bytes) -> Path:
    """A file `name` with exactly this content, for a library that takes a path.

    Raises OSError where not even a temporary folder can be written.
    """
    for folder in _folders():
        with contextlib.suppress(OSError):
            if _own_bytes(folder / name) == content:
                return folder / name
    path = _store(name, content)
    if path is None:
        raise OSError(f"{name} cannot be written, neither in {cache_folder()} nor in a temporary folder")
    return path


def _store(name: str, content: bytes) -> Path | None:
    """The file that was written, None where none could be."""
    path = cache_folder() / _CODE / name
    try:
        return _write(_checked(path.parent) / name, content)
    except (DataError, OSError) as error:
        reason = str(error)
    try:
        return _write(_temporary(reason) / name, content)
    except (DataError, OSError):
        return None


def _write(path: Path, content: bytes) -> Path:
    with replacing(path) as file:
        file.write(content)
    return path


def _folders() -> list[Path]:
    """Where entries may be read from: the cache, if it can be trusted, and this process's temporary folder, if there is one."""
    folder = cache_folder() / _CODE
    try:
        return [_checked(folder), *_made] if folder.exists() else _made
    except (DataError, OSError) as error:
        with contextlib.suppress(OSError):
            _temporary(str(error))
        return _made


def _checked(folder: Path) -> Path:
    """The folder, made if need be, without symbolic links, once it is sure that nobody but its owner can change what it holds.

    Raises DataError where others can write in it or in a folder above it, OSError where it cannot be made.
    """
    _make(folder)
    folder = folder.resolve()
    if not hasattr(os, "getuid"):  # Windows keeps a user's profile private by other means
        return folder
    if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022:
        folder.chmod(0o700)
    for part in (folder, *folder.parents):
        status = part.stat()
        # In a sticky folder, such as /tmp, only the owner of a file can replace it.
        open_to_others = status.st_mode & 0o022 and (part == folder or not status.st_mode & stat.S_ISVTX)
        if open_to_others or not _own(status):
            whose = "can be written by others" if open_to_others else f"belongs to user {status.st_uid}"
            raise DataError(f"{part} {whose}, so the code kept in {folder} is not trusted")
    return folder


def _own(status: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or status.st_uid in (0, os.getuid())


def _own_bytes(path: Path) -> bytes:
    """The content of a regular file that this user or the system wrote; OSError for everything else."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _own(status) or (os.name == "posix" and status.st_mode & 0o022):
            raise OSError(f"{path}: not a file that this user alone can write")
        return file.read()


def _make(folder: Path) -> None:
    """Make the folder, and what is missing above it, for this user alone. Raises OSError."""
    for part in reversed((folder, *folder.parents)):
        if not part.exists():
            part.mkdir(0o700, exist_ok=True)


_made: list[Path] = []
"""The temporary folder of this process, once there is one."""


def _temporary(reason: str) -> Path:
    """A folder for this process alone, with a line that says so when it is made. Raises OSError where there is no room."""
    if not _made:
        _made.append(Path(tempfile.mkdtemp(prefix="gpubackprop-")))
        atexit.register(shutil.rmtree, _made[0], ignore_errors=True)
        warnings.warn(
            f"{reason}; what the cache would keep lies in a temporary folder until this process ends",
            RuntimeWarning,
            stacklevel=2,
        )
    return _made[0]
