"""Outputs for any number of rows, chunk by chunk, without the buffers that gradients need."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.layers import LAYERS
from gpubackprop.losses import Loss
from gpubackprop.network.engine import Engine
from gpubackprop.precision import largest_exponent

CHUNK = 4096
"""Rows at a time, where nothing else is asked for."""

IN_PLACE = 256
"""Rows from which it is faster to leave x where it is, and run the first layer from there."""


def outputs(engine: Engine, x: Array, out: np.ndarray, size: int) -> None:
    """The last layer's outputs for rows x (n, d) into the host array out (n, m), in chunks of `size` rows."""
    be, first = engine.backend, engine.layers[0]
    # A layer from outside this library may write into its input; those of this library do not. What is inside of one has its
    # input from the buffers.
    known = type(first) in LAYERS.values() and not first.layers
    in_place = known and be.owns(x) and x.dtype == engine.parameters.dtype
    # Held from the first chunk to the last: all rows are of the same weights.
    with engine:
        for rows, part in _chunks(len(x), size):
            if in_place and rows >= IN_PLACE:
                batch = engine.inference.batch(rows)
                engine.check_recording(batch, training=False)
                tensors = batch.tensors[0]
                tensors.x = x[part]
                try:
                    first.forward(be, tensors, False)
                finally:
                    tensors.x = batch.x
                engine.run(batch, "rest of forward")
            else:
                batch = engine.load(x[part], training=False)
                engine.run(batch, "forward")
            be.copy_out(batch.outputs, out[part])


def outputs_and_loss(engine: Engine, x: Array, y: Array, out: np.ndarray, size: int) -> float:
    """The loss, penalties included, of rows x with targets y; their outputs into the host array out."""
    total = mass = 0.0
    loss = engine.steps.loss_function
    with engine:
        for rows, part in _chunks(len(x), size):
            batch = engine.load(x[part], y[part], training=False)
            engine.run(batch, "loss")
            engine.backend.copy_out(batch.outputs, out[part])
            counted = rows if loss.counts_rows else loss.mass(engine.backend.to_host(batch.targets))
            total, mass = total + float(engine.backend.to_host(engine.value)) * counted, mass + counted
    return total / (mass or 1)


def _chunks(n: int, size: int) -> list[tuple[int, slice]]:
    if n <= size:
        return [(n, slice(0, n))]
    return [(min(size, n - start), slice(start, min(start + size, n))) for start in range(0, n, size)]


def to_prediction(outputs: np.ndarray, loss: Loss) -> np.ndarray:
    """Softmax, sigmoid or exponential of outputs (n, m), in place on the host, as the loss's `output` says.

    Computed in float64, so that float32 probabilities have all their digits however small they are.
    """
    if loss.output == "identity":
        return outputs
    wide = outputs.astype(np.result_type(outputs, np.float64))
    # Two float64 logits may be further apart than float64 reaches: exp(-inf) is right. Of logits that are none, so is p.
    with np.errstate(over="ignore", invalid="ignore"):
        if loss.output == "softmax":
            wide -= wide.max(axis=1, keepdims=True)
            np.exp(wide, out=wide)
            wide /= wide.sum(axis=1, keepdims=True)
        elif loss.output == "exponential":
            np.exp(wide, out=wide)
        else:
            np.minimum(wide, largest_exponent(wide.dtype), out=wide)
            np.exp(wide, out=wide)
            wide /= wide + 1
    np.copyto(outputs, wide, casting="unsafe")
    return outputs
