"""Loss functions C and their derivatives delta = dC/da. The loss owns its reduction, and delta is the derivative of
exactly the value that it returns.

a (n, m) are the outputs of the last layer, y the targets. `rows` is the number of samples the mean is taken over: n,
or more when these n are a part of a larger batch, whose parts' values and deltas then add up to the batch's.

Sample weights: where `v.weights` is (n, 1) and not None, each row's loss is multiplied by its weight, and the mean is still
taken over the rows: C = (1/n) sum_i w_i l_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.checks import Formula, fraction, from_table, not_negative, positive
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.precision import compute_type, largest_exponent

MANY_CLASSES = 128
"""Classes from which a softmax on the CPU is faster in the layout of the logits than in that of their transpose."""

Shape = tuple[int | str, ...]
"""The shape of an array; "n" stands for the rows of the batch."""
Buffers = dict[str, tuple[Shape, Any]]
"""Name -> (shape, dtype) of what is kept between calls."""


class Loss(Formula):
    """A function of a batch's outputs and targets, and its derivative with respect to the outputs."""

    _noun = "loss"
    _mathematics: ClassVar[set[str]] = {"value_and_delta"}
    output: ClassVar[str] = "identity"
    """The function that `predict` applies to the last layer's outputs: "identity", "sigmoid", "softmax" or "exponential"."""
    labels: ClassVar[bool] = False
    """Whether integer class labels of shape (n,) are targets too."""
    weighs: ClassVar[bool] = False
    """Whether it heeds `v.weights`."""
    counts_rows: bool = True
    """Whether C is a mean over the rows, each counted once, so that `mass` is their number."""
    smooth: ClassVar[bool] = True
    """Whether C has all its derivatives where a - y is one of `kinks`, where else a finite difference may not be trusted."""
    kinks: tuple[float, ...] = (0.0,)
    """The values of a - y at which a derivative jumps, where C is not smooth."""

    def buffers(self, m: int, dtype: DTypeLike) -> Buffers:
        """The memory that `value_and_delta` needs as attributes of `v`, for m outputs stored as `dtype`."""
        return {"t": (("n", m), compute_type(dtype)), "d": (("n", m), compute_type(dtype))}

    def constants(self, m: int, dtype: DTypeLike) -> dict[str, np.ndarray]:
        """Name -> host array of what `value_and_delta` reads as further attributes of `v`, on the device."""
        return {}

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Tensors, value: Array, delta: Array | None, rows: int
    ) -> None:
        """value = C and, unless it is None, delta = dC/da."""
        raise NotImplementedError(f"{type(self).__name__} must define value_and_delta")

    def mass(self, y: np.ndarray) -> float:
        """The number of samples that C is a mean over, for targets y on the host: what parts of a batch are weighed by."""
        return float(len(y))

    def of_rows(self, be: Backend, a: Array, y: Array) -> Array:
        """The loss of each row, (n,) float64, of which C is the mean (the sum over `mass`), on a device."""
        (n, m), found = a.shape, be.zeros((len(a),), np.float64)
        v = memory(self, be, 1, m, a.dtype)
        for i in range(n):
            self.value_and_delta(be, a[i : i + 1], y[i : i + 1], v, found[i : i + 1].reshape(()), None, 1)
        return found


def memory(loss: Loss, be: Backend, n: int, m: int, dtype: DTypeLike) -> Tensors:
    """The buffers `v` of `value_and_delta`, for n rows of m outputs stored as `dtype`, without weights."""
    buffers = {
        name: be.empty(tuple(n if k == "n" else int(k) for k in shape), kind)
        for name, (shape, kind) in loss.buffers(m, dtype).items()
    }
    constants = {name: be.asarray(host) for name, host in loss.constants(m, dtype).items()}
    return Tensors(weights=None, **buffers, **constants)


class _Elementwise(Loss):
    """C = s sum_ij w_i term_ij, where s is 1/(n m), or 1/n if the sum is taken over the outputs."""

    weighs = True
    over_outputs = True
    """Whether C is a mean over the outputs too, and not over the samples alone."""

    def terms(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        """v.t = the terms; v.d may keep what `slopes` needs."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(be, a, y, v)")

    def slopes(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        """v.d = their derivatives by a, after `terms`; v.t is free by then."""
        raise NotImplementedError(f"{type(self).__name__} must define slopes(be, a, y, v)")

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Tensors, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, scale = be.xp, 1 / (rows * a.shape[1] if self.over_outputs else rows)
        self.terms(be, a, y, v)
        if v.weights is not None:
            xp.multiply(v.t, v.weights, out=v.t)
        be.total(v.t, scale, value)
        if delta is not None:
            self.slopes(be, a, y, v)
            if v.weights is not None:
                xp.multiply(v.d, v.weights, out=v.d)
            xp.multiply(v.d, scale, out=delta)

    def of_rows(self, be: Backend, a: Array, y: Array) -> Array:
        found, v = be.zeros((len(a),), np.float64), memory(self, be, len(a), a.shape[1], a.dtype)
        self.terms(be, a, y, v)
        be.xp.sum(v.t, axis=1, dtype=np.float64, out=found)
        if self.over_outputs:
            be.xp.multiply(found, 1 / a.shape[1], out=found)
        return found


class _Squared(_Elementwise):
    """factor (a_ij - y_ij)^2, with the slope 2 factor (a_ij - y_ij)."""

    factor: ClassVar[float] = 1.0

    def terms(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        be.xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        be.xp.multiply(v.d, v.d, out=v.t)
        be.xp.multiply(v.t, self.factor, out=v.t)

    def slopes(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        be.xp.multiply(v.d, 2 * self.factor, out=v.d)

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Tensors, value: Array, delta: Array | None, rows: int
    ) -> None:
        if v.weights is not None:
            super().value_and_delta(be, a, y, v, value, delta, rows)
            return
        # Without weights the squares need not be kept.
        scale = self.factor / (rows * a.shape[1] if self.over_outputs else rows)
        be.xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        be.total_of_squares(v.d, scale, value)
        if delta is not None:
            be.xp.multiply(v.d, 2 * scale, out=delta)


class HalfSquaredError(_Squared):
    """C = (1/n) sum_i 1/2 |a_i - y_i|^2: the sum over outputs, the mean over samples; delta = (a - y) / n."""

    name = "half_squared_error"
    factor = 0.5
    over_outputs = False


class MeanSquaredError(_Squared):
    """C = (1/(n m)) sum_ij (a_ij - y_ij)^2; delta = 2 (a - y) / (n m)."""

    name = "mean_squared_error"


class MeanAbsoluteError(_Elementwise):
    """C = (1/(n m)) sum_ij |a_ij - y_ij|; delta = sign(a - y) / (n m), 0 where a = y."""

    name = "mean_absolute_error"
    smooth = False

    def terms(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        xp = be.xp
        xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        xp.negative(v.d, out=v.t)
        xp.maximum(v.d, v.t, out=v.t)

    def slopes(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        be.xp.sign(v.d, out=v.d)


class Huber(_Elementwise):
    """C = (1/(n m)) sum_ij h(a_ij - y_ij), h(d) = d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2) (Huber, 1964).

    With c = d cut to [-delta, delta]: h = c (d - c / 2), and its derivative is c. Raises ArgumentError unless delta > 0.
    """

    name = "huber"
    smooth = False

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = positive("delta", delta)

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        return -self.delta, self.delta

    def terms(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        xp = be.xp
        xp.subtract(a, y, out=v.t, dtype=v.t.dtype)
        xp.maximum(v.t, -self.delta, out=v.d)
        xp.minimum(v.d, self.delta, out=v.d)
        half = be.scratch(v.d)
        xp.multiply(v.d, 0.5, out=half)
        xp.subtract(v.t, half, out=v.t)
        xp.multiply(v.t, v.d, out=v.t)

    def slopes(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        return


class Poisson(_Elementwise):
    """C = (1/(n m)) sum_ij (exp(a_ij) - y_ij a_ij): the negative log-likelihood of counts y >= 0 with the rates exp(a), but for
    the terms without a; delta = (exp(a) - y) / (n m). `predict` returns the rates."""

    name = "poisson"
    output = "exponential"

    def terms(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        xp = be.xp
        xp.exp(a, out=v.d, dtype=v.d.dtype)
        xp.multiply(a, y, out=v.t, dtype=v.t.dtype)
        xp.subtract(v.d, v.t, out=v.t)

    def slopes(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        be.xp.subtract(v.d, y, out=v.d)


class BinaryCrossEntropy(_Elementwise):
    """C = -(1/(n m)) sum_ij (y log p + (1-y) log(1-p)), p = sigmoid(z), from the logits z = a.

    Written as z (h - y) + log(1 + exp(-|z|)), h = 1 where z > 0, else 0, which is finite for every finite logit;
    delta = (p - y) / (n m), as (e (1-y) - y) / (1 + e) with e = exp(z): where y is 0 or 1 both keep all their digits.
    """

    name = "binary_cross_entropy"
    output = "sigmoid"

    def terms(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        xp, t, d = be.xp, v.t, v.d
        xp.negative(a, out=t)
        xp.minimum(a, t, out=t)
        xp.exp(t, out=t)
        xp.log1p(t, out=t)
        be.heaviside(a, d)
        xp.subtract(d, y, out=d)
        xp.multiply(d, a, out=d)
        xp.add(t, d, out=t)

    def slopes(self, be: Backend, a: Array, y: Array, v: Tensors) -> None:
        xp, t, d = be.xp, v.t, v.d
        xp.minimum(a, largest_exponent(t.dtype), out=t)
        xp.exp(t, out=t)
        xp.subtract(1.0, y, out=d)
        xp.multiply(d, t, out=d)
        xp.subtract(d, y, out=d)
        xp.add(t, 1.0, out=t)
        xp.divide(d, t, out=d)


class CrossEntropy(Loss):
    """C = -(1/n) sum_i log softmax(z_i)[y_i] for class labels y (n,), or -(1/n) sum_ij y_ij log softmax(z_i)_j for
    one-hot or probability targets y (n, m), from the logits z = a; delta = (softmax(z) sum_j y_ij - y) / n.

    The row maximum is taken out first, so that no exponential overflows. Rows of z stand as columns here, and with few
    classes they are laid out so too, since reductions over few numbers are faster across rows than along them.

    class_weights: a factor for each class j, in the sum over classes; of labels the mean is then a weighted one,
    sum_i w[y_i] l_i / sum_i w[y_i]. label_smoothing: the share e of each target that is spread evenly over the classes,
    (1 - e) y + e / m (Szegedy et al., 2016). ignore_index: rows with this label, which need be no class, do not count.
    All three as in PyTorch, but that a batch without any row that counts has the loss 0. Raises ArgumentError for settings out
    of range.
    """

    name = "cross_entropy"
    output = "softmax"
    labels = True
    weighs = True

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
    ) -> None:
        self.class_weights = None
        if class_weights is not None:
            values = [not_negative(f"class_weights[{i}]", w) for i, w in enumerate(class_weights)]
            if not any(values):
                raise ArgumentError("class_weights must have a weight above 0")
            self.class_weights = values
        self.label_smoothing = fraction("label_smoothing", label_smoothing)
        if ignore_index is not None and (
            isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer))
        ):
            raise ArgumentTypeError(f"ignore_index must be a whole number or None; got {ignore_index!r}")
        self.ignore_index = None if ignore_index is None else int(ignore_index)

    @property
    def is_plain(self) -> bool:
        """Whether none of the settings changes anything."""
        return not self.settings()

    @property
    def counts_rows(self) -> bool:  # type: ignore[override]
        return self.class_weights is None and self.ignore_index is None

    def mass(self, y: np.ndarray) -> float:
        if y.ndim == 2:
            return float(len(y))
        counted = y if self.ignore_index is None else y[y != self.ignore_index]
        return float(len(counted) if self.class_weights is None else np.asarray(self.class_weights)[counted].sum())

    def buffers(self, m: int, dtype: DTypeLike) -> Buffers:
        if self.class_weights is not None and len(self.class_weights) != m:
            raise ArgumentError(
                f"class_weights must have a weight for each of the {m} outputs; got {len(self.class_weights)}"
            )
        real = compute_type(dtype)
        shape: Shape = (m, "n") if m < MANY_CLASSES else ("n", m)
        plain: Buffers = {
            "s": (shape, real),
            "t": (shape, real),
            "row": ((1, "n"), real),
            "mass": ((1, "n"), real),
            "picked": (("n",), real),
            "index": (("n",), np.int64),
        }
        if self.is_plain:
            return plain
        total = np.result_type(real, np.float64)
        own: Buffers = {"targets": (("n", m), real), "label": (("n",), np.int64), "counts": (("n",), real)}
        return {**plain, **own, "rows_that_count": ((), total), "factor": ((), total), "delta_factor": ((), real)}

    def constants(self, m: int, dtype: DTypeLike) -> dict[str, np.ndarray]:
        if self.is_plain:
            return {}
        weights = np.ones(m) if self.class_weights is None else np.asarray(self.class_weights)
        spread, kept = weights * self.label_smoothing / m, weights * (1 - self.label_smoothing)
        numbers = {"class_weight": weights, "spread": spread, "kept": kept, "peak": spread + kept}
        return {name: array.astype(compute_type(dtype)) for name, array in numbers.items()}

    def value_and_delta(
        self, be: Backend, a: Array, y: Array, v: Tensors, value: Array, delta: Array | None, rows: int
    ) -> None:
        if not self.is_plain:
            self._targets(be, y, v)
            self._from_probabilities(be, a, v.targets, v, value, delta, rows)
            if y.ndim == 1:
                self._over_what_counts(be, v, value, delta, rows)
        elif y.ndim == 1:
            self._from_labels(be, a, y, v, value, delta, rows)
        else:
            self._from_probabilities(be, a, y, v, value, delta, rows)

    def of_rows(self, be: Backend, a: Array, y: Array) -> Array:
        found, v = be.zeros((len(a),), np.float64), memory(self, be, len(a), a.shape[1], a.dtype)
        part = be.empty((1, len(a)), v.row.dtype)
        if y.ndim == 1 and self.is_plain:
            self._from_labels(be, a, y, v, be.zeros((), np.float64), None, 1)
            be.xp.copyto(found, v.picked)
            return found
        if not self.is_plain:
            self._targets(be, y, v)
        self._from_probabilities(be, a, y if self.is_plain else v.targets, v, be.zeros((), np.float64), None, 1)
        be.column_sums(self._columns(v.s, a), part[0])
        be.xp.multiply(part[0], -2.0, out=found)
        return found

    def _targets(self, be: Backend, y: Array, v: Tensors) -> None:
        """v.targets (n, m): what stands before -log softmax(z); v.counts (n,): a label's share in the mean."""
        xp, targets = be.xp, v.targets
        if y.ndim == 2:
            xp.multiply(y, v.kept, out=targets)
            xp.add(targets, v.spread, out=targets)
            return
        n, m = targets.shape
        label = y
        if self.ignore_index is not None:
            # Any class will do for a row that does not count.
            label = v.label
            xp.maximum(y, 0, out=label)
            xp.minimum(label, m - 1, out=label)
        xp.copyto(targets, v.spread)
        xp.multiply(be.arange(n), m, out=v.index)
        xp.add(v.index, label, out=v.index)
        be.take(v.peak, label, v.picked)
        be.put(targets.reshape(-1), v.index, v.picked)
        be.take(v.class_weight, label, v.counts)
        if self.ignore_index is not None:
            xp.not_equal(y, self.ignore_index, out=v.picked, casting="unsafe")
            xp.multiply(v.counts, v.picked, out=v.counts)
            xp.multiply(targets, v.picked.reshape(-1, 1), out=targets)

    @staticmethod
    def _over_what_counts(be: Backend, v: Tensors, value: Array, delta: Array | None, rows: int) -> None:
        """The mean over the weights of the rows in the place of the mean over the rows."""
        xp, count = be.xp, v.rows_that_count
        be.total(v.counts, 1.0, count)
        # Where nothing counts, value and delta are 0 already, and the factor must be finite.
        xp.maximum(count, rows * float(np.finfo(v.counts.dtype).tiny), out=count)
        xp.divide(float(rows), count, out=v.factor)
        xp.multiply(value, v.factor, out=value)
        if delta is not None:
            # A factor in delta's own type may be infinite where nothing counts.
            xp.minimum(v.factor, float(np.finfo(v.counts.dtype).max), out=v.factor)
            xp.copyto(v.delta_factor, v.factor, casting="unsafe")
            xp.multiply(delta, v.delta_factor, out=delta)

    def _from_labels(
        self, be: Backend, a: Array, y: Array, v: Tensors, value: Array, delta: Array | None, rows: int
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
        if v.weights is not None:
            xp.multiply(picked, v.weights.reshape(-1), out=picked)
        be.total(picked, 1 / rows, value)
        if delta is not None:
            xp.divide(1 / rows, v.row, out=v.row)
            xp.multiply(s, v.row, out=s)
            be.take(flat, v.index, picked)
            xp.subtract(picked, 1 / rows, out=picked)
            be.put(flat, v.index, picked)
            xp.copyto(delta, s.T)
            if v.weights is not None:
                xp.multiply(delta, v.weights, out=delta)

    def _from_probabilities(
        self, be: Backend, a: Array, y: Array, v: Tensors, value: Array, delta: Array | None, rows: int
    ) -> None:
        xp, s, t = be.xp, self._columns(v.s, a), self._columns(v.t, a)
        # Half of z less half of its maximum is finite for every finite z, so that a target of 0 removes the term.
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
        if v.weights is not None:
            xp.multiply(s, v.weights.T, out=s)
        be.total(s, -2 / rows, value)
        if delta is not None:
            xp.copyto(s, y.T)
            be.column_sums(s, v.mass[0])
            xp.divide(v.mass, v.row, out=v.mass)
            xp.multiply(t, v.mass, out=t)
            xp.subtract(t, s, out=t)
            xp.multiply(t, 1 / rows, out=t)
            xp.copyto(delta, t.T)
            if v.weights is not None:
                xp.multiply(delta, v.weights, out=delta)

    @staticmethod
    def _columns(buffer: Array, a: Array) -> Array:
        return buffer if a.shape[1] < MANY_CLASSES else buffer.T


LOSSES: dict[str, type[Loss]] = {
    c.name: c
    for c in (
        HalfSquaredError, MeanSquaredError, MeanAbsoluteError, Huber, Poisson, BinaryCrossEntropy, CrossEntropy,
    )
}  # fmt: skip


def get_loss(loss: str | dict[str, Any] | Loss) -> Loss:
    """The loss with that name, {"name": ..., its settings}, or `loss` itself.

    Raises ArgumentError for an unknown name or setting.
    """
    return loss if isinstance(loss, Loss) else from_table("loss", loss, LOSSES)
