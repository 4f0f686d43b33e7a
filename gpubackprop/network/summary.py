"""A network in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpubackprop.layers import Layer
from gpubackprop.layers.stack import build
from gpubackprop.layout import aligned, html
from gpubackprop.network.engine import Engine


def one_line(engine: Engine, precision: str) -> str:
    """The architecture, the loss and the device: Network(784 -> Dense 512 relu -> ... | cross_entropy | cpu float32)."""
    widths, loss = engine.training.widths, engine.steps.loss_function
    parts = [str(widths[0]), *_in_short(engine.layers, widths)]
    how = "" if precision == "native" else f" {precision}"
    return f"Network({' -> '.join(parts)} | {loss.name} | {engine.backend.name} {engine.parameters.dtype.name}{how})"


def _lines(layers: Sequence[Layer], widths: Sequence[int], outside: str = "") -> Iterator[tuple[str, Layer, int]]:
    """Every layer with its name and its width, those inside it behind it."""
    for i, (layer, width) in enumerate(zip(layers, widths[1:], strict=True)):
        yield f"{outside}{i}", layer, width
        yield from _lines(layer.layers, build(layer.layers, widths[i]), f"{outside}{i}.")


def _in_short(layers: Sequence[Layer], widths: Sequence[int]) -> list[str]:
    parts = []
    for i, (layer, width) in enumerate(zip(layers, widths[1:], strict=True)):
        kind = type(layer).__name__
        f = "" if layer.activation.name == "identity" else f" {layer.activation.name}"
        p = f" {layer.p:g}" if hasattr(layer, "p") else ""
        inside = f"({' -> '.join(_in_short(layer.layers, build(layer.layers, widths[i])))})" if layer.layers else ""
        parts.append(f"{kind} {width}{f}" if kind == "Dense" else f"{kind}{inside}{f}{p}")
    return parts


def table(engine: Engine) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row for each layer with its output shape and its number of parameters, below a heading; and what is to be said below."""
    rows: list[tuple[str, ...]] = [("", "layer", "output", "parameters")]
    total, dtype = 0, engine.parameters.dtype
    for name, layer, width in _lines(engine.layers, engine.training.widths):
        count = sum(a.size for full, a in engine.parameters.views.items() if full.startswith(f"{name}."))
        total += 0 if "." in name else count
        frozen = " not trained" if count and not layer.trainable else ""
        what = type(layer).__name__ if layer.layers else repr(layer)
        rows.append((name, what + frozen, f"(n, {width})", f"{count:,}"))
    lines = [
        f"{total:,} parameters, {total * dtype.itemsize:,} bytes as {dtype.name}; "
        f"loss {engine.steps.loss_function.name}; device {engine.backend.name}, {engine.describe()}"
    ]
    if engine.steps.chain is not None:
        lines.append("all layers in one kernel: forward, and backward with the gradients")
    return rows, lines


def summary(engine: Engine) -> str:
    """The `table` as plain text."""
    rows, lines = table(engine)
    return "\n".join([*aligned(rows, "><<>"), *lines])


def as_html(engine: Engine, precision: str) -> str:
    """The network for a notebook."""
    rows, lines = table(engine)
    return html([one_line(engine, precision), *lines], rows)
