from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.strict import Counts, ImplicitTransferError, StrictArray, StrictBackend
from gpubackprop.errors import DeviceError


@pytest.fixture
def be() -> StrictBackend:
    return StrictBackend()


HIDDEN_WAITS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "int": int,
    "bool": bool,
    "index": lambda a: [1, 2, 3][a],
    "item": lambda a: a.item(),
    "tolist": lambda a: a.tolist(),
    "np.asarray": np.asarray,
    "np.array": np.array,
    "iteration": list,
    "if": lambda a: 1 if a > 0 else 2,
    "max of Python": lambda a: max(a, a),
    "format": lambda a: f"{float(a):.3f}",
}


@pytest.mark.parametrize("name", HIDDEN_WAITS)
def test_hidden_waits_are_refused(be: StrictBackend, name: str) -> None:
    with pytest.raises(ImplicitTransferError, match="of an array on the 'strict' device: on a GPU this waits"):
        HIDDEN_WAITS[name](be.asarray(np.array(1.0)))
    assert be.counts().waits == 0


def test_the_error_is_of_the_library_and_of_python(be: StrictBackend) -> None:
    with pytest.raises(DeviceError):
        float(be.zeros((), np.float64))
    with pytest.raises(TypeError):
        float(be.zeros((), np.float64))


MIXTURES: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "add": lambda a, host: a + host,
    "add from the left": lambda a, host: host + a,
    "compare": lambda a, host: a == host,
    "ufunc": np.multiply,
    "dot": np.dot,
    "out of the host": lambda a, host: np.add(a, a, out=host),
    "assign": lambda a, host: operator.setitem(a, slice(None), host),
    "index": lambda a, host: a[np.array([0, 1])],
    "index by a list": lambda a, host: a[[0, 1]],
    "concatenate": lambda a, host: np.concatenate([a, host]),
    "in place": operator.iadd,
}


@pytest.mark.parametrize("name", MIXTURES)
def test_host_arrays_are_not_mixed_in(be: StrictBackend, name: str) -> None:
    with pytest.raises(ImplicitTransferError):
        MIXTURES[name](be.asarray(np.ones(3)), np.ones(3))


def test_two_devices_are_not_mixed(be: StrictBackend) -> None:
    a, b = be.asarray(np.ones(3)), StrictBackend().asarray(np.ones(3))
    with pytest.raises(ImplicitTransferError, match="two different strict devices"):
        _ = a + b
    with pytest.raises(ImplicitTransferError, match="two different strict devices"):
        be.to_host(b)
    assert be.owns(a)
    assert not be.owns(b)


def test_arithmetic_is_numpys(be: StrictBackend) -> None:
    x = np.arange(6.0).reshape(2, 3) - 2.5
    a = be.asarray(x)
    for found, expected in (
        (a + 1, x + 1),
        (2 * a - a / 4, 2 * x - x / 4),
        (-(abs(a) ** 2), -(abs(x) ** 2)),
        (a > 0, x > 0),
        (a @ a.T, x @ x.T),
        (np.sum(a, axis=0), x.sum(0)),
        (np.exp(a), np.exp(x)),
        (np.add.reduce(a, axis=1), x.sum(1)),
        (be.xp.concatenate([a, a]), np.concatenate([x, x])),
        (a.astype(np.float32), x.astype(np.float32)),
        (a[1], x[1]),
        (a[:, 1:], x[:, 1:]),
        (a[1, 2], x[1, 2]),
        (a[-1, -1], x[-1, -1]),
        (a.ravel(), x.ravel()),
        (a.reshape(3, 2), x.reshape(3, 2)),
    ):
        assert isinstance(found, StrictArray)
        np.testing.assert_array_equal(found.get(), expected)
    assert (len(a), a.ndim, a.size, a.nbytes, a.itemsize) == (2, 2, 6, 48, 8)
    assert repr(a) == "<strict array (2, 3) float64>"


def test_views_and_assignment(be: StrictBackend) -> None:
    a = be.zeros((3, 2), np.float64)
    a[1][...] = 5
    a[2, 1] = 7
    a[0] = be.asarray(np.array([1.0, 2.0]))
    element = a[0, 1]
    element[...] = 9
    np.testing.assert_array_equal(a.get(), [[1, 9], [5, 5], [0, 7]])
    mine, _ = a.get(), a.fill(0)
    assert mine.any()


def test_indices_out_of_range_wrap_as_on_a_gpu(be: StrictBackend) -> None:
    a = be.asarray(np.array([10.0, 11.0, 12.0]))
    index = be.asarray(np.array([3, -1, 4]))
    np.testing.assert_array_equal(a[index].get(), [10, 12, 11])
    np.testing.assert_array_equal(be.xp.take(a, index).get(), [10, 12, 11])
    a[index] = 0
    assert not a.get().any()
    b = be.asarray(np.zeros((2, 3)))
    b[be.asarray(np.array([0, 3])), be.asarray(np.array([4, 2]))] = 1
    np.testing.assert_array_equal(b.get(), [[0, 1, 0], [0, 0, 1]])


def test_masks_select_and_say_that_they_wait(be: StrictBackend) -> None:
    x = np.arange(6.0).reshape(3, 2)
    a, mask = be.asarray(x), be.asarray(np.array([True, False, True]))
    waits = be.counts().waits
    np.testing.assert_array_equal(be.to_host(a[mask]), x[[0, 2]])
    assert be.counts().waits == waits + 2
    a[mask] = -1
    np.testing.assert_array_equal(a.get(), [[-1, -1], [2, 3], [-1, -1]])


def test_counting(be: StrictBackend) -> None:
    def cost(action: Callable[[], Any]) -> Counts:
        before = be.counts()
        action()
        return be.counts() - before

    a = be.zeros((2, 2), np.float64)
    host = np.ones((2, 2))
    assert cost(lambda: be.asarray(host)) == Counts(transfers=1, allocations=1)
    assert cost(lambda: be.asarray(a)) == Counts()
    assert cost(lambda: be.copy_in(host, a)) == Counts(transfers=1)
    assert cost(lambda: be.copy_in(a, a)) == Counts()
    assert cost(lambda: be.to_host(a)) == Counts(waits=1)
    assert cost(a.get) == Counts(waits=1)
    assert cost(be.synchronize) == Counts(waits=1)
    assert cost(lambda: be.empty((3,), np.float32)) == Counts(allocations=1)
    assert cost(lambda: be.fill(a, 2.0)) == Counts()
    assert cost(lambda: a + a) == Counts(allocations=1)
    assert cost(lambda: a.copy()) == Counts(allocations=1)
    assert cost(lambda: be.xp.add(a, a, out=a)) == Counts()
    assert cost(lambda: be.xp.sum(a)) == Counts(allocations=1)
    assert cost(lambda: be.xp.copyto(a, a)) == Counts()
    assert cost(lambda: a[:1].reshape(2).T) == Counts()
    assert cost(lambda: a.T.reshape(4)) == Counts(allocations=1)


def test_new_memory_does_not_look_like_a_result(be: StrictBackend) -> None:
    assert np.isnan(be.empty((3,), np.float32).get()).all()
    assert be.empty((3,), np.int64).get().tolist() == [77, 77, 77]


def test_precisions_of_a_gpu_are_refused() -> None:
    with pytest.raises(DeviceError, match='precision="bf16" needs an NVIDIA GPU'):
        StrictBackend("bf16")
