"""Sparse rows: the same numbers as dense ones, and never all of them dense at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.sparse import SparseRows
from tests.small import assert_same_bits

sparse = pytest.importorskip("scipy.sparse")


def data(n: int = 40, kind: str = "csr_matrix") -> tuple[Any, np.ndarray, np.ndarray]:
    """The same rows as a sparse matrix and as an array, and labels."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(n, 6)) * (rng.random((n, 6)) < 0.3)
    return getattr(sparse, kind)(dense), dense, rng.integers(0, 3, n)


def network(device: Any = "cpu", **options: Any) -> gb.Network:
    layers = [gb.Dense(6, 5, "tanh"), gb.Dropout(0.2), gb.Dense(5, 3)]
    return gb.Network(layers, **{"loss": "cross_entropy", "device": device, "dtype": "float64", "seed": 1, **options})


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_array", "lil_matrix"])
@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_the_bits_of_dense_rows(kind: str, device: str) -> None:
    few, dense, y = data(kind=kind)
    found = []
    for x in (few, dense):
        net, optimizer = network(device), gb.Adam(0.01)
        for _ in range(2):
            net.train_step(x, y, optimizer)
        net.train_step(x, y, optimizer, micro_batch_size=7)
        weights = np.linspace(1, 2, 40)
        history = gb.Trainer(net, optimizer).fit(
            x, y, epochs=3, batch_size=16, validation_data=(x, y), sample_weight=weights, patience=5
        )
        gb.Trainer(net, optimizer).fit(x, y, epochs=1, batch_size=None, shuffle=False)
        loss, gradients = net.loss_and_gradients(x, y)
        out = {"predict": net.predict(x), "chunks": net.predict(x, batch_size=9), "dx": net.input_gradient(x, y)}
        numbers = np.array([loss, net.loss(x, y), history.records[-1]["val_loss"]])
        found.append({**net.get_weights(), **gradients, **out, "numbers": numbers})
    assert_same_bits(*found)


def test_machine_code_is_for_dense_rows_alone() -> None:
    pytest.importorskip("numba")
    few, dense, y = data()
    found = []
    for x in (few, dense):
        net = network(compile=True)
        gb.Trainer(net, "adam").fit(x, y, epochs=2, batch_size=8)
        found.append(net.get_weights())
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], rtol=1e-10, atol=1e-12)


def test_never_all_of_them_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 rows, of which a batch is 128, and a chunk of predictions 4,096."""
    asked: list[int] = []
    original = SparseRows.__getitem__

    def watched(self: SparseRows, rows: Any) -> np.ndarray:
        part = original(self, rows)
        asked.append(len(part))
        return part

    monkeypatch.setattr(SparseRows, "__getitem__", watched)
    x = sparse.random(20_000, 6, density=0.05, format="csr", random_state=0)
    y = np.arange(20_000) % 3
    net = network()
    gb.Trainer(net, "adam").fit(x, y, epochs=1, batch_size=128)
    assert max(asked) == 128
    net.predict(x)
    assert max(asked) == 4096
    assert sum(asked) == 40_000


def test_a_run_goes_on_with_the_same_rows_alone(tmp_path: Path) -> None:
    few, _, y = data()
    whole = network()
    gb.Trainer(whole, gb.Adam(0.01)).fit(few, y, epochs=4, batch_size=8)

    class Halt(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: Any) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gb.Trainer(network(), gb.Adam(0.01), callbacks=[gb.Checkpoints(tmp_path), Halt()]).fit(
            few, y, epochs=4, batch_size=8
        )
    other = few.copy()
    other.data[3] += 1
    with pytest.raises(ArgumentError, match="x must be the data of the fit"):
        gb.Trainer.resume(tmp_path, device="cpu").continue_fit(other, y)
    trainer = gb.Trainer.resume(tmp_path, device="cpu")
    trainer.continue_fit(few, y)
    assert_same_bits(trainer.net.get_weights(), whole.get_weights())


def test_refused() -> None:
    few, _, y = data()
    net = network()
    wrong = few.copy()
    wrong.data[2] = np.nan
    for x, kind, word in (
        (wrong, ArgumentError, "x, its stored values"),
        (few[:, :4], ArgumentError, r"\(n, 6\)"),
        (few.astype(complex), ArgumentTypeError, "real numbers"),
    ):
        with pytest.raises(kind, match=word):
            gb.Trainer(net, "sgd").fit(x, y)
    with pytest.raises(ArgumentError, match="one label for each"):
        net.loss(few, y[:5])
