import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.losses import get_loss
from gpubackprop.metrics import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    label_accuracy,
    log_loss,
    macro_f1,
    mean_absolute_error,
    r2,
    roc_auc,
    root_mean_squared_error,
    scores,
)
from gpubackprop.network.inference import to_prediction


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


@pytest.mark.parametrize("constant", [0.1 + 0.2, 1e6 / 3, -7.3])
def test_r2_of_a_target_that_is_constant_but_for_rounding(constant):
    y = np.full((30, 1), constant)
    y[::2] = np.nextafter(constant, 2 * constant)
    assert r2(np.full((30, 1), constant), y) == 1
    assert r2(np.full((30, 1), constant + 1), y) == 0
    assert r2(y, y) == 1


NARROW = [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", NARROW)
def test_every_metric_in_every_integer_type(dtype):
    """As in int64, for as many classes and as large numbers as the type holds."""
    most = 1 if dtype == np.bool_ else int(min(np.iinfo(dtype).max, 299))
    rng, m = np.random.default_rng(2), most + 1
    y, p = rng.integers(0, m, 2000), rng.random((2000, m))
    p[np.arange(1000), y[:1000]] = 2
    assert confusion_matrix(p, y.astype(dtype)).trace() >= 1000
    np.testing.assert_array_equal(confusion_matrix(p, y.astype(dtype)), confusion_matrix(p, y))
    assert accuracy(p, y.astype(dtype)) == accuracy(p, y)
    numbers = y.reshape(-1, 2)
    a = numbers + rng.normal(size=numbers.shape)
    for metric in (r2, mean_absolute_error, label_accuracy):
        assert metric(a, numbers.astype(dtype)) == metric(a, numbers)
    assert accuracy(p[:, :1], (y[:, None] > 0).astype(dtype)) == accuracy(p[:, :1], y[:, None] > 0)


@pytest.mark.parametrize("y", [[0, 3], [-1, 0], [0], [[0, 1]]])
def test_confusion_matrix_of_labels_that_are_none(y):
    with pytest.raises(gb.GpuBackpropError, match="y must be 2 labels from 0 to 2"):
        confusion_matrix(np.zeros((2, 3)), np.array(y))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "half_squared_error"])
@pytest.mark.parametrize("worst", [1e300, np.inf, np.nan])
def test_scores_of_a_network_that_diverged_warn_of_nothing(loss, worst):
    y = np.array([0, 1]) if loss == "cross_entropy" else np.array([[0.0, 1.0], [1.0, 0.0]])
    outputs = np.array([[worst, -worst], [-worst, worst]])
    predictions = to_prediction(outputs, get_loss(loss))
    assert all(isinstance(v, float) for v in scores(predictions, y, get_loss(loss)).values())


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


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("missing", [False, True])
def test_metrics_of_classes_agree_with_scikit_learn(m, missing):
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    p = rng.integers(1, 6, (120, m)).astype(float)  # many ties
    p /= p.sum(axis=1, keepdims=True)
    y = rng.integers(0, m, 120)
    if missing and m > 2:
        y[y == 1] = 0
        p[:, 1] = 0
        p /= p.sum(axis=1, keepdims=True)
    counts, taken, there = confusion_matrix(p, y), p.argmax(1), np.unique(y)
    assert balanced_accuracy(counts) == pytest.approx(sk.balanced_accuracy_score(y, taken), rel=1e-12)
    assert macro_f1(counts) == pytest.approx(sk.f1_score(y, taken, average="macro"), rel=1e-12)
    assert log_loss(p, y) == pytest.approx(sk.log_loss(y, p, labels=range(m)), rel=1e-9)
    expected = np.mean([sk.roc_auc_score(y == k, p[:, k]) for k in there])
    assert roc_auc(p, y) == pytest.approx(expected, rel=1e-12)


def test_metrics_of_several_labels_agree_with_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    p, y = rng.random((80, 3)), rng.integers(0, 2, (80, 3))
    assert roc_auc(p, y) == pytest.approx(sk.roc_auc_score(y, p), rel=1e-12)
    assert log_loss(p, y) == pytest.approx(np.mean([sk.log_loss(y[:, k], p[:, k]) for k in range(3)]), rel=1e-12)


def test_a_sure_and_wrong_prediction_is_not_infinitely_bad():
    assert np.isfinite(log_loss(np.array([[1.0, 0.0]], np.float32), np.array([1])))


def test_roc_auc_of_one_class_is_not_defined():
    assert np.isnan(roc_auc(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 1])))


def test_root_mean_squared_error():
    assert root_mean_squared_error(np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]])) == pytest.approx(2**0.5)
