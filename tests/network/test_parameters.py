from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.base import Backend
from gpubackprop.network.parameters import Parameters, Segment

SHAPES = {"0.weight": (3, 5), "0.bias": (5,), "2.weight": (5, 2), "2.bias": (2,)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_array_starts_on_a_cache_line_and_none_overlap(backend: Backend, dtype: type) -> None:
    p = Parameters(backend, SHAPES, np.dtype(dtype))
    assert [(s.name, s.shape) for s in p.segments] == list(SHAPES.items())
    assert all(s.start * np.dtype(dtype).itemsize % 64 == 0 for s in p.segments)
    ends = [s.start + s.size for s in p.segments]
    assert all(end <= s.start for end, s in zip(ends, p.segments[1:], strict=False))
    assert p.count == 15 + 5 + 10 + 2
    assert p.P.shape == p.G.shape
    assert p.P.shape[0] >= ends[-1]
    assert p.P.dtype == p.G.dtype == dtype


def test_views_are_views(backend: Backend) -> None:
    p = Parameters(backend, SHAPES, np.dtype(np.float64))
    backend.fill(p.views["0.bias"], 2.0)
    backend.fill(p.gradients["2.weight"], 3.0)
    bias, weight = p.segments[1], p.segments[2]
    expected = np.zeros(p.P.shape)
    expected[bias.start : bias.start + 5] = 2.0
    np.testing.assert_array_equal(backend.to_host(p.P), expected)
    expected = np.zeros(p.G.shape)
    expected[weight.start : weight.start + 10] = 3.0
    np.testing.assert_array_equal(backend.to_host(p.G), expected)


def test_write_and_read(backend: Backend) -> None:
    p = Parameters(backend, SHAPES, np.dtype(np.float32))
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    p.write(values)
    read = p.to_host(p.P)
    for name in SHAPES:
        np.testing.assert_array_equal(read[name], values[name], strict=True)
    # The gaps between arrays are zero, or norms and updates would see them.
    assert np.count_nonzero(backend.to_host(p.P)) == p.count
    read["0.bias"][:] = 0
    assert p.to_host(p.P)["0.bias"].all()


def test_a_segment_knows_its_place() -> None:
    s = Segment("1.weight", (2, 3), 4)
    assert s.size == 6
    np.testing.assert_array_equal(s.of(np.arange(16)), [[4, 5, 6], [7, 8, 9]])
