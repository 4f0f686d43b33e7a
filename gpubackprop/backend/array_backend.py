"""Each operation written in array expressions: the definition that every device is held to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.arithmetic import Arithmetic
from gpubackprop.backend.base import Array, Backend, ElementwiseFunction, LossFunction, Tensors, UpdateRule
from gpubackprop.precision import accumulator
from gpubackprop.random import MaskStream

MANY = 64 * 1024
"""Rows past which they are added up in float64: a float32 product with ones loses more digits the more there are."""


class ArrayBackend(Backend):
    """The whole vocabulary over `self.xp`, a namespace with NumPy's functions.

    A device that has such a namespace is complete with the few memory operations of `Backend`; it overrides
    here what it can do faster.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self._depth = 0
        self._arithmetic = Arithmetic()
        self._memory: dict[Any, Array] = {}

    def __enter__(self) -> Backend:
        self.lock.acquire()
        self._depth += 1
        if self._depth == 1:
            # Overflow and NaN show in a step's loss, as they do on a GPU, and not as warnings of NumPy's.
            self._arithmetic.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._arithmetic.__exit__()
        self.lock.release()

    def scratch(self, like: Array, slot: int = 0) -> Array:
        flat = self._leading(like.size, like.dtype, slot, self.empty)
        return flat.reshape(like.shape)

    def ones(self, n: int, dtype: DTypeLike) -> Array:
        """A vector of n ones: a product with it is a column sum."""
        return self._leading(n, dtype, "ones", lambda shape, dtype: self.asarray(np.ones(shape, dtype)))

    def arange(self, n: int) -> Array:
        """The integers 0 .. n-1 as int64."""
        return self._leading(n, np.int64, "arange", lambda shape, dtype: self.asarray(np.arange(shape[0], dtype=dtype)))

    def _leading(self, size: int, dtype: DTypeLike, slot: Hashable, make: Callable[..., Array]) -> Array:
        key = (slot, np.dtype(dtype))
        if key not in self._memory or self._memory[key].size < size:
            self._memory[key] = make((size,), dtype)
        return self._memory[key][:size]

    def _run(self, function: Callable[..., Any], *arguments: object, **options: object) -> None:
        function(*arguments, **options)

    # -- layers ---------------------------------------------------------------------------------------------------

    def affine(self, x: Array, W: Array, b: Array | None, f: ElementwiseFunction, z: Array, out: Array) -> None:
        self.dot(x, W, z)
        if b is not None:
            self.xp.add(z, b, out=z)
        self.activate(f, z, out)

    def propagate(self, delta: Array, W: Array, f: ElementwiseFunction, saved: Array, out: Array) -> None:
        self.dot(delta, W.T, out)
        self.times_derivative(f, saved, out)

    def affine_gradients(self, x: Array, delta: Array, dW: Array, db: Array | None, beta: float) -> None:
        if not beta:
            self.dot(x.T, delta, dW)
            if db is not None:
                self.column_sums(delta, db)
            return
        part = self.scratch(dW)
        self.dot(x.T, delta, part)
        self._add_to(dW, beta, part)
        if db is not None:
            part = self.scratch(db)
            self.column_sums(delta, part)
            self._add_to(db, beta, part)

    def _add_to(self, total: Array, beta: float, part: Array) -> None:
        """total = beta total + part."""
        if beta != 1:
            self.xp.multiply(total, beta, out=total)
        self.xp.add(total, part, out=total)

    def activate(self, f: ElementwiseFunction, z: Array, out: Array) -> None:
        if f.recordable:
            f.forward(self, z, out)
        else:
            self.call(f.forward, self, z, out)

    def times_derivative(self, f: ElementwiseFunction, saved: Array, delta: Array) -> None:
        if f.recordable:
            f.times_derivative(self, saved, delta)
        else:
            self.call(f.times_derivative, self, saved, delta)

    def dropout(self, x: Array, stream: MaskStream, first: int, mask: Array, out: Array) -> None:
        stream.fill_mask(self, mask, first)
        self.xp.multiply(x, mask, out=out)

    def normalize(
        self,
        x: Array,
        axis: int,
        eps: float,
        mean: Array | None,
        var: Array,
        rstd: Array,
        xhat: Array,
        gamma: Array,
        beta: Array | None,
        out: Array,
    ) -> None:
        if axis == 0:
            x = self._statistics(x, 0, eps, mean, var, rstd, xhat)
            for rows, part_xhat, part_out in self.row_parts(x, xhat, out):
                self.xp.multiply(rows, rstd, out=part_xhat)
                self._scale_and_shift(part_xhat, gamma, beta, part_out)
            return
        for rows, part_mean, part_var, part_rstd, part_xhat, part_out in self.row_parts(x, mean, var, rstd, xhat, out):
            rows = self._statistics(rows, 1, eps, part_mean, part_var, part_rstd, part_xhat)
            self.xp.multiply(rows, part_rstd, out=part_xhat)
            self._scale_and_shift(part_xhat, gamma, beta, part_out)

    def _statistics(
        self, x: Array, axis: int, eps: float, mean: Array | None, var: Array, rstd: Array, xhat: Array
    ) -> Array:
        """mean, var and rstd of x along an axis. Returns x - mean, which is xhat then, or x where there is no mean."""
        xp, share = self.xp, 1 / x.shape[axis]
        if mean is not None:
            self._sums(x, axis, mean)
            xp.multiply(mean, share, out=mean)
            xp.subtract(x, mean, out=xhat)
            x = xhat
        self._dots(x, x, axis, var)
        xp.multiply(var, share, out=var)
        xp.add(var, eps, out=rstd)
        xp.sqrt(rstd, out=rstd)
        xp.divide(1.0, rstd, out=rstd)
        return x

    def _scale_and_shift(self, xhat: Array, gamma: Array, beta: Array | None, out: Array) -> None:
        self.xp.multiply(xhat, gamma, out=out)
        if beta is not None:
            self.xp.add(out, beta, out=out)

    def normalize_backward(
        self,
        delta: Array,
        axis: int,
        gamma: Array,
        rstd: Array,
        xhat: Array,
        sums: Array,
        out: Array,
        centered: bool = True,
    ) -> None:
        xp, share = self.xp, 1 / delta.shape[axis]
        if axis == 0:
            # gamma, a factor of each column as rstd is, may come after the sums.
            factor, mean, dot = self.scratch(rstd, 3), self.scratch(rstd, 1), self.scratch(rstd, 2)
            xp.multiply(rstd, gamma, out=factor)
            xp.multiply(sums[:1], share, out=mean)
            xp.multiply(sums[1:], share, out=dot)
            for g, part_xhat, part_out in self.row_parts(delta, xhat, out):
                self._without_means(g, mean, part_xhat, dot, factor, part_out)
            return
        for part_delta, part_rstd, part_xhat, part_out in self.row_parts(delta, rstd, xhat, out):
            g, own, dot = self.scratch(part_delta, 3), self.scratch(part_rstd, 1), self.scratch(part_rstd, 2)
            xp.multiply(part_delta, gamma, out=g)
            if centered:
                self._sums(g, 1, own)
                xp.multiply(own, share, out=own)
            self._dots(g, part_xhat, 1, dot)
            xp.multiply(dot, share, out=dot)
            self._without_means(g, own if centered else None, part_xhat, dot, part_rstd, part_out)

    def _without_means(self, g: Array, mean: Array | None, xhat: Array, dot: Array, rstd: Array, out: Array) -> None:
        """out = rstd (g - mean - xhat dot)."""
        xp, t = self.xp, self.scratch(g)
        xp.multiply(xhat, dot, out=t)
        if mean is not None:
            xp.subtract(g, mean, out=out)
            g = out
        xp.subtract(g, t, out=out)
        xp.multiply(out, rstd, out=out)

    def scale_gradients(self, delta: Array, xhat: Array, sums: Array) -> None:
        self._sums(delta, 0, sums[:1])
        self._dots(delta, xhat, 0, sums[1:])

    def _sums(self, values: Array, axis: int, out: Array) -> None:
        if axis == 0:
            self.column_sums(values, out[0])
        else:
            self.xp.sum(values, axis=1, out=out, keepdims=True)

    def _dots(self, a: Array, b: Array, axis: int, out: Array) -> None:
        """Sums of a b along an axis."""
        t = self.scratch(a)
        self.xp.multiply(a, b, out=t)
        self._sums(t, axis, out)

    # -- loss, gradients, parameters ------------------------------------------------------------------------------

    def loss_and_delta(
        self,
        loss: LossFunction,
        a: Array,
        y: Array,
        v: Tensors,
        value: Array,
        delta: Array | None,
        rows: int,
        total: Array | None = None,
    ) -> None:
        if loss.recordable:
            loss.value_and_delta(self, a, y, v, value, delta, rows)
        else:
            self.call(loss.value_and_delta, self, a, y, v, value, delta, rows)
        if total is not None:
            part = self.scratch(value, 1)
            self.xp.multiply(value, float(rows), out=part)
            self.xp.add(total, part, out=total)

    def gather_rows(self, source: Array, index: Array, out: Array) -> None:
        self._run(self.xp.take, source, index, axis=0, out=out)

    def take(self, flat: Array, index: Array, out: Array) -> None:
        self._run(self.xp.take, flat, index, out=out)

    def put(self, flat: Array, index: Array, values: Array) -> None:
        self._run(self.xp.put, flat, index, values)

    def heaviside(self, a: Array, out: Array) -> None:
        self.xp.greater(a, 0, out=out, casting="unsafe")

    def column_sums(self, values: Array, out: Array) -> None:
        if len(values) <= MANY:
            self.dot(self.ones(len(values), values.dtype), values, out)
            return
        sums = self._leading(out.size, accumulator(values.dtype), "sums", self.empty)
        self.xp.sum(values, axis=0, dtype=sums.dtype, out=sums)
        self.xp.copyto(out, sums, casting="unsafe")

    def total(self, values: Array, scale: float, out: Array) -> None:
        self.xp.sum(values, dtype=accumulator(values.dtype), out=out)
        self.xp.multiply(out, scale, out=out)

    def total_of_squares(self, values: Array, scale: float, out: Array) -> None:
        t = self.scratch(values)
        self.xp.multiply(values, values, out=t)
        self.total(t, scale, out)

    def add_penalty(self, W: Array, l1: float, l2: float, value: Array) -> None:
        xp, t = self.xp, self.scratch(W)
        if l2:
            xp.multiply(W, W, out=t)
            self._add_sum(t, l2 / 2, value)
        if l1:
            xp.negative(W, out=t)
            xp.maximum(W, t, out=t)
            self._add_sum(t, l1, value)

    def _add_sum(self, t: Array, factor: float, value: Array) -> None:
        part = self.scratch(value, 1)
        self.xp.sum(t, dtype=part.dtype, out=part)
        self.xp.multiply(part, factor, out=part)
        self.xp.add(value, part, out=value)

    def add_penalty_gradient(self, W: Array, l1: float, l2: float, dW: Array) -> None:
        xp, t = self.xp, self.scratch(W)
        if l2:
            xp.multiply(W, l2, out=t)
            xp.add(dW, t, out=dW)
        if l1:
            xp.sign(W, out=t)
            xp.multiply(t, l1, out=t)
            xp.add(dW, t, out=dW)

    def dot(self, a: Array, b: Array, out: Array) -> None:
        self.xp.dot(a, b, out=out)

    def norm(self, G: Array, out: Array) -> None:
        xp, t, root = self.xp, self.scratch(G), self.scratch(out, 1)
        # Divided by the largest first: the square of what a type holds may be beyond it.
        xp.abs(G, out=t)
        xp.max(t, out=out)
        xp.add(out, float(np.finfo(G.dtype).tiny), out=out)
        xp.divide(t, out, out=t)
        self.dot(t, t, root)
        xp.sqrt(root, out=root)
        xp.multiply(out, root, out=out)

    def clip_by_norm(self, G: Array, max_norm: float, norm: Array, factor: Array) -> None:
        xp = self.xp
        self.norm(G, norm)
        xp.add(norm, 1e-6, out=factor)
        xp.divide(max_norm, factor, out=factor)
        xp.minimum(factor, 1.0, out=factor)
        xp.multiply(G, factor, out=G)

    def subtract_scaled(self, p: Array, eta: Array, v: Array) -> None:
        t = self.scratch(p)
        self.xp.multiply(v, eta, out=t)
        self.xp.subtract(p, t, out=p)

    def decaying_average(self, average: Array, beta: float, value: Array, t: Array) -> None:
        self.xp.multiply(average, beta, out=average)
        self.xp.multiply(value, 1 - beta, out=t)
        self.xp.add(average, t, out=average)

    def _in_lanes(self, starts: range) -> Iterable[int]:
        """Where the parts of an array start, which a device may work on side by side."""
        return starts

    update_block = sys.maxsize
    """Elements of an update at a time."""

    def update(self, optimizer: UpdateRule, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        if not optimizer.elementwise:
            optimizer.rule(self, P, G, state, h)
            return
        for rule, span, decays in optimizer.spans():
            numbers = h if rule is optimizer else rule.h
            for i in self._in_lanes(range(span.start, span.stop, self.update_block)):
                block = slice(i, min(i + self.update_block, span.stop))
                p, g = P[block], G[block]
                # Where weights alone decay, `rule` cannot tell that p is one.
                if decays and not rule.decays(is_weight=False):
                    rule.add_decay(self, p, g, numbers, is_weight=True)
                rule.rule(self, p, g, tuple(s[block] for s in state), numbers)
