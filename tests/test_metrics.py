import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.losses import get_loss
from gpubackprop.metrics import accuracy, confusion_matrix, label_accuracy, mean_absolute_error, r2, scores


def test_accuracy_takes_the_largest_output():
    outputs = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert accuracy(outputs, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    assert accuracy(outputs, np.eye(2)[[1, 0, 0]]) == pytest.approx(2 / 3)


def test_accuracy_of_one_output_is_a_threshold_at_a_half():
    assert accuracy(np.array([[0.5], [0.4], [0.6]]), np.array([[1], [0], [0]])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("m", "shape"), [(1, (3,)), (2, (3, 1)), (2, (4,))])
def test_accuracy_never_broadcasts(m, shape):
    with pytest.raises(gb.GpuBackpropError, match="y must have shape"):
        accuracy(np.zeros((3, m)), np.zeros(shape))


def test_label_accuracy_counts_each_output():
    assert label_accuracy(np.array([[0.9, 0.1], [0.9, 0.9]]), np.array([[1, 0], [0, 1]])) == 0.75


def test_r2_and_mae_agree_with_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, a = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    y[:, 1] = 2.0
    a[:, 1] = 2.0
    assert r2(a, y) == pytest.approx(sk.r2_score(y, a), rel=1e-12)
    a[0, 1] = 2.5
    assert r2(a, y) == pytest.approx(sk.r2_score(y, a), rel=1e-12)
    assert mean_absolute_error(a, y) == pytest.approx(sk.mean_absolute_error(y, a), rel=1e-12)


def test_r2_of_float32_predictions_far_from_zero_keeps_its_digits():
    y = np.linspace(0, 1, 100).reshape(-1, 1) + 1e4
    assert r2(y.astype(np.float32), y) == pytest.approx(1, abs=1e-5)


def test_confusion_matrix_agrees_with_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    p, y = rng.random((200, 4)), rng.integers(0, 4, 200)
    np.testing.assert_array_equal(confusion_matrix(p, y), sk.confusion_matrix(y, p.argmax(1), labels=range(4)))


@pytest.mark.parametrize(
    ("loss", "m", "y", "keys"),
    [
        ("cross_entropy", 3, np.array([0, 1]), {"accuracy"}),
        ("binary_cross_entropy", 1, np.array([[0], [1]]), {"accuracy"}),
        ("binary_cross_entropy", 2, np.array([[0, 1], [1, 1]]), {"accuracy"}),
        ("half_squared_error", 1, np.array([[0.0], [1.0]]), {"r2", "mean_absolute_error"}),
    ],
)
def test_the_loss_says_which_metrics(loss, m, y, keys):
    assert set(scores(np.full((2, m), 0.25), y, get_loss(loss))) == keys
