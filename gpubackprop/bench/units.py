"""Figures as people read them, with three significant digits."""

from __future__ import annotations

from math import isfinite

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def seconds(value: float | None, digits: int = 3) -> str:
    """0.00123 -> "1.23 ms"; with fewer digits, trailing zeros are left out."""
    if value is None or not isfinite(value):
        return "-"
    scale, unit = next(((s, u) for s, u in _TIMES if value >= 0.9995 * s), _TIMES[-1])
    return f"{_digits(value / scale, digits)} {unit}"


def quantity(value: float | None, unit: str = "", digits: int = 3) -> str:
    """1234567 -> "1.23 M", and with a unit "1.23 MFLOP/s"."""
    if value is None or not isfinite(value):
        return "-"
    scale, prefix = next(((s, p) for s, p in _PREFIXES if value >= 0.9995 * s), _PREFIXES[-1])
    return f"{_digits(value / scale, digits)} {prefix}{unit}".rstrip()


def size(value: int | None) -> str:
    """1300000 -> "1.24 MiB"."""
    if value is None:
        return "-"
    scale, unit = next(((s, u) for s, u in _BYTES if value >= s), _BYTES[-1])
    return f"{three_digits(value / scale) if scale > 1 else value} {unit}"


def percent(value: float | None) -> str:
    """0.123 -> "12 %"."""
    if value is None or not isfinite(value):
        return "-"
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


def _digits(value: float, digits: int) -> str:
    return three_digits(value) if digits == 3 else f"{float(f'{value:.{digits}g}'):g}"


def three_digits(value: float) -> str:
    """1.234 -> "1.23", 123.4 -> "123", 1234.5 -> "1234"."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
