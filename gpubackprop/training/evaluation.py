"""Loss and metrics of a network on data that it is not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.checks import check_x, check_y, whole_number
from gpubackprop.metrics import scores
from gpubackprop.network.inference import CHUNK, to_prediction

if TYPE_CHECKING:
    from gpubackprop.network.network import Network


def evaluate(net: Network, x: Any, y: Any, batch_size: int | None = None) -> dict[str, float]:
    """{"loss": ..., "accuracy": ...} for the cross-entropies, else {"loss", "r2", "mean_absolute_error"}.

    x (n, d) and y as for `Network.loss`; worked through in chunks of `batch_size` rows (4096 by default). The loss is that
    of all rows together, penalties included. Raises what `Network.loss` raises.
    """
    be = net.backend
    x = check_x(x, net.widths[0], net.dtype, be)
    y = check_y(y, len(x), net.widths[-1], net.dtype, net.loss_function, be)
    size = CHUNK if batch_size is None else whole_number("batch_size", batch_size)
    kind = "labels" if y.ndim == 1 else "targets"
    outputs = np.empty((len(x), net.widths[-1]), net.dtype)
    total = 0.0
    for start in range(0, len(x), size):
        stop = min(start + size, len(x))
        batch = net._inference.batch(stop - start)
        be.copy_in(x[start:stop], batch.x)
        be.copy_in(y[start:stop], batch.target_buffer(kind))
        net._steps.run(batch, "loss", kind)
        outputs[start:stop] = be.to_host(batch.outputs)
        total += float(be.to_host(net.value)) * (stop - start)
    targets = y if isinstance(y, np.ndarray) else be.to_host(y)
    return {"loss": total / len(x), **scores(to_prediction(outputs, net.loss_function), targets, net.loss_function)}
