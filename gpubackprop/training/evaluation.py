"""Loss and metrics of a network on data that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpubackprop.checks import Data, check_x, check_y, whole_number
from gpubackprop.metrics import Metric, checked, measured, scores
from gpubackprop.network.inference import CHUNK, outputs_and_loss, to_prediction
from gpubackprop.network.network import Network


def evaluate(
    net: Network,
    x: Data,
    y: Data,
    batch_size: int | None = None,
    *,
    metrics: Sequence[str | Metric] | None = None,
) -> dict[str, float]:
    """{"loss": ..., "accuracy": ...} for the cross-entropies, else {"loss", "r2", "mean_absolute_error"}.

    metrics: others instead: names of `metrics.NAMES`, "top_3", or functions (y, prediction) -> float.

    x (n, d) and y as for `Network.loss`; worked through in chunks of `batch_size` rows (4096 by default). The loss is that
    of all rows together, penalties included. Raises what `Network.loss` raises.
    """
    be = net.backend
    rows = check_x(x, net.widths[0], net.dtype, be)
    given = check_y(y, len(rows), net.widths[-1], net.dtype, net.loss_function, be)
    size = CHUNK if batch_size is None else whole_number("batch_size", batch_size)
    outputs = np.empty((len(rows), net.widths[-1]), net.dtype)
    loss = outputs_and_loss(net.engine, rows, given, outputs, size)
    targets = given if isinstance(given, np.ndarray) else be.to_host(given)
    with net.engine:
        predictions = to_prediction(outputs, net.loss_function)
    if metrics is None:
        return {"loss": loss, **scores(predictions, targets, net.loss_function)}
    return {"loss": loss, **measured(checked(metrics), predictions, targets, net.loss_function)}
