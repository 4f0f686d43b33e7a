"""scikit-learn's own tests of its `MLPClassifier` and `MLPRegressor`, as they are installed, run on this library's."""

from __future__ import annotations

import pytest

import gpubackprop as gb

theirs = pytest.importorskip("sklearn.neural_network.tests.test_mlp")
theirs.MLPClassifier, theirs.MLPRegressor = gb.MLPClassifier, gb.MLPRegressor
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def global_random_seed() -> int:
    return 42


_TESTS = {name: test for name, test in vars(theirs).items() if name.startswith("test_")}
globals().update(_TESTS)


def test_there_are_tests() -> None:
    assert len(_TESTS) > 30
