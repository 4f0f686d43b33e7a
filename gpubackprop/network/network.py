"""The network: forward, delta-propagation and update over a list of layers, on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, Backend, Program
from gpubackprop.backend.select import get_backend
from gpubackprop.checks import check_array, check_x, check_y, not_negative, on_device, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers import Dense, Layer, stack
from gpubackprop.losses import Loss, get_loss
from gpubackprop.network import within_memory
from gpubackprop.network.parameters import Parameters
from gpubackprop.network.steps import Steps
from gpubackprop.network.summary import one_line, summary
from gpubackprop.network.workspace import Batch, Losses, Workspace
from gpubackprop.optimizers import Optimizer
from gpubackprop.precision import resolve
from gpubackprop.random import host_generator


class Network:
    """A feed-forward network with its parameters on one device.

    layers: `Dense`, `Activation`, `Dropout`, `BatchNorm`, `LayerNorm` or `Layer`s of one's own, in order.
    loss: a name from `gpubackprop.losses` or a `Loss`. The two cross-entropies take logits: leave the last layer without an
    activation, and `predict` applies the softmax or the sigmoid.
    device: see `get_backend`. dtype: "float32" or "float64". precision: None, or how products are carried out on a GPU.
    seed: of the initial weights (drawn on the host: the same on every device), of dropout and of the order of the data.
    l1, l2: penalties l1 sum|W| + l2/2 sum W^2 over all weights (not biases), part of the loss and of its gradient.
    capture: record each step once and replay it; False runs the layers' Python every time.

    Raises ArgumentError where two layers do not fit together, for unknown names and for settings out of range, and DeviceError
    for a device that is not there.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        loss: str | Loss = "half_squared_error",
        device: str | Backend = "auto",
        dtype: Any = None,
        precision: str | None = None,
        seed: int = 0,
        l1: float = 0.0,
        l2: float = 0.0,
        capture: bool = True,
    ) -> None:
        self.layers = stack.checked(layers)
        self.loss_function = get_loss(loss)
        self.dtype, self.precision = resolve(dtype, precision)
        self.backend = get_backend(device, precision=self.precision)
        self.seed = whole_number("seed", seed, least=0)
        self._penalties = not_negative("l1", l1), not_negative("l2", l2)
        self.capture = bool(capture)
        self.widths = stack.build(self.layers)
        self._check_output()
        self._place(self._initial_arrays())

    # -- the public mathematics -----------------------------------------------------------------------------------

    def forward(self, x: Any, *, training: bool = False) -> Array:
        """The outputs of the last layer, a new (n, m) array on the device: logits for the two cross-entropies.

        x (n, d): a host array, or an array of this network's device. training: with dropout, and batch statistics.
        Raises ArgumentError, ArgumentTypeError or DeviceError for an x that cannot be used (`gpubackprop.checks`).
        """
        batch = self._load(check_x(x, self.widths[0], self.dtype, self.backend))
        self._steps.run(batch, "forward", training=training)
        return batch.outputs.copy()

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """What the network says of each row of x, a (n, m) host array.

        Class probabilities for cross_entropy, probabilities for binary_cross_entropy, otherwise the outputs. Works
        through x in chunks of `batch_size` rows (4096 by default), so that memory does not grow with n.
        """
        from gpubackprop.network.inference import predict

        return predict(self, x, batch_size)

    def loss(self, x: Any, y: Any, *, training: bool = False) -> float:
        """The loss (with penalties) on all rows of x at once, as a float.

        y: (n, m), or for cross_entropy also (n,) integer labels.
        """
        batch, kind = self._load_pair(x, y)
        self._steps.run(batch, "loss", kind, training=training)
        return float(self.backend.to_host(self.value))

    def loss_and_gradients(self, x: Any, y: Any, *, training: bool = False) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and the gradient of every parameter: (float, {"0.weight": host array, ...})."""
        batch, kind = self._load_pair(x, y)
        self._steps.run(batch, "gradients", kind, training=training)
        return float(self.backend.to_host(self.value)), self._parameters.to_host(self._parameters.G)

    def input_gradient(self, x: Any, y: Any, *, training: bool = False) -> np.ndarray:
        """dC/dx, a host array of x's shape."""
        batch, kind = self._load_pair(x, y)
        self._steps.run(batch, "input gradient", kind, training=training)
        return self.backend.delta_to_host(batch.input_tensors().delta)

    def deltas(self, x: Any, y: Any, *, training: bool = False) -> list[np.ndarray]:
        """[delta(1), .., delta(L)]: dC/dz of each `Dense` layer, (n, width) host arrays."""
        batch, kind = self._load_pair(x, y)
        self._steps.run(batch, "gradients", kind, training=training)
        pairs = zip(self.layers, batch.tensors, strict=True)
        return [self.backend.delta_to_host(v.delta) for layer, v in pairs if isinstance(layer, Dense)]

    def train_step(self, x: Any, y: Any, optimizer: Optimizer, *, micro_batch_size: int | None = None) -> Array:
        """One forward pass, one backward pass and one update; returns the loss before it as a 0-d float64 array on the device.

        Labels that are on the device already are not looked at, since that would wait: they must be from 0 to m-1.
        micro_batch_size: work through the batch in parts of this many rows, whose gradients add up to the same
        gradient in less memory (but for `BatchNorm`, which then normalises each part on its own). Where the device has no
        memory for a part, parts are halved, with a warning.
        """
        x = check_x(x, self.widths[0], self.dtype, self.backend)
        y = check_y(y, len(x), self.widths[-1], self.dtype, self.loss_function, self.backend, look=False)
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"optimizer must be an Optimizer, such as gb.Adam(); got {optimizer!r}")
        if micro_batch_size is not None:
            micro_batch_size = whole_number("micro_batch_size", micro_batch_size)
        optimizer.bind(self._parameters)
        if micro_batch_size is None and self.rows_at_once is None:
            done = optimizer.t
            try:
                self._train_on(x, y, optimizer)
                return self._losses.next()
            except self.backend.memory_errors as error:
                reason = str(error)
            within_memory.shrink(self, optimizer, done, len(x), reason)

        def load(start: int, n: int) -> Batch:
            batch = self._load(x[start : start + n])
            self._load_targets(batch, y[start : start + n])
            return batch

        kind = "labels" if y.ndim == 1 else "targets"
        within_memory.train(self, load, len(x), kind, optimizer, micro_batch_size)
        return self._losses.next()

    def _train_on(self, x: Array, y: Array, optimizer: Optimizer) -> None:
        batch = self._load(x)
        self._steps.train(batch, self._load_targets(batch, y), optimizer)

    # -- parameters -----------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Array]:
        """{"<layer index>.<name>": view on the device} of everything that is trained."""
        return dict(self._parameters.views)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return self._parameters.count

    def get_weights(self) -> dict[str, np.ndarray]:
        """Host copies of all parameters, and of what layers keep with them (running statistics)."""
        host = self._parameters.to_host(self._parameters.P)
        return {**host, **{name: self.backend.to_host(array) for name, array in self._state.items()}}

    def set_weights(self, weights: dict[str, Any]) -> None:
        """Put host arrays in place of all parameters. Nothing is changed unless all of them fit.

        Raises ArgumentError for missing or unknown names, wrong shapes, and values that are not finite in this
        network's dtype; ArgumentTypeError for what holds no real numbers.
        """
        if not isinstance(weights, dict):
            raise ArgumentTypeError(f"weights must be a dict as get_weights() returns it; got {type(weights).__name__}")
        wanted = {
            **{s.name: s.shape for s in self._parameters.segments},
            **{k: v.shape for k, v in self._state.items()},
        }
        if set(weights) != set(wanted):
            missing, extra = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
            raise ArgumentError(f"weights do not fit this network: missing {missing}, not known here {extra}")
        host = {}
        for name, shape in wanted.items():
            value = weights[name]
            if on_device(value, self.backend, f"weights[{name!r}]"):
                value = self.backend.to_host(value)
            host[name] = check_array(value, tuple(shape), self.dtype, f"weights[{name!r}]")
        self._write(host)

    def to(self, device: str | Backend) -> Network:
        """Move the network to another device, with its weights; returns itself. Optimizers follow at their next step."""
        weights, step = self.get_weights(), int(self.backend.to_host(self.step))
        before = dict(vars(self))
        try:
            self.backend = get_backend(device, precision=self.precision)
            self._place(weights, step)
        except BaseException:
            # A device that is not there, or has no room: the network stays where it was.
            vars(self).update(before)
            self._bind_layers()
            raise
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
        return summary(self)

    def __repr__(self) -> str:
        return one_line(self)

    # -- how it is put together -----------------------------------------------------------------------------------

    def _check_output(self) -> None:
        if self.loss_function.name == "cross_entropy" and self.widths[-1] == 1:
            raise ArgumentError(
                'loss="cross_entropy" needs an output for each class: of one output it is always 0; take two outputs, or '
                'loss="binary_cross_entropy"'
            )
        last, output = self.layers[-1].activation.name, self.loss_function.output
        if output != "identity" and last in ("sigmoid", "softmax"):
            raise ArgumentError(
                f'loss="{self.loss_function.name}" works on logits, and predict() applies the {output}; leave the last '
                f"layer without its activation {last!r}"
            )

    def _initial_arrays(self) -> dict[str, np.ndarray]:
        """Every initial array by its full name, each layer from a stream of its own."""
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in layer.initial(host_generator(self.seed, 0, i)).items()
        }

    def _place(self, arrays: dict[str, np.ndarray], step: int = 0) -> None:
        """Make all memory on the device and hand each layer its views."""
        be = self.backend
        shapes = {f"{i}.{k}": s for i, layer in enumerate(self.layers) for k, s in layer.parameter_shapes().items()}
        self._parameters = Parameters(be, shapes, self.dtype, owner=self)
        self._state = {
            f"{i}.{k}": be.zeros(s, self.dtype)
            for i, layer in enumerate(self.layers)
            for k, s in layer.state_shapes().items()
        }
        self.value = be.zeros((), np.result_type(self.dtype, np.float64))
        """The loss of the last batch, 0-d, on the device."""
        self.step = be.zeros((), np.uint64)
        """Training steps done: what dropout's random numbers are counted by."""
        be.fill(self.step, step)
        self.rows_at_once: int | None = None
        """Rows for which the device had memory, once it did not have it for more."""
        self._losses = Losses(be, self.value)
        self._bind_layers()
        make = (be, self.layers, self.widths, self.loss_function, self.dtype)
        self._workspace = Workspace(*make, training=True)
        self._inference = Workspace(*make, training=False)
        self._steps = Steps(self)
        self._write(arrays)

    def _bind_layers(self) -> None:
        """Hand each layer its views of the flat buffers."""
        for i, layer in enumerate(self.layers):
            own = [_of_layer(d, i) for d in (self._parameters.views, self._parameters.gradients, self._state)]
            layer.bind(own[0], own[1], own[2], layer.random_stream(self.seed, i, self.step))

    def _write(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in self._state.items():
            self.backend.copy_in(np.asarray(arrays[name], self.dtype), array)
        self._parameters.write({s.name: arrays[s.name] for s in self._parameters.segments})

    # -- batches --------------------------------------------------------------------------------------------------

    def _load(self, x: Array) -> Batch:
        batch = self._workspace.batch(len(x))
        self.backend.copy_in(x, batch.x)
        return batch

    def _load_targets(self, batch: Batch, y: Array) -> str:
        kind = "labels" if y.ndim == 1 else "targets"
        self.backend.copy_in(y, batch.target_buffer(kind))
        return kind

    def _load_pair(self, x: Any, y: Any) -> tuple[Batch, str]:
        x = check_x(x, self.widths[0], self.dtype, self.backend)
        y = check_y(y, len(x), self.widths[-1], self.dtype, self.loss_function, self.backend)
        batch = self._load(x)
        return batch, self._load_targets(batch, y)

    def release_buffers(self) -> None:
        """Let go of everything that a step works on; the parameters stay. The next step makes it anew."""
        self._workspace.release()
        self._inference.release()

    def program(self, step: Any, recordable: bool = True) -> Program:
        """`step` recorded, or as it is where recording is turned off."""
        return self.backend.record(step) if self.capture and recordable else step


def _of_layer(arrays: dict[str, Array], index: int) -> dict[str, Array]:
    prefix = f"{index}."
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
