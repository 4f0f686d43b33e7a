"""Layers, one short file each, and the table by which a saved model is built again."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend.base import Tensors
from gpubackprop.errors import ArgumentError, unknown_name
from gpubackprop.layers.activation import Activation
from gpubackprop.layers.base import Layer
from gpubackprop.layers.dense import Dense
from gpubackprop.layers.dropout import Dropout
from gpubackprop.layers.normalization import BatchNorm, LayerNorm, RMSNorm
from gpubackprop.layers.prelu import PReLU
from gpubackprop.layers.residual import Residual

LAYERS: dict[str, type[Layer]] = {
    c.__name__: c for c in (Dense, Activation, PReLU, Dropout, BatchNorm, LayerNorm, RMSNorm, Residual)
}


def kinks_of(layer: Layer) -> tuple[float, ...]:
    """The values of a layer's output at which a derivative jumps, be it the layer's own or that of its f."""
    return (*layer.kinks, *(() if layer.activation.smooth else layer.activation.kinks))


def layer_from(kind: str, settings: dict[str, Any]) -> Layer:
    """The layer that `type(layer).__name__` and `layer.settings()` describe. Raises ArgumentError for an unknown one."""
    if kind not in LAYERS:
        raise unknown_name("layer", kind, LAYERS)
    try:
        return LAYERS[kind](**settings)
    except TypeError as error:
        raise ArgumentError(f"layer {kind}: {error}") from None


__all__ = [
    "LAYERS",
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "PReLU",
    "RMSNorm",
    "Residual",
    "Tensors",
    "kinks_of",
    "layer_from",
]
