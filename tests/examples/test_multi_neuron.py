from __future__ import annotations

import pytest


@pytest.mark.parametrize("samples", [1, 7])
def test_sums_and_matrix_products_agree(example, samples):
    result = example("multi_neuron").main(["--device", "cpu", "--samples", str(samples)])
    assert result["worst"] < 1e-15
    assert result["library"].worst_error < 1e-9
    assert set(result["sums"]) == {f"{what}({layer})" for what in ("delta", "dC/dW", "dC/db") for layer in (1, 2)}
    assert result["sums"]["delta(1)"].shape == (samples, 3)
