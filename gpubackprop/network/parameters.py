"""All parameters of a network in one flat buffer and their gradients in another, with a named view for each array.

So an update is one pass, a norm one reduction, a checkpoint one copy. Each array starts at a multiple of 64 bytes;
the gaps hold zeros in every buffer and stay zero under every update.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, Backend


@dataclass(frozen=True)
class Segment:
    """Where one array lies in the flat buffers: elements `start` to `start + size`."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Whether it is a matrix: a bias, or what scales units, has one dimension."""
        return len(self.shape) > 1

    def of(self, flat: Array) -> Array:
        """This array's view of a flat buffer."""
        return flat[self.start : self.start + self.size].reshape(self.shape)


class Parameters:
    """The flat buffer `P` of parameters and the flat buffer `G` of their gradients on one device.

    shapes: {"0.weight": (784, 512), "0.bias": (512,), ...} in order; dtype: of both buffers.
    owner: whose they are; the same network on another device has other buffers, but is the same owner.
    `views` and `gradients` map the names to views of P and G.
    """

    def __init__(
        self, backend: Backend, shapes: dict[str, tuple[int, ...]], dtype: np.dtype[Any], owner: object = None
    ) -> None:
        self.owner = owner
        self.backend = backend
        self.dtype = dtype
        aligned = max(64 // dtype.itemsize, 1)
        segments: list[Segment] = []
        end = 0
        for name, shape in shapes.items():
            segments.append(Segment(name, shape, end))
            end += -(-prod(shape) // aligned) * aligned
        self.segments = tuple(segments)
        self.count = sum(s.size for s in segments)
        self.frozen: frozenset[str] = frozenset()
        """The names of those that are not trained."""
        self.P: Array = backend.parameter_buffer(end, dtype)
        self.G: Array = backend.zeros((end,), dtype)
        self.views = {s.name: s.of(self.P) for s in segments}
        self.gradients = {s.name: s.of(self.G) for s in segments}

    def to_host(self, flat: Array) -> dict[str, np.ndarray]:
        """The arrays of a flat buffer as host copies, in one transfer."""
        host = self.backend.to_host(flat)
        return {s.name: s.of(host).copy() for s in self.segments}

    def write(self, values: dict[str, np.ndarray]) -> None:
        """Put host arrays of the right shapes, none a view of P, into the buffer of parameters."""
        for s in self.segments:
            self.backend.copy_in(values[s.name], self.views[s.name])
