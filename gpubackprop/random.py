"""Random numbers: a counter-based generator whose bits are the same on every device, and seeds for the host.

Philox4x64-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a 256-bit
counter and a 128-bit key into four 64-bit words, with nothing remembered in between. A dropout mask is a function of
(seed, step, layer, element), so that two devices, and a run that was resumed, draw the same one. NumPy brings the generator
along in C.

Each element takes 16 bits: element e has bits 16 (e % 4) and up of word (e // 4) % 4 of counter (e // 16, step, layer, 0), key
(seed, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

_M0, _M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_W0, _W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_ALL = 2**64 - 1
ROUNDS = 10
OUT_OF = 2**16
"""Numbers that an element's bits can be."""
PER_BLOCK = 16
"""Elements that share a counter."""
CHUNK = 8192
"""Words drawn at a time, whose masks stay in the cache."""


def philox4x64(c: tuple[Any, ...], key: tuple[int, int], scratch: tuple[Any, ...], xp: ModuleType = np) -> None:
    """Replace the counters c by their four random words, in place, in array expressions.

    c: four uint64 arrays of one shape; key: two 64-bit integers; scratch: five uint64 arrays of the same shape.
    """
    c0, c1, c2, c3 = c
    high0, high1, *rest = scratch
    k0, k1 = key
    for _ in range(ROUNDS):
        _high_product(c0, _M0, high0, rest, xp)
        _high_product(c2, _M1, high1, rest, xp)
        xp.multiply(c0, np.uint64(_M0), out=rest[0])
        xp.bitwise_xor(high1, c1, out=c0)
        xp.bitwise_xor(c0, np.uint64(k0), out=c0)
        xp.multiply(c2, np.uint64(_M1), out=c1)
        xp.bitwise_xor(high0, c3, out=c2)
        xp.bitwise_xor(c2, np.uint64(k1), out=c2)
        xp.copyto(c3, rest[0])
        k0, k1 = (k0 + _W0) & _ALL, (k1 + _W1) & _ALL


def _high_product(a: np.ndarray, b: int, out: np.ndarray, scratch: Sequence[np.ndarray], xp: ModuleType) -> None:
    """out = the upper 64 of the 128 bits of a b, from products of 32 bits each."""
    low, high, t = scratch
    b_low, b_high = np.uint64(b & 0xFFFFFFFF), np.uint64(b >> 32)
    xp.bitwise_and(a, _LOW, out=low)
    xp.right_shift(a, _32, out=high)
    xp.multiply(low, b_low, out=t)
    xp.right_shift(t, _32, out=t)
    xp.multiply(high, b_low, out=out)
    xp.add(t, out, out=t)
    xp.multiply(low, b_high, out=low)
    xp.bitwise_and(t, _LOW, out=out)
    xp.add(low, out, out=low)
    xp.right_shift(low, _32, out=low)
    xp.right_shift(t, _32, out=t)
    xp.multiply(high, b_high, out=out)
    xp.add(out, t, out=out)
    xp.add(out, low, out=out)


class _Words:
    """NumPy's Philox4x64-10, set to any counter."""

    def __init__(self, seed: int) -> None:
        self.counter = np.zeros(4, np.uint64)
        self._generator = np.random.Philox(key=0, counter=0)
        self._state: Any = dict(self._generator.state)
        self._state["state"] = {"counter": self.counter, "key": np.array([seed % 2**64, 0], np.uint64)}

    def go_to(self, block: int, step: int, layer: int) -> None:
        """The next word will be the first of counter (block, step, layer, 0)."""
        # The generator counts up before it computes.
        before = int(block) + (int(step) << 64) + (int(layer) << 128) - 1
        for i in range(4):
            self.counter[i] = (before >> (64 * i)) & _ALL
        self._generator.state = self._state

    def draw(self, blocks: int) -> np.ndarray:
        """The 16 bits of each element of so many counters: (16 blocks,) uint16."""
        words: np.ndarray = self._generator.random_raw(4 * blocks)
        return words.astype("<u8", copy=False).view("<u2")


def host_generator(seed: int, *stream: int) -> np.random.Generator:
    """NumPy's generator for a purpose of its own: initial weights, the order of an epoch's rows, a split."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=seed % 2**64, spawn_key=stream)))


class MaskStream:
    """The dropout masks of one layer: 1/(1-p) where a row's unit is kept, else 0.

    A unit is kept where its 16 bits are below `threshold`, that is with probability 1 - p to 2^-17.
    `step` is the network's step counter, a 0-d uint64 array on the device that the step itself counts up, so that a
    recorded step draws a new mask at each replay.
    """

    def __init__(self, seed: int, layer: int, p: float, step: Any) -> None:
        self.key = np.array([seed % 2**64, layer], np.uint64)
        """(seed, layer), on the host."""
        self.p = p
        self.step = step
        self.threshold = max(round((1 - p) * OUT_OF), 1)
        self._words: _Words | None = None
        self._memory: tuple[Any, ...] = ()

    def draw(self, mask: np.ndarray, step: np.ndarray, first: int) -> None:
        """Write the mask of that step into `mask` (size,), both on the host, for the elements from `first` on."""
        if self._words is None:
            self._words = _Words(int(self.key[0]))
        start, skipped = divmod(first, PER_BLOCK)
        self._words.go_to(start, int(step), int(self.key[1]))
        scale, done = np.asarray(1 / (1 - self.p), mask.dtype), 0
        while done < mask.size:
            size = min(4 * CHUNK - skipped, mask.size - done)
            words = self._words.draw(-(-(skipped + size) // PER_BLOCK))[skipped : skipped + size]
            part = mask[done : done + size]
            np.less(words, self.threshold, out=part, casting="unsafe")
            np.multiply(part, scale, out=part)
            done, skipped = done + size, 0

    def fill_mask(self, be: Any, mask: np.ndarray, first: int = 0) -> None:
        """The same in array expressions, for a device that has nothing better. `mask` (n, d), whose elements count up along
        the rows from `first` on."""
        start, skipped = divmod(first, PER_BLOCK)
        blocks = -(-(skipped + mask.size) // PER_BLOCK)
        if not self._memory or len(self._memory[0]) < blocks:
            self._memory = (
                be.asarray(np.arange(blocks, dtype=np.uint64)),
                be.empty((blocks, PER_BLOCK), mask.dtype),
                *(be.empty((blocks,), np.uint64) for _ in range(9)),
            )
        e, scaled, c0, c1, c2, c3, *scratch = (array[:blocks] for array in self._memory)
        xp, part = be.xp, scratch[0]
        xp.add(e, np.uint64(start), out=c0)
        xp.copyto(c1, self.step)
        xp.copyto(c2, self.key[1])
        xp.copyto(c3, np.uint64(0))
        philox4x64((c0, c1, c2, c3), (int(self.key[0]), 0), tuple(scratch), xp)
        for i in range(PER_BLOCK):
            xp.right_shift((c0, c1, c2, c3)[i // 4], np.uint64(16 * (i % 4)), out=part)
            xp.bitwise_and(part, np.uint64(0xFFFF), out=part)
            xp.less(part, np.uint64(self.threshold), out=scaled[:, i], casting="unsafe")
        xp.multiply(scaled, 1 / (1 - self.p), out=scaled)
        xp.copyto(mask, scaled.reshape(-1)[skipped : skipped + mask.size].reshape(mask.shape))
