"""Arrays of other libraries on the host: each gives what NumPy's array of the same numbers gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentTypeError, DeviceError
from tests.small import assert_same_bits


class OnlyDLPack:
    """An array that offers nothing but DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)


def dlpack(a: np.ndarray) -> Any:
    return OnlyDLPack(a.copy())


def lists(a: np.ndarray) -> Any:
    return a.tolist()


def torch_(a: np.ndarray) -> Any:
    return pytest.importorskip("torch").as_tensor(a.copy())


def jax_(a: np.ndarray) -> Any:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        return jax.numpy.asarray(a)


def pandas_(a: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(a) if a.ndim == 2 else pandas.Series(a)


def polars_(a: np.ndarray) -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame(a) if a.ndim == 2 else polars.Series(a)


def pyarrow_(a: np.ndarray) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.array(a) if a.ndim == 1 else pyarrow.Table.from_arrays([*map(pyarrow.array, a.T)], [*"abcdef"])


def network(device: Any = "cpu") -> gb.Network:
    layers = [gb.Dense(6, 8, "relu"), gb.Dense(8, 4)]
    return gb.Network(layers, loss="cross_entropy", device=device, dtype="float64", seed=1)


@pytest.mark.parametrize("library", [dlpack, lists, torch_, jax_, pandas_, polars_, pyarrow_])
@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_as_numpys(library: Any, device: str) -> None:
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(20, 6)), rng.integers(0, 4, 20), rng.uniform(0.5, 2, 20)
    found = []
    for there in (library, lambda a: a):
        net, optimizer = network(device), gb.Adam(0.01)
        for _ in range(2):
            net.train_step(there(x), there(y), optimizer)
        gb.Trainer(net, optimizer).fit(there(x), there(y), epochs=2, batch_size=8, sample_weight=there(w))
        found.append(
            {**net.get_weights(), "predict": net.predict(there(x)), "loss": np.array(net.loss(there(x), there(y)))}
        )
    assert_same_bits(*found)


def test_out_of_the_network_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    net = network()
    weight = net.parameters["0.weight"]
    assert torch.from_dlpack(weight).data_ptr() == weight.ctypes.data
    assert torch.from_dlpack(net.forward(np.ones((2, 6)))).shape == (2, 4)


def test_what_a_library_does_not_hand_over() -> None:
    torch = pytest.importorskip("torch")
    net, x = network(), np.ones((3, 6))
    with pytest.raises(ArgumentTypeError, match=r"x cannot be made into one array: .*detach"):
        net.predict(torch.ones((3, 6), requires_grad=True))
    with pytest.raises(ArgumentTypeError, match="x"):
        net.predict(torch.ones((3, 6), dtype=torch.bfloat16))
    with pytest.raises(DeviceError, match="another device"):
        net.predict(torch.empty((3, 6), device="meta"))
    with pytest.raises(ArgumentTypeError, match="complex"):
        net.predict(torch.as_tensor(x.astype(complex)))
