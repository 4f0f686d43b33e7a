"""Weights of PyTorch: state dicts of plain chains, in and out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, MissingExtraError
from gpubackprop.layers import BatchNorm, Dense, Dropout, Layer, LayerNorm, PReLU, Residual, RMSNorm
from gpubackprop.layers.stack import walk
from gpubackprop.network.network import Network

_NORM = {"gamma": "weight", "beta": "bias"}
_NAMES: dict[type[Layer], dict[str, str]] = {
    Dense: {"weight": "weight", "bias": "bias"},
    BatchNorm: {**_NORM, "running_mean": "running_mean", "running_var": "running_var"},
    LayerNorm: _NORM,
    RMSNorm: _NORM,
    PReLU: {"slope": "weight"},
}
"""Layer -> its arrays -> their names in the module of torch.nn that it corresponds to."""
_IGNORED = ("num_batches_tracked",)


def to_torch_state(net: Network) -> dict[str, np.ndarray]:
    """The weights under the names that `torch.nn.Sequential` has for the same chain, as host arrays: torch.as_tensor makes
    tensors of them for `load_state_dict(..., strict=False)` (batch counters of BatchNorm1d are not among them).

    A `Dense` layer with an activation counts as two modules there, Linear and the activation, and W is transposed:
    (inputs, outputs) here, (out_features, in_features) there. A `Residual` counts as one module: a Sequential whose forward gives
    `x + super().forward(x)`. Raises ArgumentError for user-defined layers.
    """
    arrays, found = net.get_weights(), {}
    for name, place, layer in _places(net.layers):
        for ours, theirs in _names(name, layer).items():
            if f"{name}.{ours}" in arrays:
                found[f"{place}.{theirs}"] = _turned(layer, arrays[f"{name}.{ours}"])
    return found


def load_torch(net: Network, state: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, str]:
    """Take over the weights of a PyTorch state dict, or of a .safetensors file of one; returns {its name: the name here}.

    The modules with parameters must come in the order of the layers that have some, and have their shapes; their names do not
    matter. Weights of Linear are transposed. Nothing is changed unless all fit.

    A file, and what safetensors' `load_file` gives, has the names sorted as text, "10" before "2": its modules are taken in the
    order of the numbers in their names, as those of a `Sequential` have them.

    Raises ArgumentError for modules that do not fit, with both lists, and for those of sorted names that differ in words,
    ArgumentTypeError for what is no state dict, CheckpointError for a file that cannot be read.
    """
    given = _read(state)
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, array in given.items():
        module, _, array_name = name.rpartition(".")
        if array_name not in _IGNORED:
            modules.setdefault(module, {})[array_name] = array
    names = [f"{module}.{array_name}" for module, arrays in modules.items() for array_name in arrays]
    is_file = not isinstance(state, Mapping)
    if is_file or names == sorted(names):
        # PyTorch has a module's weight before its bias: where that is turned round, somebody sorted.
        modules = _by_number(modules, lost=is_file or len(names) > len(modules))
    weights = net.get_weights()
    every = ((name, layer) for name, layer in walk(net.layers) if not layer.layers)
    wanted = {name: layer for name, layer in every if any(full.startswith(f"{name}.") for full in weights)}
    if len(wanted) != len(modules):
        raise _mismatch(
            wanted, given, f"{len(modules)} modules with parameters for {len(wanted)} layers that have some"
        )
    found = {}
    for (i, layer), (module, arrays) in zip(wanted.items(), modules.items(), strict=True):
        own = {ours: theirs for ours, theirs in _names(i, layer).items() if f"{i}.{ours}" in weights}
        if set(own.values()) != set(arrays):
            raise _mismatch(wanted, given, f"module {module!r} has {sorted(arrays)} for layer {i}, {layer!r}")
        for ours, theirs in own.items():
            array = _turned(layer, arrays[theirs])
            if array.shape != weights[f"{i}.{ours}"].shape:
                there, here = arrays[theirs].shape, weights[f"{i}.{ours}"].shape
                raise _mismatch(wanted, given, f"{module}.{theirs} has shape {there}, and {i}.{ours} here {here}")
            weights[f"{i}.{ours}"] = array
            found[f"{module}.{theirs}" if module else theirs] = f"{i}.{ours}"
    net.set_weights(weights)
    return found


def _by_number(modules: dict[str, dict[str, np.ndarray]], lost: bool) -> dict[str, dict[str, np.ndarray]]:
    """Modules whose names were sorted as text, by the numbers in their names. lost: whether the order of words in them, too, is
    not that of the modules, upon which ArgumentError is raised where they differ in some."""
    # Text and numbers take turns, so that like is compared with like.
    parts = {name: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", name))] for name in modules}
    names = sorted(modules, key=lambda name: parts[name])
    for one, two in pairwise(names):
        first = next((a for a, b in zip(parts[one], parts[two], strict=False) if a != b), "")
        if lost and isinstance(first, str):
            raise ArgumentError(
                f"the names in the state dict are sorted as text, and modules {one!r} and {two!r} differ in words: which comes "
                "first cannot be told. Hand over a dictionary with the modules in their order, each with weight before bias"
            )
    return {name: modules[name] for name in names}


def _read(state: object) -> dict[str, np.ndarray]:
    """The arrays on the host, by name. Tensors of PyTorch are asked for theirs; bfloat16 comes as float32."""
    if isinstance(state, (str, os.PathLike)):
        from safetensors import SafetensorError, safe_open

        path = Path(state)
        if path.suffix != ".safetensors":
            raise ArgumentError(
                f"{path}: only .safetensors files are read, since a .pt file may run any code: load it with torch.load(path, "
                "weights_only=True) and hand over the state dict"
            )
        try:
            with safe_open(path, framework="numpy") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        except TypeError as error:
            raise MissingExtraError(f"a type of numbers in {path} ({error})", "cuda12") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ArgumentTypeError(f"state must be a state dict or a .safetensors file; got {type(state).__name__}")
    return {name: np.asarray(_host(value)) for name, value in state.items()}


def _host(value: Any) -> object:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    return value


def _names(name: str, layer: Layer) -> dict[str, str]:
    if type(layer) not in _NAMES:
        if layer.parameter_shapes():
            raise ArgumentError(
                f"layer {name}, {layer!r}, is none of this library's own: PyTorch's names for it are not known"
            )
        return {}
    return _NAMES[type(layer)]


def _places(layers: Sequence[Layer], outside: str = "", there: str = "") -> Iterator[tuple[str, str, Layer]]:
    """Each layer's name, and its place in the `Sequential` of the same chain; of a `Residual`, those inside it."""
    at = 0
    for i, layer in enumerate(layers):
        name, place = f"{outside}{i}", f"{there}{at}"
        if layer.layers:
            yield from _places(layer.layers, f"{name}.", f"{place}.")
        else:
            yield name, place, layer
        own_module = (
            isinstance(layer, (Dense, BatchNorm, LayerNorm, RMSNorm, PReLU, Dropout, Residual))
            or layer.activation.name != "identity"
        )
        at += own_module + (isinstance(layer, Dense) and layer.activation.name != "identity")


def _turned(layer: Layer, array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T) if isinstance(layer, Dense) and array.ndim == 2 else array


def _mismatch(wanted: Mapping[str, Layer], given: Mapping[str, np.ndarray], why: str) -> ArgumentError:
    here = ", ".join(map(repr, wanted.values()))
    there = ", ".join(f"{name} {tuple(array.shape)}" for name, array in given.items())
    return ArgumentError(f"the state dict does not fit: {why}. Layers here: {here}. There: {there}")
