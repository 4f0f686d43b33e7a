"""Initial weights, drawn on the host from the network's seed, so that no device changes them.

fan_in and fan_out are the widths before and behind the layer. All variances are those of the whole, not of a
truncated, distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from gpubackprop.activations import Activation
from gpubackprop.errors import unknown_name

Initializer = Callable[[np.random.Generator, int, int], np.ndarray]
"""(generator, fan_in, fan_out) -> float64 weights of shape (fan_in, fan_out)."""


def he_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Uniform with variance 2 / fan_in (He et al., 2015): for the ReLU family."""
    return _uniform(rng, fan_in, fan_out, 2 / fan_in)


def he_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Normal with variance 2 / fan_in (He et al., 2015)."""
    return _normal(rng, fan_in, fan_out, 2 / fan_in)


def glorot_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010): for sigmoid, tanh and linear units."""
    return _uniform(rng, fan_in, fan_out, 2 / (fan_in + fan_out))


def glorot_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return _normal(rng, fan_in, fan_out, 2 / (fan_in + fan_out))


def lecun_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Uniform with variance 1 / fan_in (LeCun et al., 1998)."""
    return _uniform(rng, fan_in, fan_out, 1 / fan_in)


def lecun_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """Normal with variance 1 / fan_in (LeCun et al., 1998): for SELU (Klambauer et al., 2017)."""
    return _normal(rng, fan_in, fan_out, 1 / fan_in)


def zeros(rng: np.random.Generator, fan_in: int, fan_out: int) -> np.ndarray:
    """All zero: every unit of a hidden layer then stays the same as its neighbours, which is what it is good to show."""
    return np.zeros((fan_in, fan_out))


def _uniform(rng: np.random.Generator, fan_in: int, fan_out: int, variance: float) -> np.ndarray:
    limit = sqrt(3 * variance)
    return rng.uniform(-limit, limit, (fan_in, fan_out))


def _normal(rng: np.random.Generator, fan_in: int, fan_out: int, variance: float) -> np.ndarray:
    return rng.normal(0.0, sqrt(variance), (fan_in, fan_out))


INITIALIZERS: dict[str, Initializer] = {
    f.__name__: f for f in (he_uniform, he_normal, glorot_uniform, glorot_normal, lecun_uniform, lecun_normal, zeros)
}
_FOR_FAMILY: dict[str, Initializer] = {"he": he_uniform, "lecun": lecun_normal, "glorot": glorot_uniform}


def get_initializer(initializer: str | Initializer | None, activation: Activation) -> Initializer:
    """The initializer with that name, the one that `activation` asks for (None), or `initializer` itself.

    Raises ArgumentError for an unknown name.
    """
    if initializer is None:
        return _FOR_FAMILY[activation.family]
    if callable(initializer):
        return initializer
    if not isinstance(initializer, str) or initializer not in INITIALIZERS:
        raise unknown_name("initializer", initializer, INITIALIZERS)
    return INITIALIZERS[initializer]
