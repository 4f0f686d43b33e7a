"""Batch normalisation, layer normalisation, and layer normalisation without a mean."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.checks import positive, whole_number
from gpubackprop.errors import ArgumentError
from gpubackprop.layers.base import AccumulatingLayer
from gpubackprop.losses import Buffers
from gpubackprop.precision import compute_type


class _Norm(AccumulatingLayer):
    """a = gamma xhat + beta, xhat = (x - mean) / sqrt(var + eps); gamma starts at 1, beta at 0. Or, if it is not centered,
    a = gamma xhat, xhat = x / sqrt(mean of x^2 + eps)."""

    axis: int
    centered = True

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        self.width = whole_number("width", width)
        self.eps = positive("eps", eps)

    def build(self, width: int) -> int:
        if width != self.width:
            raise ArgumentError(f"normalises {self.width} units, but what comes before it has {width} outputs")
        return width

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gamma": (self.width,), **({"beta": (self.width,)} if self.centered else {})}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"gamma": np.ones(self.width), **({"beta": np.zeros(self.width)} if self.centered else {})}

    def buffers(self, dtype: DTypeLike) -> Buffers:
        statistic: tuple[int | str, ...] = (1, self.width) if self.axis == 0 else ("n", 1)
        return {
            "xhat": (("n", self.width), dtype),
            **dict.fromkeys(("mean", "var", "rstd")[not self.centered :], (statistic, compute_type(dtype))),
            "sums": ((2, self.width), compute_type(dtype)),
        }

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        mean, gamma, beta = v.mean if self.centered else None, self.parameters["gamma"], self.parameters.get("beta")
        be.normalize(v.x, self.axis, self.eps, mean, v.var, v.rstd, v.xhat, gamma, beta, v.a)

    def gradients_into(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        be.scale_gradients(v.delta, v.xhat, v.sums)
        self._take_sums(be, v, arrays, beta)

    def _take_sums(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        """dbeta = column sums of delta; dgamma = column sums of delta * xhat."""
        for name, total in (("beta", v.sums[0]), ("gamma", v.sums[1])):
            if name not in arrays:
                continue
            if beta:
                be.xp.multiply(arrays[name], beta, out=arrays[name])
                be.xp.add(arrays[name], total, out=arrays[name])
            else:
                be.xp.copyto(arrays[name], total)

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        gamma = self.parameters["gamma"]
        be.normalize_backward(v.delta, self.axis, gamma, v.rstd, v.xhat, v.sums, dx, self.centered)

    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "eps": self.eps}


class BatchNorm(_Norm):
    """Normalises each unit over the batch in training, with running statistics elsewhere (Ioffe and Szegedy, 2015).

    x (n, width). running <- (1 - momentum) running + momentum * (the batch's mean, or its unbiased variance), as in
    PyTorch. A training batch of one row has no variance and is refused.

    synchronized: where several processes train together, over the whole batch instead of the rows of this process (Ioffe and
    Szegedy's formulas on sums that all of them add up). It then gives what one process gives.
    Raises ArgumentError for a wrong width or range.
    """

    mixes_rows = True
    axis = 0

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, synchronized: bool = False) -> None:
        super().__init__(width, eps)
        self.synchronized = bool(synchronized)
        self.momentum = positive("momentum", momentum)
        if self.momentum > 1:
            raise ArgumentError(f"momentum must be in (0, 1]; got {momentum}")

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"running_mean": (self.width,), "running_var": (self.width,)}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        running = {"running_mean": np.zeros(self.width), "running_var": np.ones(self.width)}
        return {**super().initial(rng), **running}

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        mean, var = self.state["running_mean"], self.state["running_var"]
        if not training:
            self._reciprocal_root(be, var, v.rstd)
            self._apply(be, v, mean)
            return
        n = len(v.x)
        if self.synchronized:
            self._normalize_together(be, v)
        else:
            super().forward(be, v, training)
        for running, batch, factor in ((mean, v.mean, 1.0), (var, v.var, n / max(n - 1, 1))):
            part = be.scratch(running)
            be.xp.multiply(batch[0], self.momentum * (1.0 if self.synchronized else factor), out=part)
            if self.synchronized and batch is v.var:
                be.xp.multiply(part, v.unbiased, out=part)
            be.xp.multiply(running, 1 - self.momentum, out=running)
            be.xp.add(running, part, out=running)

    def _reciprocal_root(self, be: Backend, var: Array, rstd: Array) -> None:
        """rstd = 1 / sqrt(var + eps)."""
        be.xp.add(var, self.eps, out=rstd)
        be.xp.sqrt(rstd, out=rstd)
        be.xp.divide(1.0, rstd, out=rstd)

    def _apply(self, be: Backend, v: Tensors, mean: Array) -> None:
        """a = gamma xhat + beta, xhat = (x - mean) rstd, of statistics that are known."""
        for x, xhat, a in be.row_parts(v.x, v.xhat, v.a):
            be.xp.subtract(x, mean, out=xhat)
            be.xp.multiply(xhat, v.rstd, out=xhat)
            be.xp.multiply(xhat, self.parameters["gamma"], out=a)
            be.xp.add(a, self.parameters["beta"], out=a)

    def buffers(self, dtype: DTypeLike) -> Buffers:
        real = compute_type(dtype)
        together: Buffers = {"total": ((2, self.width), real), "count": ((1,), real), "unbiased": ((1,), real)}
        return {**super().buffers(dtype), **(together if self.synchronized else {})}

    def _normalize_together(self, be: Backend, v: Tensors) -> None:
        """What `normalize` gives for the rows of all processes as one batch: the mean first, and the variance around it."""
        # Squares of what half precision holds can be too large for it.
        xp, total, t = be.xp, v.total[0], be.scratch(v.x, dtype=v.total.dtype)
        be.fill(v.count, len(v.x))
        be.sum_over_processes(v.count)
        for values, statistic in ((v.x, v.mean), (t, v.var)):
            if values is t:
                xp.subtract(v.x, v.mean, out=t)
                xp.multiply(t, t, out=t)
            be.column_sums(values, total)
            be.sum_over_processes(total)
            xp.divide(total, v.count, out=statistic[0])
        self._reciprocal_root(be, v.var, v.rstd)
        self._apply(be, v, v.mean)
        xp.subtract(v.count, 1.0, out=v.unbiased)
        xp.divide(v.count, v.unbiased, out=v.unbiased)

    def begin_backward(self, be: Backend, v: Tensors, training: bool) -> None:
        be.scale_gradients(v.delta, v.xhat, v.sums)

    def gradients_into(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        self._take_sums(be, v, arrays, beta)

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        gamma, sums = self.parameters["gamma"], v.sums
        if not training:
            # The running statistics are constants here.
            be.xp.multiply(v.delta, gamma, out=dx)
            be.xp.multiply(dx, v.rstd, out=dx)
            return
        if self.synchronized:
            # `normalize_backward` divides by the rows of this process; the sums are of all processes' rows.
            sums = v.total
            be.xp.copyto(sums, v.sums)
            be.sum_over_processes(sums.reshape(-1))
            be.xp.divide(sums, v.count, out=sums)
            be.xp.multiply(sums, float(len(v.x)), out=sums)
        be.normalize_backward(v.delta, 0, gamma, v.rstd, v.xhat, sums, dx)

    def settings(self) -> dict[str, Any]:
        together = {"synchronized": True} if self.synchronized else {}
        return {**super().settings(), "momentum": self.momentum, **together}


class LayerNorm(_Norm):
    """Normalises each row over its units, in training and elsewhere alike (Ba, Kiros and Hinton, 2016).

    x (n, width). Raises ArgumentError for a wrong width or range.
    """

    axis = 1


class RMSNorm(_Norm):
    """Divides each row by the root of the mean of its squares (Zhang and Sennrich, 2019): no mean is taken out, none added.

    x (n, width). eps: 1.2e-7 by default, float32's unit of rounding, as in PyTorch. Raises ArgumentError for a wrong width or
    range.
    """

    axis = 1
    centered = False

    def __init__(self, width: int, eps: float = float(np.finfo(np.float32).eps)) -> None:
        super().__init__(width, eps)
