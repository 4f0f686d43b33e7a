import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers import Activation, BatchNorm, Dense, Dropout, Residual, stack


def test_widths_before_between_and_behind() -> None:
    assert stack.build([Dropout(0.1), Dense(3, 5), BatchNorm(5), Activation("relu"), Dense(5, 2)]) == [3, 3, 5, 5, 5, 2]


def test_layers_that_do_not_fit_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"layer 1 \(Dense.*takes 4 inputs, but what comes before it has 5 outputs"):
        stack.build([Dense(3, 5), Dense(4, 2)])
    with pytest.raises(ArgumentError, match="no layer says how many inputs"):
        stack.build([Dropout(0.1)])


@pytest.mark.parametrize("layers", [None, 5, "Dense", Dense(2, 2), [Dense]])
def test_what_is_no_list_of_layers(layers: object) -> None:
    with pytest.raises(ArgumentTypeError, match="layer"):
        stack.checked(layers)  # type: ignore[arg-type]


def test_none_and_one_twice() -> None:
    layer = Dense(2, 2)
    for layers in ([], [layer, layer]):
        with pytest.raises(ArgumentError):
            stack.checked(layers)


def test_a_layer_inside_another_that_already_belongs_to_a_network() -> None:
    inside = Dense(3, 3)
    block = Residual([Residual([inside])])
    net = gb.Network([inside], device="cpu")
    with pytest.raises(ArgumentError, match=r"layers\[0\.0\.0\] \(Dense.*already belongs to a network"):
        gb.Network([block], device="cpu")
    assert inside.W is net.parameters["0.weight"]
