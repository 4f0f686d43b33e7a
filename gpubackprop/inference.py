"""Prediction over any number of rows, chunk by chunk, without the buffers that gradients need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.arguments import whole_number
from gpubackprop.checks import check_x
from gpubackprop.losses import Loss
from gpubackprop.workspace import Batch

if TYPE_CHECKING:
    from gpubackprop.network import Network

CHUNK = 4096


def predict(net: Network, x: Any, batch_size: int | None = None) -> np.ndarray:
    """See `Network.predict`."""
    size = CHUNK if batch_size is None else whole_number("batch_size", batch_size)
    x = check_x(x, net.widths[0], net.dtype, net.backend)
    out = np.empty((len(x), net.widths[-1]), net.dtype)
    for start in range(0, len(x), size):
        rows = x[start : start + size]
        batch = net._inference.batch(len(rows))
        net.backend.copy_in(rows, batch.x)
        program(net, batch)()
        out[start : start + size] = net.backend.to_host(batch.outputs)
    return to_prediction(out, net.loss_function)


def program(net: Network, batch: Batch) -> Any:
    """The forward pass on an inference workspace's batch."""
    if "forward" not in batch.programs:
        batch.programs["forward"] = net.program(lambda: net._steps.forward(batch, False))
    return batch.programs["forward"]


def to_prediction(outputs: np.ndarray, loss: Loss) -> np.ndarray:
    """Softmax or sigmoid of logits (n, m), in place on the host, as the loss's `output` says."""
    if loss.output == "softmax":
        outputs -= outputs.max(axis=1, keepdims=True)
        np.exp(outputs, out=outputs)
        outputs /= outputs.sum(axis=1, keepdims=True)
    elif loss.output == "sigmoid":
        outputs *= 0.5
        np.tanh(outputs, out=outputs)
        outputs *= 0.5
        outputs += 0.5
    return outputs
