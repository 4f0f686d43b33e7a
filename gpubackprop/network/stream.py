"""Rows that are read while a network trains on them: from files that are larger than the memory, or from an iterable.

An epoch takes the pieces of the data (blocks of an .npy file, shards, row groups) in an order of its own, cuts them into windows
of so many rows, and shuffles the rows of each window. A thread reads the next window while the network trains on this one: two
windows are in memory at most. Which row comes when depends on the network's seed and its number of epochs alone, so that every
device sees the same, and a fit that goes on begins with the window that it was in.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import check_weights, check_x, check_y, whole_number
from gpubackprop.errors import DataError, GpuBackpropError
from gpubackprop.network.network import Network
from gpubackprop.network.rows import Rows
from gpubackprop.random import host_generator

WINDOW = 1 << 16
"""Rows that are shuffled together, unless something else is asked for."""
PATIENCE = 10.0
"""Seconds that are waited for the reading thread to end, where it hangs in somebody's iterator."""
_ORDER = 1
_ENDS = 4096
_NAMES = ("x", "y", "sample_weight")

Host = NDArray[Any]
Chunk = tuple[Host, ...]
"""Rows x (n, d), their targets y, (n,) or (n, m), and, where they have some, their weights (n,)."""
Window = tuple[Chunk, Host | None]
"""Checked rows in the order in which they were read, and the order in which they are trained on; None for the same."""


@dataclass(frozen=True)
class Piece:
    """Rows that are read together. name: for messages. read: their chunks in order, anew at each call."""

    name: str
    rows: int
    read: Callable[[], Iterator[Chunk]]

    def chunks(self) -> Iterator[Chunk]:
        """Its chunks; what goes wrong while they are read becomes DataError with its name."""
        try:
            for chunk in self.read():
                if not isinstance(chunk, (tuple, list)) or len(chunk) not in (2, 3):
                    raise DataError(
                        f"{self.name}: gave {type(chunk).__name__}, and a chunk is (x, y) or (x, y, sample_weight), arrays"
                    )
                arrays = tuple(map(np.asarray, chunk))
                if not all(a.ndim and len(a) == len(arrays[0]) for a in arrays):
                    shapes = ", ".join(f"{name} {a.shape}" for name, a in zip(_NAMES, arrays, strict=False))
                    raise DataError(f"{self.name}: its arrays have the shapes {shapes}; expected as many rows of all")
                yield arrays
        except GpuBackpropError:
            raise
        except Exception as error:
            raise DataError(f"{self.name}: cannot be read: {type(error).__name__}: {error}") from error


class Stream:
    """Rows x with their targets y, and with sample weights or without, for `Trainer.fit(stream)`; `open_stream` makes one.

    pieces: what the rows come from. window: rows that are shuffled together; two windows are in memory. files: what is read.
    """

    def __init__(self, pieces: Sequence[Piece], window: int = WINDOW, files: Sequence[Path] = ()) -> None:
        self.pieces, self.files = list(pieces), list(files)
        self.window = whole_number("window", window)
        self.n = sum(piece.rows for piece in pieces)
        if not self.n:
            raise DataError(f"{self.pieces[0].name if self.pieces else 'the stream'}: has no rows")
        self._first: Chunk | None = None

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Stream({self.n:,} rows in {len(self.pieces):,} pieces, window={self.window:,})"

    @property
    def first(self) -> Chunk:
        """A few rows as they are read, of the first piece."""
        if self._first is None:
            piece = next(piece for piece in self.pieces if piece.rows)
            chunk = next(piece.chunks(), None)
            if chunk is None:
                raise DataError(f"{piece.name}: has no rows, and was to have {piece.rows:,}")
            self._first = tuple(array[:64].copy() for array in chunk)
        return self._first

    def fingerprint(self) -> str:
        """SHA-256 of the names, sizes and first and last bytes of the files, of the numbers of rows and of the first few: what
        tells whether a fit goes on with the same data without reading all of them."""
        rows = [piece.rows for piece in self.pieces]
        digest = hashlib.sha256(f"{rows} {self.window}".encode())
        for path in self.files:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.name} {size} ".encode() + file.read(_ENDS))
                file.seek(max(0, size - _ENDS))
                digest.update(file.read(_ENDS))
        for array in self.first:
            digest.update(f"{array.dtype.str} {array.shape[1:]} ".encode() + np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def first_checked(self, net: Network) -> Chunk:
        """The few rows of `first` as the network takes them. Raises what `check_x`, `check_y` and `check_weights` raise."""
        return _Check(net, self.first)(self.first, "the stream")


class StreamRows:
    """The `RowSource` of a stream for one fit: `begin` an epoch, `load` its batches of `size` rows in order, `close` at the end.

    A window has a whole number of batches, so that none lies in two. Loading anything but what comes next begins to read anew.
    Raises what `check_x` and `check_y` raise of the first few rows.
    """

    x: Array = None
    y: Array = None
    permutation: Array = None
    """None, all three: nothing of it is whole in memory."""
    weights: Array | None
    """Those of the first few rows; None where rows have none."""

    def __init__(self, stream: Stream, net: Network, size: int, shuffle: bool) -> None:
        self.be: Backend = net.backend
        self.dtype = net.dtype
        self.n = len(stream)
        self._stream, self._seed, self._shuffle = stream, net.seed, shuffle
        self._window = max(stream.window // size, 1) * size
        self._check = _Check(net, stream.first)
        self.kind = self._check.kind
        self.weights = next(iter(self._check.first[2:]), None)
        self._epoch = 0
        self._at: tuple[int, int] | None = None
        """Epoch and number of the window that `_held` is."""
        self._held: Rows | None = None
        self._ahead: _ReadAhead | None = None

    def begin(self, epoch: int) -> None:
        """The rows of this epoch from now on, the network's number of them."""
        self._epoch = epoch

    def order(self, permutation: Host) -> None:
        """A stream has an order of its own: see `begin`."""
        raise NotImplementedError("the rows of a stream come in the order of `begin`")

    def load(self, start: int, x: Array, y: Array, weights: Array | None = None) -> None:
        """Write the len(x) rows from place `start` of the epoch into the device buffers.

        Raises DataError, with the name of the file, for what went wrong while it was read.
        """
        window, offset = divmod(start, self._window)
        if self._at != (self._epoch, window):
            self._turn_to(window)
        assert self._held is not None
        self._held.load(offset, x, y, weights)

    def close(self) -> None:
        """End the thread, and let go of the rows."""
        if self._ahead is not None:
            self._ahead.close()
        self._at = self._held = self._ahead = None

    def _turn_to(self, window: int) -> None:
        last = -(-self.n // self._window) - 1
        wanted, at = (self._epoch, window), self._at
        comes = at is not None and wanted == ((at[0], at[1] + 1) if at[1] < last else (at[0] + 1, 0))
        # Given back before the next one is taken: two are in memory at most.
        self._at = self._held = None
        if not comes:
            self.close()
            reading = partial(_windows, self._stream, self._check, self._seed, self._window, self._shuffle, *wanted)
            self._ahead = _ReadAhead(reading)
        assert self._ahead is not None
        try:
            (x, y, *weights), order = self._ahead.next()
        except MemoryError as error:
            # Not the device's, for which the engine would halve the rows of a step.
            raise DataError(
                f"the host has no memory for two windows of {self._window:,} rows ({error}): open the stream with a smaller "
                "window"
            ) from error
        self._held = Rows(self.be, x, y, self.dtype, weights=weights[0] if weights else None)
        if order is not None:
            self._held.order(order)
        self._at = wanted


class _Check:
    """What each chunk must be for a network, which is the same as for arrays in memory, and how its rows are kept."""

    def __init__(self, net: Network, first: Chunk) -> None:
        self.be, self.widths, self.dtype, self.loss = (
            net.backend,
            (net.widths[0], net.widths[-1]),
            net.dtype,
            net.loss_function,
        )
        # Pixels stay bytes until they are in a batch.
        self.kept = first[0].dtype if first[0].dtype == np.uint8 else self.dtype
        self.arrays = len(first)
        self.first = self(first, "the stream")
        self.kind = "labels" if self.first[1].ndim == 1 else "targets"
        self.shapes = [(array.shape[1:], array.dtype) for array in self.first]

    def __call__(self, chunk: Chunk, where: str) -> Chunk:
        if len(chunk) != self.arrays:
            with_or_without = "without" if len(chunk) < self.arrays else "with"
            raise DataError(f"{where}: comes {with_or_without} sample_weight, other than the first rows of the stream")
        x, y, *rest = chunk
        if self.kept == np.uint8 and x.dtype != np.uint8:
            raise DataError(f"{where}: x has dtype {x.dtype}, where the first rows of the stream have uint8")
        checked = check_x(x, self.widths[0], self.dtype, self.be, f"{where}: x")
        if y.ndim == 1 and not self.loss.labels:
            y = y.reshape(-1, 1)
        y = check_y(y, len(x), self.widths[1], self.dtype, self.loss, self.be, f"{where}: y")
        name = f"{where}: sample_weight"
        weights = [check_weights(w, len(x), self.dtype, self.loss, self.be, name, some=False) for w in rest]
        return (x if self.kept == np.uint8 else checked), y, *(w for w in weights if w is not None)


def _windows(
    stream: Stream,
    check: _Check,
    seed: int,
    rows: int,
    shuffle: bool,
    epoch: int,
    window: int,
    stopped: threading.Event,
) -> Iterator[Window]:
    """The windows of `rows` rows from a place in an epoch on, epoch after epoch, until `stopped`. Each lies where the one before
    the last lay: fresh memory for each would take as long as filling it."""
    room = cycle(
        [tuple(np.empty((min(rows, len(stream)), *shape), dtype) for shape, dtype in check.shapes) for _ in range(2)]
    )
    while True:
        order = np.arange(len(stream.pieces))
        if shuffle:
            order = host_generator(seed, _ORDER, epoch).permutation(order)
        pieces = [stream.pieces[i] for i in order]
        stops = np.cumsum([piece.rows for piece in pieces])
        first = int(np.searchsorted(stops, window * rows, side="right"))
        skip = window * rows - int(stops[first] - pieces[first].rows)
        chunks = _checked(pieces[first:], skip, check)
        rest: Chunk | None = None
        # Of a whole epoch some row must count, as of all rows in memory.
        counts = window > 0 or check.arrays < len(_NAMES)
        for start in range(window * rows, len(stream), rows):
            n = min(rows, len(stream) - start)
            window_arrays = tuple(array[:n] for array in next(room))
            # A permutation's inverse: of each place, the row that comes there.
            mixed = np.argsort(host_generator(seed, _ORDER, epoch, start // rows).permutation(n)) if shuffle else None
            done = 0
            while done < n:
                if stopped.is_set():
                    return
                part = rest or next(chunks)
                taken = min(n - done, len(part[0]))
                for array, rows_read in zip(window_arrays, part, strict=True):
                    array[done : done + taken] = rows_read[:taken]
                rest = tuple(array[taken:] for array in part) if taken < len(part[0]) else None
                done += taken
            counts = counts or bool(window_arrays[-1].any())
            if not counts and start + n == len(stream):
                raise DataError("the stream: all sample weights are 0; some row must have one above 0")
            yield window_arrays, mixed
        epoch, window = epoch + 1, 0


def _checked(pieces: Sequence[Piece], skip: int, check: _Check) -> Iterator[Chunk]:
    """The checked chunks of pieces in order, without the first `skip` rows."""
    for piece in pieces:
        row = 0
        for chunk in piece.chunks():
            row += (n := len(chunk[0]))
            if row > piece.rows:
                raise DataError(f"{piece.name}: has more than the {piece.rows:,} rows that it had when it was opened")
            if skip < n:
                left = tuple(array[skip:] for array in chunk)
                yield check(left, f"{piece.name}, from its row {row - n + skip} on")
            skip = max(0, skip - n)
        if row < piece.rows:
            raise DataError(f"{piece.name}: has {row:,} rows, and had {piece.rows:,} when it was opened")


class _ReadAhead:
    """A thread that makes the next window while one is used, and begins with no other before that is taken."""

    def __init__(self, windows: Callable[[threading.Event], Iterator[Window]]) -> None:
        self._made: SimpleQueue[Window | BaseException] = SimpleQueue()
        self._wanted = threading.Semaphore(1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(windows(self._stopped),), name="gpubackprop-stream", daemon=True
        )
        self._thread.start()

    def _run(self, windows: Iterator[Window]) -> None:
        try:
            while self._wanted.acquire() and not self._stopped.is_set():
                self._made.put(next(windows))
        except BaseException as error:
            self._made.put(error)

    def next(self) -> Window:
        """The next window; what went wrong in the thread is raised here."""
        made = self._made.get()
        if isinstance(made, BaseException):
            raise made
        self._wanted.release()
        return made

    def close(self) -> None:
        """Read nothing more after the chunk at hand, and wait for that."""
        self._stopped.set()
        self._wanted.release()
        self._thread.join(PATIENCE)
