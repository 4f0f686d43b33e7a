"""Losses that are no longer finite: where it happened, and from where training goes on.

A snapshot of the state is taken where an epoch begins. Of a fit that stops, weights and optimizer are those of the last snapshot:
they are the last that are known to be finite, and another fit can go on from them.
"""

from __future__ import annotations

from math import isfinite

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.errors import ArgumentError
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer

ON_NAN = ("stop", "skip", "restore")
RESTORES = 10
"""Times that a fit goes back before it stops."""


def checked_on_nan(value: object) -> str:
    """`value`, if it is one of `ON_NAN`. Raises ArgumentError otherwise."""
    if value not in ON_NAN:
        raise ArgumentError(f"on_nan must be {', '.join(ON_NAN[:-1])} or {ON_NAN[-1]}; got {value!r}")
    return str(value)


class LastGood:
    """The weights and the state of the layers and of the optimizer, which must be bound, as they were at the last `take`.

    On the device, in memory that is made once; on the host what the device has no memory for.
    """

    def __init__(self, net: Network, optimizer: Optimizer) -> None:
        self._engine, self._optimizer = net.engine, optimizer
        with self._engine as engine:
            arrays = [engine.parameters.P, *engine.state.values(), engine.step, *optimizer.state.values()]
            self._kept = [(array, self._copy(array)) for array in arrays]
        self._t = 0

    def _copy(self, array: Array) -> Array:
        try:
            return array.copy()
        except self._engine.backend.memory_errors:
            return self._engine.backend.to_host(array)

    def take(self) -> None:
        """Keep the state as it is now."""
        with self._engine as engine:
            for array, kept in self._kept:
                be = engine.backend
                (be.copy_out if isinstance(kept, np.ndarray) else be.copy_in)(array, kept)
        self._t = self._optimizer.t

    def put_back(self) -> None:
        """Make what was kept the state again."""
        with self._engine as engine:
            for array, kept in self._kept:
                engine.backend.copy_in(kept, array)
        self._optimizer.go_back_to(self._t)


def described(
    net: Network, optimizer: Optimizer, snapshot: LastGood, rows: int, where: str, loss: float, learning_rate: float
) -> str:
    """A sentence about a loss that is not finite: the loss, the place, the rate, the layer, and the activations before it.

    Network and optimizer are still as they are now; afterwards their state is that of the snapshot. rows: of the last batch.
    """
    arrays = net.get_weights()
    for kind, state in optimizer.state.items():
        own = net.engine.parameters.to_host(state)
        # The square of a gradient may overflow where nothing else does; its parameter would not move any more.
        arrays |= {f"{name} ({kind} of {type(optimizer).__name__})": array for name, array in own.items()}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    layer = int(bad[0].partition(".")[0]) if bad else None
    snapshot.put_back()
    largest = net.engine.largest_activations(rows)
    if layer is None:
        layer = next((i for i, value in enumerate(largest) if not isfinite(value)), len(largest) - 1)
    what = (
        f"the values of {', '.join(bad[:4])} are not finite"
        if bad
        else "its outputs are the first to grow without bound"
    )
    sizes = ", ".join(f"{value:.3g}" for value in largest)
    return (
        f"the loss is {loss:g} {where}, with learning rate {learning_rate:.3g}; layer {layer}, {net.layers[layer]!r}: {what}; "
        f"largest activations by layer with the last finite weights: {sizes}"
    )
