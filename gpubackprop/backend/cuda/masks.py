"""Which outputs of a ReLU are above 0, as cuBLASLt keeps it from the forward pass to the backward pass: a bit each."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array


class Masks:
    """The masks of the arrays that ReLUs write their outputs to. xp: CuPy. An array's mask lives as long as it does."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self._held: dict[int, tuple[weakref.ref[Any], Array]] = {}
        self._valid: set[int] = set()

    def memory_for(self, out: Array) -> Array:
        """The memory of the mask of `out`, (n, m): n rows of m bits, padded to a multiple of 128."""
        held = self._held.get(id(out))
        if held is not None and held[0]() is out:
            return held[1]
        self.forget_dead()
        n, m = out.shape
        mask = self._xp.empty((n * (-(-m // 128) * 16),), np.uint8)
        self._held[id(out)] = weakref.ref(out), mask
        return mask

    def written(self, out: Array) -> None:
        """Note that the present values of `out` were written together with their mask."""
        self._valid.add(id(out))

    def forget(self, out: Array) -> None:
        """Note that the values of `out` were written anew, without their mask."""
        self._valid.discard(id(out))

    def of(self, saved: Array) -> Array | None:
        """The mask of what an array holds; None where it was written without one."""
        held = self._held.get(id(saved))
        return held[1] if held is not None and held[0]() is saved and id(saved) in self._valid else None

    def forget_dead(self) -> None:
        """Let go of the masks of arrays that are gone."""
        self._held = {key: held for key, held in self._held.items() if held[0]() is not None}
        self._valid &= self._held.keys()

    def memory(self) -> tuple[Array, ...]:
        """All masks."""
        return tuple(mask for _, mask in self._held.values())
