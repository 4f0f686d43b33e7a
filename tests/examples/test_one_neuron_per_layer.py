from __future__ import annotations

import pytest


def test_chain_of_numbers_agrees_with_the_library(example):
    result = example("one_neuron_per_layer").main(["--device", "cpu", "--layers", "5", "--seed", "3"])
    assert len(result["links"]) == 5
    assert result["worst"] < 1e-15
    assert result["updates"] < 1e-15
    assert result["library"].worst_error < 1e-9
    assert result["after"] < result["before"]


def test_factors_of_the_chain_multiply_to_the_first_gradient(example):
    links = example("one_neuron_per_layer").main(["--device", "cpu"])["links"]
    product = links[-1].a - 0.2
    for link in links[:0:-1]:
        product *= link.a * (1 - link.a) * link.w
    first = links[0]
    assert first.dC_dw == pytest.approx(product * first.a * (1 - first.a) * 0.6, rel=1e-12)
    assert first.dC_db == pytest.approx(product * first.a * (1 - first.a), rel=1e-12)
