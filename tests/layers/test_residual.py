from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers import Tensors
from gpubackprop.testing import check_layer
from tests.small import assert_same_bits


def branch(width: int = 6) -> list[gb.Layer]:
    return [gb.LayerNorm(width), gb.Dense(width, 4, "gelu"), gb.Dense(4, width, "tanh")]


def small(device: Any = "cpu", **options: Any) -> gb.Network:
    layers = [
        gb.Dense(5, 6, "tanh"), gb.Residual([gb.Dense(6, 4, "silu"), gb.Dropout(0.3), gb.Dense(4, 6)]),
        gb.Residual([gb.BatchNorm(6), gb.Residual([gb.Dense(6, 6, "softplus")]), gb.Dense(6, 6)]), gb.Dense(6, 3),
    ]  # fmt: skip
    return gb.Network(layers, **{"loss": "cross_entropy", "dtype": "float64", "device": device, "seed": 3, **options})


def batch(n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.integers(0, 3, n)


@pytest.mark.parametrize("width", [1, 6])
def test_the_contract_of_every_layer(width: int) -> None:
    assert check_layer(lambda: gb.Residual(branch(width)))
    assert check_layer(lambda: gb.Residual([gb.Residual([gb.Dense(width, width)]), gb.Dropout(0.4)]))


def test_as_in_pytorch(backend: Backend, torch: Any) -> None:
    """Two steps of SGD with momentum, and dC/dx, of a chain with blocks inside blocks."""
    nn = torch.nn

    class Block(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    module = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), Block(nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 6)),
        Block(nn.BatchNorm1d(6), Block(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 6)), nn.Linear(6, 3),
    ).double()  # fmt: skip
    layers = [
        gb.Dense(5, 6, "tanh"), gb.Residual([gb.Dense(6, 4, "silu"), gb.Dense(4, 6)]),
        gb.Residual([gb.BatchNorm(6), gb.Residual([gb.Dense(6, 6, "relu")]), gb.Dense(6, 6)]), gb.Dense(6, 3),
    ]  # fmt: skip
    net = gb.Network(layers, loss="cross_entropy", dtype="float64", device=backend)
    names = gb.load_torch(net, {k: v.clone() for k, v in module.state_dict().items()})
    assert names["3.1.0.weight"] == "2.1.0.weight"
    optimizer, theirs = gb.SGD(0.1, momentum=0.9), torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for seed in range(3):
        x, y = batch(seed=seed)
        there = torch.tensor(x, requires_grad=True)
        loss = nn.functional.cross_entropy(module(there), torch.tensor(y))
        theirs.zero_grad()
        loss.backward()
        kept = net.get_weights()
        np.testing.assert_allclose(net.input_gradient(x, y, training=True), there.grad.numpy(), rtol=1e-9, atol=1e-15)
        # The gradient of x took statistics of its batch, as every training pass does.
        net.set_weights(kept)
        found = float(backend.to_host(net.train_step(x, y, optimizer)))
        theirs.step()
        assert found == pytest.approx(loss.item(), rel=1e-12)
    module.eval()
    x, _ = batch(seed=9)
    with torch.no_grad():
        expected = nn.functional.softmax(module(torch.tensor(x)), 1).numpy()
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-9)
    for name, array in gb.to_torch_state(net).items():
        np.testing.assert_allclose(array, module.state_dict()[name].numpy(), rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("training", [False, True])
def test_gradients(training: bool) -> None:
    x, y = batch()
    assert gb.gradcheck(small(), x, y, training=training)
    assert gb.gradcheck(small(), x, y, training=training, method="complex")


def test_parity_with_every_array(backend: Backend) -> None:
    x, y = batch()
    assert gb.check_parity(small("cpu"), x, y, devices=("cpu", backend), steps=4)


def test_recorded_steps_are_the_steps() -> None:
    x, y = batch(31)
    nets = [small(capture=capture) for capture in (True, False)]
    for net in nets:
        gb.Trainer(net, "adam").fit(x, y, epochs=3, batch_size=8)
    assert_same_bits(*(net.get_weights() for net in nets))


def test_parts_of_a_batch_draw_the_masks_of_the_whole() -> None:
    layers = [gb.Dense(5, 6, "tanh"), gb.Residual([gb.Dropout(0.5), gb.Dense(6, 6)]), gb.Dense(6, 3)]
    x, y = batch(11)
    found = []
    for part in (None, 4):
        net = gb.Network(copy.deepcopy(layers), loss="cross_entropy", dtype="float64", device="cpu", seed=1)
        optimizer = gb.SGD(0.5)
        for _ in range(3):
            net.train_step(x, y, optimizer, micro_batch_size=part)
        found.append(net.get_weights())
    for name, array in found[0].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-12, atol=1e-14)


def test_each_dropout_has_masks_of_its_own(backend: Backend) -> None:
    """Two blocks, and two layers in a block, of the same width, draw other masks at the same step."""

    def dropped(make: list[gb.Layer]) -> np.ndarray:
        net = gb.Network([gb.Dense(8, 8), *make], device=backend, dtype="float64", seed=2)
        eye = {"0.weight": np.eye(8), "0.bias": np.zeros(8)}
        net.set_weights(eye)
        return np.asarray(backend.to_host(net.forward(np.ones((50, 8)), training=True)))

    layers = [gb.Residual([gb.Dropout(0.5)]), gb.Residual([gb.Dropout(0.5)])]
    # a = 1 + m, then a (1 + m'): 1, 3 or 9 where the masks are independent, 1 or 9 where they are the same.
    assert {1.0, 3.0, 9.0} == set(np.unique(dropped(layers)))
    inside = gb.Residual([gb.Dropout(0.5), gb.Activation("identity"), gb.Dropout(0.5)])
    share = np.mean(dropped([inside]) == 5.0)
    assert 0.15 < share < 0.35


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_what_is_frozen_stays(backend: Backend, place: str) -> None:
    net = small(backend)
    (net.layers[2] if place == "outside" else net.layers[2].layers[2]).trainable = False
    before, (x, y) = net.get_weights(), batch()
    optimizer = gb.Adam(0.01, clip_norm=1.0)
    for _ in range(3):
        net.train_step(x, y, optimizer)
    for name, array in net.get_weights().items():
        frozen = name.startswith("2." if place == "outside" else "2.2.") and "running" not in name
        assert np.array_equal(array, before[name]) == frozen, name
    assert gb.gradcheck(net, x, y)


def test_frozen_below_and_trained_above_have_the_gradients_of_all() -> None:
    """What a frozen block hands down is the same as that of a trained one."""
    nets = [small("cpu", capture=capture) for capture in (True, False)]
    x, y = batch()
    for net in nets:
        net.layers[1].trainable = False
    whole = small("cpu")
    for net in (*nets, whole):
        net.train_step(x, y, gb.SGD(0.1))
    for net in nets:
        for name, array in net.get_weights().items():
            if not name.startswith("1."):
                np.testing.assert_allclose(array, whole.get_weights()[name], rtol=1e-12, err_msg=name)


def test_saved_copied_and_pickled(tmp_path: Path) -> None:
    net, (x, y) = small(), batch()
    net.layers[2].layers[0].trainable = False
    gb.Trainer(net, "adam").fit(x, y, epochs=2, batch_size=6)
    gb.save(tmp_path / "net.safetensors", net)
    for other in (gb.load(tmp_path / "net.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_bits(other.get_weights(), net.get_weights())
        assert repr(other) == repr(net)
        assert not other.layers[2].layers[0].trainable
        assert not {id(layer) for layer in other.layers[1].layers} & {id(layer) for layer in net.layers[1].layers}
        for n in (net, other):
            assert np.array_equal(n.predict(x), net.predict(x))


def test_a_layer_of_the_users_inside(backend: Backend, tmp_path: Path) -> None:
    class Double(gb.Layer):
        """a = 2 x, in array expressions that are run anew at each step."""

        def forward(self, be: Backend, v: Tensors, training: bool) -> None:
            v.a[...] = 2 * v.x

        def backward(self, be: Backend, v: Tensors, dx: Any, training: bool) -> None:
            dx[...] = 2 * v.delta

    net = gb.Network([gb.Dense(3, 3), gb.Residual([Double()])], device=backend, dtype="float64")
    assert not net.layers[1].recordable
    x = np.ones((2, 3))
    plain = gb.Network([gb.Dense(3, 3)], device=backend, dtype="float64")
    np.testing.assert_allclose(net.predict(x), 3 * plain.predict(x))
    optimizer = gb.SGD(0.1)
    first, second = (float(backend.to_host(net.train_step(s * x, x, optimizer))) for s in (1, 5))
    assert first != second
    gb.save(tmp_path / "net.safetensors", net)
    again = gb.load(tmp_path / "net.safetensors", device="cpu", custom={"Double": Double})
    np.testing.assert_allclose(again.predict(x), net.predict(x), rtol=1e-12)


def test_memory_of_inference_is_not_overwritten() -> None:
    """The input of a block is needed after all of the block: chains of any length give what the training buffers give."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 7))
    for count in range(1, 5):
        inner: list[gb.Layer] = [gb.Dense(7, 7, "tanh") for _ in range(count)]
        layers = [
            gb.Dense(7, 7),
            gb.Residual([gb.Residual(inner), gb.Dense(7, 7)]),
            gb.Dense(7, 7),
            gb.Residual([gb.Dense(7, 7)]),
        ]
        net = gb.Network(layers, dtype="float64", device="cpu", seed=count)
        np.testing.assert_allclose(net.predict(x), net.forward(x), rtol=1e-13)
        W = net.get_weights()

        def dense(name: str, a: np.ndarray, W: dict[str, np.ndarray] = W) -> np.ndarray:
            return a @ W[f"{name}.weight"] + W[f"{name}.bias"]

        a = dense("0", x)
        f = a
        for i in range(count):
            f = np.tanh(dense(f"1.0.{i}", f))
        a = a + dense("1.1", a + f)
        a = dense("2", a)
        np.testing.assert_allclose(net.predict(x), a + dense("3.0", a), rtol=1e-12)


def test_refused() -> None:
    twice = gb.Dense(4, 4)
    for make, kind, word in (
        (lambda: gb.Residual([]), ArgumentError, "at least one layer"),
        (lambda: gb.Residual(gb.Dense(4, 4)), ArgumentTypeError, "list"),  # type: ignore[arg-type]
        (lambda: gb.Residual(["relu"]), ArgumentTypeError, r"layers\[0\]"),  # type: ignore[list-item]
        (lambda: gb.Network([gb.Dense(3, 4), gb.Residual([gb.Dense(4, 5)])]), ArgumentError, "must end as wide; it has 5"),
        (lambda: gb.Network([gb.Dense(3, 4), gb.Residual([gb.Dense(5, 4)])]), ArgumentError, "takes 5 inputs"),
        (lambda: gb.Network([twice, gb.Residual([twice])]), ArgumentError, "twice"),
        (lambda: gb.Network([gb.Residual([gb.Dropout(0.1)])]), ArgumentError, "how many inputs"),
    ):  # fmt: skip
        with pytest.raises(kind, match=word):
            make()
    used = gb.Dense(2, 2)
    gb.Network([gb.Residual([used])], device="cpu")
    with pytest.raises(ArgumentError, match="already belongs"):
        gb.Residual([used])
    with pytest.raises(ArgumentError, match="one row"):
        small().train_step(*batch(1), gb.SGD(0.1))
    net = small()
    for layer in net.layers:
        layer.trainable = False
    with pytest.raises(ArgumentError, match="no layer is trainable"):
        net.train_step(*batch(), gb.SGD(0.1))


def test_in_words() -> None:
    net = small()
    assert "Residual(Dense 4 silu -> Dropout 0.3 -> Dense 6)" in repr(net)
    lines = net.summary().splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [
        "0",
        "1",
        "1.0",
        "1.1",
        "1.2",
        "2",
        "2.0",
        "2.1",
        "2.1.0",
        "2.2",
        "3",
    ]
    assert lines[-1].startswith(f"{net.parameter_count:,} parameters")
    assert [d.shape[1] for d in net.deltas(*batch())] == [6, 4, 6, 6, 6, 3]


@pytest.mark.parametrize("recordable", [False, True])
def test_a_layer_inside_that_has_gradients_of_its_own(recordable: bool) -> None:
    class Halved(gb.Dense):
        def gradients(self, be: Any, v: Any, beta: float) -> None:
            super().gradients(be, v, beta)
            be.xp.multiply(self.gradient_arrays["weight"], 0.0, out=self.gradient_arrays["weight"])

    Halved.recordable = recordable
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 96)), rng.integers(0, 3, 128)
    net = gb.Network(
        [gb.Residual([Halved(96, 96, "relu")]), gb.Dense(96, 3)], loss="cross_entropy", device="cpu", seed=1
    )
    _, gradients = net.loss_and_gradients(x, y)
    assert not gradients["0.0.weight"].any()
    assert gradients["0.0.bias"].any()
    before = net.get_weights()["0.0.weight"]
    for _ in range(3):
        net.train_step(x, y, gb.SGD(0.1, momentum=0.9))
    np.testing.assert_array_equal(net.get_weights()["0.0.weight"], before)


@pytest.mark.parametrize("method", ["gradients_into", "begin_backward", "gradients", "backward"])
def test_a_class_with_mathematics_of_its_own_is_not_recorded_unless_it_says_so(method: str) -> None:
    for base in (gb.PReLU, gb.LayerNorm, gb.Dense):
        assert base.recordable
        assert not type("Own", (base,), {method: lambda self, *arguments: None}).recordable


def test_random_layers_in_too_many_blocks_are_refused() -> None:
    layer: gb.Layer = gb.Dropout(0.5)
    for _ in range(3):
        layer = gb.Residual([layer])
    gb.Network([layer, gb.Dense(2, 2)], device="cpu")
    again = gb.Residual([gb.Residual([gb.Residual([gb.Residual([gb.Dropout(0.5)])])])])
    with pytest.raises(ArgumentError, match="at most three Residual blocks"):
        gb.Network([again, gb.Dense(2, 2)], device="cpu")
