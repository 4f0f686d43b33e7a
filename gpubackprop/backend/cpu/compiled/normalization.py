"""Normalisation in few passes of machine code: a row, or a part of a batch, is read into the cache once for its statistics, and
once for all that follows from them.

Sums over columns are taken part by part in float64, and those of the parts are merged.
"""

from __future__ import annotations

from gpubackprop.backend.cpu.compiled.elementwise import Fused
from gpubackprop.backend.cpu.compiled.module import function

_HEADER = '''\
"""Normalisation, generated for Numba by gpubackprop (format 2)."""

from math import sqrt

from numba import float32, float64, njit

from gpubackprop.backend.cpu.compiled.runtime import FASTMATH, f4, f8


@njit(fastmath=FASTMATH, error_model="numpy", nogil=True)
def run('''

_ROWS = """\
x_address, gamma_address, beta_address, mean_address, var_address, rstd_address, xhat_address, out_address, size, m, eps):
    x, gamma, beta = {pointer}(x_address), {pointer}(gamma_address), {pointer}(beta_address)
    mean, var, rstd = {pointer}(mean_address), {pointer}(var_address), {pointer}(rstd_address)
    xhat, out = {pointer}(xhat_address), {pointer}(out_address)
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
            h = (x[k + j] - center) * r
            xhat[k + j] = h
            out[k + j] = h * gamma[j] + beta[j] if {centered} else h * gamma[j]
"""

_ROWS_BACKWARD = """\
delta_address, gamma_address, rstd_address, xhat_address, out_address, size, m):
    delta, gamma, rstd = {pointer}(delta_address), {pointer}(gamma_address), {pointer}(rstd_address)
    xhat, out = {pointer}(xhat_address), {pointer}(out_address)
    for i in range(size // m):
        k = i * m
        mean = dot = {real}(0)
        for j in range(m):
            g = delta[k + j] * gamma[j]
            if {centered}:
                mean += g
            dot += g * xhat[k + j]
        mean, dot, r = mean / {real}(m), dot / {real}(m), rstd[i]
        for j in range(m):
            out[k + j] = (delta[k + j] * gamma[j] - mean - xhat[k + j] * dot) * r
"""

# Four rows at a time: each sum is read and written a fourth as often.
_SPREADS = """\
x_address, spread_address, size, m):
    x, spread = {pointer}(x_address), f8(spread_address)
    n = size // m
    for j in range(2 * m):
        spread[j] = 0.0
    for i in range(n // 4):
        k = 4 * i * m
        for j in range(m):
            spread[j] += (float64(x[k + j]) + x[k + m + j]) + (float64(x[k + 2 * m + j]) + x[k + 3 * m + j])
    for i in range(n // 4 * 4, n):
        for j in range(m):
            spread[j] += x[i * m + j]
    for j in range(m):
        spread[j] /= n
    for i in range(n // 4):
        k = 4 * i * m
        for j in range(m):
            a, b = x[k + j] - spread[j], x[k + m + j] - spread[j]
            c, d = x[k + 2 * m + j] - spread[j], x[k + 3 * m + j] - spread[j]
            spread[m + j] += (a * a + b * b) + (c * c + d * d)
    for i in range(n // 4 * 4, n):
        for j in range(m):
            a = x[i * m + j] - spread[j]
            spread[m + j] += a * a
"""

# Chan, Golub and LeVeque (1983).
_MERGED_SPREADS = """\
spreads_address, mean_address, var_address, rstd_address, size, m, n, rows, eps):
    spreads, mean, var, rstd = f8(spreads_address), {pointer}(mean_address), {pointer}(var_address), {pointer}(rstd_address)
    for j in range(m):
        center = squares = count = 0.0
        for part in range(size // (2 * m)):
            k = 2 * m * part + j
            own = min(rows, n - part * rows)
            d = spreads[k] - center
            center += d * (own / (count + own))
            squares += spreads[k + m] + d * d * (count * own / (count + own))
            count += own
        mean[j] = center
        var[j] = squares / n
        rstd[j] = {real}(1 / sqrt(squares / n + eps))
"""

_COLUMNS = """\
x_address, mean_address, rstd_address, gamma_address, beta_address, xhat_address, out_address, size, m):
    x, mean, rstd = {pointer}(x_address), {pointer}(mean_address), {pointer}(rstd_address)
    gamma, beta = {pointer}(gamma_address), {pointer}(beta_address)
    xhat, out = {pointer}(xhat_address), {pointer}(out_address)
    for i in range(size // m):
        k = i * m
        for j in range(m):
            h = (x[k + j] - mean[j]) * rstd[j]
            xhat[k + j] = h
            out[k + j] = h * gamma[j] + beta[j]
"""

_GRADIENT_SUMS = """\
delta_address, xhat_address, sums_address, size, m):
    delta, xhat, sums = {pointer}(delta_address), {pointer}(xhat_address), f8(sums_address)
    n = size // m
    for j in range(2 * m):
        sums[j] = 0.0
    for i in range(n // 2):
        k = 2 * i * m
        for j in range(m):
            a, b = float64(delta[k + j]), float64(delta[k + m + j])
            sums[j] += a + b
            sums[m + j] += a * xhat[k + j] + b * xhat[k + m + j]
    for i in range(n // 2 * 2, n):
        k = i * m
        for j in range(m):
            sums[j] += delta[k + j]
            sums[m + j] += float64(delta[k + j]) * xhat[k + j]
"""

_MERGED_SUMS = """\
parts_address, sums_address, size, m):
    parts, sums = f8(parts_address), {pointer}(sums_address)
    for j in range(2 * m):
        total = 0.0
        for part in range(size // (2 * m)):
            total += parts[2 * m * part + j]
        sums[j] = total
"""

_COLUMNS_BACKWARD = """\
delta_address, gamma_address, rstd_address, sums_address, xhat_address, out_address, size, m, n):
    delta, gamma, rstd = {pointer}(delta_address), {pointer}(gamma_address), {pointer}(rstd_address)
    sums, xhat, out = {pointer}(sums_address), {pointer}(xhat_address), {pointer}(out_address)
    share = {real}(1) / {real}(n)
    for i in range(size // m):
        k = i * m
        for j in range(m):
            rest = (sums[j] + xhat[k + j] * sums[m + j]) * share
            out[k + j] = (delta[k + j] - rest) * (rstd[j] * gamma[j])
"""


def normalized_rows(char: str, m: int, eps: float, centered: bool) -> Fused:
    """`Backend.normalize` along axis 1 of x (n, m), gamma and beta (m,), mean, var, rstd (n, 1), xhat and out (n, m) of the type
    "f" or "d". Not centered: mean and beta are not looked at."""
    return _fused(_ROWS, char, 0.4e-9, 3, (m, eps), centered=centered)


def normalized_rows_backward(char: str, m: int, centered: bool) -> Fused:
    """`Backend.normalize_backward` along axis 1 of delta (n, m), gamma (m,), rstd (n, 1), xhat and out (n, m)."""
    return _fused(_ROWS_BACKWARD, char, 0.4e-9, 4, (m,), centered=centered)


def spreads(char: str, m: int) -> Fused:
    """Of a part x (rows, m) the means of its columns and the sums of squares around them, (2, m) in float64."""
    return _fused(_SPREADS, char, 0.3e-9, 1, (m,))


def merged_spreads(char: str, m: int, n: int, rows: int, eps: float) -> Fused:
    """mean, var and rstd (m,) of n rows, from the `spreads` (parts, 2, m) of parts that have as many rows, but for the last."""
    return _fused(_MERGED_SPREADS, char, 0.0, 1, (m, n, rows, eps), of_all=True)


def normalized_columns(char: str, m: int) -> Fused:
    """xhat and out (rows, m) of `Backend.normalize` along axis 0 of a part x (rows, m), with mean, rstd, gamma, beta (m,)."""
    return _fused(_COLUMNS, char, 0.3e-9, 5, (m,))


def gradient_sums(char: str, m: int) -> Fused:
    """`Backend.scale_gradients` of a part of delta and xhat (rows, m), in float64."""
    return _fused(_GRADIENT_SUMS, char, 0.3e-9, 2, (m,))


def merged_sums(char: str, m: int) -> Fused:
    """The sums (2, m) of those of all parts (parts, 2, m)."""
    return _fused(_MERGED_SUMS, char, 0.0, 1, (m,), of_all=True)


def normalized_columns_backward(char: str, m: int, n: int) -> Fused:
    """`Backend.normalize_backward` along axis 0 of n rows, for a part of delta, xhat and out (rows, m); gamma, rstd (m,), sums
    (2, m)."""
    return _fused(_COLUMNS_BACKWARD, char, 0.3e-9, 5, (m, n))


def _fused(
    body: str,
    char: str,
    seconds: float,
    read: int,
    numbers: tuple[float, ...],
    of_all: bool = False,
    centered: bool = True,
) -> Fused:
    real, pointer = {"f": ("float32", "f4"), "d": ("float64", "f8")}[char]
    source = _HEADER + body.format(real=real, pointer=pointer, centered=centered)
    return Fused(function(source), seconds, numbers, read, of_all)
