"""JAX, as a `Peer`: one jitted function that donates its state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu_peers.case import LEARNING_RATE, MOMENTUM, Case

PRECISION = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "default"}


class Jax:
    """The whole training step under jax.jit."""

    def __init__(self, case: Case, device: str = "cuda") -> None:
        place = jax.devices("gpu" if device == "cuda" else "cpu")[0]
        self.x, self.y = (jax.device_put(a, place) for a in case.data())
        weights = [tuple(jax.device_put(a, place) for a in pair) for pair in case.weights()]
        zeros = jax.tree.map(jnp.zeros_like, weights)
        self.state: Any = (weights, zeros, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.float32))
        half, precision = case.precision == "bf16", PRECISION[case.precision]

        def loss(parameters: Any, x: Any, y: Any) -> Any:
            a = x
            for i, (W, b) in enumerate(parameters):
                if half:
                    a, W, b = (v.astype(jnp.bfloat16) for v in (a, W, b))
                a = jnp.matmul(a, W, precision=precision) + b
                if i < len(parameters) - 1:
                    a = jax.nn.relu(a)
            log_p = jax.nn.log_softmax(a.astype(jnp.float32))
            return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

        def step(state: Any, x: Any, y: Any) -> Any:
            p, m, v, t = state
            value, g = jax.value_and_grad(loss)(p, x, y)
            t = t + 1
            if case.optimizer == "sgd":
                m = jax.tree.map(lambda m, g: MOMENTUM * m + g, m, g)
                return (jax.tree.map(lambda p, m: p - LEARNING_RATE * m, p, m), m, v, t), value
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            c1, c2 = 1 - 0.9**t, 1 - 0.999**t
            p = jax.tree.map(lambda p, m, v: p - LEARNING_RATE * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), p, m, v)
            return (p, m, v, t), value

        self._step = jax.jit(step, donate_argnums=0)
        self.value: Any = None

    def step(self) -> None:
        self.state, self.value = self._step(self.state, self.x, self.y)

    def loss(self) -> float:
        return float(self.value)

    def wait(self) -> None:
        jax.block_until_ready(self.state)
