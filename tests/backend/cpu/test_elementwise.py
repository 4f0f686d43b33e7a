"""Activations as one pass of machine code. Their relative accuracy is held in tests/oracles/test_accuracy_over_range.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.cpu.numpy_backend import FUSED, NumpyBackend
from gpubackprop.backend.cpu.recorder import Call

pytest.importorskip("numba")

from gpubackprop.backend.cpu.compiled import Fused, fused, usable

ONE_PASS = sorted(set(ACTIVATIONS) - {"identity", "relu"})


def recorded(name: str, dtype: Any) -> tuple[list[Call], list[np.ndarray]]:
    x, out = np.empty(16, dtype), np.empty(16, dtype)
    be = NumpyBackend()
    return be._recorded(lambda: getattr(be.xp, name)(x, out=out)), [x, out]


def points(name: str, dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    most = {"exp": 80.0, "expm1": 30.0, "tanh": 9.0, "log1p": 30.0}[name]
    wide = rng.choice([-1.0, 1.0], 600) * 10.0 ** rng.uniform(-30, np.log10(most), 600)
    x = np.concatenate([rng.uniform(-most, most, 600), wide, [0.0, most, 2**0.5 - 1, 2**0.5 - 1 - 1e-7]])
    x = np.concatenate([abs(x), 10.0 ** rng.uniform(0, 30, 200)]) if name == "log1p" else x
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "expm1", "tanh", "log1p"])
def test_functions_are_right_to_two_units(name: str, dtype: Any) -> None:
    x, function = points(name, dtype), fused(*recorded(name, dtype))
    assert function is not None
    found = np.empty_like(x)
    function(x.copy(), found)
    with mp.workdps(50):
        for value, got in zip(x, found, strict=True):
            exact = getattr(mp, name)(mpf(float(value)))
            assert abs(mpf(float(got)) - exact) <= 2 * float(np.finfo(dtype).eps) * abs(exact), (value, got)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "expm1", "tanh", "log1p"])
def test_functions_of_what_is_not_finite(name: str, dtype: Any) -> None:
    x = np.array(
        [np.nan, np.inf, np.finfo(dtype).max, 0.0, *([] if name == "log1p" else [-np.inf, -np.finfo(dtype).max])], dtype
    )
    function = fused(*recorded(name, dtype))
    assert function is not None
    found = np.empty_like(x)
    function(x.copy(), found)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, getattr(np, name)(x), rtol=4 * np.finfo(dtype).eps)


def passes(net: gb.Network, rows: int) -> list[Call]:
    net.train_step(np.zeros((rows, net.widths[0])), np.zeros((rows, net.widths[-1])), gb.SGD(0.1))
    programs = net.engine.training.batch(rows).programs.values()
    return [call for held in programs if held for call in held[1].calls if isinstance(call[0], Fused)]


@pytest.mark.parametrize("name", ONE_PASS)
def test_large_batches_take_it_and_small_ones_do_not(name: str) -> None:
    for rows, taken in ((FUSED // 256, True), (FUSED // 256 - 1, False)):
        net = gb.Network([gb.Dense(4, 256, name), gb.Dense(256, 2)], loss="mean_squared_error", device="cpu")
        assert bool(passes(net, rows)) is taken


@pytest.mark.parametrize("name", ONE_PASS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_what_numpy_computes(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((FUSED // 128, 8)), rng.standard_normal((FUSED // 128, 3))
    results = []
    for least in (FUSED, FUSED + 1):
        monkeypatch.setattr("gpubackprop.backend.cpu.numpy_backend.FUSED", least)
        for capture in (True, False):
            layers = [gb.Dense(8, 128, name), gb.Dense(128, 3, name)]
            net = gb.Network(layers, loss="mean_squared_error", device="cpu", dtype=dtype, seed=2, capture=capture)
            loss, gradients = net.loss_and_gradients(x, y)
            results.append([np.asarray(loss), net.predict(x), *gradients.values()])
    one_pass, eager, numpy, _ = results
    for a, b, c in zip(one_pass, eager, numpy, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(
            a, c, rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-7 if dtype == "float32" else 1e-15
        )


@pytest.mark.parametrize("name", sorted(n for n, f in ACTIVATIONS.items() if f.saves == "a" and n != "identity"))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_that_are_no_slope_are_one_pass_too(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, f = np.random.default_rng(1), ACTIVATIONS[name]()
    z, delta = rng.normal(size=(FUSED // 16, 32)).astype(dtype) * 3, rng.normal(size=(FUSED // 16, 32)).astype(dtype)
    z[0, :4], delta[1, :2] = (0, -0.0, 1e-30, -1e30), (np.inf, np.nan)
    be, expected = NumpyBackend(), delta.copy()
    assert be._one_pass(f, "times_derivative", z, delta) is not None
    with be:
        be.activate(f, z, z)
        be.times_derivative(f, z, delta)
        monkeypatch.setattr(NumpyBackend, "_one_pass", lambda self, *arguments: None)
        be.times_derivative(f, z, expected)
    np.testing.assert_array_equal(delta, expected)


def test_settings_make_functions_of_their_own() -> None:
    x = np.full((FUSED, 1), -2.0)
    found = []
    for alpha in (0.5, 2.0):
        activation = {"name": "elu", "alpha": alpha}
        net = gb.Network([gb.Dense(1, 1, activation)], loss="mean_squared_error", device="cpu", dtype="float64")
        net.set_weights({"0.weight": [[1.0]], "0.bias": [0.0]})
        found.append(float(net.predict(x)[0, 0]))
    np.testing.assert_allclose(found, [0.5 * np.expm1(-2), 2 * np.expm1(-2)], rtol=1e-14)


def test_a_users_own_activation_is_left_to_its_own_operations() -> None:
    class Doubled(ACTIVATIONS["tanh"]):
        name = "doubled"
        recordable = True

        def forward(self, be: Any, z: Any, a: Any) -> None:
            super().forward(be, z, a)
            be.xp.multiply(a, 2.0, out=a)

    net = gb.Network([gb.Dense(4, 256, Doubled()), gb.Dense(256, 2)], loss="mean_squared_error", device="cpu")
    assert not passes(net, FUSED // 128)


def test_what_is_not_known_is_refused() -> None:
    a, b, own = np.empty(16), np.empty(16), np.empty(16)
    assert fused([(np.log, (a, b))], [a, b]) is None
    assert fused([(np.cbrt, (a, b))], [a, b]) is None
    assert fused([(np.add, (a, own, b))], [a, b]) is None, "memory that another call may have written"
    assert fused([(np.add, (a, np.asarray(np.inf), b))], [a, b]) is None
    assert fused([(np.add.reduce, (a, 0, None, np.empty(()), False))], [a, b]) is None
    assert fused([(np.add, (a, 1.0, own)), (np.multiply, (own, own, b))], [a, b]) is not None


def test_a_numba_that_does_not_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usable.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    try:
        net = gb.Network([gb.Dense(4, 256, "tanh"), gb.Dense(256, 2)], loss="mean_squared_error", device="cpu")
        with pytest.warns(UserWarning, match="Numba is installed, but does not work"):
            found = passes(net, FUSED // 128)
        assert not found
    finally:
        usable.cache_clear()


def test_an_attribute_that_is_set_later_makes_another_function() -> None:
    z, be = np.full(FUSED, -1.0), NumpyBackend()
    for alpha in (None, 3.0):
        f, out = ACTIVATIONS["selu"](), np.empty(FUSED)
        if alpha is not None:
            f.alpha = alpha
        be.activate(f, z.copy(), out)
        few = np.empty(2)
        be.activate(f, np.full(2, -1.0), few)
        np.testing.assert_allclose(out[:2], few, rtol=1e-14)


FORK = """
import os, threading, time
import numpy as np
from gpubackprop.activations import GELU, Mish
from gpubackprop.backend.cpu.compiled.module import ONE_AT_A_TIME
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend

def compute(f):
    z = np.ones(40000, np.float32)
    NumpyBackend().activate(f, z, z)

thread = threading.Thread(target=compute, args=(GELU(),))
thread.start()
while thread.is_alive() and ONE_AT_A_TIME.acquire(blocking=False):
    ONE_AT_A_TIME.release()
assert thread.is_alive()
child = os.fork()
compute(Mish())
if not child:
    os._exit(0)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_waits_for_the_compiler(tmp_path: Path) -> None:
    environment = {**os.environ, "GPUBACKPROP_CACHE": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", FORK], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == ["0"]
