"""Networks on the disk: one .safetensors file with everything that a run needs to go on, bit for bit, where it was.

The arrays are the network's weights and running statistics ("0.weight", ...), the optimizer's state
("optimizer.velocity", ...) and whatever else was handed over ("extra.<name>"). The metadata have one entry,
"gpubackprop": the SHA-256 of the manifest, a space, and the manifest, a JSON object with the layers, loss, dtype, precision,
seed, penalties and step count, the optimizer's settings with its schedule, the number of BLAS threads, and the dtype, shape
and SHA-256 of every array. So each bit of the file is under a checksum or fixed by the format. Nothing in it is ever
executed: layers, activations, losses and optimizers are looked up by name in the library's own tables, or in one that the
caller brings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.blas_info import blas_name, blas_threads
from gpubackprop.backend.select import get_backend
from gpubackprop.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    DataError,
    DeviceError,
    GpuBackpropError,
    MissingExtraError,
)
from gpubackprop.files.atomic import replacing
from gpubackprop.files.manifest import (
    Custom,
    build_layer,
    build_loss,
    build_optimizer,
    check_shapes,
    describe_layer,
    describe_loss,
    describe_optimizer,
    optimizer_state,
)
from gpubackprop.files.plain import is_plain
from gpubackprop.files.regular import regular_file
from gpubackprop.layers import Layer
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer
from gpubackprop.precision import DTYPES, resolve

VERSION = 1
_KEY = "gpubackprop"
_DTYPES = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1"}
_DTYPES |= {f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "UIF" for bits in (16, 32, 64)}
"""The format's names of types, and NumPy's."""

_ENTRIES: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "layers": (list,),
    "loss": (str, dict),
    "dtype": (str,),
    "precision": (str,),
    "seed": (int,),
    "l1": (int, float),
    "l2": (int, float),
    "step": (int,),
    "epochs": (int,),
    "compile": (bool,),
    "optimizer": (dict, NoneType),
    "saved_on": (dict,),
    "extra": (dict,),
    "arrays": (dict,),
}
"""The entries of the manifest, and their types."""
_SINCE_0_1 = {"epochs", "compile"}
"""Entries that older files do not have."""
FORGED = (
    GpuBackpropError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""The errors that a description raises which `snapshot` did not write, though its checksum is right."""


@dataclass
class Checkpoint:
    """The contents of a checkpoint, as `load_checkpoint` returns them.

    net; optimizer, with its state, ready to go on with `net` (None if none was saved); extra, as it was handed to `save`;
    saved_on: "device", "precision", "blas", "blas_threads", "numpy" and "library" (versions) of the process that saved it.
    The same bits come out of a resumed run only on the same kind of device and with the same number of BLAS threads.
    """

    net: Network
    optimizer: Optimizer | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    saved_on: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A network at one moment, on the host, to be written with `write`. Nothing that is trained meanwhile changes it."""

    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]


def save(
    path: str | os.PathLike[str],
    net: Network,
    *,
    optimizer: Optimizer | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the network, and the optimizer with its state, to a .safetensors file.

    extra: name -> NumPy array, or a value that JSON can hold, to come back with `load_checkpoint`.
    A file at `path` is replaced only once the new one is complete and on the disk.

    Raises ArgumentError for what could not be built again (see `load`: custom classes need their settings) and for an
    optimizer of another network, ArgumentTypeError for extras that are neither arrays nor JSON, CheckpointError if the
    file cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(f"path must be a path; got {path!r}")
    write(path, snapshot(net, optimizer=optimizer, extra=extra))


def snapshot(net: Network, *, optimizer: Optimizer | None = None, extra: Mapping[str, Any] | None = None) -> Snapshot:
    """The contents that `save` would write now, as copies on the host; arrays in `extra` must not be written into afterwards.

    Arguments and errors are those of `save`.
    """
    if not isinstance(net, Network):
        raise ArgumentTypeError(f"net must be a Network; got {type(net).__name__}")
    if net.dtype.name not in DTYPES:
        raise ArgumentError(f"a network of dtype {net.dtype.name} cannot be saved; expected {' or '.join(DTYPES)}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(f"optimizer must be an Optimizer; got {optimizer!r}")
    # Weights, counts and moments of one moment, whatever another thread trains.
    with net.engine:
        arrays = net.get_weights()
        manifest: dict[str, Any] = {
            "version": VERSION,
            "layers": [describe_layer(i, layer) for i, layer in enumerate(net.layers)],
            "loss": describe_loss(net.loss_function),
            "dtype": net.dtype.name,
            "precision": net.precision,
            "seed": net.seed,
            "l1": net.l1,
            "l2": net.l2,
            "step": net.engine.count(),
            "epochs": net.epochs,
            "compile": net.compile,
            "optimizer": None,
            "saved_on": this_process(net),
        }
        if optimizer is not None:
            manifest["optimizer"] = describe_optimizer(optimizer)
            arrays |= {f"optimizer.{k}": v for k, v in optimizer_state(optimizer, net).items()}
    values, extra_arrays = _split_extra(extra or {})
    manifest["extra"] = values
    return Snapshot(manifest, arrays | {f"extra.{k}": v for k, v in extra_arrays.items()})


def write(path: str | os.PathLike[str], taken: Snapshot) -> None:
    """Write a snapshot to a .safetensors file, as `save` does. Raises CheckpointError if it cannot be written."""
    # serialize() takes the memory as it lies: anything but little-endian C order would be written wrong.
    arrays = {k: np.ascontiguousarray(v, v.dtype.newbyteorder("<")).reshape(v.shape) for k, v in taken.arrays.items()}
    manifest = taken.manifest | {"arrays": {name: _fingerprint(array) for name, array in arrays.items()}}
    text = json.dumps(manifest, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    content = serialize(arrays, metadata={_KEY: f"{_digest(text.encode())} {text}"})
    with replacing(path, CheckpointError) as file:
        file.write(content)


def load(
    path: str | os.PathLike[str],
    device: str | Backend = "auto",
    *,
    precision: str | None = None,
    custom: Custom | None = None,
) -> Network:
    """The network that `save` wrote, on `device` (see `get_backend`), whatever device it was saved on.

    precision: that of the products; None takes the saved one where the device has it, else the native one.
    custom: {"MyLayer": MyLayer, "my_activation": MyActivation, ...} for classes that are not the library's.

    Raises CheckpointError for a file that is missing, damaged in any bit, of another kind or of a later version, for an
    unknown class name, and DeviceError for a device that is not there.
    """
    return load_checkpoint(path, device, precision=precision, custom=custom).net


def load_checkpoint(
    path: str | os.PathLike[str],
    device: str | Backend = "auto",
    *,
    precision: str | None = None,
    custom: Custom | None = None,
) -> Checkpoint:
    """Everything that `save` wrote. Arguments and errors are those of `load`."""
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(f"path must be a path; got {path!r}")
    path = Path(path)
    manifest, arrays = _read(path)
    backend = _backend(device, precision, manifest)
    try:
        layers = [build_layer(entry, custom or {}) for entry in manifest["layers"]]
        check_shapes(layers, arrays)
        net = _network(layers, manifest, backend, custom or {})
        net.engine.write(arrays)
        net.engine.set_count(_count(manifest["step"]))
        net.epochs = _count(manifest.get("epochs", 0))
        optimizer = build_optimizer(manifest["optimizer"], _under("optimizer.", arrays), net)
        extra = {**manifest["extra"], **_under("extra.", arrays)}
        return Checkpoint(net, optimizer, extra, dict(manifest["saved_on"]))
    except DeviceError:
        raise
    except FORGED as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: holds no network that can be built: {reason}") from error


# -- the file -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and the arrays of a file in which everything is as it was written; else CheckpointError."""
    try:
        regular_file(path)
        # safe_open holds the declared sizes against the file's before anything is allocated.
        with safe_open(path, framework="numpy") as file:
            digest, _, text = (file.metadata() or {}).get(_KEY, "").partition(" ")
            if not text:
                raise CheckpointError(f"{path}: is a safetensors file, but not one that gpubackprop.save wrote")
            if _digest(text.encode()) != digest:
                raise CheckpointError(f"{path}: damaged: its description does not have the SHA-256 that it should have")
            manifest = _checked(json.loads(text), path)
            declared = manifest["arrays"]
            held = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if {n: [_DTYPES[s.get_dtype()], s.get_shape()] for n, s in held.items()} != {
                n: [d["dtype"], d["shape"]] for n, d in declared.items()
            }:
                raise CheckpointError(f"{path}: damaged: its arrays are not those that its description lists")
            arrays = {name: file.get_tensor(name) for name in held}
    except DataError as error:
        raise CheckpointError(str(error)) from error
    except CheckpointError:
        raise
    except (SafetensorError, OSError, *FORGED) as error:
        raise CheckpointError(f"{path}: damaged, cut short, or no safetensors file ({error})") from error
    for name, array in arrays.items():
        if _fingerprint(array) != declared[name]:
            raise CheckpointError(f"{path}: damaged: array {name!r} does not have the SHA-256 that it should have")
    return manifest, arrays


def _checked(manifest: object, path: Path) -> dict[str, Any]:
    """The manifest, once it has exactly the entries that `snapshot` gives it, each of its type."""
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path}: damaged: its description is no JSON object")
    if manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: has format version {manifest.get('version')!r}, and this library reads version {VERSION}; "
            "install the version of gpubackprop that wrote it"
        )
    faults = [f"lacks {name!r}" for name in _ENTRIES if name not in {*manifest, *_SINCE_0_1}]
    faults += [f"has an unknown entry {name!r}" for name in manifest if name not in _ENTRIES]
    faults += [f"has {v!r:.40} as {k!r}" for k, v in manifest.items() if k in _ENTRIES and type(v) not in _ENTRIES[k]]
    if faults:
        raise CheckpointError(f"{path}: holds no network that can be built: its description {', '.join(faults)}")
    resolve(manifest["dtype"], manifest["precision"])
    return manifest


def _fingerprint(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _digest(array.tobytes())}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def this_process(net: Network) -> dict[str, Any]:
    """The software and settings on which the last digits of a training step depend, beside the network."""
    from gpubackprop import __version__

    return {
        "library": __version__,
        "numpy": np.__version__,
        "device": net.backend.name,
        "precision": net.precision,
        "blas": net.backend.blas or blas_name(),
        "blas_threads": blas_threads(),
    }


def _split_extra(extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {name: value for name, value in extra.items() if isinstance(value, np.ndarray)}
    values = {name: value for name, value in extra.items() if name not in arrays}
    for name, value in extra.items():
        if not isinstance(name, str):
            raise ArgumentTypeError(f"extra must map names to values; got the key {name!r}")
        if name in arrays:
            if value.dtype.newbyteorder("<").str not in _DTYPES.values():
                raise ArgumentTypeError(f"extra[{name!r}] has dtype {value.dtype}; expected bool, integers or floats")
        elif not is_plain(value):
            raise ArgumentTypeError(
                f"extra[{name!r}] must be a NumPy array, or text, finite numbers, None, lists and dictionaries with text "
                f"as keys; got {type(value).__name__}"
            )
    return values, arrays


# -- the network ---------------------------------------------------------------------------------------------------


def _backend(device: str | Backend, precision: str | None, manifest: dict[str, Any]) -> Backend:
    if isinstance(device, Backend):
        return device
    if precision is not None:
        return get_backend(device, precision=resolve(manifest["dtype"], precision)[1])
    try:
        return get_backend(device, precision=manifest["precision"])
    except DeviceError:
        # Saved with the products of a GPU: the device that is here may still do them in full.
        return get_backend(device)


def _count(value: object) -> int:
    # NumPy before 2 would wrap a negative number around.
    if type(value) is not int or not 0 <= value < 2**64:
        raise CheckpointError(f"its number of steps or epochs is {value!r}")
    return value


def _network(layers: list[Layer], manifest: dict[str, Any], backend: Backend, custom: Custom) -> Network:
    options = {k: manifest[k] for k in ("dtype", "seed", "l1", "l2")}
    with contextlib.suppress(MissingExtraError):
        if manifest.get("compile"):
            backend.check_compiler()
            options["compile"] = True
    options["loss"] = build_loss(manifest["loss"], custom)
    return Network(layers, device=backend, precision=backend.precision, **options)


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
