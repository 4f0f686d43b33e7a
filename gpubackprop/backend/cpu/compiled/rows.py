"""Normalisation of rows as one pass of machine code: a row is read into the cache once, for its statistics and for its result."""

from __future__ import annotations

from collections.abc import Callable

from gpubackprop.backend.cpu.compiled.elementwise import Fused
from gpubackprop.backend.cpu.compiled.module import function

_HEADER = '''\
"""Normalisation of rows, generated for Numba by gpubackprop (format 1)."""

from math import sqrt

from numba import float32, float64, njit

from gpubackprop.backend.cpu.compiled.runtime import FASTMATH, f4, f8


@njit(fastmath=FASTMATH, error_model="numpy", nogil=True)
def run('''

_FORWARD = """\
x_address, mean_address, var_address, rstd_address, xhat_address, size, m, eps):
    x, mean, var = {pointer}(x_address), {pointer}(mean_address), {pointer}(var_address)
    rstd, xhat = {pointer}(rstd_address), {pointer}(xhat_address)
    for i in range(size // m):
        k = i * m
        center = total = {real}(0)
        if {centered}:
            for j in range(m):
                center += x[k + j]
            center /= {real}(m)
            mean[i] = center
        for j in range(m):
            total += (x[k + j] - center) * (x[k + j] - center)
        total /= {real}(m)
        var[i] = total
        r = {real}(1) / sqrt(total + {real}(eps))
        rstd[i] = r
        for j in range(m):
            xhat[k + j] = (x[k + j] - center) * r
"""

_BACKWARD = """\
g_address, rstd_address, xhat_address, out_address, size, m):
    g, rstd = {pointer}(g_address), {pointer}(rstd_address)
    xhat, out = {pointer}(xhat_address), {pointer}(out_address)
    for i in range(size // m):
        k = i * m
        mean = dot = {real}(0)
        for j in range(m):
            if {centered}:
                mean += g[k + j]
            dot += g[k + j] * xhat[k + j]
        mean, dot, r = mean / {real}(m), dot / {real}(m), rstd[i]
        for j in range(m):
            out[k + j] = (g[k + j] - mean - xhat[k + j] * dot) * r
"""


def normalized_rows(char: str, m: int, centered: bool, eps: float) -> Fused:
    """`Backend.normalize` along axis 1 of arrays x (n, m), mean, var, rstd (n, 1) and xhat (n, m) of the type "f" or "d".

    Not centered: mean is not looked at.
    """
    return Fused(_run(_FORWARD, char, centered), 0.4e-9, (m, eps))


def normalized_rows_backward(char: str, m: int, centered: bool) -> Fused:
    """`Backend.normalize_backward` along axis 1 of arrays g (n, m), rstd (n, 1), xhat and out (n, m)."""
    return Fused(_run(_BACKWARD, char, centered), 0.4e-9, (m,))


def _run(body: str, char: str, centered: bool) -> Callable[..., None]:
    real, pointer = {"f": ("float32", "f4"), "d": ("float64", "f8")}[char]
    return function(_HEADER + body.format(real=real, pointer=pointer, centered=centered))
