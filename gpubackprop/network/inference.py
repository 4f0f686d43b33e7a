"""Prediction over any number of rows, chunk by chunk, without the buffers that gradients need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.checks import check_x, whole_number
from gpubackprop.layers import LAYERS
from gpubackprop.losses import Loss
from gpubackprop.network.workspace import Batch
from gpubackprop.precision import compute_type

if TYPE_CHECKING:
    from gpubackprop.network.network import Network

CHUNK = 4096

IN_PLACE = 256
"""Rows from which it is faster to leave x where it is, and run the first layer from there."""


def predict(net: Network, x: Any, batch_size: int | None = None) -> np.ndarray:
    """See `Network.predict`."""
    size = CHUNK if batch_size is None else whole_number("batch_size", batch_size)
    be = net.backend
    x = check_x(x, net.widths[0], net.dtype, be)
    # A layer of somebody's own may write into what it is given; those of this library do not.
    in_place = be.owns(x) and x.dtype == net.dtype and type(net.layers[0]) in LAYERS.values()
    out = np.empty((len(x), net.widths[-1]), net.dtype)
    for start in range(0, len(x), size):
        rows = x[start : start + size]
        batch = net._inference.batch(len(rows))
        if in_place and len(rows) >= IN_PLACE:
            first = batch.tensors[0]
            first.x = rows
            try:
                net.layers[0].forward(be, first, False)
            finally:
                first.x = batch.x
            program(net, batch, 1)()
        else:
            be.copy_in(rows, batch.x)
            program(net, batch)()
        be.copy_out(batch.outputs, out[start : start + size])
    return to_prediction(out, net.loss_function)


def program(net: Network, batch: Batch, first: int = 0) -> Any:
    """The forward pass on an inference workspace's batch, from the layer with index `first` on."""
    key = ("forward", first)
    if key not in batch.programs:
        batch.programs[key] = net.program(lambda: net._steps.forward(batch, False, first))
    return batch.programs[key]


def to_prediction(outputs: np.ndarray, loss: Loss) -> np.ndarray:
    """Softmax or sigmoid of logits (n, m), in place on the host, as the loss's `output` says; computed in float32 at least."""
    wide = outputs.astype(compute_type(outputs.dtype), copy=False)
    if loss.output == "softmax":
        wide -= wide.max(axis=1, keepdims=True)
        np.exp(wide, out=wide)
        wide /= wide.sum(axis=1, keepdims=True)
    elif loss.output == "sigmoid":
        wide *= 0.5
        np.tanh(wide, out=wide)
        wide *= 0.5
        wide += 0.5
    np.copyto(outputs, wide, casting="unsafe")
    return outputs
