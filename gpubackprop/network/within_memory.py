"""A training step that fits the device: when it runs out of memory, the batch goes through in smaller parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpubackprop.errors import DeviceError
from gpubackprop.layers import BatchNorm
from gpubackprop.network.workspace import Batch
from gpubackprop.optimizers import Optimizer

if TYPE_CHECKING:
    from gpubackprop.network.network import Network


def train(
    net: Network,
    load: Callable[[int, int], Batch],
    n: int,
    kind: str,
    optimizer: Optimizer,
    size: int | None = None,
    accumulate: bool = False,
) -> None:
    """One training step on a batch of n rows, in parts of `size` rows (None: all at once), or of fewer where the device has
    no memory for them: then the parts are halved, with a warning, until they fit, and stay so for the steps to come.

    load(start, n): the batch that holds the n rows from `start` on. The gradient is the same to rounding, and the random
    numbers are: an attempt that failed has not counted. Raises DeviceError where not even one row fits, or where the
    network normalises over batches, which parts would change.
    """
    size = min(n if size is None else size, net.rows_at_once or n)
    while True:
        done = optimizer.t
        try:
            _attempt(net, load, n, kind, optimizer, size, accumulate)
            return
        except net.backend.memory_errors as error:
            reason = str(error)
        # Out here the failed attempt's frames, and the arrays that they hold, are gone.
        size = shrink(net, optimizer, done, size, reason)


def shrink(net: Network, optimizer: Optimizer, done: int, size: int, reason: str) -> int:
    """After a step that failed for lack of memory: undo what it did and return how many rows to try next.

    done: the optimizer's steps before it; size: the rows that there was no memory for. To be called outside the except
    block, where nothing holds the failed step's arrays any more. Raises what `train` raises.
    """
    optimizer.go_back_to(done)
    net.release_buffers()
    net.backend.release_memory()
    return _smaller(net, size, reason)


def _attempt(
    net: Network,
    load: Callable[[int, int], Batch],
    n: int,
    kind: str,
    optimizer: Optimizer,
    size: int,
    accumulate: bool,
) -> None:
    if size < n:
        net._steps.train_in_parts(load, n, kind, optimizer, size, accumulate)
        return
    batch = load(0, n)
    program = net._steps.training_program(batch, kind, optimizer, accumulate)
    optimizer.prepare()
    program()


def _smaller(net: Network, size: int, reason: str) -> int:
    if any(isinstance(layer, BatchNorm) for layer in net.layers):
        raise DeviceError(
            f"{net.backend.name} has no memory for a step of {size} rows ({reason}), and BatchNorm would normalise smaller "
            "parts differently: take a smaller batch_size, or set micro_batch_size to accept that"
        )
    if size == 1:
        raise DeviceError(f"{net.backend.name} has no memory for a step of one row: {reason}")
    net.rows_at_once = -(-size // 2)
    warnings.warn(
        f"{net.backend.name} has no memory for {size} rows at once ({reason}); going on with parts of {net.rows_at_once} "
        "rows, whose gradients add up to the same",
        RuntimeWarning,
        stacklevel=5,
    )
    return net.rows_at_once
