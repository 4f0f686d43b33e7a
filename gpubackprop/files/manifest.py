"""Layers, activations, losses and optimizers as plain values, and back: what a checkpoint says of a network.

Classes are found by name in the library's own tables, or in one that the caller brings; nothing else is ever called.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.checks import from_table
from gpubackprop.errors import ArgumentError, CheckpointError
from gpubackprop.files.plain import is_plain
from gpubackprop.layers import LAYERS, Layer, layer_from, stack
from gpubackprop.losses import LOSSES, Loss
from gpubackprop.network.network import Network
from gpubackprop.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from gpubackprop.optimizers.schedules import SCHEDULES, get_schedule

Custom = Mapping[str, Any]
"""Class name -> class of layers, and name -> class of activations and losses, that are not the library's own."""

_VALUES = (str, int, float, tuple, list, dict, np.ndarray, np.generic, type(None))
"""The types of arguments that can be compared."""


def describe_layer(index: int, layer: Layer) -> dict[str, Any]:
    """{"type", "settings"} of a layer, once it is sure that it can be built again from that."""
    kind, settings = type(layer).__name__, layer.settings()
    name_of(layer.activation, ACTIVATIONS, "activation")
    if LAYERS.get(kind, type(layer)) is not type(layer):
        raise ArgumentError(f"layers[{index}]: a user-defined class cannot be saved under the library's name {kind!r}")
    inside = {"layers": [describe_layer(i, inner) for i, inner in enumerate(layer.layers)]} if layer.layers else {}
    if not is_plain(settings) or (kind not in LAYERS and not _says_all(layer)):
        raise ArgumentError(
            f"layers[{index}] ({kind}) cannot be saved: its settings() must give the arguments of its constructor as "
            "plain values (numbers, text, lists), from which load() builds it again"
        )
    return {"type": kind, "settings": settings, **inside} | ({} if layer.trainable else {"trainable": False})


def _says_all(layer: Layer) -> bool:
    """Whether the settings of a user-defined layer make the same layer again."""
    kind, settings = type(layer), layer.settings()
    try:
        arguments = inspect.signature(kind).parameters
        again = kind(**settings)
        # The settings of the library's layer that it derives from know nothing of its own arguments.
        own: list[tuple[Any, Any]] = [(vars(layer).get(name), vars(again).get(name)) for name in arguments]
        lost = any(issubclass(type(a), _VALUES) and not np.array_equal(a, b) for a, b in own)
        forgotten = kind.settings is Layer.settings and arguments
        return not forgotten and not lost and again.settings() == settings
    except (TypeError, ValueError):
        return False


def build_layer(entry: dict[str, Any], custom: Custom) -> Layer:
    """The layer that `describe_layer` described. Raises CheckpointError for a class that is in neither table."""
    kind, settings, trainable = entry["type"], dict(entry["settings"]), entry.get("trainable", True)
    if "layers" in entry:
        settings["layers"] = [build_layer(inner, custom) for inner in entry["layers"]]
    activation = settings.get("activation")
    own = dict(activation) if isinstance(activation, dict) else {"name": activation}
    name = own.pop("name", None)
    if isinstance(name, str) and name not in ACTIVATIONS and name in custom:
        settings["activation"] = custom[name](**own)
    if kind in custom and kind not in LAYERS:
        layer: Layer = custom[kind](**settings)
    else:
        try:
            layer = layer_from(kind, settings)
        except ArgumentError as error:
            raise CheckpointError(f"{error}. User-defined classes are handed over as custom={{name: class}}") from None
    if not isinstance(trainable, bool):
        raise CheckpointError(f"trainable must be true or false; got {trainable!r}")
    if not trainable:
        layer.trainable = False
    return layer


def describe_loss(loss: Loss) -> str | dict[str, Any]:
    """The loss's name, or {"name": ..., its settings}, once it is sure that it can be built again from that."""
    name_of(loss, LOSSES, "loss")
    described = loss.described()
    if not is_plain(described):
        raise ArgumentError(f"{loss!r} cannot be saved: its settings() must be plain values (numbers, text, lists)")
    return described


def build_loss(described: str | dict[str, Any], custom: Custom) -> Loss:
    """The loss that was described. Raises ArgumentError for one that is in neither table."""
    loss: Loss = from_table("loss", described, {**custom, **LOSSES})
    return loss


def name_of(thing: Activation | Loss, table: Mapping[str, type], kind: str) -> str:
    """The name by which an activation or a loss is found again. Raises ArgumentError where it would be another's."""
    if not getattr(thing, "name", "") or table.get(thing.name, type(thing)) is not type(thing):
        raise ArgumentError(
            f"{kind} {type(thing).__name__} cannot be saved: give it a name of its own, name = ..., which no {kind} of the "
            "library has"
        )
    return thing.name


def check_shapes(layers: list[Layer], arrays: Mapping[str, np.ndarray]) -> None:
    """CheckpointError unless the file holds the arrays that the layers declare. Asked before memory is made for them."""
    width, declared = stack.inputs(layers), {}
    for i, layer in enumerate(layers):
        width = layer.build(width)
        shapes = {**layer.parameter_shapes(), **layer.state_shapes()}
        declared.update({f"{i}.{name}": tuple(shape) for name, shape in shapes.items()})
    held = {name: array.shape for name, array in arrays.items() if name[:1].isdigit()}
    if declared != held:
        raise CheckpointError(f"the layers need arrays of shapes {declared}, and the file holds {held}")


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """{"name", "settings"} of an optimizer and its schedule. Raises ArgumentError for user-defined classes."""
    name, schedule = type(optimizer).__name__.lower(), optimizer.schedule
    for thing, known in ((optimizer, OPTIMIZERS.get(name)), (schedule, SCHEDULES.get(schedule.name))):
        if known is not type(thing):
            raise ArgumentError(
                f"{type(thing).__name__} is not one of the library's own classes, so the optimizer cannot be saved; leave "
                "out optimizer= and put the arrays of optimizer.get_state() into extra="
            )
    return {"name": name, "settings": optimizer.settings()}


def optimizer_state(optimizer: Optimizer, net: Network) -> dict[str, np.ndarray]:
    """The optimizer's arrays. Raises ArgumentError where they belong to another network."""
    if optimizer.parameters is not None and optimizer.parameters.owner is not net.engine.parameters.owner:
        raise ArgumentError(f"this {type(optimizer).__name__} trains another network; save it with that one")
    return optimizer.get_state()


def build_optimizer(described: dict[str, Any] | None, state: dict[str, np.ndarray], net: Network) -> Optimizer | None:
    """The optimizer that was described, bound to `net`, with its state. Raises CheckpointError if that does not fit."""
    if described is None:
        return None
    settings = dict(described["settings"])
    schedule = dict(settings.pop("schedule"))
    optimizer = get_optimizer(described["name"], schedule=get_schedule(schedule.pop("name"), **schedule), **settings)
    optimizer.bind(net.engine.parameters)
    if set(state) != {"t"} or int(state["t"]):
        optimizer.set_state(state)
    return optimizer
