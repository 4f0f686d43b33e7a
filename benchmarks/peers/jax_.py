"""JAX: one jitted step a call, and the whole loop inside one `lax.scan`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.base import BATCHES, LEARNING_RATE, MOMENTUM, Config, Peer

_ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
_PRECISION = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "default"}


def cost(p: Any, x: Any, y: Any, config: Config) -> Any:
    """The loss of the network with parameters p = [(W, b), ...]."""
    f, precision = _ACTIVATIONS[config.activation], _PRECISION[config.precision]
    for i, (W, b) in enumerate(p):
        if config.precision == "bf16":
            x, W, b = (v.astype(jnp.bfloat16) for v in (x, W, b))
        x = jnp.matmul(x, W, precision=precision) + b
        if i < len(p) - 1:
            x = f(x)
    z = x.astype(jnp.float32)
    if config.loss == "cross_entropy":
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1).mean()
    return 0.5 * ((z - y) ** 2).sum() / len(z)


def sgd(p: Any, state: Any, g: Any) -> Any:
    """v <- mu v + g; p <- p - eta v."""
    state = jax.tree.map(lambda v, d: MOMENTUM * v + d, state, g)
    return jax.tree.map(lambda w, v: w - LEARNING_RATE * v, p, state), state


def adam(p: Any, state: Any, g: Any) -> Any:
    """Kingma and Ba (2015), Algorithm 1, with the defaults."""
    m, v, t = state
    t = t + 1
    m = jax.tree.map(lambda a, d: 0.9 * a + 0.1 * d, m, g)
    v = jax.tree.map(lambda a, d: 0.999 * a + 0.001 * d * d, v, g)
    c1, c2 = 1 - 0.9**t, 1 - 0.999**t
    p = jax.tree.map(lambda w, a, b: w - LEARNING_RATE * (a / c1) / (jnp.sqrt(b / c2) + 1e-8), p, m, v)
    return p, (m, v, t)


class Jit(Peer):
    """One jitted function a step, with its arguments donated."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        place = jax.devices("gpu" if device == "cuda" else "cpu")[0]
        self.p = [tuple(jax.device_put(array, place) for array in pair) for pair in config.weights()]
        zeros = jax.tree.map(jnp.zeros_like, self.p)
        self.state: Any = zeros
        self.cost = partial(cost, config=config)
        self.rule = sgd
        if config.optimizer == "adam":
            self.rule, self.state = adam, (zeros, jax.tree.map(jnp.zeros_like, self.p), jnp.zeros(()))
        self.x, self.y = (jax.device_put(array, place) for array in config.first_batch())
        self.value: Any = jnp.zeros(())
        self.jitted = jax.jit(self.whole_step, donate_argnums=(0, 1))

    def whole_step(self, p: Any, state: Any, x: Any, y: Any) -> Any:
        """(p, state, loss) after one step."""
        value, g = jax.value_and_grad(self.cost)(p, x, y)
        return *self.rule(p, state, g), value

    def gradients(self) -> list[np.ndarray]:
        g = jax.jit(jax.grad(self.cost))(self.p, self.x, self.y)
        return [np.asarray(array) for pair in g for array in pair]

    def step(self) -> None:
        self.p, self.state, self.value = self.jitted(self.p, self.state, self.x, self.y)

    def run(self, steps: int) -> None:
        p, state, jitted, x, y = self.p, self.state, self.jitted, self.x, self.y
        for _ in range(steps):
            p, state, value = jitted(p, state, x, y)
        value.block_until_ready()
        self.p, self.state = p, state

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    def loss(self) -> float:
        return float(self.value)

    def versions(self) -> dict[str, str]:
        return {"jax": jax.__version__}


class Scan(Jit):
    """The whole loop compiled: each step takes its batch out of the data on the device."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        super().__init__(config, device)
        x, y = config.data()
        n = config.batch
        batches = jnp.asarray(x.reshape(BATCHES, n, *x.shape[1:])), jnp.asarray(y.reshape(BATCHES, n, *y.shape[1:]))

        def body(carry: Any, i: Any) -> Any:
            *carry, value = self.whole_step(*carry, *(array[i] for array in batches))
            return tuple(carry), value

        self.loop = jax.jit(lambda p, state, order: jax.lax.scan(body, (p, state), order), donate_argnums=(0, 1))

    def run(self, steps: int) -> None:
        order = jnp.arange(steps) % BATCHES
        (self.p, self.state), values = self.loop(self.p, self.state, order)
        values.block_until_ready()
