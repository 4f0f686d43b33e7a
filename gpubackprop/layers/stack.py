"""A list of layers as one thing: whether they can be a network, and how wide it is between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers.base import Layer


def checked(layers: Iterable[Layer]) -> list[Layer]:
    """`layers` as a list. Raises ArgumentTypeError for what is no layer, ArgumentError for none and for one used twice."""
    if not isinstance(layers, Iterable) or isinstance(layers, str):
        raise ArgumentTypeError(f"layers must be a list of layers; got {layers!r}; put a single layer into a list")
    layers = list(layers)
    if not layers:
        raise ArgumentError("a network needs at least one layer; got an empty list")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise ArgumentTypeError(f"layers[{i}] must be a Layer, such as Dense(784, 10); got {layer!r}")
        if hasattr(layer, "parameters"):
            raise ArgumentError(f"layers[{i}] ({layer!r}) already belongs to a network; make a new layer for this one")
    if len({id(layer) for layer in layers}) < len(layers):
        raise ArgumentError("the same layer object stands in the list twice; make one object for each place")
    return layers


def build(layers: Sequence[Layer]) -> list[int]:
    """The widths before, between and behind the layers. Raises ArgumentError where two do not fit together."""
    widths = [inputs(layers)]
    for i, layer in enumerate(layers):
        try:
            widths.append(layer.build(widths[-1]))
        except ArgumentError as error:
            raise ArgumentError(f"layer {i} ({layer!r}) {error}") from None
    return widths


def inputs(layers: Sequence[Layer]) -> int:
    """How many inputs the first layer that says so takes. Raises ArgumentError where none does."""
    for layer in layers:
        width = getattr(layer, "inputs", getattr(layer, "width", None))
        if width is not None:
            return int(width)
    raise ArgumentError("no layer says how many inputs the network has: at least one Dense(inputs, outputs) is needed")
