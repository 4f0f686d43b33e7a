"""A result as a picture."""

from __future__ import annotations

import io
import os
from typing import Any

from gpubackprop.bench.crossover import rounded, winners
from gpubackprop.bench.results import Result
from gpubackprop.errors import ArgumentError, MissingExtraError
from gpubackprop.files.atomic import replacing

_MARKERS = "os^Dv<>p"


def check_available() -> None:
    """Raises MissingExtraError where there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("A plot", "plot") from None


def save_plot(result: Result, path: str | os.PathLike[str]) -> None:
    """A PNG with time a step and samples a second over the batch size, a row for each network, with spreads as bars.

    Raises ArgumentError where there is nothing to draw, MissingExtraError without matplotlib, DataError where the file cannot
    be written.
    """
    check_available()
    from matplotlib.figure import Figure

    networks = [n for n in result.networks if any(c.timing(label) for c in result.of(n) for label in result.labels)]
    if not networks:
        raise ArgumentError("there is nothing to plot: no contender was measured")
    figure = Figure(figsize=(10, 4.2 * len(networks)), layout="constrained")
    grid: Any = figure.subplots(len(networks), 2, squeeze=False)
    for (left, right), network in zip(grid, networks, strict=True):
        _draw(left, right, result, network)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    with replacing(path) as file:
        file.write(picture.getvalue())


def _draw(left: Any, right: Any, result: Result, network: str) -> None:
    for i, label in enumerate(result.labels):
        timed = [(c.batch_size, t) for c in result.of(network) if (t := c.timing(label))]
        style = {"marker": _MARKERS[i % len(_MARKERS)], "label": label, "capsize": 2, "markersize": 5}
        sizes = [n for n, _ in timed]
        times = [t.median for _, t in timed]
        left.errorbar(
            sizes, times, [[t.median - t.low for _, t in timed], [t.high - t.median for _, t in timed]], **style
        )
        rates = [n / t.median for n, t in timed]
        below = [n / t.median - n / t.high for n, t in timed]
        above = [n / t.low - n / t.median for n, t in timed]
        right.errorbar(sizes, rates, [below, above], **style)
    for i, (n, label) in enumerate(winners(result.of(network), result.labels)[1:]):
        left.axvline(n, color="gray", linestyle=":")
        text = f" {label} from {rounded(n)}"
        left.annotate(text, (n, 0.03 + 0.06 * i), xycoords=("data", "axes fraction"), fontsize="small")
    for axes, name in ((left, "seconds a step"), (right, "samples a second")):
        axes.set(xscale="log", yscale="log", xlabel="rows in a batch", ylabel=name, title=network)
        axes.grid(alpha=0.3)
        axes.legend()
