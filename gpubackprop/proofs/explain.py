"""Backpropagation of one small batch, matrix by matrix: each with its name, its formula, what the library computes for it and,
for every derivative, the central differences that it must agree with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.activations import Activation
from gpubackprop.checks import Data, check_x, check_y
from gpubackprop.errors import ArgumentError, unknown_name
from gpubackprop.layers import Dense
from gpubackprop.layout import html
from gpubackprop.losses import LOSSES, Loss
from gpubackprop.network.network import Network
from gpubackprop.network.twin import twin
from gpubackprop.optimizers import SGD

Matrix = NDArray[np.float64]

STEPS = ("forward", "loss", "delta-propagation", "gradients", "update")
"""The parts of a training step, in their order."""

MOST_PARAMETERS = 1000
EPSILON = 1e-5

_ACTIVATIONS = {
    "identity": ("{z}", "1"),
    "sigmoid": ("1 / (1 + exp(-{z}))", "{a} * (1 - {a})"),
    "tanh": ("tanh({z})", "1 - {a}^2"),
    "relu": ("max({z}, 0)", "1 where {z} > 0, else 0"),
}
_LOSSES = {
    "half_squared_error": ("(1/n) sum 1/2 ({a} - y)^2", "({a} - y) / n"),
    "mean_squared_error": ("(1/(n m)) sum ({a} - y)^2", "2 ({a} - y) / (n m)"),
    "mean_absolute_error": ("(1/(n m)) sum |{a} - y|", "sign({a} - y) / (n m)"),
    "binary_cross_entropy": ("-(1/(n m)) sum (y log p + (1 - y) log(1 - p))", "(p - y) / (n m)"),
    "cross_entropy": ("-(1/n) sum y log p", "(p - y) / n"),
    "poisson": ("(1/(n m)) sum (p - y {a})", "(p - y) / (n m)"),
}
_PREDICTIONS = {"sigmoid": "sigmoid({a})", "softmax": "softmax({a}), along each row", "exponential": "exp({a})"}


@dataclass(frozen=True)
class Quantity:
    """One matrix of a training step.

    step: one of `STEPS`. name: "z(1)", "dC/dW(2)". formula: how it comes from those before it; "" for what is given.
    value: what the library computes, (rows, columns) float64, a loss as (1, 1). numeric: central differences of the
    same derivative, or None for what is no derivative.
    """

    step: str
    name: str
    formula: str
    value: Matrix
    numeric: Matrix | None = None

    @property
    def dimensions(self) -> str:
        """The dimensions in words: "2x3"."""
        return "x".join(map(str, self.value.shape))

    @property
    def error(self) -> float | None:
        """The largest |value - numeric|, or None where there is nothing to compare with."""
        return None if self.numeric is None else float(np.abs(self.value - self.numeric).max())


class Explanation:
    """The quantities of one training step, in the order in which they are computed; `explanation["z(1)"]` is one of them."""

    def __init__(self, quantities: list[Quantity]) -> None:
        self.quantities = quantities

    def __getitem__(self, name: str) -> Quantity:
        for quantity in self.quantities:
            if quantity.name == name:
                return quantity
        raise unknown_name("quantity", name, (q.name for q in self.quantities))

    def __iter__(self) -> Iterator[Quantity]:
        return iter(self.quantities)

    def __len__(self) -> int:
        return len(self.quantities)

    def _repr_html_(self) -> str:
        rows = [("step", "name", "size", "chain rule", "value", "central differences", "off by")]
        for q in self:
            numeric, error = ("", "") if q.numeric is None else (matrix_text(q.numeric, 5), f"{q.error:.1e}")
            rows.append((q.step, q.name, q.dimensions, q.formula, matrix_text(q.value, 5), numeric, error))
        return html(
            [f"largest difference between a derivative and its central differences: {self.worst_error:.1e}"], rows
        )

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        arrays = ("value", "numeric")
        quantities = [
            {k: v.tolist() if k in arrays and v is not None else v for k, v in vars(q).items()} | {"error": q.error}
            for q in self
        ]
        return {"worst_error": self.worst_error, "quantities": quantities}

    @property
    def worst_error(self) -> float:
        """The largest difference between a derivative and its central differences, over all of them."""
        return max(q.error for q in self.quantities if q.error is not None)


def explain(net: Network, x: Data, y: Data, *, learning_rate: float = 0.5, input_layer: int = 0) -> Explanation:
    """Every matrix of the forward, delta-propagation and update steps of `net` on the batch x, y, in float64.

    net: `Dense` layers only, at most `MOST_PARAMETERS` parameters; it is not changed. x (n, d) and y (n, m), or (n,)
    labels for cross_entropy. learning_rate: eta of the update. input_layer: the number of the layer that x is: 0, as in
    this library's formulas, where W(l) leads to z(l), or 1, as in many textbooks, where W(l) leads to z(l+1).

    Central differences (C(v + e) - C(v - e)) / 2e with e = 1e-5 agree to about 1e-9, but where an activation or a loss
    has a kink within e.

    Raises ArgumentError for a network or data that cannot be explained in this way.
    """
    if input_layer not in (0, 1):
        raise ArgumentError(f"input_layer must be 0 (x is a(0)) or 1 (x is a(1)); got {input_layer!r}")
    own = _copy(net)
    rows = np.asarray(check_x(x, own.widths[0], own.dtype, own.backend), own.dtype)
    given = check_y(y, len(rows), own.widths[-1], own.dtype, own.loss_function, own.backend)
    rows, given = (own.backend.to_host(v) if own.backend.owns(v) else v for v in (rows, given))
    return Explanation(list(_Explainer(own, rows, given, input_layer).quantities(learning_rate)))


def matrix_text(values: Matrix, digits: int = 4) -> str:
    """A matrix (or a row, or a number) with so many digits behind the point, one aligned line a row."""
    rows = [[f"{v:.{digits}f}" for v in row] for row in np.atleast_2d(values)]
    width = max(len(cell) for row in rows for cell in row)
    return "\n".join("  ".join(f"{cell:>{width}}" for cell in row) for row in rows)


class _Explainer:
    """Takes a network apart with its own means: what stands before z(l) and what comes after it are networks too."""

    def __init__(self, net: Network, x: Matrix, y: Matrix, input_layer: int) -> None:
        self.net, self.x, self.y, self.shift = net, x, y, input_layer
        self.dense: list[Dense] = [layer for layer in net.layers if isinstance(layer, Dense)]
        self.weights = net.get_weights()

    def quantities(self, learning_rate: float) -> Iterator[Quantity]:
        # The outputs of the networks that end before f(l), and behind it.
        z = [self._until(i, None).predict(self.x) for i in range(len(self.dense))]
        a = [self._until(i, layer.activation).predict(self.x) for i, layer in enumerate(self.dense)]
        yield from self._forward(z, a)
        yield from self._loss(a[-1])
        yield from self._deltas(z)
        yield from self._gradients()
        yield from self._update(learning_rate)

    # -- the steps ------------------------------------------------------------------------------------------------

    def _forward(self, z: list[Matrix], a: list[Matrix]) -> Iterator[Quantity]:
        yield Quantity("forward", "x", "the input", self.x)
        for i, layer in enumerate(self.dense):
            bias = f" + b({i + 1})" if layer.bias else ""
            yield Quantity("forward", f"W({i + 1})", "", self.weights[f"{i}.weight"])
            if layer.bias:
                yield Quantity("forward", f"b({i + 1})", "", self.weights[f"{i}.bias"].reshape(1, -1))
            yield Quantity("forward", self._z(i + 1), f"{self._a(i)} W({i + 1}){bias}", z[i])
            formula, _ = self._formulas(layer, i + 1)
            yield Quantity("forward", self._a(i + 1), formula, a[i])

    def _loss(self, outputs: Matrix) -> Iterator[Quantity]:
        last, loss = self._a(len(self.dense)), self.net.loss_function
        given = [last, "y", *(f"{name}={value!r}" for name, value in loss.settings().items())]
        formula, slope = f"{loss.name}({', '.join(given)})", ""
        if type(loss) is LOSSES.get(loss.name) and loss.name in _LOSSES and not loss.settings():
            formula, slope = (text.format(a=last) for text in _LOSSES[loss.name])
        of_outputs = self._pass_through(self.net.widths[-1], loss)
        y = self.y
        if y.ndim == 1:
            # Rows that the loss ignores have no target.
            counted = y != getattr(loss, "ignore_index", None)
            y = np.where(counted[:, None] & (y[:, None] == np.arange(self.net.widths[-1])), 1.0, 0.0)
        yield Quantity("loss", "y", "the target", y)
        if loss.output != "identity":
            formula_p = _PREDICTIONS.get(loss.output, loss.output + "({a})").format(a=last)
            yield Quantity("loss", "p", formula_p, self.net.predict(self.x))
        penalty = " + penalties" if self.net.l1 or self.net.l2 else ""
        yield Quantity("loss", "C", formula + penalty, np.array([[self.net.loss(self.x, self.y)]]))
        value = of_outputs.input_gradient(outputs, self.y)
        numeric = _central_differences(lambda a: of_outputs.loss(a, self.y), outputs)
        yield Quantity("loss", f"s = dC/d{last}", slope, value, numeric)

    def _deltas(self, z: list[Matrix]) -> Iterator[Quantity]:
        deltas = self.net.deltas(self.x, self.y)
        for i in range(len(self.dense), 0, -1):
            layer, z_name = self.dense[i - 1], self._z(i)
            _, formula = self._formulas(layer, i)
            yield Quantity("delta-propagation", f"f'({z_name})", formula, *self._slope(layer, z[i - 1]))
            above = "s" if i == len(self.dense) else f"({self._delta(i + 1)} W({i + 1})^T)"
            rest = self._after(i - 1)
            numeric = _central_differences(lambda v, rest=rest: rest.loss(v, self.y), z[i - 1])  # type: ignore[misc]
            yield Quantity("delta-propagation", self._delta(i), f"{above} * f'({z_name})", deltas[i - 1], numeric)

    def _gradients(self) -> Iterator[Quantity]:
        _, gradients = self.net.loss_and_gradients(self.x, self.y)
        penalty = (" + l1 sign(W)" if self.net.l1 else "") + (" + l2 W" if self.net.l2 else "")
        for i, layer in enumerate(self.dense):
            formula = f"{self._a(i)}^T {self._delta(i + 1)}{penalty}"
            yield self._gradient(f"{i}.weight", f"dC/dW({i + 1})", formula, gradients)
            if layer.bias:
                formula = f"column sums of {self._delta(i + 1)}"
                yield self._gradient(f"{i}.bias", f"dC/db({i + 1})", formula, gradients)

    def _gradient(self, key: str, name: str, formula: str, gradients: dict[str, Matrix]) -> Quantity:
        def cost(parameter: Matrix) -> float:
            self.net.set_weights({**self.weights, key: parameter})
            return self.net.loss(self.x, self.y)

        numeric = _central_differences(cost, self.weights[key])
        self.net.set_weights(self.weights)
        return Quantity("gradients", name, formula, np.atleast_2d(gradients[key]), np.atleast_2d(numeric))

    def _update(self, learning_rate: float) -> Iterator[Quantity]:
        self.net.train_step(self.x, self.y, SGD(learning_rate))
        after = self.net.get_weights()
        for i, layer in enumerate(self.dense):
            for symbol, key in (("W", "weight"), ("b", "bias")) if layer.bias else (("W", "weight"),):
                formula = f"{symbol}({i + 1}) - {learning_rate:g} dC/d{symbol}({i + 1})"
                yield Quantity("update", f"new {symbol}({i + 1})", formula, np.atleast_2d(after[f"{i}.{key}"]))
        yield Quantity("update", "new C", "the loss after the update", np.array([[self.net.loss(self.x, self.y)]]))
        self.net.set_weights(self.weights)

    # -- parts of the network -------------------------------------------------------------------------------------

    def _until(self, i: int, activation: Activation | None) -> Network:
        """The network up to layer i, with another activation there."""
        last = self.dense[i]
        layers = [*map(copy, self.dense[:i]), Dense(last.inputs, last.outputs, activation, bias=last.bias)]
        weights = {name: array for name, array in self.weights.items() if int(name.split(".")[0]) <= i}
        return self._network(layers, weights, "half_squared_error")

    def _after(self, i: int) -> Network:
        """The network from z of layer i to the loss."""
        first = self.dense[i]
        identity = Dense(first.outputs, first.outputs, first.activation, bias=False)
        weights = {"0.weight": np.eye(first.outputs)}
        rest = self.dense[i + 1 :]
        for k, layer in enumerate(rest, 1):
            weights |= {f"{k}.{name}": self.weights[f"{i + k}.{name}"] for name in layer.parameter_shapes()}
        return self._network([identity, *map(copy, rest)], weights, self.net.loss_function)

    def _pass_through(self, width: int, loss: str | Loss, activation: Activation | None = None) -> Network:
        """The network a = f(x), whose weights are the identity matrix."""
        weights = {"0.weight": np.eye(width)}
        return self._network([Dense(width, width, activation, bias=False)], weights, loss)

    def _network(self, layers: list[Dense], weights: dict[str, Matrix], loss: str | Loss) -> Network:
        net = Network(layers, loss=loss, device=self.net.backend, dtype="float64")
        net.set_weights(weights)
        return net

    def _slope(self, layer: Dense, z: Matrix) -> tuple[Matrix, Matrix]:
        """f'(z), and its central differences."""
        f = self._pass_through(layer.outputs, "half_squared_error", layer.activation)
        # The cost (1/n) 1/2 |a - y|^2 has the slope 1/n in a where y = a - 1, which leaves f' alone.
        value = len(z) * f.input_gradient(z, f.predict(z) - 1)
        return value, (f.predict(z + EPSILON) - f.predict(z - EPSILON)) / (2 * EPSILON)

    # -- names ----------------------------------------------------------------------------------------------------

    def _z(self, i: int) -> str:
        return f"z({i + self.shift})"

    def _a(self, i: int) -> str:
        return f"a({i + self.shift})" if i else "x"

    def _delta(self, i: int) -> str:
        return f"delta({i + self.shift})"

    def _formulas(self, layer: Dense, i: int) -> tuple[str, str]:
        """f(z) and f'(z) of layer i in writing."""
        name, z, a = layer.activation.name, self._z(i), self._a(i)
        f, slope = _ACTIVATIONS.get(name, (f"{name}({{z}})", f"the derivative of {name} at {{z}}"))
        return f.format(z=z), slope.format(z=z, a=a)


def _central_differences(f: Callable[[Matrix], float], v: Matrix) -> Matrix:
    """(f(v + e) - f(v - e)) / 2e for each element of v."""
    slopes = np.empty_like(v)
    for i in np.ndindex(v.shape):
        step = np.zeros_like(v)
        step[i] = EPSILON
        slopes[i] = (f(v + step) - f(v - step)) / (2 * EPSILON)
    return slopes


def _copy(net: Network) -> Network:
    """The same network in float64; raises ArgumentError where it is none that can be explained."""
    for i, layer in enumerate(net.layers):
        if type(layer) is not Dense:
            raise ArgumentError(f"explain takes networks of Dense layers alone; layer {i} is {layer!r}")
        if not layer.trainable:
            raise ArgumentError(
                f"explain shows a step that updates every layer; layer {i} is not trainable: set it so first"
            )
    if net.parameter_count > MOST_PARAMETERS:
        raise ArgumentError(
            f"explain shows every number of every matrix, for at most {MOST_PARAMETERS:,} parameters; this network has "
            f"{net.parameter_count:,}: take narrower layers"
        )
    return twin(net, dtype="float64")
