"""A list of layers as one thing: whether they can be a network, and how wide it is between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from gpubackprop.backend.base import Tensors
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers.base import Layer

T = TypeVar("T")


def checked(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """`layers` as a tuple. Raises ArgumentTypeError for what is no layer, ArgumentError for none and for one used twice."""
    if not isinstance(layers, Iterable) or isinstance(layers, str):
        raise ArgumentTypeError(f"layers must be a list of layers; got {layers!r}; put a single layer into a list")
    layers = tuple(layers)
    if not layers:
        raise ArgumentError("a network needs at least one layer; got an empty list")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise ArgumentTypeError(f"layers[{i}] must be a Layer, such as Dense(784, 10); got {layer!r}")
    every = list(walk(layers))
    for name, layer in every:
        if hasattr(layer, "parameters"):
            raise ArgumentError(
                f"layers[{name}] ({layer!r}) already belongs to a network; make a new layer for this one"
            )
    if len({id(layer) for _, layer in every}) < len(every):
        raise ArgumentError("the same layer object stands in the list twice; make one object for each place")
    return layers


def build(layers: Sequence[Layer], width: int | None = None) -> list[int]:
    """The widths before, between and behind the layers; width: of the input, where it is known. Raises ArgumentError where two
    do not fit together."""
    widths = [inputs(layers) if width is None else width]
    for i, layer in enumerate(layers):
        try:
            widths.append(layer.build(widths[-1]))
        except ArgumentError as error:
            raise ArgumentError(f"layer {i} ({layer!r}) {error}") from None
    return widths


def inputs(layers: Sequence[Layer]) -> int:
    """How many inputs the first layer that says so takes. Raises ArgumentError where none does."""
    for layer in layers:
        width = own_width(layer)
        if width is not None:
            return width
    raise ArgumentError("no layer says how many inputs the network has: at least one Dense(inputs, outputs) is needed")


def own_width(layer: Layer) -> int | None:
    """How many inputs a layer, or the first one inside it that does so, says that it takes."""
    said = (getattr(inside, "inputs", getattr(inside, "width", None)) for _, inside in walk([layer]))
    return next((int(width) for width in said if width is not None), None)


def walk(layers: Iterable[Layer], outside: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer with its name, "3", and behind it those inside it, "3.0"."""
    for i, layer in enumerate(layers):
        yield f"{outside}{i}", layer
        yield from walk(layer.layers, f"{outside}{i}.")


def with_tensors(layers: Iterable[Layer], tensors: Iterable[Tensors]) -> Iterator[tuple[Layer, Tensors]]:
    """Every layer of `walk` with its tensors."""
    for layer, v in zip(layers, tensors, strict=True):
        yield layer, v
        yield from with_tensors(layer.layers, v.inner)


def named(arrays: Iterable[Mapping[str, T]]) -> dict[str, T]:
    """The arrays (or shapes) of all layers, by full name: [{"weight": W}, {}] -> {"0.weight": W}."""
    return {f"{i}.{name}": array for i, own in enumerate(arrays) for name, array in own.items()}


def of_layer(arrays: Mapping[str, T], index: int) -> dict[str, T]:
    """The arrays of layer `index`, by their own names: {"3.weight": W} -> {"weight": W}."""
    prefix = f"{index}."
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
