import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.losses import get_loss
from gpubackprop.metrics import (
    NAMES,
    accuracy,
    balanced_accuracy,
    checked,
    confusion_matrix,
    label_accuracy,
    larger_is_better,
    log_loss,
    macro_f1,
    mean_absolute_error,
    measured,
    r2,
    roc_auc,
    root_mean_squared_error,
    scores,
    top_k_accuracy,
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


@pytest.mark.parametrize("metric", [label_accuracy, r2, mean_absolute_error, root_mean_squared_error])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 2)])
def test_metrics_of_elements_never_broadcast(metric, shape):
    with pytest.raises(gb.GpuBackpropError, match=r"the shape of the outputs, \(3, 1\)"):
        metric(np.zeros((3, 1)), np.zeros(shape))


@pytest.mark.parametrize(
    ("metric", "m", "y"),
    [(roc_auc, 1, [0, 1, 1]), (log_loss, 1, [0, 1, 1]), (roc_auc, 2, [[0], [1], [1]]), (log_loss, 2, [[0], [1], [1]])]
    + [(metric, 2, labels) for metric in (roc_auc, log_loss) for labels in ([0, 1], [0, 1, 2], [-1, 0, 1])]
    + [(lambda p, y: top_k_accuracy(p, y, 1), 2, [[0], [1], [1]])],
)
def test_metrics_of_classes_never_broadcast(metric, m, y):
    with pytest.raises(gb.GpuBackpropError, match="y must"):
        metric(np.full((3, m), 0.5), np.array(y))


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


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "half_squared_error"])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_metrics_of_outputs_that_are_nan_are_nan(loss, m):
    if loss == "cross_entropy" and m == 1:
        return
    labels = np.array([0, 0, 0, 1])
    y = labels if loss == "cross_entropy" else np.eye(4)[labels][:, :m]
    p = np.full((4, m), 0.25)
    p[1] = np.nan
    several = loss == "binary_cross_entropy" and m > 1
    names = [NAMES[5:], NAMES[:5] + ("top_2",) * (m > 2), ("accuracy", "roc_auc", "log_loss")]
    found = measured(checked(names[0 if loss[0] == "h" else 1 + several]), p, y, get_loss(loss))
    assert np.isnan([*found.values()]).all(), found
    if m > 1:
        with pytest.raises(gb.GpuBackpropError, match="NaN in row 1"):
            confusion_matrix(p, labels)


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


def test_roc_auc_of_two_classes_is_that_of_the_second_where_the_first_is_rounded():
    p = np.array([[1, 2e-9], [1, 6e-9], [1, 2e-8], [1, 3e-8]], np.float32)
    assert roc_auc(p, np.array([0, 0, 1, 1])) == 1


def test_a_sure_and_wrong_prediction_is_not_infinitely_bad():
    assert np.isfinite(log_loss(np.array([[1.0, 0.0]], np.float32), np.array([1])))


def test_roc_auc_of_one_class_is_not_defined():
    assert np.isnan(roc_auc(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 1])))


def test_root_mean_squared_error():
    assert root_mean_squared_error(np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]])) == pytest.approx(2**0.5)


def of(name, p, y, loss="cross_entropy"):
    (value,) = measured(checked([name]), p, y, get_loss(loss)).values()
    return value


@pytest.mark.parametrize("m", [2, 5])
@pytest.mark.parametrize("one_hot", [False, True])
def test_metrics_by_name_are_those_of_scikit_learn(m, one_hot):
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    p, labels = rng.random((150, m)), rng.integers(0, m, 150)
    p /= p.sum(axis=1, keepdims=True)
    y, taken = np.eye(m)[labels] if one_hot else labels, p.argmax(1)
    several = {"average": "macro"} if m > 2 else {}
    auc = sk.roc_auc_score(labels, p[:, 1]) if m == 2 else sk.roc_auc_score(labels, p, multi_class="ovr")
    assert of("accuracy", p, y) == pytest.approx(sk.accuracy_score(labels, taken), rel=1e-12)
    assert of("balanced_accuracy", p, y) == pytest.approx(sk.balanced_accuracy_score(labels, taken), rel=1e-12)
    assert of("f1", p, y) == pytest.approx(sk.f1_score(labels, taken, **several), rel=1e-12)
    assert of("roc_auc", p, y) == pytest.approx(auc, rel=1e-12)
    assert of("log_loss", p, y) == pytest.approx(sk.log_loss(labels, p), rel=1e-12)
    for k in range(1, m if m > 2 else 1):
        expected = sk.top_k_accuracy_score(labels, p.round(1), k=k, labels=range(m))
        assert of(f"top_{k}", p.round(1), y) == pytest.approx(expected, rel=1e-12)


def test_metrics_of_one_output_are_those_of_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    p, y = rng.random((150, 1)).astype(np.float32) ** 2, rng.integers(0, 2, (150, 1)).astype(np.float32)
    taken = p[:, 0] >= 0.5
    found = measured(checked(NAMES[:5]), p, y, get_loss("binary_cross_entropy"))
    labels = y[:, 0]
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, taken), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, taken), rel=1e-12)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, taken), rel=1e-12)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, p[:, 0]), rel=1e-12)
    # scikit-learn takes 1 - p in the type that it is given.
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, p[:, 0].astype(np.float64)), rel=1e-6)


def test_metrics_of_numbers_are_those_of_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(6)
    a, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    found = measured(checked(["mae_per_target", "r2", "root_mean_squared_error"]), a, y, get_loss("huber"))
    each = sk.mean_absolute_error(y, a, multioutput="raw_values")
    assert [found[f"mae_{i}"] for i in range(3)] == pytest.approx(list(each), rel=1e-12)
    assert found["r2"] == pytest.approx(sk.r2_score(y, a), rel=1e-12)
    assert found["root_mean_squared_error"] == pytest.approx(sk.mean_squared_error(y, a) ** 0.5, rel=1e-12)


def test_rows_that_the_loss_ignores_count_in_no_metric():
    loss = gb.losses.CrossEntropy(ignore_index=-1)
    p, y = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, -1, -1])
    assert scores(p, y, loss) == {"accuracy": 1.0}
    assert measured(checked(["accuracy", "balanced_accuracy"]), p, y, loss) == {"accuracy": 1, "balanced_accuracy": 1}
    assert np.isnan(measured(checked(["f1"]), p, np.full(4, -1), loss)["f1"])
    assert np.isnan(scores(p, np.full(4, -1), loss)["accuracy"])


def test_a_function_gets_targets_and_predictions():
    def share(y, prediction):
        return np.mean(prediction[:, 1] > y)

    assert measured(checked([share]), np.eye(2), np.array([0, 1]), get_loss("cross_entropy")) == {"share": 0.0}
    with pytest.raises(TypeError, match="'wrong' must return a number"):
        measured(checked([wrong]), np.eye(2), np.array([0, 1]), get_loss("cross_entropy"))


def wrong(y, prediction):
    return prediction


@pytest.mark.parametrize(
    ("name", "loss", "y", "match"),
    [
        ("r2", "cross_entropy", np.array([0, 1]), "of numbers, and the loss cross_entropy"),
        ("f1", "mean_squared_error", np.eye(2), "of classes, and the loss mean_squared_error"),
        ("f1", "binary_cross_entropy", np.eye(2), "several labels"),
        ("roc_auc", "cross_entropy", np.full((2, 2), 0.5), "between 0 and 1"),
        ("top_2", "cross_entropy", np.array([0, 1]), "always 1"),
    ],
)
def test_a_metric_that_means_nothing_is_refused(name, loss, y, match):
    with pytest.raises(gb.GpuBackpropError, match=match):
        of(name, np.eye(2), y, loss)


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        ("f1", "must be a list"),
        (["acuracy"], "did you mean 'accuracy'"),
        (["top_0"], "unknown metric"),
        (["f1", "f1"], "the name of another"),
        ([3], "names or functions"),
        ([accuracy], "the name of another"),
    ],
)
def test_metrics_that_are_none(metrics, match):
    with pytest.raises(gb.GpuBackpropError, match=match):
        checked(metrics)


def test_whether_large_is_good():
    for name in ("val_accuracy", "f1", "val_roc_auc", "top_3", "val_r2", "val_balanced_accuracy"):
        assert larger_is_better(name), name
    for name in ("loss", "val_mae_0", "log_loss", "root_mean_squared_error", "gradient_norm"):
        assert larger_is_better(name) is False, name
    for name in ("val_share", "val_neg_mean_squared_error", "neg_log_loss", "negative_mae_0", "minus_accuracy"):
        assert larger_is_better(name) is None, name
    assert all(larger_is_better(n) is not None for n in NAMES if n != "mae_per_target")
