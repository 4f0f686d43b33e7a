"""scikit-learn's `MLPClassifier` and `MLPRegressor`, trained by this library's engine, on a GPU or on the CPU.

The classes derive from scikit-learn's own. Parameters, defaults, checks of the input, labels, attributes and the rule that
ends a fit are theirs; the mathematics between, each batch's step, the loss for L-BFGS and the predictions, is an `Engine`'s.
With the same `random_state` the same weights are drawn and the same batches taken in the same order, so that float64
coefficients agree with scikit-learn's to rounding. Where scikit-learn reports a loss that is not the one that it minimises
(squared errors of several outputs, of which it reports 1/m), the loss here is the one that is minimised.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Array, Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.checks import check_y
from gpubackprop.data.tables import table_from
from gpubackprop.errors import ArgumentError, DeviceError, MissingExtraError
from gpubackprop.layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm
from gpubackprop.losses import BinaryCrossEntropy, Loss, Poisson, get_loss
from gpubackprop.network.network import Network
from gpubackprop.network.parameters import Parameters
from gpubackprop.network.rows import Rows
from gpubackprop.optimizers import Optimizer, get_optimizer
from gpubackprop.optimizers.schedules import Schedule, get_schedule
from gpubackprop.pipeline.encoder import Encoder
from gpubackprop.sparse import SparseRows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier as _TheirClassifier
    from sklearn.neural_network import MLPRegressor as _TheirRegressor
    from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
    from sklearn.utils import gen_batches, shuffle
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise MissingExtraError("gb.MLPClassifier and gb.MLPRegressor", "sklearn") from error

Matrix: TypeAlias = "np.ndarray | csr_matrix"
Input: TypeAlias = "ArrayLike | csr_matrix"
"""What scikit-learn takes, and data frames with text."""
CHUNK = 4096
"""Rows of a prediction, or of a sum over all rows, that are dense at a time."""
WORTH_A_GPU = 2**27
"""Multiplications of a training step from which device="auto" takes a GPU. Not yet measured on one."""
_OWN = {"logistic": "sigmoid"}
"""This library's names of scikit-learn's activations, where they differ."""


# -- losses and rules that scikit-learn defines otherwise ---------------------------------------------------------------


class _SummedBinaryCrossEntropy(BinaryCrossEntropy):
    """The sum over the outputs, and the mean over the rows."""

    over_outputs = False


class _SummedPoisson(Poisson):
    """The sum over the outputs, and the mean over the rows."""

    over_outputs = False


class _Penalised(Optimizer):
    """A rule whose gradient has alpha W / s added for the weights W, where s is the sum of the batch's sample weights.

    `plan` says, before each epoch, the rows of each batch and its s; `penalties` is the sum over its steps of
    rows * alpha / (2 s) |W|^2.
    """

    workspace = ("_penalties", "_square")

    def __init__(self, learning_rate: float, alpha: float) -> None:
        super().__init__(learning_rate)
        self.alpha = alpha
        self._first = 1
        self._plan: list[tuple[float, float]] = []

    def bind(self, parameters: Parameters) -> None:
        if self.parameters is not parameters:
            super().bind(parameters)
            be = parameters.backend
            self._penalties, self._square = be.zeros((), np.float64), be.zeros((), np.float64)

    def plan(self, rows: list[int], masses: list[float]) -> None:
        """The rows and the sums of sample weights of the steps to come."""
        shares = [self.alpha / mass if mass else 0.0 for mass in masses]
        self._plan = [(share, 0.5 * share * n) for n, share in zip(rows, shares, strict=True)]
        self._first = self.t + 1
        if self.parameters is not None:
            self.parameters.backend.fill(self._penalties, 0.0)

    @property
    def penalties(self) -> float:
        """The penalties of the steps since `plan`, each times its rows."""
        assert self.parameters is not None
        return float(self.parameters.backend.to_host(self._penalties))

    def own_scalars(self, lr: float, t: int) -> tuple[float, ...]:
        """The numbers of the rule without the penalty."""
        return (lr,)

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        i = t - self._first
        return (*self.own_scalars(lr, t), *(self._plan[i] if 0 <= i < len(self._plan) else (0.0, 0.0)))

    def update(self, be: Backend, P: Array, G: Array) -> None:
        xp, (share, half) = be.xp, self.h[-2:]
        assert self.parameters is not None
        for s in self.parameters.segments:
            if s.is_weight:
                W, g = (flat[s.start : s.start + s.size] for flat in (P, G))
                be.total_of_squares(W, 1.0, self._square)
                xp.multiply(self._square, half, out=self._square)
                xp.add(self._penalties, self._square, out=self._penalties)
                t = be.scratch(W)
                xp.multiply(W, share, out=t)
                xp.add(g, t, out=g)
        super().update(be, P, G)


class _SGD(_Penalised):
    """v <- mu v - eta g; p <- p + v, or, of Nesterov's kind, p <- p + mu v - eta g. The rate is a part of v."""

    states = ("v",)

    def __init__(self, learning_rate: float, alpha: float, momentum: float, nesterov: bool) -> None:
        super().__init__(learning_rate, alpha)
        self.momentum, self.nesterov = momentum, nesterov

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, (v,) = be.xp, state
        xp.multiply(g, h[0], out=g)
        xp.multiply(v, self.momentum, out=v)
        xp.subtract(v, g, out=v)
        if not self.nesterov:
            xp.add(p, v, out=p)
            return
        t = be.scratch(p)
        xp.multiply(v, self.momentum, out=t)
        xp.subtract(t, g, out=t)
        xp.add(p, t, out=p)


class _Adam(_Penalised):
    """p <- p - eta (sqrt(c2) / c1) m / (sqrt(v) + eps): eps comes before the bias correction, as in section 2 of Kingma and
    Ba (2015), where their Algorithm 1 and `gpubackprop.Adam` have it after."""

    states = ("m", "v")

    def __init__(self, learning_rate: float, alpha: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(learning_rate, alpha)
        self.betas, self.eps = betas, eps

    def own_scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return (lr * sqrt(1 - self.betas[1] ** t) / (1 - self.betas[0] ** t),)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, (m, v) = be.xp, be.scratch(p), state
        xp.multiply(g, g, out=t)
        be.decaying_average(v, self.betas[1], t, t)
        be.decaying_average(m, self.betas[0], g, t)
        xp.sqrt(v, out=t)
        xp.add(t, self.eps, out=t)
        xp.divide(m, t, out=t)
        be.subtract_scaled(p, h[0], t)


# -- the estimators -----------------------------------------------------------------------------------------------------


def _has_text(x: object) -> bool:
    """Whether x is a data frame with columns that are no numbers."""
    if not (hasattr(x, "dtypes") and hasattr(x, "columns")):
        return hasattr(x, "__arrow_c_stream__")
    return not all(str(t).lower().startswith(("int", "uint", "float", "bool", "sparse")) for t in x.dtypes)


class _OnAnEngine(BaseMultilayerPerceptron):  # type: ignore[misc]
    """The part of both estimators that this library does.

    Attributes that end in an underscore are scikit-learn's, but for `encoder_`, which turns the columns of a data frame with
    text into inputs, and `other_weights_`, the arrays of normalisation layers by their names in the network.
    """

    encoder_: Encoder
    _held: tuple[tuple[object, ...], Network]
    """The last network, and what it was made for."""

    def _network(self) -> Network:
        """A network of the shape of `coefs_`, with these weights; the one of the last call where it fits."""
        widths = [self.coefs_[0].shape[0], *(len(b) for b in self.intercepts_)]
        dtype = np.dtype(self.coefs_[0].dtype)
        l2 = 0.0 if self.optimizer is None else self.alpha / self.__dict__.get("_rows_a_step", 1)
        seed = self.__dict__.get("_seed", 0)
        settings = ("activation", "dropout", "normalization", "precision", "device")
        chosen = [str(getattr(self, name)) for name in settings]
        key = (*widths, dtype, self.out_activation_, *chosen, l2, seed, "_restored" in self.__dict__)
        if "_held" not in self.__dict__ or self._held[0] != key:
            self._held = key, self._built(widths, dtype, l2, seed)
        net = self._held[1]
        net.engine.write(self._arrays(net))
        return net

    def _built(self, widths: list[int], dtype: np.dtype[Any], l2: float, seed: int) -> Network:
        f = str(_OWN.get(self.activation, self.activation))
        normalised = self.normalization is not None
        layers: list[Layer] = []
        for i, (d, m) in enumerate(pairwise(widths)):
            last = i == len(widths) - 2
            layers.append(Dense(d, m, None if last or normalised else f))
            if normalised and not last:
                layers += [(BatchNorm if self.normalization == "batch" else LayerNorm)(m), Activation(f)]
            if self.dropout and not last:
                layers.append(Dropout(self.dropout))
        device, precision = self.device, self.precision
        if device == "auto":
            rows = 200 if isinstance(self.batch_size, str) else self.batch_size
            device = "auto" if 3 * rows * sum(d * m for d, m in pairwise(widths)) >= WORTH_A_GPU else "cpu"
        try:
            device = get_backend(device, precision=precision or "native")
        except DeviceError:
            if "_restored" not in self.__dict__:
                raise
            # Fitted on a GPU, and opened where there is none.
            device, precision = "cpu", None
        return Network(layers, loss=self._loss(), device=device, dtype=dtype, precision=precision, seed=seed, l2=l2)

    def _arrays(self, net: Network) -> dict[str, np.ndarray]:
        """`coefs_`, `intercepts_` and `other_weights_`, by the names of the network."""
        others = self.__dict__.get("other_weights_") or (net.initial_arrays() if self.normalization else {})
        arrays = dict(others)
        for i, W, b in zip(_dense_layers(net), self.coefs_, self.intercepts_, strict=True):
            arrays |= {f"{i}.weight": np.asarray(W, net.dtype), f"{i}.bias": np.asarray(b, net.dtype)}
        return arrays

    def _take(self, net: Network) -> None:
        """Host copies of the network's arrays into the attributes."""
        arrays = net.get_weights()
        self.coefs_ = [arrays.pop(f"{i}.weight") for i in _dense_layers(net)]
        self.intercepts_ = [arrays.pop(f"{i}.bias") for i in _dense_layers(net)]
        if arrays:
            self.other_weights_ = arrays

    def _loss(self) -> Loss:
        several = self.n_outputs_ > 1
        if self.out_activation_ == "logistic":
            return _SummedBinaryCrossEntropy() if several else get_loss("binary_cross_entropy")
        if self.out_activation_ == "exp":
            return _SummedPoisson() if several else get_loss("poisson")
        return get_loss("cross_entropy" if self.out_activation_ == "softmax" else "half_squared_error")

    def _targets(self, y: np.ndarray, net: Network) -> Array:
        """scikit-learn's targets (n, m) as the loss takes them; ArgumentError for what it does not take."""
        given = y.argmax(axis=1) if self.out_activation_ == "softmax" else y
        return check_y(given, len(y), net.widths[-1], net.dtype, net.loss_function, net.backend)

    def _forward_pass_fast(self, X: Input, check_input: bool = True) -> np.ndarray:
        if check_input and "encoder_" in self.__dict__:
            X = self.encoder_.transform(table_from(X))
        elif check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        found: np.ndarray = self._network().predict(X)
        return found

    def _validate_input(self, X: Input, y: ArrayLike, incremental: bool, reset: bool) -> tuple[Matrix, np.ndarray]:
        if self.solver == "lbfgs" and (self.dropout or self.normalization or self.optimizer):
            raise ValueError(
                'solver="lbfgs" trains a plain network: dropout, normalization and optimizer need solver="adam" or "sgd"'
            )
        if reset:
            for name in ("encoder_", "other_weights_"):
                self.__dict__.pop(name, None)
        if "encoder_" in self.__dict__:
            X = self.encoder_.transform(table_from(X))
        elif reset and _has_text(X):
            table, values, classes = table_from(X), np.asarray(y), 0
            if hasattr(self, "predict_proba") and values.ndim == 1:
                found, values = np.unique(values, return_inverse=True)
                classes = len(found)
            else:
                values = values.reshape(len(values), -1).astype(float)
            self.encoder_ = Encoder.fit(table, values, classes)
            X = self.encoder_.transform_training(table, values, classes)
        checked: tuple[Any, Any] = super()._validate_input(X, y, incremental, reset)
        return checked

    def _fit(self, X: Input, y: ArrayLike, sample_weight: ArrayLike | None = None, incremental: bool = False) -> object:
        self.__dict__.pop("_restored", None)
        weight = getattr(self, "class_weight", None)
        if weight is not None:
            if incremental and weight == "balanced":
                raise ValueError('class_weight="balanced" needs all rows, which partial_fit has not: give a dict')
            of_classes = compute_sample_weight(weight, y)
            sample_weight = of_classes if sample_weight is None else np.asarray(sample_weight) * of_classes
        return super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)

    def __getstate__(self) -> dict[str, Any]:
        """Host arrays alone: the network is made anew, on the CPU where its device is not there."""
        state: dict[str, Any] = super().__getstate__()
        kept = {k: v for k, v in state.items() if k != "_held"}
        return {**kept, "_restored": True} if "coefs_" in kept else kept

    # -- L-BFGS -------------------------------------------------------------------------------------------------------

    def _loss_grad_lbfgs(
        self,
        packed_coef_inter: np.ndarray,
        X: Matrix,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        *buffers: object,
    ) -> tuple[float, np.ndarray]:
        """The loss with its penalty, and its gradient as scikit-learn packs it, summed over chunks of the rows."""
        self._unpack(packed_coef_inter)
        net = self._network()
        weights = np.ones(X.shape[0]) if sample_weight is None else sample_weight
        mass, targets, X = float(weights.sum()), self._targets(y, net), X.tocsr() if hasattr(X, "tocsr") else X
        loss = self._constant(y, weights / mass) + sum(
            0.5 * self.alpha / mass * float(np.vdot(W, W)) for W in self.coefs_
        )
        W_grads = [self.alpha / mass * W for W in self.coefs_]
        b_grads = [np.zeros_like(b) for b in self.intercepts_]
        for start in range(0, X.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            w = weights[rows]
            if w.any():
                given = None if sample_weight is None else w
                value, found = net.loss_and_gradients(X[rows], targets[rows], sample_weight=given)
                loss += value * len(w) / mass
                for i, W_grad, b_grad in zip(_dense_layers(net), W_grads, b_grads, strict=True):
                    W_grad += len(w) / mass * found[f"{i}.weight"]
                    b_grad += len(w) / mass * found[f"{i}.bias"]
        return loss, np.hstack([a.ravel() for a in (*W_grads, *b_grads)])

    def _constant(self, y: np.ndarray, shares: np.ndarray) -> float:
        """scikit-learn's loss less this library's: for Poisson's, terms in y alone, summed with `shares`."""
        if self.out_activation_ != "exp":
            return 0.0
        return float(shares @ (y * np.log(np.where(y > 0, y, 1.0)) - y).sum(axis=1))

    # -- gradient descent ---------------------------------------------------------------------------------------------

    def _rule(self) -> Optimizer:
        if isinstance(self.optimizer, str):
            return get_optimizer(self.optimizer, learning_rate=self.learning_rate_init)
        if self.optimizer is not None:
            return copy.deepcopy(get_optimizer(self.optimizer))
        if self.solver == "sgd":
            return _SGD(self.learning_rate_init, self.alpha, self.momentum, self.nesterovs_momentum)
        return _Adam(self.learning_rate_init, self.alpha, (self.beta_1, self.beta_2), self.epsilon)

    def _parts(self, X: Matrix, y: np.ndarray, weights: np.ndarray | None) -> tuple[Any, ...]:
        """X, y and weights to train on, and those to validate on, drawn as scikit-learn draws them."""
        if not self.early_stopping:
            return X, y, weights, None, None, None
        classifies = hasattr(self, "classes_")
        parts = train_test_split(
            *([X, y] if weights is None else [X, y, weights]),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if classifies and self.n_outputs_ == 1 else None,
        )
        if parts[1].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        held_out = self._label_binarizer.inverse_transform(parts[3]) if classifies else parts[3]
        w_train, w_held_out = (None, None) if weights is None else parts[4:]
        return parts[0], parts[2], w_train, parts[1], held_out, w_held_out

    def _fit_stochastic(self, X: Matrix, y: np.ndarray, sample_weight: np.ndarray | None, *rest: object) -> None:
        """Epochs of batches until scikit-learn's rule ends them; rest: its buffers, and whether this is one epoch more."""
        incremental = rest[-1]
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        X, y, weights, *held_out = self._parts(X, y, sample_weight)
        n = X.shape[0]
        asked = 200 if isinstance(self.batch_size, str) else self.batch_size
        size = min(asked, n)
        if asked > n and self.batch_size != "auto":
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
            )
        if self.dropout and not incremental:
            self._seed = int(self._random_state.randint(2**31))
        self._rows_a_step = size
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._rule()
        net, batches = self._network(), list(gen_batches(n, size))
        engine, be = net.engine, net.backend
        if self._optimizer.parameters not in (None, engine.parameters):
            # The network was made anew; the copy keeps the rule's state, and is free to train it.
            self._optimizer = copy.deepcopy(self._optimizer)
        rule = self._optimizer
        with engine:
            rule.bind(engine.parameters)
            held = None if weights is None else np.empty((n, 1), net.dtype)
            targets = self._targets(y, net)
            x: Array = SparseRows(X, net.dtype) if hasattr(X, "tocsr") else X
            source = be.stream(x, targets, held) or Rows(be, x, targets, net.dtype, weights=held)
        if self.schedule is not None:
            rule.schedule = get_schedule(self.schedule)
        if incremental and rule.schedule.needs_total and rule.schedule.total is None:
            raise ArgumentError(
                f"partial_fit cannot tell how long the {rule.schedule.name} schedule has to last: give the schedule as an object "
                f"of gb.schedules with total=, the number of steps of all calls, as {type(rule.schedule).__name__}(total=10_000)"
            )
        rule.span(rule.t, (1 if incremental else self.max_iter) * len(batches))
        order, rows = np.arange(n), [b.stop - b.start for b in batches]
        self.n_iter_ = 0
        try:
            while self.n_iter_ < self.max_iter:
                if self.shuffle:
                    order = shuffle(order, random_state=self._random_state)
                    source.order(order)
                masses, shares = [float(m) for m in rows], np.ones(n)
                if weights is not None:
                    # scikit-learn's mean over a batch is weighted: sum w l / sum w.
                    masses = [float(weights[order[b]].sum()) for b in batches]
                    for b, m, mass in zip(batches, rows, masses, strict=True):
                        shares[order[b]] = weights[order[b]] * (m / mass if mass else 0.0)
                    be.copy_in(shares.astype(net.dtype).reshape(-1, 1), source.weights)
                penalised = rule if isinstance(rule, _Penalised) else None
                if penalised is not None:
                    penalised.plan(rows, masses)
                with engine.fit():
                    engine.reset()
                    engine.train(source, 0, len(batches), rule, size)
                total = engine.read()[0] + (0.0 if penalised is None else penalised.penalties)
                self.n_iter_ += 1
                self.t_ += n
                self.loss_ = total / n + self._constant(y, shares / n)
                self.loss_curve_.append(self.loss_)
                if self.verbose:
                    print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
                if self.early_stopping:
                    self._take(net)
                self._update_no_improvement_count(self.early_stopping, *held_out)
                if self.solver == "sgd" and self.learning_rate == "invscaling":
                    rule.learning_rate = self.learning_rate_init / (self.t_ + 1) ** self.power_t
                if self._no_improvement_count > self.n_iter_no_change and self._ends(rule):
                    break
                if incremental:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                        "converged yet.",
                        ConvergenceWarning,
                        stacklevel=2,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        self._take(net)
        if self.early_stopping:
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts
            if "_best_others" in self.__dict__:
                self.other_weights_ = self._best_others

    def _update_no_improvement_count(self, early_stopping: bool, *held_out: object) -> None:
        best = getattr(self, "best_validation_score_", None)
        super()._update_no_improvement_count(early_stopping, *held_out)
        if "other_weights_" in self.__dict__ and self.best_validation_score_ != best:
            self._best_others = self.other_weights_

    def _ends(self, rule: Optimizer) -> bool:
        """Whether the fit ends that has not improved for `n_iter_no_change` epochs, or goes on at a fifth of the rate."""
        what = "Validation score" if self.early_stopping else "Training loss"
        told = f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        if self.solver != "sgd" or self.learning_rate != "adaptive" or rule.learning_rate <= 1e-6:
            if self.verbose:
                small = self.solver == "sgd" and self.learning_rate == "adaptive"
                print(told + (" Learning rate too small." if small else "") + " Stopping.")
            return True
        rule.learning_rate /= 5.0
        self._no_improvement_count = 0
        if self.verbose:
            print(f"{told} Setting learning rate to {rule.learning_rate:f}")
        return False


def _dense_layers(net: Network) -> list[int]:
    return [i for i, layer in enumerate(net.layers) if isinstance(layer, Dense)]


def _keep(estimator: object, arguments: dict[str, Any]) -> None:
    """A constructor's arguments, each as the attribute of its name and nothing else, as scikit-learn's `clone` needs."""
    for name, value in arguments.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


_CONSTRAINTS: dict[str, list[Any]] = {
    "activation": [StrOptions({*_OWN, *ACTIVATIONS})],
    "device": [str, Backend],
    "precision": [None, str],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "normalization": [None, StrOptions({"batch", "layer"})],
    "optimizer": [None, str, Optimizer],
    "schedule": [None, str, Schedule],
}


class MLPClassifier(_OnAnEngine, _TheirClassifier):  # type: ignore[misc]
    """scikit-learn's `MLPClassifier`, whose parameters, attributes and methods it has, on an engine of this library.

    This library's own parameters:

    device: "auto" (the CPU for small steps, else a GPU where there is one), "cpu", "cuda", "cuda:1". precision: None, or how
    products are carried out on a GPU ("tf32", "bf16", "fp16"). activation: any of `gb.activations` too. dropout: behind each
    hidden layer. normalization: None, "batch" or "layer", before each hidden activation. optimizer: None for the rule of
    `solver`, or a name or an object of this library, whose L2 penalty is then alpha over the rows of a full batch. schedule: a
    name or an object of `gb.schedules`, over `max_iter` epochs; in `partial_fit` it goes on from call to call, and needs total=,
    the steps of all calls, unless it is one without an end.
    class_weight: None, "balanced" or {class: weight}, which multiplies the weights of the rows.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_TheirClassifier._parameter_constraints,
        **_CONSTRAINTS,
        "class_weight": [None, dict, StrOptions({"balanced"})],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str | Backend = "auto",
        precision: str | None = None,
        dropout: float = 0.0,
        normalization: str | None = None,
        optimizer: str | Optimizer | None = None,
        schedule: str | Schedule | None = None,
        class_weight: dict[Any, float] | str | None = None,
    ) -> None:
        _keep(self, locals())
        self.loss = "log_loss"


class MLPRegressor(_OnAnEngine, _TheirRegressor):  # type: ignore[misc]
    """scikit-learn's `MLPRegressor`, whose parameters, attributes and methods it has, on an engine of this library.

    This library's own parameters:

    device: "auto" (the CPU for small steps, else a GPU where there is one), "cpu", "cuda", "cuda:1". precision: None, or how
    products are carried out on a GPU ("tf32", "bf16", "fp16"). activation: any of `gb.activations` too. dropout: behind each
    hidden layer. normalization: None, "batch" or "layer", before each hidden activation. optimizer: None for the rule of
    `solver`, or a name or an object of this library, whose L2 penalty is then alpha over the rows of a full batch. schedule: a
    name or an object of `gb.schedules`, over `max_iter` epochs; in `partial_fit` it goes on from call to call, and needs total=,
    the steps of all calls, unless it is one without an end.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {**_TheirRegressor._parameter_constraints, **_CONSTRAINTS}

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str | Backend = "auto",
        precision: str | None = None,
        dropout: float = 0.0,
        normalization: str | None = None,
        optimizer: str | Optimizer | None = None,
        schedule: str | Schedule | None = None,
    ) -> None:
        _keep(self, locals())
