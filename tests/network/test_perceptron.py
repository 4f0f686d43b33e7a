from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError


def test_mlp() -> None:
    net = gb.mlp([4, 6, 5, 2], activation="tanh", output_activation="softplus", dropout=0.25, device="cpu")
    kinds = [(type(k).__name__, k.activation.name) for k in net.layers]
    assert kinds == [
        ("Dense", "tanh"),
        ("Dropout", "identity"),
        ("Dense", "tanh"),
        ("Dropout", "identity"),
        ("Dense", "softplus"),
    ]
    assert [k.p for k in net.layers if isinstance(k, gb.Dropout)] == [0.25, 0.25]
    assert gb.mlp(np.array([4, 2]), device="cpu").widths == [4, 2]
    for widths in ([784], [], 784, None):
        with pytest.raises(ArgumentError, match="widths must name at least the inputs and the outputs"):
            gb.mlp(widths, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="outputs must be at least 1; got 0"):
        gb.mlp([3, 0, 2], device="cpu")
    with pytest.raises(ArgumentError, match="unknown activation 'rellu': did you mean 'relu'"):
        gb.mlp([3, 2, 1], activation="rellu", device="cpu")
