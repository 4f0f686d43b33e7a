"""How much memory a network takes while it trains."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

from gpubackprop.backend.base import Backend


class MemoryGauge:
    """What is allocated from its making on: NumPy's arrays on the CPU (BLAS keeps its own, uncounted), all on a GPU."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._before = self._gpu() if self._on_gpu else 0
        if not self._on_gpu:
            tracemalloc.start()

    def peak(self, step: Callable[[], None]) -> int:
        """Bytes in use at most while `step`, which was run before, is run once more. Ends the gauge."""
        if self._on_gpu:
            step()
            return max(self._gpu() - self._before, 0)
        try:
            tracemalloc.reset_peak()
            step()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @property
    def _on_gpu(self) -> bool:
        return self._backend.name.startswith("cuda")

    def _gpu(self) -> int:
        from gpubackprop.backend.cuda.timing import memory_in_use

        self._backend.synchronize()
        return memory_in_use(self._backend)
