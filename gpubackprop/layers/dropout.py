"""Dropout."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.checks import share
from gpubackprop.errors import ArgumentError
from gpubackprop.layers.base import Layer
from gpubackprop.losses import Buffers
from gpubackprop.random import OUT_OF, MaskStream


class Dropout(Layer):
    """In training a = x * mask, mask = 0 with probability p and 1/(1-p) otherwise; a = x elsewhere.

    Srivastava et al. (2014), scaled in training ("inverted"). The mask is drawn anew at each step from the network's
    seed, with the same bits on every device. Raises ArgumentError unless 0 <= p < 1, and for a p so near to 1 that the share of
    what is kept would be off by more than 1 %.
    """

    random = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = share("p", p)
        kept = (1 - self.p) * OUT_OF
        if abs(round(kept) - kept) > 0.01 * kept:
            raise ArgumentError(f"p must leave enough to be drawn by 16 random bits, such as 0.999 or less; got {p!r}")
        self._width = 0

    def build(self, width: int) -> int:
        self._width = width
        return width

    def random_stream(self, seed: int, index: int, step: Array) -> MaskStream:
        return MaskStream(seed, index, self.p, step)

    def buffers(self, dtype: DTypeLike) -> Buffers:
        return {"mask": (("n", self._width), dtype)}

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        if training:
            assert isinstance(self.stream, MaskStream)
            be.dropout(v.x, self.stream, v.first_row * self._width, v.mask, v.a)
        else:
            be.xp.copyto(v.a, v.x)

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        if training:
            be.xp.multiply(v.delta, v.mask, out=dx)
        else:
            be.xp.copyto(dx, v.delta)

    def settings(self) -> dict[str, Any]:
        return {"p": self.p}
