"""optimizer.cu against the optimizers' own rules, carried out in float64 by NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import optimizers
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.select import get_backend
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import assert_close, empty, to_float64, to_storage

STEPS, N = 7, 1003
NUMPY = get_backend("cpu")


def make(rule, **common):
    """The optimizer that a Rule stands for, and the rule's constants."""
    adam = {"betas": (0.8, 0.95), "eps": 1e-6}
    rms = {"alpha": 0.9, "eps": 1e-6, "momentum": 0.7 * ("Momentum" in rule), "centered": "Centered" in rule}
    if rule.startswith("RMSprop"):
        return optimizers.RMSprop(0.02, **rms, **common), (0.9, 1e-6, rms["momentum"])
    return {
        "SGD": lambda: (optimizers.SGD(0.1, **common), (0, 0, 0)),
        "Momentum": lambda: (optimizers.SGD(0.1, momentum=0.9, **common), (0.9, 0, 0)),
        "Nesterov": lambda: (optimizers.SGD(0.1, momentum=0.9, nesterov=True, **common), (0.9, 1, 0)),
        "Adagrad": lambda: (optimizers.Adagrad(0.1, lr_decay=0.1, eps=1e-6, **common), (1e-6, 0, 0)),
        "Adadelta": lambda: (optimizers.Adadelta(0.5, rho=0.8, eps=1e-4, **common), (0.8, 1e-4, 0)),
        "Adam": lambda: (optimizers.Adam(0.01, **adam, **common), (0.8, 0.95, 1e-6)),
        "Adamax": lambda: (optimizers.Adamax(0.01, **adam, **common), (0.8, 0.95, 1e-6)),
        "NAdam": lambda: (optimizers.NAdam(0.01, **adam, **common), (0.8, 0.95, 1e-6)),
        "RAdam": lambda: (optimizers.RAdam(0.01, **adam, **common), (0.8, 0.95, 1e-6)),
    }[rule]()


def scalars(optimizer, t):
    """The row of the table at step t: the optimizer's scalars and the factor of decoupled decay."""
    lr = optimizer.learning_rate
    return (*optimizer.scalars(lr, t), 1 - lr * optimizer.weight_decay * optimizer.decoupled_weight_decay)


class Reference:
    """The optimizer's rule in float64."""

    def __init__(self, optimizer, p):
        self.optimizer, self.p, self.state = (
            optimizer,
            p.astype(float),
            tuple(np.zeros(p.shape) for _ in optimizer.states),
        )

    def step(self, t, g):
        h = tuple(np.float64(v) for v in scalars(self.optimizer, t))
        self.optimizer.rule(NUMPY, self.p, g.astype(float), self.state, h)


def compare(run, rule, types, common, n=N, offset=0):
    """STEPS steps with a fresh gradient each; parameters, states and copy against the reference."""
    p_type, h_type = types
    optimizer, constants = make(rule, **common)
    kernel = "Momentum" if rule == "Nesterov" else rule
    rng = np.random.default_rng(0)
    p = to_storage(p_type, rng.normal(size=n))
    reference = Reference(optimizer, p)
    states = [np.zeros_like(p) for _ in optimizer.states]
    copy = empty(h_type, n)
    rows = np.array([scalars(optimizer, t) for t in range(1, STEPS + 1)])
    coupled = 0.0 if optimizer.decoupled_weight_decay else optimizer.weight_decay
    launch = table.flat(n, 4, MULTIPROCESSORS)
    slots = (*states, None, None, None)[:3]
    for t in range(1, STEPS + 1):
        g = to_storage(p_type, rng.normal(size=n) + 0.2)
        reference.step(t, to_float64(p_type, g))
        row, ahead = np.array([(t - 1) // 2], np.uint32), t - 1 - (t - 1) // 2
        run("optimizer_step", (kernel, *types), launch, p, g, *slots, copy, n, rows, row, ahead, None, *constants, coupled, 1,
            offset=offset)  # fmt: skip
    assert_close(p_type, p, reference.p, factor=2)
    for got, want in zip(states, reference.state, strict=True):
        assert_close(p_type, got, want, factor=4)
    np.testing.assert_array_equal(copy, to_storage(h_type, p))


@pytest.mark.parametrize("template", [pytest.param(c.values, marks=c.marks, id=c.id) for c in cases("optimizer_step")])
def test_rule(run, template):
    compare(run, template[0], template[1:], {})


@pytest.mark.parametrize("rule", [*{rule.name: 0 for rule in table.rules()}, "Nesterov"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay(run, rule, decoupled):
    compare(run, rule, ("double",) * 2, {"weight_decay": 0.05, "decoupled_weight_decay": decoupled}, n=45)


@pytest.mark.parametrize("n", [1, 3, 31, 33, 1024])
@pytest.mark.parametrize("offset", [0, 1])
def test_sizes_and_alignments(run, n, offset):
    compare(run, "Adam", ("float", "bf16"), {}, n=n, offset=offset)


@pytest.mark.parametrize("skip", [0, 1])
def test_skip_leaves_everything(run, skip):
    arrays = [np.full(5, v, np.float32) for v in (1, 2, 3, 5)]
    copy = to_storage("f16", [9.0] * 5)
    before = [a.copy() for a in (*arrays, copy)]
    p, g, m, v = arrays
    run("optimizer_step", ("Adam", "float", "f16"), table.flat(5, 4, 1), p, g, m, v, None, copy, 5, np.array([0.1, 1.0, 1.0]),
        None, 0, np.array([skip], np.int32), 0.9, 0.999, 1e-8, 0.0, 1)  # fmt: skip
    same = [np.array_equal(a, b) for a, b in zip((p, m, v, copy), (before[0], *before[2:]), strict=True)]
    assert all(same) if skip else not any(same)


def test_centered_rmsprop_of_a_constant_gradient_stays_finite(run):
    """The variance is zero but for rounding, which may take it below."""
    p, states = np.ones(64, np.float32), [np.zeros(64, np.float32) for _ in range(2)]
    g = np.linspace(0.1, 3, 64, dtype=np.float32)
    for _ in range(40):
        run("optimizer_step", ("RMSpropCentered", "float", "float"), table.flat(64, 4, 1), p, g, states[0], states[1],
            None, None, 64, np.array([0.01, 1.0]), None, 0, None, 0.5, 1e-3, 0.0, 0.0, 1)  # fmt: skip
    assert np.isfinite(p).all()


@pytest.mark.parametrize("p_type", ["float", "double"])
def test_set_scalars(run, p_type):
    rows, h = np.full(4, np.nan), empty(p_type, 4)
    values = (0.1, 2.0, 1 / 3, 7.0)
    for target in (None, h):
        run("set_scalars", (p_type,), table.one_block(), rows, target, 3, *values)
    np.testing.assert_array_equal(rows, [*values[:3], np.nan])
    np.testing.assert_array_equal(h, to_storage(p_type, [*values[:3], np.nan]))
