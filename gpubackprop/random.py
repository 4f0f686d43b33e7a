"""Random numbers: a counter-based generator whose bits are the same on every device, and seeds for the host.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a 128-bit
counter and a 64-bit key into four 32-bit words, with nothing remembered in between. A dropout mask is a function of
(seed, step, layer, element), so that two devices, and a run that was resumed, draw the same one.

Counter of element e: word e % 4 of counter (e // 4 low 32 bits, step, layer, e // 4 high 32 bits), key (seed low,
seed high).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
ROUNDS = 10


def philox4x32(c: tuple[Any, Any, Any, Any], key: tuple[int, int], p: tuple[Any, Any], xp: Any = np) -> None:
    """Replace the counters c by their four random words, in place.

    c: four uint64 arrays of one shape, each holding 32-bit values; key: two 32-bit integers; p: two uint64 arrays
    of the same shape as scratch. Ten rounds.
    """
    c0, c1, c2, c3 = c
    p0, p1 = p
    k0, k1 = key
    for _ in range(ROUNDS):
        xp.multiply(c0, _M0, out=p0)
        xp.multiply(c2, _M1, out=p1)
        xp.right_shift(p1, _32, out=c0)
        xp.bitwise_xor(c0, c1, out=c0)
        xp.bitwise_xor(c0, np.uint64(k0), out=c0)
        xp.bitwise_and(p1, _LOW, out=c1)
        xp.right_shift(p0, _32, out=c2)
        xp.bitwise_xor(c2, c3, out=c2)
        xp.bitwise_xor(c2, np.uint64(k1), out=c2)
        xp.bitwise_and(p0, _LOW, out=c3)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF


def random_words(size: int, *, seed: int, step: int = 0, layer: int = 0, first: int = 0) -> np.ndarray:
    """`size` random uint32 words, those of the elements first, first + 1, ...: a (size,) host array.

    `seed` is taken modulo 2^64, `step` and `layer` modulo 2^32.
    """
    start = first // 4
    e = np.arange(start, -(-(first + size) // 4), dtype=np.uint64)
    c = (e & _LOW, np.full_like(e, step % 2**32), np.full_like(e, layer % 2**32), e >> _32)
    philox4x32(c, split_seed(seed), (np.empty_like(e), np.empty_like(e)))
    words = np.stack(c, axis=1).astype(np.uint32).reshape(-1)
    return words[first - 4 * start :][:size]


def split_seed(seed: int) -> tuple[int, int]:
    """The two 32-bit words of a 64-bit key."""
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF


def host_generator(seed: int, *stream: int) -> np.random.Generator:
    """NumPy's generator for a purpose of its own: initial weights, the order of an epoch's rows, a split."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=seed % 2**64, spawn_key=stream)))


class MaskStream:
    """The dropout masks of one layer: 1/(1-p) where a row's unit is kept, else 0.

    `step` is the network's step counter, a 0-d uint64 array on the device that the step itself counts up, so that a
    recorded step draws a new mask at each replay.
    """

    def __init__(self, seed: int, layer: int, p: float, step: Any) -> None:
        self.key = split_seed(seed)
        self.layer = layer
        self.p = p
        self.step = step
        self.threshold = round((1 - p) * 2**32)
        self._memory: tuple[Any, ...] = ()

    def fill_mask(self, be: Any, mask: Any, first: int = 0) -> None:
        """Write this step's mask into `mask` (n, d), whose elements count up along the rows from `first` on."""
        start, skipped = divmod(first, 4)
        quads = -(-(skipped + mask.size) // 4)
        if not self._memory or len(self._memory[0]) < quads:
            self._memory = (
                be.asarray(np.arange(quads, dtype=np.uint64)),
                be.empty((quads, 4), mask.dtype),
                *(be.empty((quads,), np.uint64) for _ in range(6)),
            )
        e, scaled, c0, c1, c2, c3, p0, p1 = (array[:quads] for array in self._memory)
        xp = be.xp
        xp.add(e, np.uint64(start), out=p0)
        xp.bitwise_and(p0, _LOW, out=c0)
        xp.copyto(c1, self.step)
        xp.copyto(c2, np.uint64(self.layer))
        xp.right_shift(p0, _32, out=c3)
        philox4x32((c0, c1, c2, c3), self.key, (p0, p1), xp)
        for word, column in enumerate((c0, c1, c2, c3)):
            xp.less(column, np.uint64(self.threshold), out=scaled[:, word], casting="unsafe")
        xp.multiply(scaled, 1 / (1 - self.p), out=scaled)
        xp.copyto(mask, scaled.reshape(-1)[skipped : skipped + mask.size].reshape(mask.shape))
