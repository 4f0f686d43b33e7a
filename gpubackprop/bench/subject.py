"""What is compared: networks, as plain values for other processes, with the work that one step of them is; and contenders: a
device, the type it computes in, and on the CPU the number of threads."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import devices
from gpubackprop.bench.machine import available_cores
from gpubackprop.checks import whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError
from gpubackprop.files.checkpoint import load
from gpubackprop.files.manifest import build_layer, describe_layer
from gpubackprop.layers import LAYERS, Dense
from gpubackprop.layers.stack import walk
from gpubackprop.losses import LOSSES, get_loss
from gpubackprop.network.network import Network
from gpubackprop.network.perceptron import mlp
from gpubackprop.optimizers import Optimizer
from gpubackprop.pipeline.run_folder import MODEL

Description = dict[str, Any]
"""{"name", "widths", "layers", "loss", "l1", "l2", "seed"}: what a network is built from, in values that JSON can hold."""


def descriptions(
    network: Network | str | os.PathLike[str] | Sequence[int],
    widths: Sequence[int] | None = None,
    *,
    activation: str = "relu",
    loss: str = "cross_entropy",
    seed: int = 0,
) -> list[Description]:
    """The networks to measure: the one given, or, for each of `widths`, the one with all its hidden layers that wide.

    network: a `Network`, the path of a saved one or of the folder it lies in, or the widths of an `mlp`, inputs first.
    activation, loss, seed: of the `mlp`. Raises ArgumentError, DataError or CheckpointError where there is no such network.
    """
    if isinstance(network, (Network, str, os.PathLike)):
        if widths is not None:
            raise ArgumentError(
                "widths change the hidden layers of layers=[...]; a network that is built keeps its own"
            )
        net = network if isinstance(network, Network) else load(model_file(network), "cpu")
        return [describe(net)]
    if not isinstance(network, (list, tuple, np.ndarray)):
        raise ArgumentTypeError(f"network must be a Network, a path, or widths such as [784, 512, 10]; got {network!r}")
    layers = [whole_number(f"layers[{i}]", w) for i, w in enumerate(network)]
    shapes = [layers]
    if widths is not None:
        if len(layers) < 3:
            raise ArgumentError(f"widths change hidden layers, and {'-'.join(map(str, layers))} has none")
        shapes = [[layers[0], *[whole_number("widths", w)] * (len(layers) - 2), layers[-1]] for w in widths]
    return [describe(mlp(s, activation=activation, loss=loss, seed=seed, device="cpu")) for s in shapes]


def model_file(path: str | os.PathLike[str]) -> Path:
    """The saved network at `path`: the file itself, or in a folder model.safetensors, or the only .safetensors there."""
    path = Path(path)
    if not path.is_dir():
        return path
    if (path / MODEL).is_file():
        return path / MODEL
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    there = ", ".join(f.name for f in found) or "none"
    raise DataError(f"{path}: expected one saved network (.safetensors) in this folder; found {there}. Name the file")


def describe(net: Network) -> Description:
    """`net` without its weights. Raises ArgumentError for layers, activations and losses that are not the library's own."""
    for i, layer in walk(net.layers):
        if LAYERS.get(type(layer).__name__) is not type(layer) or layer.activation.name not in ACTIVATIONS:
            raise ArgumentError(
                f"layers[{i}] ({layer!r}) is not one of the library's own: a comparison builds the network again in other "
                "processes, which know only those"
            )
    if net.loss_function.name not in LOSSES:
        raise ArgumentError(f"loss {net.loss_function!r} is not one of the library's own; known: {', '.join(LOSSES)}")
    shown = [net.widths[0], *(layer.outputs for _, layer in walk(net.layers) if isinstance(layer, Dense))]
    return {
        "name": "-".join(map(str, shown)),
        "widths": net.widths,
        "layers": [describe_layer(i, layer) for i, layer in enumerate(net.layers)],
        "loss": net.loss_function.described(),
        "l1": net.l1,
        "l2": net.l2,
        "seed": net.seed,
    }


def build(
    described: Description,
    backend: Backend,
    dtype: str,
    precision: str = "native",
    capture: bool = True,
    compile: bool = False,
) -> Network:
    """The network that was described."""
    layers = [build_layer(entry, {}) for entry in described["layers"]]
    settings = {name: described[name] for name in ("loss", "seed", "l1", "l2")}
    return Network(
        layers, device=backend, dtype=dtype, precision=precision, capture=capture, compile=compile, **settings
    )


def random_batch(described: Description, n: int, seed: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """x (n, d) from the standard normal distribution, and y as the loss takes it: labels, 0 and 1, or normal numbers.

    The same numbers for every dtype: they are drawn as float32.
    """
    rng = np.random.default_rng([seed, n])
    loss, d, m = get_loss(described["loss"]), described["widths"][0], described["widths"][-1]
    x = rng.standard_normal((n, d), np.float32).astype(dtype)
    if loss.labels:
        return x, rng.integers(0, m, n)
    if loss.output == "sigmoid":
        return x, rng.integers(0, 2, (n, m)).astype(dtype)
    if loss.output == "exponential":
        return x, rng.poisson(1.0, (n, m)).astype(dtype)
    return x, rng.standard_normal((n, m), np.float32).astype(dtype)


def flops(net: Network, n: int) -> int:
    """Floating-point operations of a step's matrix products: 2 n d m each for forward, dW and, above the first, delta."""
    dense = [(name, layer) for name, layer in walk(net.layers) if isinstance(layer, Dense)]
    return sum((6 if name.strip(".0") else 4) * n * layer.inputs * layer.outputs for name, layer in dense)


def least_bytes(net: Network, n: int, optimizer: Optimizer) -> int:
    """Bytes that a step moves if each operation reads its operands and writes its results once, and nothing stays in a cache.

    Of `Dense` layers: x, W, a (forward); x, delta, dW (gradients); delta, W, a, delta below (propagation); of the update:
    parameters and state read and written, gradients read.
    """
    numbers = (3 + 2 * len(optimizer.states)) * net.parameter_count
    for name, layer in walk(net.layers):
        if isinstance(layer, Dense):
            below, above, weights = n * layer.inputs, n * layer.outputs, layer.inputs * layer.outputs
            numbers += 2 * (below + above + weights)
            numbers += (above + weights + 2 * below) if name.strip(".0") else 0
    return int(numbers * net.dtype.itemsize)


# -- contenders ---------------------------------------------------------------------------------------------------------

_FORM = re.compile(
    r"(?P<device>cpu|strict|cuda(?::\d+)?)(?:@(?P<threads>\d+))?(?::(?P<kind>float32|float64|tf32|bf16|fp16))?"
)
_EXAMPLES = "cpu, cpu@1 (one thread), cpu:float64, cpu@2:float64, strict, cuda, cuda:1, cuda:0:tf32"


@dataclass(frozen=True)
class Contender:
    """One of the columns of a comparison.

    device: a name for `get_backend`. dtype: of the parameters. precision: of the products. threads: of NumPy's products,
    or None for what the environment says.
    """

    device: str
    dtype: str = "float32"
    precision: str = "native"
    threads: int | None = None

    @property
    def label(self) -> str:
        """The text that `parse` takes: "cpu@1:float64"."""
        kind = self.dtype if self.precision == "native" else self.precision
        threads = "" if self.threads is None else f"@{self.threads}"
        return f"{self.device}{threads}{'' if kind == 'float32' else f':{kind}'}"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """DEVICE[@THREADS][:float32|float64|tf32|bf16|fp16]. Raises ArgumentError for anything else."""
        if not isinstance(text, str):
            raise ArgumentTypeError(f"a device to compare must be text such as {_EXAMPLES}; got {text!r}")
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ArgumentError(f"cannot compare {text!r}; expected something like {_EXAMPLES}")
        device, threads, kind = match["device"], match["threads"], match["kind"] or "float32"
        if device == "cuda":
            device = "cuda:0"
        on_gpu = device.startswith("cuda")
        if threads is not None and (on_gpu or int(threads) == 0):
            why = "a GPU has no number of threads to set" if on_gpu else "at least one thread is needed"
            raise ArgumentError(f"cannot compare {text!r}: {why}")
        if kind.startswith("float"):
            return cls(device, dtype=kind, threads=int(threads) if threads else None)
        if not on_gpu:
            raise ArgumentError(f"cannot compare {text!r}: products in {kind} need an NVIDIA GPU, as in cuda:{kind}")
        return cls(device, precision=kind)

    def environment(self) -> dict[str, str]:
        """The variables by which the BLAS libraries that NumPy may use are told their number of threads."""
        if self.threads is None:
            return {}
        names = ("OPENBLAS", "OMP", "MKL", "BLIS")
        return {f"{name}_NUM_THREADS": str(self.threads) for name in names} | {
            "VECLIB_MAXIMUM_THREADS": str(self.threads)
        }


def contenders(wanted: str | Sequence[str] | None) -> list[Contender]:
    """The contenders of "cpu,cuda:tf32" or ["cpu", "cuda:tf32"]; of None: all devices that work here.

    Without a GPU, None compares the CPU's single thread with all its threads. Raises ArgumentError for names that cannot be
    read or that come twice.
    """
    if wanted is None:
        gpus = [Contender(d.name) for d in devices() if d.working and d.name.startswith("cuda")]
        counts = dict.fromkeys((1, available_cores()))
        return [Contender("cpu"), *gpus] if gpus else [Contender("cpu", threads=n) for n in counts]
    if not isinstance(wanted, (str, list, tuple)):
        raise ArgumentTypeError(f"devices must be text or a list of texts; got {wanted!r}")
    texts = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    found = [Contender.parse(text) for text in texts]
    if not found:
        raise ArgumentError(f"devices is empty; expected one or more of {_EXAMPLES}")
    for i, contender in enumerate(found):
        if contender in found[:i]:
            raise ArgumentError(f"devices names {contender.label!r} twice")
    return found
