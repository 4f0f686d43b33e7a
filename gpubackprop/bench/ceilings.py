"""What the device can do at best: the fastest product and the largest copy, through the same operations as the steps."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from gpubackprop.backend.base import Backend
from gpubackprop.bench.timing import undisturbed

PRODUCTS = {False: (1024, 2048), True: (2048, 4096, 8192)}
"""Rows and columns of the square products that are tried on the CPU, and on a GPU."""
COPY = {False: 128 << 20, True: 1 << 30}
"""Bytes of the array that is copied: more than any cache holds."""
BUDGET = 0.15
"""Seconds that each is tried for; the fastest counts, as everything else on a machine only takes away from it."""


def ceilings(backend: Backend, dtype: str) -> dict[str, float]:
    """ "flops" a second of the fastest square product, and "bytes" read and written a second by the largest copy."""
    gpu = backend.name.startswith("cuda")
    with undisturbed():
        return {
            "flops": max(2 * k**3 / _product_seconds(backend, k, dtype) for k in PRODUCTS[gpu]),
            "bytes": 2 * COPY[gpu] / _copy_seconds(backend, COPY[gpu]),
        }


def _product_seconds(backend: Backend, k: int, dtype: str) -> float:
    rng = np.random.default_rng(0)
    a, b = (backend.asarray(rng.random((k, k), np.float32).astype(dtype)) for _ in range(2))
    out = backend.empty((k, k), dtype)
    return _fastest(backend, lambda: backend.dot(a, b, out))


def _copy_seconds(backend: Backend, size: int) -> float:
    source = backend.zeros((size,), np.uint8)
    backend.fill(source, 1)
    target = backend.zeros((size,), np.uint8)
    return _fastest(backend, lambda: backend.copy_in(source, target))


def _fastest(backend: Backend, run: Any) -> float:
    run()
    backend.synchronize()
    best, started = float("inf"), perf_counter()
    while perf_counter() - started < BUDGET or best == float("inf"):
        before = perf_counter()
        run()
        backend.synchronize()
        best = min(best, perf_counter() - before)
    return best
