"""How large a batch: how large a step goes with it, how fast it is, and how much it still helps."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.checks import Data, check_x, check_y, whole_number
from gpubackprop.errors import ArgumentError, DeviceError, unknown_name
from gpubackprop.files.regular import memory as machine_memory
from gpubackprop.layers.stack import walk
from gpubackprop.network.network import Network
from gpubackprop.network.rows import Rows
from gpubackprop.optimizers import Optimizer
from gpubackprop.optimizers.schedules import get_schedule
from gpubackprop.random import host_generator

SMALLEST = 16
"""Rows of the smallest batch that is timed."""
AS_FAST = 0.95
"""The share of the best speed from which on a smaller batch is taken: it gives more steps an epoch."""
ROUND = 0.02
"""Seconds of steps that are timed together; the best of three rounds counts."""
_NOISE = 7

RULES = {"linear": lambda k: k, "sqrt": sqrt}


def learning_rate_factor(rule: str | None, batch_size: int, base_batch_size: int) -> float:
    """What a learning rate that suits `base_batch_size` is multiplied by for another batch size.

    "linear": k times the rate for k times the batch (Goyal et al., "Accurate, large minibatch SGD", 2017); "sqrt": the root of
    k (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014; You et al., 2020, for LAMB); None: 1.
    Raises ArgumentError for another rule.
    """
    k = batch_size / whole_number("base_batch_size", base_batch_size)
    if rule is None:
        return 1.0
    if rule not in RULES:
        raise unknown_name("scale_learning_rate", rule, RULES)
    return float(RULES[rule](k))


@dataclass(frozen=True)
class BatchSizes:
    """What `measure_batch_sizes` found. speeds: rows a second of each size. fastest: the smallest that is as fast as the best
    to 5 percent. largest: of which the buffers have room in the memory."""

    speeds: dict[int, float]
    fastest: int
    largest: int

    def __str__(self) -> str:
        measured = ", ".join(f"{size:,}: {speed:,.0f}" for size, speed in self.speeds.items())
        return (
            f"batch size {self.fastest:,}, the fastest (rows a second by batch size: {measured}); the largest that fits is "
            f"{self.largest:,}"
        )


def measure_batch_sizes(
    net: Network, optimizer: Optimizer, x: Array, y: Array, most: int, *, memory: int | None = None
) -> BatchSizes:
    """Time training steps of 16, 32, 64, ... rows, up to `most`, until they get no faster or do not fit.

    It trains a copy: neither weights nor random numbers of `net` change. x, y: checked rows, which are repeated where they are
    fewer. memory: bytes for the buffers of a step; None: half of what the machine has on the CPU, on a GPU what it gives.
    Raises DeviceError where not even the smallest fits.
    """
    trial, rule = copy.deepcopy((net, optimizer))
    rule.schedule = get_schedule(None)
    engine, be = trial.engine, trial.backend
    budget = memory or (inf if be.is_gpu else machine_memory() // 2)
    speeds: dict[int, float] = {}
    size, fits, full, taken, slower = min(SMALLEST, most), True, False, 0, 0
    while fits and slower < 2:
        engine.release()
        source = Rows(be, _rows(x, size), _rows(y, size), trial.dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                seconds = _seconds_a_step(trial, rule, source)
        except DeviceError:
            if not speeds:
                raise
            full = True
        full = full or engine.rows_at_once is not None
        if full:
            break
        best, speeds[size], taken = max(speeds.values(), default=0.0), size / seconds, engine.nbytes
        slower = 0 if speeds[size] * AS_FAST > best else slower + 1
        fits = size < most and taken * 2 <= budget
        size = min(2 * size, most)
    if not speeds:
        raise DeviceError(f"{be.name} has no memory for a step of {size} rows")
    tried, best = max(speeds), max(speeds.values())
    fastest = next(s for s, speed in speeds.items() if speed >= AS_FAST * best)
    room = budget / (taken / tried)
    return BatchSizes(speeds, fastest, tried if full else int(min(most, max(room, tried))))


def _rows(array: Array, n: int) -> Array:
    return array[:n] if len(array) >= n else np.resize(array, (n, *array.shape[1:]))


def _seconds_a_step(net: Network, optimizer: Optimizer, source: Rows) -> float:
    engine, steps, best = net.engine, 1, inf
    engine.train(source, 0, 1, optimizer, source.n)
    for _ in range(3):
        while True:
            engine.read()
            started = time.perf_counter()
            for _ in range(steps):
                engine.train(source, 0, 1, optimizer, source.n)
            engine.read()
            passed = time.perf_counter() - started
            if passed >= ROUND:
                break
            steps *= 2
        best = min(best, passed / steps)
    return best


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale. scale: tr(Sigma) / |G|^2, in rows; trace: tr(Sigma), the variance of a single row's gradient
    summed over the parameters; squared_norm: |G|^2 of the true gradient. Estimates of rows that are drawn at random; where the
    gradient is lost in its noise, squared_norm may come out at 0 or below, and scale is infinite."""

    scale: float
    trace: float
    squared_norm: float


def gradient_noise_scale(
    net: Network, x: Data, y: Data, *, batch_size: int = 32, batches: int = 64, seed: int = 0
) -> NoiseScale:
    """How large a batch still helps: up to about this many rows, twice the batch takes nearly half the steps; far above it,
    hardly fewer.

    x (n, d), y as for `Trainer.fit`. The gradients of `batches` batches of `batch_size` rows, drawn at random without repeating
    one, and their mean, that of the large batch: appendix A.1 of McCandlish et al., "An empirical model of large-batch
    training" (2018). Without dropout, with running statistics, of the parameters that are trained; the weights stay as they are.
    It grows while a network learns. Raises ArgumentError for fewer rows than two batches, and what `Network.loss` raises.
    """
    small = whole_number("batch_size", batch_size)
    rows = check_x(x, net.widths[0], net.dtype, net.backend)
    targets = check_y(y, len(rows), net.widths[-1], net.dtype, net.loss_function, net.backend)
    count = min(whole_number("batches", batches, least=2), len(rows) // small)
    if count < 2:
        raise ArgumentError(
            f"x must have two batches of {small} rows at least; got {len(rows)} rows: take a smaller batch_size"
        )
    frozen = tuple(f"{name}." for name, layer in walk(net.layers) if not layer.trainable)
    order = np.sort(host_generator(seed, _NOISE).permutation(len(rows))[: count * small].reshape(count, small), axis=1)
    total: Any = 0.0
    squares = 0.0
    for drawn in order:
        _, found = net.loss_and_gradients(rows[drawn], targets[drawn])
        gradient = np.concatenate([g.ravel().astype(np.float64) for k, g in found.items() if not k.startswith(frozen)])
        total, squares = total + gradient, squares + float(gradient @ gradient) / count
    large, of_mean = count * small, float(total @ total) / count**2
    squared_norm = (large * of_mean - small * squares) / (large - small)
    trace = (squares - of_mean) / (1 / small - 1 / large)
    return NoiseScale(trace / squared_norm if squared_norm > 0 else inf, trace, squared_norm)
