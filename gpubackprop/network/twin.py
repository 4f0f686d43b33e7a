"""The same network once more: on another device, in another type, with the same weights, seed and step."""

from __future__ import annotations

import copy

from numpy.typing import DTypeLike

from gpubackprop.backend.base import Backend
from gpubackprop.network.network import Network


def twin(
    net: Network, device: str | Backend | None = None, *, dtype: DTypeLike | None = None, precision: str | None = None
) -> Network:
    """A network of its own that does what `net` does at its next step; `net` stays as it is.

    device, dtype: those of `net` where they are None. dtype may be complex128 on the CPU: the type of a complex step.
    precision: of the products, None for native ones. Raises what `Network` raises.
    """
    other = Network(
        copy.deepcopy(net.layers),
        loss=net.loss_function,
        device=net.backend if device is None else device,
        dtype=net.dtype if dtype is None else dtype,
        precision=precision,
        seed=net.seed,
        l1=net.l1,
        l2=net.l2,
        capture=net.capture,
        compile=net.compile,
    )
    other.engine.write(net.get_weights())
    other.engine.set_count(net.engine.count())
    other.epochs = net.epochs
    return other
