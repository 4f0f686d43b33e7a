"""What the processes of a fit make sure of before its first step, and at the end of each epoch."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from gpubackprop import __version__
from gpubackprop.distributed.communicator import Communicator
from gpubackprop.errors import DeviceError
from gpubackprop.layers.stack import walk
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer


def begin(ranks: Communicator, net: Network, optimizer: Optimizer, settings: dict[str, Any]) -> None:
    """Make sure that all processes are about to do the same; give them the weights and the state of rank 0.

    settings: of the fit and of its data, as plain values. Raises DisagreementError where something differs, and DeviceError
    where gradients cannot be added up between these devices.
    """
    layers = [
        f"{name}: {type(layer).__name__} {layer.settings()} {layer.trainable}" for name, layer in walk(net.layers)
    ]
    described = {
        "version of gpubackprop": __version__,
        "network": [*layers, net.loss_function.described(), net.dtype.name, net.precision, net.l1, net.l2],
        "seed": net.seed,
        "number of epochs that the network was trained for": net.epochs,
        "optimizer": f"{type(optimizer).__name__} {optimizer.settings()}",
    }
    ranks.agree({**described, **settings})
    with net.engine as engine:
        ranks.attach(engine.backend)
        for array in (engine.parameters.P, *engine.state.values(), engine.step, *optimizer.state.values()):
            ranks.copy_from_first(engine.backend, array)
        optimizer.go_back_to(ranks.broadcast(optimizer.t))


def check_weights_agree(ranks: Communicator, net: Network) -> None:
    """Raise DeviceError, in every process, unless the weights have the same bits in all."""
    found = 0
    for array in net.get_weights().values():
        found = zlib.crc32(np.ascontiguousarray(array).data, found)
    sums = ranks.gather(found)
    others = [str(rank) for rank, value in enumerate(sums) if value != sums[0]]
    if others:
        raise DeviceError(
            f"the weights of rank {' and '.join(others)} no longer have the bits of rank 0's: all processes must run on "
            "machines with the same kind of processor, the same BLAS and the same number of its threads"
        )
