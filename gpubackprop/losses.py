"""Loss functions C and their derivatives delta = dC/da. The loss owns its reduction, and delta is the derivative of
exactly the value that it returns.

a (n, m) are the outputs of the last layer, y the targets. `rows` is the number of samples the mean is taken over: n,
or more when these n are a part of a larger batch, whose parts' values and deltas then add up to the batch's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.errors import unknown_name
from gpubackprop.precision import compute_type, largest_exponent

MANY_CLASSES = 128
"""Classes from which a softmax on the CPU is faster in the layout of the logits than in that of their transpose."""

Buffers = dict[str, tuple[tuple[int | str, ...], Any]]
"""Name -> (shape, dtype) of what is kept between calls; "n" in a shape stands for the rows of the batch."""


class Loss:
    """A function of a batch's outputs and targets, and its derivative with respect to the outputs."""

    name: ClassVar[str]
    output: ClassVar[str] = "identity"
    """What `predict` applies to the last layer's outputs: "identity", "sigmoid" or "softmax"."""
    labels: ClassVar[bool] = False
    """Whether integer class labels of shape (n,) are targets too."""
    smooth: ClassVar[bool] = True
    """Whether C has all its derivatives where a = y, where else a finite difference may not be trusted."""

    recordable: ClassVar[bool] = False
    """Whether all work goes through `be` with `out=` and depends on no value, so that it can be recorded once and done again.
    False, which is right for any loss, runs `value_and_delta` anew at each step."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass with mathematics of its own must say so itself, whatever its parent says.
        if "recordable" not in vars(cls) and {"value_and_delta"} & vars(cls).keys():
            cls.recordable = False

    def buffers(self, m: int, dtype: Any) -> Buffers:
        """The memory that `value_and_delta` needs as attributes of `v`, for m outputs stored as `dtype`."""
        return {"t": (("n", m), compute_type(dtype)), "d": (("n", m), compute_type(dtype))}

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        """value = C and, unless it is None, delta = dC/da."""
        raise NotImplementedError(f"{type(self).__name__} must define value_and_delta")

    def __repr__(self) -> str:
        return f"<loss {self.name}>"


class _Squared(Loss):
    """scale * sum_ij (a_ij - y_ij)^2, with dC/da_ij = 2 scale (a_ij - y_ij)."""

    recordable = True

    def buffers(self, m: int, dtype: Any) -> Buffers:
        return {"d": (("n", m), compute_type(dtype))}

    def _scale(self, rows: int, m: int) -> float:
        raise NotImplementedError

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, scale = be.xp, self._scale(rows, a.shape[1])
        xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        be.total_of_squares(v.d, scale, value)
        if delta is not None:
            xp.multiply(v.d, 2 * scale, out=delta)


class HalfSquaredError(_Squared):
    """C = (1/n) sum_i 1/2 |a_i - y_i|^2: the sum over outputs, the mean over samples; delta = (a - y) / n."""

    name = "half_squared_error"

    def _scale(self, rows: int, m: int) -> float:
        return 0.5 / rows


class MeanSquaredError(_Squared):
    """C = (1/(n m)) sum_ij (a_ij - y_ij)^2; delta = 2 (a - y) / (n m)."""

    name = "mean_squared_error"

    def _scale(self, rows: int, m: int) -> float:
        return 1 / (rows * m)


class MeanAbsoluteError(Loss):
    """C = (1/(n m)) sum_ij |a_ij - y_ij|; delta = sign(a - y) / (n m), 0 where a = y."""

    recordable = True
    name = "mean_absolute_error"
    smooth = False

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, scale = be.xp, 1 / (rows * a.shape[1])
        xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        xp.negative(v.d, out=v.t)
        xp.maximum(v.d, v.t, out=v.t)
        be.total(v.t, scale, value)
        if delta is not None:
            xp.sign(v.d, out=v.t)
            xp.multiply(v.t, scale, out=delta)


class BinaryCrossEntropy(Loss):
    """C = -(1/(n m)) sum_ij (y log p + (1-y) log(1-p)), p = sigmoid(z), from the logits z = a.

    Written as z (h - y) + log(1 + exp(-|z|)), h = 1 where z > 0, else 0, which is finite for every finite logit;
    delta = (p - y) / (n m), as (e (1-y) - y) / (1 + e) with e = exp(z): where y is 0 or 1 both keep all their digits.
    """

    recordable = True
    name = "binary_cross_entropy"
    output = "sigmoid"

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, scale = be.xp, 1 / (rows * a.shape[1])
        t, d = v.t, v.d
        xp.negative(a, out=t)
        xp.minimum(a, t, out=t)
        xp.exp(t, out=t)
        xp.log1p(t, out=t)
        be.heaviside(a, d)
        xp.subtract(d, y, out=d)
        xp.multiply(d, a, out=d)
        xp.add(t, d, out=t)
        be.total(t, scale, value)
        if delta is not None:
            xp.minimum(a, largest_exponent(t.dtype), out=t)
            xp.exp(t, out=t)
            xp.subtract(1.0, y, out=d)
            xp.multiply(d, t, out=d)
            xp.subtract(d, y, out=d)
            xp.add(t, 1.0, out=t)
            xp.divide(d, t, out=d)
            xp.multiply(d, scale, out=delta)


class CrossEntropy(Loss):
    """C = -(1/n) sum_i log softmax(z_i)[y_i] for class labels y (n,), or -(1/n) sum_ij y_ij log softmax(z_i)_j for
    one-hot or probability targets y (n, m), from the logits z = a; delta = (softmax(z) sum_j y_ij - y) / n.

    The row maximum is taken out first, so that no exponential overflows. Rows of z stand as columns here, and with few
    classes they are laid out so too, since reductions over few numbers are faster across rows than along them.
    """

    recordable = True
    name = "cross_entropy"
    output = "softmax"
    labels = True

    def buffers(self, m: int, dtype: Any) -> Buffers:
        real = compute_type(dtype)
        shape: tuple[int | str, ...] = (m, "n") if m < MANY_CLASSES else ("n", m)
        return {
            "s": (shape, real),
            "t": (shape, real),
            "row": ((1, "n"), real),
            "mass": ((1, "n"), real),
            "picked": (("n",), real),
            "index": (("n",), np.int64),
        }

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        if y.ndim == 1:
            self._from_labels(be, a, y, v, value, delta, rows)
        else:
            self._from_probabilities(be, a, y, v, value, delta, rows)

    def _from_labels(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, s, flat, picked = be.xp, self._columns(v.s, a), v.s.reshape(-1), v.picked
        n, m = a.shape
        xp.copyto(s, a.T)
        xp.max(s, axis=0, out=v.row, keepdims=True)
        xp.subtract(s, v.row, out=s)
        # Where (y_i, i) lies in memory.
        times, stride, plus = (y, n, be.arange(n)) if m < MANY_CLASSES else (be.arange(n), m, y)
        xp.multiply(times, stride, out=v.index)
        xp.add(v.index, plus, out=v.index)
        be.take(flat, v.index, picked)
        xp.exp(s, out=s)
        be.column_sums(s, v.row[0])
        xp.log(v.row, out=v.mass)
        xp.subtract(v.mass[0], picked, out=picked)
        be.total(picked, 1 / rows, value)
        if delta is not None:
            xp.divide(1 / rows, v.row, out=v.row)
            xp.multiply(s, v.row, out=s)
            be.take(flat, v.index, picked)
            xp.subtract(picked, 1 / rows, out=picked)
            be.put(flat, v.index, picked)
            xp.copyto(delta, s.T)

    def _from_probabilities(
        self, be: Backend, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, s, t = be.xp, self._columns(v.s, a), self._columns(v.t, a)
        # Half of z less half of its maximum is finite for every finite z, so that a target of 0 takes out whatever it is.
        xp.multiply(a.T, 0.5, out=s, dtype=s.dtype)
        xp.max(s, axis=0, out=v.row, keepdims=True)
        xp.subtract(s, v.row, out=s)
        xp.add(s, s, out=t)
        xp.exp(t, out=t)
        be.column_sums(t, v.row[0])
        xp.log(v.row, out=v.mass)
        xp.multiply(v.mass, 0.5, out=v.mass)
        xp.subtract(s, v.mass, out=s)
        xp.multiply(s, y.T, out=s)
        be.total(s, -2 / rows, value)
        if delta is not None:
            xp.copyto(s, y.T)
            be.column_sums(s, v.mass[0])
            xp.divide(v.mass, v.row, out=v.mass)
            xp.multiply(t, v.mass, out=t)
            xp.subtract(t, s, out=t)
            xp.multiply(t, 1 / rows, out=t)
            xp.copyto(delta, t.T)

    @staticmethod
    def _columns(buffer: Array, a: Array) -> Array:
        return buffer if a.shape[1] < MANY_CLASSES else buffer.T


LOSSES: dict[str, type[Loss]] = {
    c.name: c for c in (HalfSquaredError, MeanSquaredError, MeanAbsoluteError, BinaryCrossEntropy, CrossEntropy)
}


def get_loss(loss: str | Loss) -> Loss:
    """The loss with that name, or `loss` itself. Raises ArgumentError for an unknown name."""
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    return LOSSES[loss]()
