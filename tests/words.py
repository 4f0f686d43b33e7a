"""The bits of dropout's masks, as `gpubackprop.random` says them, by NumPy's Philox4x64-10 alone."""

from __future__ import annotations

import numpy as np


def random_words(size: int, *, seed: int, step: int = 0, layer: int = 0, first: int = 0) -> np.ndarray:
    """`size` random uint16 numbers, those of the elements first, first + 1, ...; all arguments are taken modulo 2^64."""
    start, skipped = divmod(first, 16)
    # The generator counts up before it computes.
    counter = (start + (step % 2**64 << 64) + (layer % 2**64 << 128) - 1) % 2**256
    words = np.random.Philox(key=seed % 2**64, counter=counter).random_raw(4 * -(-(skipped + size) // 16))
    return words.astype("<u8", copy=False).view("<u2")[skipped : skipped + size]
