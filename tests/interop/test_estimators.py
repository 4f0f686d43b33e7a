"""The estimators beside scikit-learn's: the same coefficients, its checks, its tools."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import DeviceError
from tests.cuda.stand_in import gpu, shim  # noqa: F401

sklearn = pytest.importorskip("sklearn")
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROWS = 300
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(ROWS, 6))
LABELS = np.argmax(X[:, :4] + 0.3 * _RNG.normal(size=(ROWS, 4)), axis=1)
VALUES = np.exp(0.3 * X[:, 0]) + X[:, 1] ** 2
WEIGHTS = _RNG.random(ROWS)
MANY_LABELS = make_multilabel_classification(ROWS, 6, n_classes=3, random_state=0)[1]


def found_by_check() -> list[Any]:
    estimators = gb.MLPClassifier(max_iter=50), gb.MLPRegressor(max_iter=50)
    return [
        pytest.param(estimator, check, id=f"{type(estimator).__name__}-{check.func.__name__}-{i}")
        for made in estimators
        for i, (estimator, check) in enumerate(estimator_checks_generator(made))
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), found_by_check())
def test_every_check_of_scikit_learn(estimator: Any, check: Any) -> None:
    """None is expected to fail."""
    try:
        check(estimator)
    except Exception as error:
        if type(error).__name__ != "SkipTest":
            raise
        pytest.skip(str(error))


# -- the same coefficients ----------------------------------------------------------------------------------------------

CLASSIFIERS: list[tuple[dict[str, Any], Any, Any]] = [
    ({}, LABELS, None),
    ({"hidden_layer_sizes": (20, 10), "alpha": 1.0, "batch_size": 64}, LABELS, None),
    ({"hidden_layer_sizes": ()}, LABELS, None),
    ({"activation": "tanh", "early_stopping": True}, LABELS, None),
    ({"activation": "logistic", "shuffle": False}, LABELS, None),
    ({"activation": "identity", "early_stopping": True}, LABELS, WEIGHTS),
    ({"solver": "sgd", "learning_rate_init": 0.1}, LABELS, WEIGHTS),
    ({"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "invscaling"}, LABELS, None),
    ({"solver": "sgd", "learning_rate": "adaptive", "momentum": 0.5, "n_iter_no_change": 2, "tol": 0.1}, LABELS, None),
    ({"solver": "lbfgs"}, LABELS, None),
    ({"solver": "lbfgs"}, LABELS, WEIGHTS),
    ({}, LABELS > 1, WEIGHTS),
    ({}, np.array(["no", "yes"])[(LABELS > 1).astype(int)], None),
    ({}, MANY_LABELS, WEIGHTS),
    ({"solver": "lbfgs"}, MANY_LABELS, None),
]
REGRESSORS: list[tuple[dict[str, Any], Any, Any]] = [
    ({}, VALUES, WEIGHTS),
    ({"early_stopping": True}, VALUES, None),
    ({"solver": "lbfgs"}, np.c_[VALUES, -VALUES], None),
    ({}, np.c_[VALUES, -VALUES], None),
    ({"loss": "poisson"}, VALUES, WEIGHTS),
    ({"loss": "poisson", "solver": "lbfgs"}, VALUES, None),
    ({"loss": "poisson"}, np.c_[VALUES, VALUES + 1], None),
]


def both(kind: str, options: dict[str, Any], y: Any, weights: Any, x: Any = X) -> tuple[Any, Any]:
    own, other = (getattr(m, kind)(**{"max_iter": 12, "random_state": 3, **options}) for m in (gb, theirs))
    given = {} if weights is None else {"sample_weight": weights}
    return own.fit(x, y, **given), other.fit(x, y, **given)


def assert_same(own: Any, other: Any, tolerance: float = 1e-10) -> None:
    for a, b in zip(own.coefs_ + own.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        assert a.dtype == b.dtype
        assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-3)


@pytest.mark.parametrize(
    ("kind", "options", "y", "weights"),
    [("MLPClassifier", *case) for case in CLASSIFIERS] + [("MLPRegressor", *case) for case in REGRESSORS],
)
def test_the_coefficients_are_scikit_learns(kind: str, options: dict[str, Any], y: Any, weights: Any) -> None:
    own, other = both(kind, options, y, weights)
    assert_same(own, other)
    # scikit-learn reports the mean over the outputs of a squared error of which it minimises the sum.
    several = kind == "MLPRegressor" and y.ndim == 2 and options.get("loss") != "poisson"
    factor = y.shape[1] if several and options.get("solver") != "lbfgs" else 1
    if not (several and options.get("solver") == "lbfgs"):
        assert own.loss_ == pytest.approx(other.loss_ * factor, rel=1e-4 if several else 1e-9)
    names = {n for n in vars(other) if n.endswith("_") and not n.endswith("__")}
    assert names == {n for n in vars(own) if n.endswith("_") and not n.endswith("__")}
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(own, name) == getattr(other, name)
    np.testing.assert_array_equal(own.predict(X) if "Cl" in kind else [], other.predict(X) if "Cl" in kind else [])
    if "Cl" in kind:
        np.testing.assert_allclose(own.predict_proba(X), other.predict_proba(X), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(own.loss_curve_, other.loss_curve_, rtol=1e-9) if own.solver != "lbfgs" else None


def test_float32_stays_float32() -> None:
    own, other = both("MLPClassifier", {"max_iter": 3}, LABELS, None, X.astype(np.float32))
    assert_same(own, other, 1e-5)
    assert own.predict_proba(X.astype(np.float32)).dtype == np.float32


def test_epochs_one_by_one() -> None:
    models = [m.MLPClassifier(random_state=3) for m in (gb, theirs)]
    for i in range(6):
        rows = slice(50 * i, 50 * i + 50)
        for k, model in enumerate(models):
            model.partial_fit(X[rows], LABELS[rows], **({"classes": range(4)} if not i else {}))
            if i == 2:
                models[k] = pickle.loads(pickle.dumps(model))
    assert_same(*models)


def test_a_fit_goes_on_where_it_was() -> None:
    own, other = both("MLPClassifier", {"warm_start": True}, LABELS, None)
    assert_same(own.fit(X, LABELS), other.fit(X, LABELS))
    assert own.t_ == other.t_


def test_a_fit_with_another_loss_is_as_good_as_new() -> None:
    options: dict[str, Any] = {"max_iter": 12, "random_state": 3}
    used = gb.MLPRegressor(**options).fit(X, VALUES).set_params(loss="poisson").fit(X, VALUES)
    fresh = gb.MLPRegressor(loss="poisson", **options).fit(X, VALUES)
    assert_same(used, fresh, 0)
    np.testing.assert_array_equal(used.predict(X), fresh.predict(X))
    three = gb.MLPClassifier(**options).fit(X, np.argmax(X[:, :3], axis=1)).fit(X, MANY_LABELS)
    assert_same(three, gb.MLPClassifier(**options).fit(X, MANY_LABELS), 0)
    assert np.ptp(three.predict_proba(X).sum(axis=1)) > 0.01


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_counts_below_0_are_refused(solver: str) -> None:
    with pytest.raises(ValueError, match="counts, which are not below 0"):
        gb.MLPRegressor(loss="poisson", solver=solver, max_iter=2).fit(X, VALUES - VALUES.max())


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_sparse_x_gives_what_a_dense_one_gives(solver: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x = np.where(X > 0.5, X, 0.0)
    dense, _ = both("MLPClassifier", {"solver": solver}, LABELS, WEIGHTS, x)
    for made in (sparse.csr_matrix(x), sparse.csc_array(x)):
        found, _ = both("MLPClassifier", {"solver": solver}, LABELS, WEIGHTS, made)
        assert_same(found, dense)
        np.testing.assert_array_equal(found.predict(made), dense.predict(x))


# -- this library's own parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_dropout_and_normalisation(normalization: str | None, early: bool) -> None:
    options = {"dropout": 0.2, "normalization": normalization, "early_stopping": early, "hidden_layer_sizes": (32, 16)}
    model = gb.MLPClassifier(random_state=0, max_iter=60, learning_rate_init=0.01, **options).fit(X, LABELS)
    assert model.score(X, LABELS) > 0.75
    again = gb.MLPClassifier(random_state=0, max_iter=60, learning_rate_init=0.01, **options).fit(X, LABELS)
    expected = model.predict_proba(X)
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)
    assert ("other_weights_" in vars(model)) == (normalization is not None)
    plain = gb.MLPClassifier(random_state=0, max_iter=60, learning_rate_init=0.01, **{**options, "dropout": 0.0})
    assert np.abs(plain.fit(X, LABELS).predict_proba(X) - expected).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", gb.RMSprop(0.01)], ids=str)
def test_any_optimizer_and_schedule(optimizer: Any) -> None:
    model = gb.MLPClassifier(
        random_state=0, max_iter=40, optimizer=optimizer, learning_rate_init=0.02, schedule="cosine", activation="gelu"
    ).fit(X, LABELS)
    assert model.score(X, LABELS) > 0.6
    assert sklearn.clone(model).get_params().keys() == model.get_params().keys()
    # The object that was handed over is nobody's: it can be handed over again.
    model.fit(X, LABELS)


def test_a_schedule_goes_on_from_call_to_call() -> None:
    def rates(**options: Any) -> list[float]:
        model = gb.MLPClassifier(batch_size=100, learning_rate_init=1.0, **options)
        found = []
        for _ in range(4):
            model.partial_fit(X, LABELS, classes=range(4))
            found.append(model._optimizer.current_learning_rate())
        return found

    schedule = gb.schedules.Cosine(total=12, warmup=3)
    np.testing.assert_allclose(rates(schedule=schedule), [schedule(step) for step in (2, 5, 8, 11)])
    constant = gb.schedules.Constant(warmup=8)
    np.testing.assert_allclose(rates(schedule=constant), [3 / 9, 6 / 9, 1, 1])
    for refused in ({"schedule": "cosine"}, {"optimizer": gb.Adam(0.1, schedule=gb.schedules.Cosine(warmup=5))}):
        with pytest.raises(ValueError, match=r"Cosine\(total="):
            rates(**refused)


def test_weights_of_classes() -> None:
    y = (X[:, 0] > 1.2).astype(int)
    weights = {0: 1.0, 1: 5.0}
    by_class = gb.MLPClassifier(random_state=0, max_iter=5, class_weight=weights).fit(X, y)
    by_row = gb.MLPClassifier(random_state=0, max_iter=5).fit(X, y, sample_weight=np.where(y, 5.0, 1.0))
    assert_same(by_class, by_row, 0)
    balanced = gb.MLPClassifier(random_state=0, max_iter=30, class_weight="balanced").fit(X, y)
    plain = gb.MLPClassifier(random_state=0, max_iter=30).fit(X, y)
    assert balanced.predict(X).sum() > plain.predict(X).sum()
    with pytest.raises(ValueError, match="needs all rows"):
        gb.MLPClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_data_frame_with_text(library: str) -> None:
    frames = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    colour = np.array(["red", "green", "blue"])[rng.integers(0, 3, ROWS)]
    frame = frames.DataFrame({"colour": colour, "size": X[:, 0]})
    y = np.where((colour == "red") | (X[:, 0] > 1), "yes", "no")
    model = gb.MLPClassifier(random_state=0, max_iter=200, learning_rate_init=0.02).fit(frame, y)
    assert model.score(frame, y) > 0.95
    turned = frame[["size", "colour"]]
    np.testing.assert_array_equal(model.predict(turned), model.predict(frame))
    regressor = gb.MLPRegressor(random_state=0, max_iter=200, learning_rate_init=0.02, solver="adam")
    assert regressor.fit(frame, (y == "yes") * 1.0).score(frame, (y == "yes") * 1.0) > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lbfgs", "dropout": 0.5}, "lbfgs"),
        ({"solver": "lbfgs", "optimizer": "adamw"}, "lbfgs"),
        ({"dropout": 1.0}, "dropout"),
        ({"normalization": "group"}, "normalization"),
        ({"activation": "swoosh"}, "activation"),
        ({"optimizer": "adamm"}, "did you mean"),
        ({"schedule": "cosin"}, "did you mean"),
        ({"device": "gpu"}, "unknown device"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "validation"),
    ],
)
def test_parameters_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gb.MLPClassifier(**options).fit(X, LABELS)


# -- devices ------------------------------------------------------------------------------------------------------------


def test_on_the_strict_device() -> None:
    on_cpu, _ = both("MLPClassifier", {}, LABELS, WEIGHTS)
    assert_same(gb.MLPClassifier(max_iter=12, random_state=3, device="strict").fit(X, LABELS, WEIGHTS), on_cpu)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_on_a_gpu(gpu: Any, solver: str) -> None:  # noqa: F811
    x = X.astype(np.float32)
    options: dict[str, Any] = {"max_iter": 3, "random_state": 3, "solver": solver}
    on_cpu = gb.MLPClassifier(**options, device="cpu").fit(x, LABELS, WEIGHTS)
    assert_same(gb.MLPClassifier(**options, device="cuda").fit(x, LABELS, WEIGHTS), on_cpu, 1e-3)


def test_fitted_on_a_gpu_and_opened_where_there_is_none(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    x = X.astype(np.float32)
    model = gb.MLPClassifier(max_iter=3, random_state=3, device="cuda").fit(x, LABELS)
    stored, expected = pickle.dumps(model), model.predict_proba(x)

    def none(device: Any, **options: Any) -> Any:
        if device == "cuda":
            raise DeviceError("there is none")
        return gb.get_backend(device, **options)

    monkeypatch.setattr("gpubackprop.interop.estimators.get_backend", none)
    opened = pickle.loads(stored)
    np.testing.assert_allclose(opened.predict_proba(x), expected, rtol=1e-4)
    with pytest.raises(DeviceError, match="there is none"):
        opened.fit(x, LABELS)


def test_small_steps_stay_on_the_cpu(gpu: Any) -> None:  # noqa: F811
    small = gb.MLPClassifier(max_iter=1).fit(X.astype(np.float32), LABELS)
    large = gb.MLPClassifier(max_iter=1, hidden_layer_sizes=(2000, 200)).fit(X.astype(np.float32), LABELS)
    assert [m._network().backend.name for m in (small, large)] == ["cpu", "cuda:0"]


# -- scikit-learn's tools -----------------------------------------------------------------------------------------------


def test_in_its_tools() -> None:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), gb.MLPClassifier(random_state=0, max_iter=100, learning_rate_init=0.02))
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.9
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__hidden_layer_sizes": [(10,), (20, 10)]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(x, y)
    assert search.best_score_ > 0.9
    assert CalibratedClassifierCV(pipeline, cv=2).fit(x, y).score(x, y) > 0.9
    importance = permutation_importance(search.best_estimator_, x, y, n_repeats=2, random_state=0).importances_mean
    assert importance.argmax() in (2, 3)
    regressor = make_pipeline(StandardScaler(), gb.MLPRegressor(random_state=0, max_iter=200, learning_rate_init=0.02))
    assert regressor.fit(*load_diabetes(return_X_y=True)).score(*load_diabetes(return_X_y=True)) > 0.4


def test_joblib_and_copies(tmp_path: Any) -> None:
    import joblib

    model = gb.MLPClassifier(random_state=0, max_iter=5).fit(X, LABELS)
    expected = model.predict_proba(X)
    joblib.dump(model, tmp_path / "model.joblib")
    for other in (joblib.load(tmp_path / "model.joblib"), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.predict_proba(X), expected)
    # Coefficients may be set, as those of scikit-learn may.
    model.coefs_[0][:] = 0
    assert np.ptp(model.predict_proba(X), axis=0).max() < 1e-12


def test_without_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\nimport gpubackprop as gb\n"
        "try:\n    gb.MLPClassifier\nexcept gb.GpuBackpropError as error:\n    print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "gpubackprop[sklearn]"' in told


def test_interrupted_it_keeps_what_it_has() -> None:
    class Interrupted(gb.MLPClassifier):  # type: ignore[misc]
        def _update_no_improvement_count(self, *arguments: Any) -> None:
            super()._update_no_improvement_count(*arguments)
            if self.n_iter_ == 2:
                raise KeyboardInterrupt

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = Interrupted(random_state=0).fit(X, LABELS)
    assert any("interrupted by user" in str(w.message) for w in told)
    two = gb.MLPClassifier(random_state=0, max_iter=2).fit(X, LABELS)
    assert_same(model, two, 0)
