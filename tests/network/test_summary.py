from __future__ import annotations

import pytest

import gpubackprop as gb


def network() -> gb.Network:
    layers = [gb.Dense(784, 512, "relu"), gb.BatchNorm(512), gb.Dropout(0.1), gb.Activation("tanh"), gb.Dense(512, 10)]
    return gb.Network(layers, loss="cross_entropy", device="cpu")


def test_one_line() -> None:
    assert repr(network()) == (
        "Network(784 -> Dense 512 relu -> BatchNorm -> Dropout 0.1 -> Activation tanh -> Dense 10 "
        "| cross_entropy | cpu float32)"
    )


def test_table() -> None:
    lines = network().summary().splitlines()
    assert lines[0].split() == ["layer", "output", "parameters"]
    assert len(lines) == 1 + 5 + 1
    assert lines[1].split() == [
        "0",
        "Dense(inputs=784,",
        "outputs=512,",
        "activation='relu')",
        "(n,",
        "512)",
        "401,920",
    ]
    assert lines[2].split()[-1] == "1,024"
    assert lines[3].split() == ["2", "Dropout(p=0.1)", "(n,", "512)", "0"]
    assert lines[5].endswith("5,130")
    assert lines[6].startswith("408,074 parameters, 1,632,296 bytes as float32; loss cross_entropy; device cpu, ")
    # Columns stand under each other.
    assert len({line.index("(n,") for line in lines[1:6]}) == 1
    assert len({len(line) for line in lines[:6]}) == 1


def test_a_layer_of_ones_own_is_named() -> None:
    class Own(gb.Layer):
        pass

    net = gb.Network([gb.Dense(2, 3), Own()], device="cpu")
    assert "-> Own |" in repr(net)
    assert "Own()" in net.summary()


def test_eleven_layers_are_counted_apart() -> None:
    net = gb.Network([gb.Dense(2, 2) for _ in range(11)], device="cpu")
    counts = [line.split()[-1] for line in net.summary().splitlines()[1:12]]
    assert counts == ["6"] * 11


def test_machine_code_is_named_only_where_it_runs() -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    plain, compiled = (gb.mlp([3, 2], device="cpu", compile=c) for c in (False, True))
    assert "Numba" not in plain.summary()
    assert "compiled by Numba" in compiled.summary()
