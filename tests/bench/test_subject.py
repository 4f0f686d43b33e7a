"""Networks as plain values, and the work that their steps are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.bench import subject
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError


def test_a_description_builds_the_same_network_anywhere() -> None:
    layers = [gb.Dense(5, 4, "tanh"), gb.BatchNorm(4), gb.Dropout(0.5), gb.Dense(4, 3)]
    net = gb.Network(layers, loss="cross_entropy", device="cpu", l2=0.1, seed=3)
    described = json.loads(json.dumps(subject.describe(net)))
    assert described["name"] == "5-4-3"
    again = subject.build(described, "strict", "float64")
    assert subject.describe(again) == described
    first, second = net.initial_arrays(), again.initial_arrays()
    assert first.keys() == second.keys() == net.get_weights().keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)
    net.set_weights(first)
    assert again.dtype == np.float64


def test_widths_replace_the_hidden_layers() -> None:
    names = [d["name"] for d in subject.descriptions([7, 5, 4, 3], [16, 32])]
    assert names == ["7-16-16-3", "7-32-32-3"]
    assert [d["name"] for d in subject.descriptions((7, 5, 4, 3))] == ["7-5-4-3"]


def test_a_saved_network_and_its_folder(tmp_path: Path) -> None:
    net = gb.mlp([4, 6, 2], loss="half_squared_error", device="cpu")
    gb.save(tmp_path / "mine.safetensors", net)
    for place in (tmp_path, tmp_path / "mine.safetensors", str(tmp_path)):
        assert subject.descriptions(place) == [subject.describe(net)]
    gb.save(tmp_path / "other.safetensors", gb.mlp([3, 2], device="cpu"))
    with pytest.raises(DataError, match=r"mine\.safetensors, other\.safetensors"):
        subject.descriptions(tmp_path)
    gb.save(tmp_path / "model.safetensors", net)
    assert subject.model_file(tmp_path).name == "model.safetensors"
    with pytest.raises(CheckpointError):
        subject.descriptions(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("network", "widths", "error", "said"),
    [
        ([4, 2], [8], ArgumentError, "has none"),
        ([4, 0, 2], None, ArgumentError, r"layers\[1\]"),
        ([4, 3, 2], [0], ArgumentError, "widths"),
        ([4, "3", 2], None, ArgumentTypeError, r"layers\[1\]"),
        (5, None, ArgumentTypeError, "network must be"),
    ],
)
def test_what_is_no_network(network: Any, widths: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        subject.descriptions(network, widths)


def test_what_other_processes_could_not_build() -> None:
    class Mine(gb.Layer):
        def forward(self, be: Any, v: Any, training: bool) -> None:
            v.a[...] = v.x

    net = gb.mlp([3, 2], device="cpu")
    with pytest.raises(ArgumentError, match="keeps its own"):
        subject.descriptions(net, [4])
    mine = gb.Network([gb.Dense(3, 2), Mine()], device="cpu")
    with pytest.raises(ArgumentError, match=r"layers\[1\].*not one of the library's own"):
        subject.descriptions(mine)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mean_squared_error"])
def test_random_batches_suit_the_loss_and_are_the_same_for_every_type(loss: str) -> None:
    (described,) = subject.descriptions([6, 5, 3], loss=loss)
    x, y = subject.random_batch(described, 20, 1, "float32")
    wide, y_wide = subject.random_batch(described, 20, 1, "float64")
    assert x.shape == (20, 6)
    assert np.array_equal(x, wide)
    assert np.array_equal(y, y_wide)
    assert not np.array_equal(x, subject.random_batch(described, 20, 2, "float32")[0])
    loss_value = subject.build(described, "cpu", "float32").loss(x, y)
    assert np.isfinite(loss_value)


def test_the_work_of_a_step_counted_by_hand() -> None:
    net = gb.mlp([4, 3, 2], device="cpu")
    n = 5
    # forward 4x3 and 3x2, dW of both, delta of the second alone
    assert subject.flops(net, n) == 2 * n * (2 * 12 + 3 * 6)
    arrays = 2 * (n * 4 + n * 3 + 12) + 2 * (n * 3 + n * 2 + 6) + (n * 2 + 6 + 2 * n * 3)
    assert subject.least_bytes(net, n, gb.SGD(0.1)) == 4 * (arrays + (3 + 2 * len(gb.SGD(0.1).states)) * 23)
    assert subject.least_bytes(net, n, gb.Adam()) > subject.least_bytes(net, n, gb.SGD(0.1))
