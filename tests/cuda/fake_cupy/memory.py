"""CuPy's memory pools: sizes rounded to 512 bytes, blocks kept for the stream that they were used on, limits, and memory that is
handed out again. And page-locked memory of the host."""

from __future__ import annotations

import bisect
import contextlib
import gc
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.cuda.fake_cupy import device
from tests.cuda.fake_cupy.device import CUDARuntimeError, state

UNIT = 512


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


# ---- what the driver hands out ------------------------------------------------------------------------------------


class Block:
    """One cudaMalloc: real memory, aligned, and cut into chunks."""

    def __init__(self, size: int) -> None:
        self.device = state.device
        if state.taken[self.device] + size > state.limit:
            raise CUDARuntimeError(2)
        self.size = size
        # As floats: NaN. What was never written must not look like a number.
        memory: np.ndarray = np.full(size + UNIT, 0xFF, np.uint8)
        start = -memory.ctypes.data % UNIT
        self.memory = memory[start : start + size]
        self.start = self.memory.ctypes.data
        self.chunks: list[Chunk] = []
        # A machine of an earlier test has counts of its own.
        self.used, self.taken = state.used, state.taken
        self.taken[self.device] += size
        with state.lock:
            bisect.insort(_blocks, (self.start, self))

    def __lt__(self, other: Block) -> bool:
        return self.start < other.start

    def free(self) -> None:
        """cudaFree, which waits for the device."""
        if self.taken is state.taken:
            for queue in device.queues_of(self.device):
                queue.finish()
        self.taken[self.device] -= self.size
        with state.lock:
            del _blocks[bisect.bisect_left(_blocks, (self.start, self))]


@dataclass(eq=False)
class Chunk:
    """A part of a block. arena: the number of the stream whose later work may use it, once it is free."""

    block: Block
    start: int
    size: int
    arena: int
    held: bool = True
    pool: weakref.ref[_DevicePool] | None = None


_blocks: list[tuple[int, Block]] = []


def block_at(address: int) -> Block | None:
    """The block that an address is in."""
    with state.lock:
        index = bisect.bisect_right(_blocks, (address, _Last())) - 1
        if index < 0:
            return None
        block = _blocks[index][1]
    return block if block.start <= address < block.start + block.size else None


class _Last:
    """Comes after every block."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


def is_held(address: int) -> bool:
    """Whether an array holds the memory at an address, or a pool that hands it to nobody else."""
    settle()
    block = block_at(address)
    if block is None:
        return False
    chunk = next(c for c in block.chunks if c.start <= address < c.start + c.size)
    pool = chunk.pool() if chunk.pool is not None else None
    return chunk.held or (pool is not None and pool is not default_pool.of(block.device))


# ---- pools --------------------------------------------------------------------------------------------------------


class Memory:
    """What an array holds on to; with it goes the chunk."""

    def __init__(self, chunk: Chunk | None) -> None:
        self.chunk = chunk
        self.size = 0 if chunk is None else chunk.size
        self.ptr = 0 if chunk is None else chunk.start
        self.device_id = state.device if chunk is None else chunk.block.device
        if chunk is not None:
            weakref.finalize(self, _release, chunk).atexit = False

    @property
    def device(self) -> Any:
        """Where it is."""
        return device.Device(self.device_id)


@dataclass
class MemoryPointer:
    """cupy.cuda.MemoryPointer."""

    mem: Memory
    ptr: int

    @property
    def device_id(self) -> int:
        """Where it is."""
        return self.mem.device_id

    @property
    def device(self) -> Any:
        """Where it is."""
        return self.mem.device


_released: deque[Chunk] = deque()


def _release(chunk: Chunk) -> None:
    # The collector may run anywhere, also in the midst of a pool's own work.
    _released.append(chunk)


def settle() -> None:
    """Take back what was released."""
    with state.lock:
        while _released:
            chunk = _released.popleft()
            chunk.block.used[chunk.block.device] -= chunk.size
            chunk.held = False
            pool = chunk.pool() if chunk.pool is not None else None
            if pool is not None:
                pool.take_back(chunk)
            elif all(not c.held for c in chunk.block.chunks):
                chunk.block.free()


@dataclass(eq=False)
class _DevicePool:
    """A pool's share of one device."""

    index: int
    free: dict[int, list[Chunk]] = field(default_factory=dict)
    used: int = 0
    total: int = 0
    limit: int = 0

    def malloc(self, size: int) -> Chunk:
        with state.lock:
            settle()
            size = -(-size // UNIT) * UNIT
            arena = device.current().number
            fitting = [c for c in self.free.get(arena, []) if c.size >= size]
            if fitting:
                chunk = min(fitting, key=lambda c: c.size)
                self.free[arena].remove(chunk)
                self._split(chunk, size)
                chunk.held = True
                if not state.deferred:  # with work put off, some of it may still be to use the old contents
                    offset = chunk.start - chunk.block.start
                    chunk.block.memory[offset : offset + size] = 0xFF
            else:
                block = self._block(size)
                chunk = Chunk(block, block.start, size, arena, pool=weakref.ref(self))
                block.chunks = [chunk]
            self.used += size
            chunk.block.used[self.index] += size
            return chunk

    def _split(self, chunk: Chunk, size: int) -> None:
        if chunk.size == size:
            return
        rest = Chunk(chunk.block, chunk.start + size, chunk.size - size, chunk.arena, False, chunk.pool)
        chunk.size = size
        chunks = chunk.block.chunks
        chunks.insert(chunks.index(chunk) + 1, rest)
        self.free[chunk.arena].append(rest)

    def take_back(self, chunk: Chunk) -> None:
        self.used -= chunk.size
        chunks = chunk.block.chunks
        i = chunks.index(chunk)
        for other in (c for c in (chunks[i + 1 : i + 2] + chunks[max(i - 1, 0) : i]) if not c.held):
            self.free[other.arena].remove(other)
            chunk.start = min(chunk.start, other.start)
            chunk.size += other.size
            chunks.remove(other)
        self.free.setdefault(chunk.arena, []).append(chunk)

    def _block(self, size: int) -> Block:
        for attempt in range(3):
            if attempt:
                if attempt == 2:
                    gc.collect()
                    settle()
                self.free_all_blocks()
            if self.limit and self.total + size > self.limit:
                continue
            try:
                block = Block(size)
            except CUDARuntimeError:
                continue
            self.total += size
            return block
        raise OutOfMemoryError(size, self.total, self.limit)

    def free_all_blocks(self, arena: int | None = None) -> None:
        for number in [n for n in self.free if arena in (None, n)]:
            self.total -= _free_whole_blocks(self.free[number])


def _free_whole_blocks(chunks: list[Chunk]) -> int:
    """Of these free chunks, give back those that are not parts of larger blocks; how many bytes that were."""
    whole = [c for c in chunks if c.size == c.block.size]
    for chunk in whole:
        chunks.remove(chunk)
        chunk.block.free()
    return sum(c.size for c in whole)


class MemoryPool:
    """cupy.cuda.MemoryPool. What is free in it when it goes is lost, as in CuPy 14: arenas and free chunks hold each other."""

    def __init__(self) -> None:
        self._pools = [_DevicePool(i) for i in range(state.devices)]

    def of(self, index: int) -> _DevicePool:
        """Its share of a device."""
        return self._pools[index]

    def malloc(self, size: int) -> MemoryPointer:
        """Memory on the current device, for the current stream."""
        mem = Memory(self._pools[state.device].malloc(size) if size else None)
        return MemoryPointer(mem, mem.ptr)

    def free_all_blocks(self, stream: Any = None) -> None:
        """Give back what no array holds on the current device."""
        settle()
        self._pools[state.device].free_all_blocks(None if stream is None else stream.ptr)

    def used_bytes(self) -> int:
        """What arrays hold."""
        settle()
        return self._pools[state.device].used

    def total_bytes(self) -> int:
        """What was taken from the driver."""
        settle()
        return self._pools[state.device].total

    def free_bytes(self) -> int:
        """What is kept in reserve."""
        return self.total_bytes() - self.used_bytes()

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Take no more than this from the driver; 0 for no limit."""
        self._pools[state.device].limit = int(state.limit * fraction if size is None and fraction else size or 0)

    def get_limit(self) -> int:
        """What `set_limit` set."""
        return self._pools[state.device].limit


default_pool = MemoryPool()


def allocate(size: int) -> MemoryPointer:
    """Memory from the allocator that is in place."""
    if size == 0:
        return MemoryPointer(Memory(None), 0)
    own = bool(state.allocators)
    if state.strict and device.current().capture is not None and not own:
        raise RuntimeError("memory was allocated during a capture outside of the capture's pool")
    state.allocations += 1
    allocator: Callable[[int], MemoryPointer] | None = state.allocators[-1] if own else default_pool.malloc
    if allocator is not None:
        return allocator(size)
    block = Block(-(-size // UNIT) * UNIT)
    block.chunks = [Chunk(block, block.start, block.size, 0)]
    block.used[block.device] += block.size
    return MemoryPointer(Memory(block.chunks[0]), block.start)


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    """cupy.cuda.using_allocator."""
    state.allocators.append(allocator)
    try:
        yield
    finally:
        state.allocators.pop()


# ---- page-locked memory of the host -------------------------------------------------------------------------------


class _Pinned:
    """What a page-locked array holds on to."""

    def __init__(self, memory: np.ndarray, size: int) -> None:
        self.__array_interface__ = {**memory[:size].__array_interface__}


class PinnedPool:
    """CuPy's: sizes rounded up to powers of two, and nothing ever given back to the system while it is in use."""

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}
        self._ranges: list[tuple[int, int]] = []

    def malloc(self, size: int) -> np.ndarray:
        """Bytes of page-locked memory, with no content worth keeping."""
        rounded = max(UNIT, 1 << max(size - 1, 0).bit_length())
        if self._free.get(rounded):
            memory = self._free[rounded].pop()
        else:
            memory = np.full(rounded, 0xFF, np.uint8)
            state.pinned += rounded
            self._ranges.append((memory.ctypes.data, memory.ctypes.data + rounded))
        owner = _Pinned(memory, size)
        weakref.finalize(owner, self._free.setdefault(rounded, []).append, memory).atexit = False
        return np.asarray(owner)

    def contains(self, array: np.ndarray) -> bool:
        """Whether an array is in such memory."""
        return any(start <= array.ctypes.data < stop for start, stop in self._ranges)

    def free_all_blocks(self) -> None:
        """Nothing here needs the memory."""

    def n_free_blocks(self) -> int:
        """Blocks that are kept in reserve."""
        return sum(map(len, self._free.values()))


pinned_pool = PinnedPool()


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> np.ndarray:
    """cupyx.empty_pinned."""
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return pinned_pool.malloc(size).view(dtype).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def reset() -> None:
    """Begin anew, with nothing in reserve."""
    global default_pool, pinned_pool
    default_pool, pinned_pool = MemoryPool(), PinnedPool()
