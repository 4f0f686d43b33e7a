"""A network in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.layers import Layer
from gpubackprop.layers.stack import build
from gpubackprop.layout import aligned, html
from gpubackprop.losses import Loss
from gpubackprop.network.engine import Engine


class Described(Protocol):
    """The attributes of a network that its description reads."""

    layers: list[Layer]
    widths: list[int]
    loss_function: Loss
    dtype: np.dtype[np.generic]
    precision: str
    engine: Engine

    @property
    def backend(self) -> Backend:
        """The device."""

    @property
    def parameters(self) -> dict[str, Array]:
        """Views of everything that is trained, by full name."""


def one_line(net: Described) -> str:
    """The architecture, the loss and the device: Network(784 -> Dense 512 relu -> ... | cross_entropy | cpu float32)."""
    parts = [str(net.widths[0]), *_in_short(net.layers, net.widths)]
    how = "" if net.precision == "native" else f" {net.precision}"
    return f"Network({' -> '.join(parts)} | {net.loss_function.name} | {net.backend.name} {net.dtype.name}{how})"


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


def table(net: Described) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row for each layer with its output shape and its number of parameters, below a heading; and what is to be said below."""
    rows: list[tuple[str, ...]] = [("", "layer", "output", "parameters")]
    total = 0
    for name, layer, width in _lines(net.layers, net.widths):
        count = sum(a.size for full, a in net.parameters.items() if full.startswith(f"{name}."))
        total += 0 if "." in name else count
        frozen = " not trained" if count and not layer.trainable else ""
        what = type(layer).__name__ if layer.layers else repr(layer)
        rows.append((name, what + frozen, f"(n, {width})", f"{count:,}"))
    lines = [
        f"{total:,} parameters, {total * net.dtype.itemsize:,} bytes as {net.dtype.name}; "
        f"loss {net.loss_function.name}; device {net.backend.name}, {net.engine.describe()}"
    ]
    if net.backend.chain(net.layers) is not None:
        lines.append("all layers in one kernel: forward, and backward with the gradients")
    return rows, lines


def summary(net: Described) -> str:
    """The `table` as plain text."""
    rows, lines = table(net)
    return "\n".join([*aligned(rows, "><<>"), *lines])


def as_html(net: Described) -> str:
    """The network for a notebook."""
    rows, lines = table(net)
    return html([one_line(net), *lines], rows)
