"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gpubackprop.errors import DataError, GpuBackpropError

_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""The errors of a file system that cannot flush (network mounts and some FUSE systems) or exchange two names (NFS, and kernels of
before 2014)."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], error: type[GpuBackpropError] = DataError) -> Iterator[BinaryIO]:
    """A file to write bytes into, which takes the place of `path` when the block ends, and only if it ends well.

    The content goes to a new file in the same folder (`file.name`), is flushed to the disk, and is then renamed: a full
    disk, an exception or a power cut leaves what was at `path` before. Permissions of a file that is replaced are kept.

    Raises `error` for a folder that is not there, a destination that is no regular file (a rename would replace the
    device, the pipe or the link itself), and for everything that the system refuses on the way.
    """
    path = Path(path)
    try:
        mode = _mode(path, error)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        file = open(partial, "xb")  # noqa: SIM115 - closed below, before the rename
    except (OSError, ValueError) as cause:
        raise _failure(path, cause, error) from cause
    try:
        with file:
            if mode is not None:
                os.chmod(partial, mode)
            yield file
            file.flush()
            _flush(file.fileno())
        os.replace(partial, path)
    except OSError as cause:
        raise _failure(path, cause, error) from cause
    finally:
        partial.unlink(missing_ok=True)
    flush_folder(path.parent)


def exchange(a: Path, b: Path) -> None:
    """Let two folders of one parent change their names, in one step where the system has one, so that both are always there.

    Raises OSError, with both where they were.
    """
    try:
        _exchange(os.fsencode(a), os.fsencode(b))
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        # In three steps then; between the first and the second one of the two names is missing.
        aside = a.with_name(f".{a.name}.{secrets.token_hex(4)}.aside")
        os.rename(b, aside)
        try:
            os.rename(a, b)
        except OSError:
            os.rename(aside, b)
            raise
        os.rename(aside, a)
    flush_folder(a.parent)


def _exchange(a: bytes, b: bytes) -> None:
    """renameat2 of Linux with RENAME_EXCHANGE, or renamex_np of macOS with RENAME_SWAP. Raises OSError."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        code = library.renameat2(here, a, here, b, 2)
    elif hasattr(library, "renamex_np"):
        code = library.renamex_np(a, b, 2)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fsdecode(b))


def flush_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, as far as its file system can: the renames before have succeeded already."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as cause:
        if cause.errno not in _CANNOT:
            raise


def _mode(path: Path, error: type[GpuBackpropError]) -> int | None:
    """The permissions of the regular file at `path`, None where there is nothing."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise error(f"{path}: is {kind}, and only a regular file can be replaced; choose another name")
    return stat.S_IMODE(status.st_mode)


def _failure(path: Path, cause: Exception, error: type[GpuBackpropError]) -> GpuBackpropError:
    reason = getattr(cause, "strerror", None) or str(cause)
    return error(f"{path}: cannot be written: {reason}; what was there before is unchanged")
