"""Narrow Dense layers: all of a forward pass in one launch, all of a backward pass in two (`narrow.cu`).

Its speed is not yet measured on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpubackprop.activations import Identity
from gpubackprop.backend.base import Array, Tensors
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda import registry
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels
from gpubackprop.backend.cuda.masks import Masks
from gpubackprop.layers import Dense, Layer

Operand = Callable[[Array], Array]

FUNCTIONS = ("Identity", "ReLU", "Sigmoid", "Tanh")
"""The activations of these kernels, by the numbers that narrow.cu has for them."""


def fits(layers: Sequence[Layer]) -> bool:
    """Whether these are two Dense layers or more, of widths and activations that the kernels know."""
    return len(layers) > 1 and all(
        type(layer) is Dense
        and max(layer.inputs, layer.outputs) <= table.NARROW_WIDTHS[-1]
        and registry.activation(layer.activation) in FUNCTIONS
        for layer in layers
    )


class Narrow:
    """The passes of these layers, which must be `fits`, by the kernels of narrow.cu.

    operand: gives a parameter as products take it. tables: keeps what captured launches read besides their arguments.
    """

    def __init__(
        self, layers: Sequence[Any], kernels: Kernels, masks: Masks, operand: Operand, tables: dict[Any, Array]
    ) -> None:
        self._layers, self._kernels, self._masks, self._operand = tuple(layers), kernels, masks, operand
        self._tables = tables
        self._widest = max(max(layer.inputs, layer.outputs) for layer in layers)

    def forward(self, tensors: Sequence[Tensors], keep: bool) -> None:
        """The outputs of the last layer, and with `keep` those of all and what f' is taken from."""
        for v in tensors:
            self._masks.forget(v.a)
        last = tensors[-1]
        rows = [(v.a if keep or v is last else None, v.z if keep and v.z is not v.a else None, None) for v in tensors]
        self._launch("narrow_forward", tensors[0].x, rows, [(-1, -1)] * len(rows))

    def backward(
        self, tensors: Sequence[Tensors], gradients: Sequence[dict[str, Array]], beta: float, keep: bool
    ) -> None:
        """The gradients of all layers from the last one's delta, added to beta times what is there; with `keep` all deltas.

        gradients: {"weight": dW, "bias": db} of each layer, views of one flat buffer, float32. What lies in gaps between them
        is multiplied by beta.
        """
        arrays = [a for own in gradients for a in own.values()]
        start, stop = min(a.data.ptr for a in arrays), max(a.data.ptr + a.nbytes for a in arrays)
        size, flat = (stop - start) // arrays[0].itemsize, arrays[0].base
        first = (start - flat.data.ptr) // flat.itemsize
        places = [
            ((g["weight"].data.ptr - start) // 4, (g["bias"].data.ptr - start) // 4 if "bias" in g else -1)
            for g in gradients
        ]
        last, x = tensors[-1], tensors[0].x
        rows = [(v.a, v.z if v.z is not v.a else None, v.delta if keep or v is last else None) for v in tensors]
        blocks = table.narrow(len(x), C_TYPE[x.dtype.name], self._kernels.multiprocessors).blocks
        partial = self._kernels.partial(blocks * size, np.float32)
        self._launch("narrow_backward", x, rows, places, partial, size)
        finish = partial, blocks, size, flat[first : first + size], float(beta)
        self._kernels.launch("finish_column_sums", ("float", "float"), table.finish_columns(size), *finish)

    def _launch(
        self, name: str, x: Array, arrays: Sequence[Any], places: Sequence[tuple[int, int]], *arguments: object
    ) -> None:
        """arrays: a, z and delta of each layer, None for what the kernel must leave alone."""
        numbers: list[int] = []
        for layer, own, place in zip(self._layers, arrays, places, strict=True):
            operands = (self._operand(layer.W), None if layer.b is None else self._operand(layer.b))
            numbers += [0 if a is None else a.data.ptr for a in (*operands, *own)]
            numbers += [layer.inputs, layer.outputs, FUNCTIONS.index(registry.activation(layer.activation) or "")]
            numbers += place
        key = tuple(numbers)
        if key not in self._tables:
            # When a step is first done, before it is captured. Those of buffers that are gone go; a graph holds its own.
            if len(self._tables) > 1000:
                self._tables.clear()
            self._tables[key] = self._kernels.cupy.asarray(np.array(numbers, np.int64))
        c_type, width = C_TYPE[x.dtype.name], next(w for w in table.NARROW_WIDTHS if w >= self._widest)
        geometry = table.narrow(len(x), c_type, self._kernels.multiprocessors)
        arguments = x, self._tables[key], len(self._layers), len(x), *arguments
        self._kernels.launch(name, (c_type, width), geometry, *arguments)


def works(kernels: Kernels, dtype: np.dtype[Any]) -> bool:
    """Whether a small network of whole numbers, which are exact in every type, comes out on this device as in NumPy. Waits."""
    cupy, rng, n, m = kernels.cupy, np.random.default_rng(0), 67, 16
    x, delta, *weights = (rng.integers(-1, 2, size).astype(np.float64) for size in ((n, m), (n, m), (m, m), (m, m)))
    hidden = x @ weights[0]
    below = delta @ weights[1].T
    layers = [
        SimpleNamespace(W=cupy.asarray(W.astype(dtype)), b=None, inputs=m, outputs=m, activation=Identity())
        for W in weights
    ]
    tensors = [Tensors(x=None, a=cupy.zeros((n, m), dtype), delta=cupy.asarray(delta.astype(dtype))) for _ in weights]
    tensors[0].x = cupy.asarray(x.astype(dtype))
    for v in tensors:
        v.z = v.a
    G = cupy.zeros((2 * m * m,), np.float32)
    gradients = [{"weight": G[i * m * m : (i + 1) * m * m].reshape(m, m)} for i in range(2)]
    narrow = Narrow(layers, kernels, Masks(cupy), lambda array: array, {})
    narrow.forward(tensors, keep=True)
    narrow.backward(tensors, gradients, 0.0, keep=True)
    pairs = [(tensors[0].a, hidden), (tensors[1].a, hidden @ weights[1]), (tensors[0].delta, below)]
    pairs += [(gradients[0]["weight"], x.T @ below), (gradients[1]["weight"], hidden.T @ delta)]
    return all(np.array_equal(cupy.asnumpy(got).astype(np.float64), want) for got, want in pairs)
