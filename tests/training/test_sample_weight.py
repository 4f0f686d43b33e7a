"""Rows that count more or less than others, through every way of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError
from gpubackprop.losses import CrossEntropy, Loss, get_loss
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.small import assert_same_bits, make_data

N, SIZE = 37, 8
WEIGHTS = np.random.default_rng(3).integers(0, 4, N).astype(float)


def network(loss: Any, device: Any = "cpu", **options: Any) -> gb.Network:
    return gb.mlp(
        [5, 6, 3], activation="tanh", loss=loss, **{"device": device, "dtype": "float64", "seed": 2, **options}
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "half_squared_error", "poisson"])
def test_the_gradient_is_that_of_rows_that_stand_there_so_often(loss: str) -> None:
    (x, y), net = make_data(N, 5, 3, loss), network(loss)
    often = np.repeat(np.arange(N), WEIGHTS.astype(int))
    value, gradients = net.loss_and_gradients(x, y, sample_weight=WEIGHTS)
    expected, wanted = net.loss_and_gradients(x[often], y[often])
    share = len(often) / N
    assert value == pytest.approx(expected * share, rel=1e-12)
    assert value == net.loss(x, y, sample_weight=WEIGHTS)
    assert value != pytest.approx(net.loss(x, y), rel=1e-3)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(gradients[name], gradient * share, rtol=1e-10, atol=1e-14)


def fitted(trainer: gb.Trainer, weights: Any = WEIGHTS, **options: Any) -> dict[str, np.ndarray]:
    x, y = make_data(N, 5, 3, "cross_entropy")
    trainer.fit(x, y, sample_weight=weights, **{"epochs": 3, "batch_size": SIZE, **options})
    return trainer.net.get_weights()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    "how", [{"device": "strict"}, {"capture": False}, {"micro_batch_size": 3}, {"by hand": True}], ids=str
)
def test_every_way_gives_the_same(how: dict[str, Any], shuffle: bool) -> None:
    expected = fitted(gb.Trainer(network("cross_entropy"), gb.SGD(0.3)), shuffle=shuffle)
    fit = {k: how.pop(k) for k in list(how) if k == "micro_batch_size"}
    by_hand = how.pop("by hand", False)
    net = network("cross_entropy", **how)
    if by_hand:
        optimizer, (x, y) = gb.SGD(0.3), make_data(N, 5, 3, "cross_entropy")
        for epoch in range(3):
            from gpubackprop.random import host_generator

            order = host_generator(2, 1, epoch).permutation(N) if shuffle else np.arange(N)
            for rows in np.split(order, range(SIZE, N, SIZE)):
                net.train_step(x[rows], y[rows], optimizer, sample_weight=WEIGHTS[rows])
        found = net.get_weights()
    else:
        found = fitted(gb.Trainer(net, gb.SGD(0.3)), shuffle=shuffle, **fit)
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-9, atol=1e-12)
    plain = fitted(gb.Trainer(network("cross_entropy"), gb.SGD(0.3)), None, shuffle=shuffle)
    assert any(np.abs(plain[name] - want).max() > 1e-3 for name, want in expected.items())


@pytest.mark.parametrize("streamed", [False, True])
def test_on_a_gpu(gpu: Any, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from gpubackprop.backend.cuda.cupy_backend import CupyBackend

    if streamed:
        monkeypatch.setattr(CupyBackend, "data_share", 0.0)
    expected = fitted(gb.Trainer(network("cross_entropy", dtype="float32"), gb.Adam(0.01)))
    found = fitted(gb.Trainer(network("cross_entropy", "cuda", dtype="float32"), gb.Adam(0.01)))
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-4, atol=1e-5)


def test_steps_with_and_without_weights_take_turns() -> None:
    (x, y), net, optimizer = make_data(N, 5, 3, "cross_entropy"), network("cross_entropy"), gb.SGD(0.1)
    found = []
    for weights in (None, WEIGHTS, None, WEIGHTS):
        net.set_weights(network("cross_entropy").get_weights())
        found.append(float(net.train_step(x, y, optimizer, sample_weight=weights)))
    assert found[0] == found[2] != found[1] == found[3]


@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(class_weights=[1.0, 5.0, 0.5]), CrossEntropy(ignore_index=1), get_loss("cross_entropy")],
    ids=str,
)
def test_parts_and_chunks_weigh_what_counts_in_them(loss: Loss) -> None:
    (x, y), (whole, parts) = make_data(N, 5, 3, "cross_entropy"), (network(loss), network(loss))
    whole.train_step(x, y, gb.SGD(0.3))
    parts.train_step(x, y, gb.SGD(0.3), micro_batch_size=5)
    for name, want in whole.get_weights().items():
        np.testing.assert_allclose(parts.get_weights()[name], want, rtol=1e-10, atol=1e-13)
    assert gb.evaluate(whole, x, y, batch_size=5)["loss"] == pytest.approx(whole.loss(x, y), rel=1e-12)


def test_a_fit_goes_on_with_the_same_weights_only(tmp_path: Path) -> None:
    x, y = make_data(N, 5, 3, "cross_entropy")
    trainer = gb.Trainer(network("cross_entropy"), callbacks=[gb.Checkpoints(tmp_path, "1 step")])
    expected = fitted(trainer)
    with pytest.raises(ArgumentError, match="y must be the data"):
        gb.Trainer.resume(tmp_path, device="cpu").continue_fit(x, y, sample_weight=WEIGHTS + 1)
    again = gb.Trainer.resume(tmp_path, device="cpu")
    again.continue_fit(x, y, sample_weight=WEIGHTS)
    assert_same_bits(again.net.get_weights(), expected)


class Own(Loss):
    """Counts all rows alike."""

    name = "own"

    def value_and_delta(self, be: Any, a: Any, y: Any, v: Any, value: Any, delta: Any, rows: int) -> None:
        be.fill(value, 0.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(N + 1), r"sample_weight must have shape \(37,\)"),
        (np.ones((N, 1)), r"sample_weight must have shape \(37,\)"),
        (np.zeros(N), "above 0 for some row"),
        (np.full(N, -1.0), "0 or more"),
        (np.full(N, np.nan), "sample_weight"),
    ],
)
def test_weights_that_cannot_be_used(weights: np.ndarray, message: str) -> None:
    (x, y), net = make_data(N, 5, 3, "cross_entropy"), network("cross_entropy")
    before = net.get_weights()
    for call in (
        lambda: net.loss(x, y, sample_weight=weights),
        lambda: net.train_step(x, y, gb.Adam(), sample_weight=weights),
        lambda: gb.Trainer(net).fit(x, y, sample_weight=weights),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()
    assert_same_bits(net.get_weights(), before)


def test_a_loss_that_counts_all_rows_alike() -> None:
    x, y = make_data(N, 5, 3)
    with pytest.raises(ArgumentError, match="'own' counts all rows alike"):
        network(Own()).loss(x, y, sample_weight=WEIGHTS)
