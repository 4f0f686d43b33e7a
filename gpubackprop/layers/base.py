"""The base class of layers: a = f(g(x)). A layer defines g and the derivative of g, and names its f.

For each batch size a layer gets a `Tensors` v with its arrays: the input v.x (n, inputs); the output v.a (n, outputs);
v.z = g(x), to which f is applied and from which f' is computed later (see `Activation.saves`; it is the same array as v.a
where f' is computed from a); v.delta = dC/dz; and the arrays that the layer asked for in `buffers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.activations import Activation, get_activation
from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.checks import Recordable
from gpubackprop.losses import Buffers

if TYPE_CHECKING:
    from gpubackprop.random import MaskStream


Stream: TypeAlias = "MaskStream | Sequence[Stream] | None"
"""Where a layer draws from: its masks, those of the layers inside it, or nothing."""


class Layer(Recordable):
    """The base class of layers. A user-defined layer derives from it and defines `forward` and `backward`, and, where it has
    parameters, `parameter_shapes`, `initial` and `gradients`.

    Written in array functions of `be.xp` with `out=`, it runs on every device and allocates nothing. It may use any
    array expression; then set `recordable = False` (the default of a user-defined class), so that it is run
    anew at each step.
    """

    _mathematics: ClassVar[set[str]] = {
        "forward",
        "gradients",
        "gradients_into",
        "backward",
        "propagate",
        "begin_backward",
    }

    activation: Activation = get_activation("identity")
    """f. The layer above multiplies by its derivative when it propagates delta down to this layer."""

    kinks: tuple[float, ...] = ()
    """The values of its output at which its own derivative jumps, apart from those of f."""

    random: bool = False
    """Whether training draws random numbers, so that the network counts its steps on the device."""

    trainable: bool = True
    """Whether training changes its parameters; it may be set on a layer between steps. The running statistics of a BatchNorm
    are no parameters, and go on."""

    mixes_rows: bool = False
    """Whether, in training, a row's output depends on the other rows of its batch: then parts of a batch give another result
    than the whole, and a single row has no statistics."""

    passes_delta: bool = False
    """Whether dC/dx is v.delta itself, so that both may be the same array."""

    layers: tuple[Layer, ...] = ()
    """The layers inside this one, a chain from its x on."""

    W: Array
    b: Array

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "passes_delta" not in vars(cls) and cls._mathematics & vars(cls).keys():
            cls.passes_delta = False

    def build(self, width: int) -> int:
        """Take note of the width of the input, return that of the output. Raises ArgumentError where it cannot be."""
        return width

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what is trained: {"weight": (3, 2), "bias": (2,)}."""
        return {}

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what is kept with the weights without being trained: running statistics."""
        return {}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Name -> initial host array, for all parameters and all state."""
        return {}

    def buffers(self, dtype: DTypeLike) -> Buffers:
        """Name -> (shape, dtype) of what is kept from forward to backward; "n" stands for the rows of the batch."""
        return {}

    def random_stream(self, seed: int, index: int, step: Array) -> Stream:
        """Where this layer draws from, for the layer's place in the network and its step counter on the device."""
        return None

    def bind(
        self, parameters: dict[str, Array], gradients: dict[str, Array], state: dict[str, Array], stream: Stream
    ) -> None:
        """Take hold of the arrays on the device: {"weight": ...}, their gradients, the state, and the random stream."""
        self.parameters, self.gradient_arrays, self.state = parameters, gradients, state
        self.stream = stream

    def __getstate__(self) -> dict[str, Any]:
        """The layer as its constructor left it: a copy belongs to no network."""
        bound = ("parameters", "gradient_arrays", "state", "stream", "W", "b")
        return {k: v for k, v in vars(self).items() if k not in bound}

    # -- the mathematics ------------------------------------------------------------------------------------------

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        """v.a = f(g(v.x))."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(be, v, training)")

    def gradients(self, be: Backend, v: Tensors, beta: float) -> None:
        """Gradients of the parameters from v.x and v.delta into `gradient_arrays`, added to beta (0 or 1) times what is there."""

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        """dx = dC/dx from v.delta = dC/dz."""
        raise NotImplementedError(f"{type(self).__name__} must define backward(be, v, dx, training)")

    def begin_backward(self, be: Backend, v: Tensors, training: bool) -> None:
        """What both `gradients` and `propagate` need, from v.delta: sums over the batch, the deltas of the layers inside."""

    def propagate(self, be: Backend, v: Tensors, below: Tensors, f: Activation, training: bool) -> None:
        """below.delta = dC/dx * f'(z) of the layer below, whose activation is f."""
        self.backward(be, v, below.delta, training)
        be.times_derivative(f, below.saved, below.delta)

    # -- as data --------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as plain values: what a saved model says of the layer."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.settings().items())})"


class AccumulatingLayer(Layer):
    """A layer that can add its gradients to any factor times what any arrays hold, such as a momentum."""

    @property
    def accumulates(self) -> bool:
        """Whether it does. A layer that is run anew at each step looks for its gradients where they usually are."""
        return self.recordable and type(self).gradients is AccumulatingLayer.gradients

    def gradients(self, be: Backend, v: Tensors, beta: float) -> None:
        self.gradients_into(be, v, self.gradient_arrays, beta)

    def gradients_into(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        """The gradients from v.x and v.delta, added to beta times what `arrays` holds by the parameters' names."""
        raise NotImplementedError(f"{type(self).__name__} must define gradients_into(be, v, arrays, beta)")
