from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import Activation
from gpubackprop.backend.base import Backend
from gpubackprop.losses import get_loss
from gpubackprop.network.workspace import KEPT, Losses, Workspace


def make(backend: Backend, training: bool = True, activation: str | Activation = "relu") -> Workspace:
    layers = [gb.Dense(3, 5, activation), gb.BatchNorm(5), gb.Dense(5, 2)]
    return Workspace(backend, layers, [3, 5, 5, 2], get_loss("cross_entropy"), np.float32, training)


def overlap(be: Backend, a: Any, b: Any) -> bool:
    """Whether two arrays of a device share memory: what is written to one shows in the other."""
    be.fill(a, 1.0)
    be.fill(b, 2.0)
    return bool((be.to_host(a) == 2.0).any())


def test_shapes_and_types(backend: Backend) -> None:
    workspace = make(backend)
    batch = workspace.batch(4)
    first, norm, last = batch.tensors
    assert batch.x.shape == (4, 3)
    assert batch.x.dtype == np.float32
    assert (first.a.shape, norm.a.shape, last.a.shape) == ((4, 5), (4, 5), (4, 2))
    assert all(v.delta.shape == v.a.shape for v in batch.tensors)
    assert norm.x is first.a
    assert batch.outputs is last.a
    assert norm.xhat.shape == (4, 5)
    assert norm.mean.shape == (1, 5)
    assert batch.loss.s.shape == (2, 4)
    labels, targets = batch.target_buffer("labels"), batch.target_buffer("targets")
    assert (labels.shape, labels.dtype) == ((4,), np.int64)
    assert (targets.shape, targets.dtype) == ((4, 2), np.float32)
    assert batch.target_buffer("labels") is labels
    assert batch.input_tensors().delta.shape == (4, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("saves", ["a", "z", "slope"])
def test_what_f_needs_has_memory_of_its_own(backend: Backend, saves: str, training: bool) -> None:
    class Own(Activation):
        name = "own"

    Own.saves = saves
    first = make(backend, training, Own()).batch(4).tensors[0]
    assert first.saved is first.z
    if saves == "z" or (saves == "slope" and training):
        assert not overlap(backend, first.z, first.a)
    else:
        assert first.z is first.a


def test_no_two_arrays_of_training_overlap(backend: Backend) -> None:
    workspace = make(backend, activation="gelu")
    batch = workspace.batch(4)
    arrays = [batch.x, batch.input_tensors().delta, batch.target_buffer("targets"), batch.loss.s, batch.loss.t]
    for v in batch.tensors:
        arrays += [v.a, v.delta, *([v.z] if v.z is not v.a else [])]
    for i, array in enumerate(arrays):
        backend.fill(array, float(i))
    for i, array in enumerate(arrays):
        assert (backend.to_host(array) == i).all()


def test_inference_needs_no_more_for_a_deeper_network(backend: Backend) -> None:
    def nbytes(depth: int, training: bool) -> int:
        layers = [gb.Dense(4, 4, "tanh") for _ in range(depth)]
        workspace = Workspace(backend, layers, [4] * (depth + 1), get_loss("half_squared_error"), np.float32, training)
        batch = workspace.batch(10)
        for below, v in zip(batch.tensors, batch.tensors[1:], strict=False):
            assert not overlap(backend, below.a, v.a)
        return workspace.nbytes

    assert nbytes(9, training=False) == nbytes(3, training=False)
    assert nbytes(9, training=True) > nbytes(3, training=True)


def test_a_smaller_batch_is_the_leading_rows(backend: Backend) -> None:
    workspace = make(backend)
    large = workspace.batch(6)
    size = workspace.nbytes
    small = workspace.batch(2)
    backend.fill(large.x, 1.0)
    backend.fill(small.x, 2.0)
    np.testing.assert_array_equal(backend.to_host(large.x)[:, 0], [2, 2, 1, 1, 1, 1])
    assert workspace.nbytes == size
    assert workspace.batch(6) is large
    assert workspace.batch(2) is small


def test_a_larger_batch_starts_anew(backend: Backend) -> None:
    workspace = make(backend)
    small = workspace.batch(2)
    workspace.batch(6)
    assert workspace.capacity == 6
    assert workspace.batch(2) is not small


def test_the_batches_used_last_are_kept(backend: Backend) -> None:
    workspace = make(backend)
    largest = workspace.batch(KEPT + 5)
    first = workspace.batch(1)
    for n in range(2, KEPT + 1):
        workspace.batch(KEPT + 5)
        workspace.batch(n)
    assert workspace.batch(KEPT + 5) is largest
    assert workspace.batch(1) is not first


def test_rows_begin_at(backend: Backend) -> None:
    batch = make(backend).batch(2)
    assert [v.first_row for v in batch.tensors] == [0, 0, 0]
    batch.begins_at(7)
    assert [v.first_row for v in batch.tensors] == [7, 7, 7]


def test_an_array_that_is_not_there_is_named(backend: Backend) -> None:
    v = make(backend).batch(2).tensors[0]
    with pytest.raises(AttributeError, match="this layer has no array 'mask'; its arrays are x, first_row, a, z"):
        _ = v.mask


def test_losses_that_were_handed_out_stay(backend: Backend) -> None:
    value = backend.zeros((), np.float64)
    losses, found = Losses(backend, value), []
    for i in range(Losses.ROOM + 2):
        backend.fill(value, i)
        found.append(losses.next())
    assert [float(backend.to_host(loss)) for loss in found] == list(range(Losses.ROOM + 2))
