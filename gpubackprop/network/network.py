"""The network: what a user holds. Layers, a loss, a seed, and the public mathematics over an `Engine`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gpubackprop.backend.base import Array, Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.checks import Data, check_array, check_weights, check_x, check_y, not_negative, on_device, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError, MissingExtraError
from gpubackprop.layers import Dense, Layer, stack
from gpubackprop.losses import Loss, get_loss
from gpubackprop.network.engine import Engine
from gpubackprop.network.inference import CHUNK, outputs, to_prediction
from gpubackprop.network.summary import as_html, one_line, summary
from gpubackprop.network.workspace import Batch
from gpubackprop.optimizers import Optimizer
from gpubackprop.precision import resolve
from gpubackprop.random import host_generator

_FIXED = ("layers", "loss_function", "dtype", "precision", "seed", "capture", "compile", "widths")


class Network:
    """A feed-forward network with its parameters on one device.

    layers: `Dense`, `Activation`, `Dropout`, `BatchNorm`, `LayerNorm` or classes derived from `Layer`, in order.
    loss: a name from `gpubackprop.losses` or a `Loss`. The two cross-entropies take logits: leave the last layer without an
    activation, and `predict` applies the softmax or the sigmoid.
    device: see `get_backend`. dtype: "float32" or "float64". precision: None, or how products are carried out on a GPU.
    seed: of the initial weights (drawn on the host: the same on every device), of dropout and of the order of the data.
    l1, l2: penalties l1 sum|W| + l2/2 sum W^2 over all weights (not biases), part of the loss and of its gradient.
    capture: record each step once and replay it; False runs the layers' Python every time.
    compile: on the CPU, run small training steps, and stretches of them, as machine code (extra `numba`); the first step of a new
    shape then takes some seconds. Its sums are in another order, so the last digits are others than without.

    A network can be copied (`copy.copy` and `copy.deepcopy` do the same) and pickled; its arrays travel as host arrays, and the
    copy is made on the same device, or on the CPU where that device is not there. Threads may share one: each call has the
    network to itself.

    Raises ArgumentError where two layers do not fit together, for unknown names and for settings out of range, and DeviceError
    for a device that is not there.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        loss: str | Loss = "half_squared_error",
        device: str | Backend = "auto",
        dtype: DTypeLike | None = None,
        precision: str | None = None,
        seed: int = 0,
        l1: float = 0.0,
        l2: float = 0.0,
        capture: bool = True,
        compile: bool = False,
    ) -> None:
        self.layers = stack.checked(layers)
        self.loss_function = get_loss(loss)
        self.dtype, self.precision = resolve(dtype, precision)
        be = get_backend(device, precision=self.precision)
        self.seed = whole_number("seed", seed, least=0)
        self._penalties = not_negative("l1", l1), not_negative("l2", l2)
        self.capture = bool(capture)
        self.compile = bool(compile)
        if self.compile:
            be.check_compiler()
        self.widths = stack.build(self.layers)
        self._check_output()
        self.epochs = 0
        """Epochs of training done: the next one's order of the rows is drawn for this number."""
        self._identity = object()
        self._place(be, self.initial_arrays(), 0)

    def __setattr__(self, name: str, value: object) -> None:
        # The engine was made of what the constructor was given, and would go on with that.
        if name in _FIXED and "engine" in vars(self) and value != getattr(self, name):
            raise ArgumentError(
                f"{name} of this network was {getattr(self, name)!r} when it was built, and is part of the recorded steps; it "
                f"cannot become {value!r}: build a new network, and hand it the weights by set_weights()"
            )
        super().__setattr__(name, value)

    # -- the public mathematics -----------------------------------------------------------------------------------

    def forward(self, x: Data, *, training: bool = False) -> Array:
        """The outputs of the last layer, a new (n, m) array on the device: logits for the two cross-entropies.

        x (n, d): a host array, or an array of this network's device. training: with dropout, whose masks are others at each
        call, and batch statistics. Raises ArgumentError, ArgumentTypeError or DeviceError for an x that cannot be used
        (`gpubackprop.checks`).
        """
        rows = check_x(x, self.widths[0], self.dtype, self.backend)
        with self.engine as engine:
            batch = engine.load(rows)
            engine.run(batch, "forward", training=training)
            if training:
                engine.steps.count()
            return batch.outputs.copy()

    def predict(self, x: Data, batch_size: int | None = None) -> np.ndarray:
        """The network's prediction for each row of x, a (n, m) host array.

        Class probabilities for cross_entropy, probabilities for binary_cross_entropy, otherwise the outputs. Works
        through x in chunks of `batch_size` rows (4096 by default), so that memory does not grow with n.
        """
        size = CHUNK if batch_size is None else whole_number("batch_size", batch_size)
        engine = self.engine
        rows = check_x(x, self.widths[0], self.dtype, engine.backend)
        out = np.empty((len(rows), self.widths[-1]), self.dtype)
        with engine:
            outputs(engine, rows, out, size)
            return to_prediction(out, self.loss_function)

    @overload
    def loss(
        self,
        x: Data,
        y: Data,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> float: ...

    @overload
    def loss(
        self,
        x: Data,
        y: Data,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        reduction: Literal["none"],
    ) -> np.ndarray: ...

    def loss(
        self,
        x: Data,
        y: Data,
        *,
        sample_weight: ArrayLike | None = None,
        training: bool = False,
        reduction: str = "mean",
    ) -> float | np.ndarray:
        """The loss (with penalties) on all rows of x at once, as a float.

        y: (n, m), or for cross_entropy also (n,) integer labels. sample_weight: (n,), what each row's loss is multiplied by; the
        mean is still one over the n rows. training: with batch statistics, and the dropout masks that the next training step
        draws. reduction: "mean"; "none" for the loss of each row, (n,) float64 on the host, times its weight and
        without penalties, of which the loss is the mean; or "sum" for their sum.
        """
        if reduction not in ("mean", "sum", "none"):
            raise ArgumentError(f'reduction must be "mean", "sum" or "none"; got {reduction!r}')
        with self.engine as engine:
            batch = self._run(x, y, "loss", training, sample_weight)
            if reduction != "mean":
                be = engine.backend
                rows = be.to_host(self.loss_function.of_rows(be, batch.outputs, batch.targets))
                if batch.weights is not None:
                    rows = rows * be.to_host(batch.weights)[:, 0]
                return rows if reduction == "none" else float(rows.sum())
            return float(engine.backend.to_host(engine.value))

    def loss_and_gradients(
        self, x: Data, y: Data, *, sample_weight: ArrayLike | None = None, training: bool = False
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and the gradient of every parameter: (float, {"0.weight": host array, ...}); arguments as for `loss`."""
        with self.engine as engine:
            self._run(x, y, "gradients", training, sample_weight)
            return float(engine.backend.to_host(engine.value)), engine.gradients()

    def input_gradient(self, x: Data, y: Data, *, training: bool = False) -> np.ndarray:
        """dC/dx, a host array of x's shape; arguments as for `loss`."""
        with self.engine as engine:
            batch = self._run(x, y, "input gradient", training)
            return engine.backend.delta_to_host(batch.input_tensors().delta)

    def deltas(self, x: Data, y: Data, *, training: bool = False) -> list[np.ndarray]:
        """[delta(1), .., delta(L)]: dC/dz of each `Dense` layer, (n, width) host arrays; arguments as for `loss`."""
        with self.engine as engine:
            batch = self._run(x, y, "gradients", training)
            pairs = stack.with_tensors(self.layers, batch.tensors)
            return [engine.backend.delta_to_host(v.delta) for layer, v in pairs if isinstance(layer, Dense)]

    def train_step(
        self,
        x: Data,
        y: Data,
        optimizer: Optimizer,
        *,
        sample_weight: ArrayLike | None = None,
        micro_batch_size: int | None = None,
    ) -> Array:
        """One forward pass, one backward pass and one update; returns the loss before it as a 0-d float64 array on the device.

        Labels that are on the device already are not looked at, since that would wait: they must be from 0 to m-1.
        sample_weight: (n,), what each row's loss is multiplied by; the mean is still one over the n rows.
        micro_batch_size: work through the batch in parts of this many rows, whose gradients add up to the same
        gradient in less memory (but for `BatchNorm`, which then normalises each part on its own). Where the device has no
        memory for a part, parts are halved, with a warning.
        """
        engine = self.engine
        if sample_weight is None and micro_batch_size is None:
            value = engine.step_again(x, y, optimizer)
            if value is not None:
                return value
        be = engine.backend
        rows = check_x(x, self.widths[0], self.dtype, be)
        targets = check_y(y, len(rows), self.widths[-1], self.dtype, self.loss_function, be, look=False)
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"optimizer must be an Optimizer, such as gb.Adam(); got {optimizer!r}")
        if micro_batch_size is not None:
            micro_batch_size = whole_number("micro_batch_size", micro_batch_size)
        weights = check_weights(sample_weight, len(rows), self.dtype, self.loss_function, be)
        return engine.step_on(rows, targets, optimizer, weights, micro_batch_size)

    # -- parameters -----------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Array]:
        """{"<layer index>.<name>": view on the device} of everything that is trained."""
        return dict(self.engine.parameters.views)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return self.engine.parameters.count

    def get_weights(self) -> dict[str, np.ndarray]:
        """Host copies of all parameters, and of what layers keep with them (running statistics)."""
        return self.engine.weights()

    def set_weights(self, weights: dict[str, Any]) -> None:
        """Put arrays in place of all parameters. Nothing is changed unless all of them fit.

        They may be host arrays or arrays of this device, views of this network's own parameters included. Raises
        ArgumentError for missing or unknown names, wrong shapes, and values that are not finite in this network's dtype;
        ArgumentTypeError for what holds no real numbers.
        """
        if not isinstance(weights, dict):
            raise ArgumentTypeError(f"weights must be a dict as get_weights() returns it; got {type(weights).__name__}")
        engine = self.engine
        wanted = {s.name: s.shape for s in engine.parameters.segments} | {k: v.shape for k, v in engine.state.items()}
        if set(weights) != set(wanted):
            missing, extra = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
            raise ArgumentError(f"weights do not fit this network: missing {missing}, not known here {extra}")
        host = {}
        with engine:
            for name, shape in wanted.items():
                value = weights[name]
                there = on_device(value, self.backend, f"weights[{name!r}]")
                value = value if there is None else self.backend.to_host(there)
                array = check_array(value, tuple(shape), self.dtype, f"weights[{name!r}]")
                # What one array is written from must not have changed because another was written.
                host[name] = array.copy() if engine.shares_memory(array) else array
            engine.write(host)

    # -- the device -----------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """The device that the network is on."""
        return self.engine.backend

    @property
    def step(self) -> Array:
        """Training steps done, 0-d, on the device: what dropout's random numbers are counted by."""
        return self.engine.step

    def to(self, device: str | Backend) -> Network:
        """Move the network to another device, with its weights; returns itself. Optimizers follow at their next step.

        Raises what `Network` raises, and DeviceError while a fit is running; the network then stays where it was.
        """
        be = get_backend(device, precision=self.precision)
        if self.compile:
            be.check_compiler()
        engine = self.engine
        with engine.leaving():
            self._place(be, engine.weights(), engine.count())
        return self

    @property
    def l1(self) -> float:
        """The factor of sum|W| in the loss; fixed, as it is part of the recorded step."""
        return self._penalties[0]

    @property
    def l2(self) -> float:
        """The factor of 1/2 sum W^2 in the loss; fixed, as it is part of the recorded step."""
        return self._penalties[1]

    # -- looking at it --------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """A table of the layers with their shapes and parameter counts, and what it runs on."""
        return summary(self.engine)

    def _repr_html_(self) -> str:
        return as_html(self.engine, self.precision)

    def __repr__(self) -> str:
        return one_line(self.engine, self.precision)

    def initial_arrays(self) -> dict[str, np.ndarray]:
        """The arrays that the network is built with, by full name: each layer's from a random stream of its own."""
        drawn = (layer.initial(host_generator(self.seed, 0, i)) for i, layer in enumerate(self.layers))
        return stack.named(drawn)

    # -- copies ---------------------------------------------------------------------------------------------------

    def __copy__(self) -> Network:
        # Layers belong to one network: sharing them would take them away from this one.
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in vars(self).items() if k not in ("engine", "_identity")}
        with self.engine as engine:
            arrays, step = engine.weights(), engine.count()
        return {**kept, "device": self.backend.name, "arrays": arrays, "step": step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, arrays, step = (state.pop(name) for name in ("device", "arrays", "step"))
        vars(self).update(state)
        self._identity = object()
        try:
            be = get_backend(device, precision=self.precision)
        except (DeviceError, MissingExtraError):
            # Made on a GPU, opened where there is none: the CPU computes products in full.
            be, self.precision = get_backend("cpu"), "native"
        self._place(be, arrays, step)

    # -- how it is put together -----------------------------------------------------------------------------------

    def _check_output(self) -> None:
        if self.loss_function.name == "cross_entropy" and self.widths[-1] == 1:
            raise ArgumentError(
                'loss="cross_entropy" needs an output for each class: of one output it is always 0; take two outputs, or '
                'loss="binary_cross_entropy"'
            )
        last, output = self.layers[-1].activation.name, self.loss_function.output
        if output in ("sigmoid", "softmax") and last in ("sigmoid", "softmax"):
            raise ArgumentError(
                f'loss="{self.loss_function.name}" works on logits, and predict() applies the {output}; leave the last '
                f"layer without its activation {last!r}"
            )

    def _place(self, be: Backend, arrays: dict[str, np.ndarray], step: int) -> None:
        """Make an engine on a device; the one that was there stays if that fails."""
        engine = Engine(
            be,
            self.layers,
            self.widths,
            self.loss_function,
            self.dtype,
            arrays,
            seed=self.seed,
            l1=self.l1,
            l2=self.l2,
            capture=self.capture,
            compiled=self.compile,
            step=step,
            identity=self._identity,
        )
        engine.attach()
        self.engine = engine

    def _run(self, x: Data, y: Data, what: str, training: bool, sample_weight: ArrayLike | None = None) -> Batch:
        rows = check_x(x, self.widths[0], self.dtype, self.backend)
        targets = check_y(y, len(rows), self.widths[-1], self.dtype, self.loss_function, self.backend)
        weights = check_weights(sample_weight, len(rows), self.dtype, self.loss_function, self.backend)
        batch = self.engine.load(rows, targets, weights)
        self.engine.run(batch, what, training=training)
        return batch
