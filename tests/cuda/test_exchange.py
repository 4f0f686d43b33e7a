"""Arrays of other libraries that lie on the GPU: taken as they are, after their library's own work on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.checks import check_x
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError
from tests.cuda import fake_cupy
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.small import assert_same_bits


class Tensor:
    """An array of another library with DLPack. `streams`: those that it was asked to be ready for."""

    def __init__(self, held: Any, device: tuple[int, int] = (2, 0), refuses: Exception | None = None) -> None:
        self.held, self.device, self.refuses, self.streams = held, device, refuses, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int | None = None, **_: Any) -> Any:
        if self.refuses is not None:
            raise self.refuses
        self.streams.append(stream)
        return self.held


class NumbaArray:
    """One with the CUDA array interface alone. The stand-in asks it for its array; CuPy reads pointer and shape."""

    def __init__(self, held: Any) -> None:
        self.__cuda_array_interface__ = {"owner": held}


@pytest.fixture
def cupy(gpu: Any, shim: Any, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    return fake_cupy.install(monkeypatch, shim, devices=2)


def data(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 4, n)


def network(device: str) -> gb.Network:
    return gb.Network([gb.Dense(6, 8, "relu"), gb.Dense(8, 4)], loss="cross_entropy", device=device, seed=1)


@pytest.mark.parametrize("index", [0, 1])
def test_without_a_copy(cupy: Any, index: int) -> None:
    net, (x, _) = network(f"cuda:{index}"), data()
    with cupy.cuda.Device(index):
        held = cupy.asarray(x)
        for there in (Tensor(held, (2, index)), NumbaArray(held)):
            taken = check_x(there, 6, net.dtype, net.backend)
            assert isinstance(taken, cupy.ndarray)
            assert cupy.may_share_memory(taken, held)
    tensor = Tensor(held, (2, index))
    check_x(tensor, 6, net.dtype, net.backend)
    assert len(tensor.streams) == 1, "its library orders its own work before ours"
    assert tensor.streams[0] is not None


def test_everything_takes_them(cupy: Any) -> None:
    x, y = data()
    found = []
    for foreign in (True, False):
        net = network("cuda:0")

        def there(a: np.ndarray, foreign: bool = foreign) -> Any:
            return Tensor(cupy.asarray(a)) if foreign else a

        optimizer = gb.Adam(0.01)
        for _ in range(3):
            net.train_step(there(x), there(y), optimizer)
        weights = np.arange(1, 21, dtype=np.float32)
        net.train_step(there(x), there(y), optimizer, sample_weight=there(weights))
        gb.Trainer(net, optimizer).fit(
            there(x),
            there(y),
            epochs=2,
            batch_size=8,
            validation_data=(there(x), there(y)),
            sample_weight=there(weights),
        )
        loss, gradients = net.loss_and_gradients(there(x), there(y))
        net.set_weights({name: there(w) for name, w in net.get_weights().items()})
        out = {"predict": net.predict(there(x)), "forward": net.backend.to_host(net.forward(there(x)))}
        found.append({**net.get_weights(), **gradients, **out, "loss": np.array(loss)})
    assert_same_bits(*found)


def test_refused(cupy: Any) -> None:
    net, (x, y) = network("cuda:0"), data()
    held = cupy.asarray(x)
    with pytest.raises(DeviceError, match=r"x is an array on another device .*Tensor.*'cuda:0'"):
        net.predict(Tensor(held, (2, 1)))
    with pytest.raises(DeviceError, match="another device"):
        net.predict(Tensor(held, (10, 0)))
    with pytest.raises(ArgumentTypeError, match=r"Tensor on cuda:0 is not handed over: .*use tensor\.detach"):
        net.predict(
            Tensor(held, refuses=BufferError("Can't export tensors that require gradient, use tensor.detach()"))
        )
    with pytest.raises(ArgumentError, match=r"must have shape \(n, 6\)"):
        net.predict(Tensor(cupy.asarray(x[:, :3])))
    with pytest.raises(ArgumentTypeError, match="labels must be integers"):
        net.train_step(x, Tensor(cupy.asarray(y.astype(np.float32))), gb.SGD(0.1))
    host = network("cpu")
    with pytest.raises(DeviceError, match="'cpu'"):
        host.predict(Tensor(held))
    with pytest.raises(DeviceError, match=r"pass a host array \(x\.cpu\(\)\)"):
        host.predict(SimpleNamespace(__dlpack_device__=lambda: (2, 0), cpu=None))
