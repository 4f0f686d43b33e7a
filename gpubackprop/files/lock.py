"""A folder that one process at a time writes into."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from pathlib import Path
from typing import IO

from gpubackprop.errors import DataError

NAME = ".lock"
"""The file in a folder that is locked. The lock goes with the process, however that ends; the file may stay behind."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class FolderLock:
    """The right to write into a folder, from now until `release`.

    Raises DataError at once where another process has it, OSError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        while True:
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - open until `release`
            try:
                self._lock(file, folder)
                # The process before may have removed the file between the opening and the locking.
                if self.path.exists() and os.path.samestat(os.stat(self.path), os.fstat(file.fileno())):
                    break
            except BaseException:
                file.close()
                raise
            file.close()
        self.file = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()

    def _lock(self, file: IO[str], folder: Path) -> None:
        try:
            _lock_file(file.fileno())
        except OSError as error:
            if error.errno in _NO_LOCKS:
                warnings.warn(
                    f"{folder}: its file system has no locks; take care that no other process writes there",
                    RuntimeWarning,
                    stacklevel=3,
                )
                return
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            file.seek(0)
            holder = file.readline().strip() or "another process"
            raise DataError(
                f"{folder}: {holder} is writing a run there; wait for it to end, or choose another folder"
            ) from None

    def release(self) -> None:
        """Let others write. Where the folder was replaced or is gone, there is nothing left to do."""
        if self.file.closed:
            return
        # Where the folder is gone, so is the file.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno())):
                self.path.unlink()
        self.file.close()


def is_held(folder: Path) -> bool:
    """Whether a process is writing into the folder, as far as its lock tells."""
    try:
        if (folder / NAME).exists():
            FolderLock(folder).release()
    except DataError:
        return True
    except OSError:  # not writable for us: nothing is known
        return False
    return False


try:
    import fcntl

    def _lock_file(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock_file(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
