from __future__ import annotations

from math import exp, log, log1p
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.losses import LOSSES, MANY_CLASSES, CrossEntropy, Loss, get_loss, memory
from gpubackprop.precision import compute_type
from tests import exact
from tests.small import make_data


def reference(name: str, a: np.ndarray, y: np.ndarray) -> float:
    """The loss as its formula stands in the table, one sample and output at a time, in Python's floats."""
    n, m = a.shape
    total = 0.0
    for i in range(n):
        row = [float(v) for v in a[i]]
        if name == "cross_entropy":
            top = max(row)
            log_sum = top + log(sum(exp(v - top) for v in row))
            target = np.eye(m)[y[i]] if y.ndim == 1 else y[i]
            total += sum(-float(t) * (v - log_sum) for t, v in zip(target, row, strict=True)) / n
            continue
        for v, t in zip(row, y[i], strict=True):
            t = float(t)
            if name == "half_squared_error":
                total += 0.5 * (v - t) ** 2 / n
            elif name == "mean_squared_error":
                total += (v - t) ** 2 / (n * m)
            elif name == "mean_absolute_error":
                total += abs(v - t) / (n * m)
            elif name == "huber":
                total += ((v - t) ** 2 / 2 if abs(v - t) <= 1 else abs(v - t) - 0.5) / (n * m)
            elif name == "poisson":
                total += (exp(v) - t * v) / (n * m)
            else:
                total += (max(v, 0) - v * t + log1p(exp(-abs(v)))) / (n * m)
    return total


def evaluate(
    be: Backend,
    loss: Loss,
    a: np.ndarray,
    y: np.ndarray,
    rows: int | None = None,
    with_delta: bool = True,
    weights: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    n, m = a.shape
    v = memory(loss, be, n, m, a.dtype)
    if weights is not None:
        v.weights = be.asarray(weights.astype(compute_type(a.dtype))[:, None])
    device_a, device_y = be.asarray(a), be.asarray(y)
    value, delta = be.empty((), np.float64), be.asarray(np.full_like(a, 7.0))
    be.loss_and_delta(loss, device_a, device_y, v, value, delta if with_delta else None, rows or n)
    np.testing.assert_array_equal(be.to_host(device_a), a)
    np.testing.assert_array_equal(be.to_host(device_y), y)
    return float(be.to_host(value)), be.to_host(delta)


def cases(n: int = 7, m: int = 4) -> list[Any]:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(m), n)
    found = [pytest.param(name, make_data(n, m, m, name, seed=1)[1], id=name) for name in sorted(LOSSES)]
    return [*found, pytest.param("cross_entropy", probabilities, id="cross_entropy probabilities")]


@pytest.mark.parametrize(("name", "y"), cases())
def test_value_and_delta(backend: Backend, name: str, y: np.ndarray) -> None:
    a = np.random.default_rng(0).normal(size=(7, 4)) * 3
    value, delta = evaluate(backend, get_loss(name), a, y)
    assert value == pytest.approx(reference(name, a, y), rel=1e-14)
    h = 1e-5
    for i, j in np.ndindex(a.shape):
        step = np.zeros_like(a)
        step[i, j] = h
        slope = (reference(name, a + step, y) - reference(name, a - step, y)) / (2 * h)
        assert delta[i, j] == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize(("name", "y"), cases())
def test_parts_add_up(backend: Backend, name: str, y: np.ndarray) -> None:
    a, loss = np.random.default_rng(0).normal(size=(7, 4)), get_loss(name)
    value, delta = evaluate(backend, loss, a, y)
    parts = [evaluate(backend, loss, a[p], y[p], rows=7) for p in (slice(0, 3), slice(3, 7))]
    assert sum(v for v, _ in parts) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(np.concatenate([d for _, d in parts]), delta, rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize(("name", "y"), cases())
def test_value_alone_is_the_same_and_leaves_delta(backend: Backend, name: str, y: np.ndarray) -> None:
    a, loss = np.random.default_rng(0).normal(size=(7, 4)), get_loss(name)
    value, delta = evaluate(backend, loss, a, y, with_delta=False)
    assert value == evaluate(backend, loss, a, y)[0]
    assert (delta == 7.0).all()


@pytest.mark.parametrize("scale", [200.0, 1e3, 1e30])
@pytest.mark.parametrize("name", ["binary_cross_entropy", "cross_entropy"])
def test_large_logits(backend: Backend, name: str, scale: float) -> None:
    a = np.array([[scale, -scale], [-scale, scale]], np.float32)
    right = np.array([0, 1]) if name == "cross_entropy" else np.array([[1, 0], [0, 1]], np.float32)
    wrong = 1 - right
    value, delta = evaluate(backend, get_loss(name), a, right)
    assert value == 0.0
    assert np.abs(delta).max() < np.finfo(np.float32).tiny
    value, delta = evaluate(backend, get_loss(name), a, wrong)
    assert value == pytest.approx(2 * scale if name == "cross_entropy" else scale, rel=1e-6)
    np.testing.assert_allclose(
        delta, [[0.5, -0.5], [-0.5, 0.5]] if name == "cross_entropy" else [[0.25, -0.25], [-0.25, 0.25]]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_binary_cross_entropy_keeps_all_digits(backend: Backend, dtype: str, y: float) -> None:
    """Of a target that is met and of one that is missed alike: p - 1 would lose them all where p is close to 1."""
    z, eps, tiny = exact.points(dtype), float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    z = z[np.abs(z) < 1e30]
    a, targets, n = z[:, None], np.full((len(z), 1), y, dtype), len(z)
    _, delta = evaluate(backend, get_loss("binary_cross_entropy"), a, targets)
    sign = 1 if y == 0 else -1
    expected = np.array([float(sign * exact.sigmoid(sign * mpf(float(v)))) for v in z])
    off = np.abs(delta[:, 0] * n - expected)
    assert (off <= 10 * eps * np.abs(expected) + n * tiny).all()
    for v in z[::9]:
        value, _ = evaluate(backend, get_loss("binary_cross_entropy"), np.array([[v]]), targets[:1])
        want = float(mp.log1p(mp.exp(sign * mpf(float(v)))))
        assert value == pytest.approx(want, rel=10 * eps, abs=tiny)


@pytest.mark.parametrize("m", [3, MANY_CLASSES])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_as_far_apart_as_the_type_reaches(backend: Backend, dtype: str, m: int) -> None:
    largest = np.finfo(dtype).max * 0.9
    a = np.full((2, m), -largest, dtype)
    a[:, 1] = largest
    right, soft = np.zeros((2, m), dtype), np.full((2, m), 1 / m, dtype)
    right[:, 1] = 1
    with np.errstate(over="ignore"):
        for y in (right, np.array([1, 1])):
            value, delta = evaluate(backend, get_loss("cross_entropy"), a, y)
            assert value == 0.0
            assert not delta.any()
        value, delta = evaluate(backend, get_loss("cross_entropy"), a, soft)
    assert np.isfinite(delta).all()
    np.testing.assert_allclose(delta[:, 1] * 2, 1 - 1 / m, rtol=1e-6)
    # Right, or beyond the type.
    assert value == np.inf or value == pytest.approx(2 * float(np.float32(largest)) * (m - 1) / m, rel=1e-6)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("m", [2, 5, MANY_CLASSES, 200])
@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "targets") for name in sorted(LOSSES)), ("cross_entropy", "labels")]
)
def test_recorded_is_eager_for_every_shape(backend: Backend, name: str, kind: str, m: int, n: int) -> None:
    """On new numbers, so that nothing that was there while recording can stand in for what was not computed."""
    loss, rng = get_loss(name), np.random.default_rng(5)
    v = memory(loss, backend, n, m, np.float64)
    value, delta = backend.zeros((), np.float64), backend.empty((n, m), np.float64)
    a = backend.zeros((n, m), np.float64)
    y = backend.zeros((n,), np.int64) if kind == "labels" else backend.zeros((n, m), np.float64)
    program = backend.record(lambda: backend.loss_and_delta(loss, a, y, v, value, delta, n))
    for _ in range(2):
        outputs = rng.normal(size=(n, m))
        targets = rng.integers(0, m, n) if kind == "labels" else rng.random((n, m))
        backend.copy_in(outputs, a)
        backend.copy_in(targets, y)
        program()
        expected, expected_delta = evaluate(get_backend("strict"), loss, outputs, targets)
        assert float(backend.to_host(value)) == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(backend.to_host(delta), expected_delta, rtol=1e-12, atol=1e-16)


def test_labels_are_one_hot_targets(backend: Backend) -> None:
    a, labels = make_data(9, 5, 5, "cross_entropy")
    value, delta = evaluate(backend, get_loss("cross_entropy"), a, labels)
    same, same_delta = evaluate(backend, get_loss("cross_entropy"), a, np.eye(5)[labels])
    assert value == pytest.approx(same, rel=1e-14)
    np.testing.assert_allclose(delta, same_delta, atol=1e-16)


@pytest.mark.parametrize("m", [MANY_CLASSES - 1, MANY_CLASSES, 1000])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_any_number_of_classes(backend: Backend, kind: str, m: int) -> None:
    rng = np.random.default_rng(4)
    a, n = rng.normal(size=(5, m)) * 3, 5
    y = rng.integers(0, m, n) if kind == "labels" else rng.dirichlet(np.ones(m), n)
    value, delta = evaluate(backend, get_loss("cross_entropy"), a, y)
    assert value == pytest.approx(reference("cross_entropy", a, y), rel=1e-13)
    p = np.exp(a - a.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(delta, (p - (np.eye(m)[y] if kind == "labels" else y)) / n, atol=1e-16)


def test_mean_absolute_error_is_flat_at_the_target(backend: Backend) -> None:
    value, delta = evaluate(backend, get_loss("mean_absolute_error"), np.zeros((2, 2)), np.zeros((2, 2)))
    assert value == 0.0
    assert not delta.any()


def test_float32_is_added_up_in_float64(backend: Backend) -> None:
    a = np.full((200_000, 1), 0.1, np.float32)
    value, _ = evaluate(backend, get_loss("mean_absolute_error"), a, np.zeros_like(a))
    assert value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_lookup() -> None:
    own = Loss()
    assert get_loss(own) is own
    with pytest.raises(ArgumentError, match="unknown loss 'cross_entropi': did you mean 'cross_entropy'"):
        get_loss("cross_entropi")
    with pytest.raises(ArgumentError, match="unknown loss None"):
        get_loss(None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="Loss must define value_and_delta"):
        own.value_and_delta(None, None, None, None, None, None, 1)  # type: ignore[arg-type]


# -- what PyTorch's losses take besides -------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"class_weights": [0.5, 2.0, 0.0, 1.25]},
    {"label_smoothing": 0.2},
    {"label_smoothing": 1.0},
    {"ignore_index": 2},
    {"ignore_index": -100},
    {"class_weights": [0.5, 2.0, 0.25, 1.25], "label_smoothing": 0.1, "ignore_index": 1},
]


def in_torch(torch: Any, options: dict[str, Any], reduction: str = "mean") -> Any:
    weights = options.get("class_weights")
    return torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=options.get("label_smoothing", 0.0),
        ignore_index=options.get("ignore_index", -1000),
        reduction=reduction,
    )


def labels_for(options: dict[str, Any], n: int, rng: np.random.Generator) -> np.ndarray:
    y = rng.integers(0, 4, n)
    y[::3] = options.get("ignore_index", 0)
    return y


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_of_cross_entropy_as_in_pytorch(
    backend: Backend, torch: Any, options: dict[str, Any], kind: str
) -> None:
    rng, loss = np.random.default_rng(3), CrossEntropy(**options)
    a = rng.normal(size=(11, 4)) * 3
    y = labels_for(options, 11, rng) if kind == "labels" else rng.dirichlet(np.ones(4), 11)
    if kind == "probabilities" and "ignore_index" in options:
        options = {k: v for k, v in options.items() if k != "ignore_index"}
        loss = CrossEntropy(**options)
    z = torch.tensor(a, requires_grad=True)
    expected = in_torch(torch, options)(z, torch.tensor(y))
    expected.backward()
    value, delta = evaluate(backend, loss, a, y)
    assert value == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(delta, z.grad.numpy(), rtol=1e-12, atol=1e-16)
    rows = backend.to_host(loss.of_rows(backend, backend.asarray(a), backend.asarray(y)))
    np.testing.assert_allclose(
        rows, in_torch(torch, options, "none")(z, torch.tensor(y)).detach().numpy(), rtol=1e-12, atol=1e-15
    )
    assert rows.sum() / loss.mass(y) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_through_a_network(backend: Backend, options: dict[str, Any]) -> None:
    """Gradients, a recorded step of its own for each batch size, and a loss from a saved description."""
    rng, loss = np.random.default_rng(4), CrossEntropy(**options)
    nets = [
        gb.Network(
            [gb.Dense(3, 5, "tanh"), gb.Dense(5, 4)], loss=which, device=device, dtype="float64", capture=capture
        )
        for which, device, capture in ((loss, backend, True), (get_loss(loss.described()), "strict", False))
    ]
    x, y = rng.normal(size=(9, 3)), labels_for(options, 9, rng)
    assert gb.gradcheck(nets[0], x, y)
    rules = [gb.Adam(0.01), gb.Adam(0.01)]
    for rows in (9, 9, 4, 9):
        values = [
            float(net.backend.to_host(net.train_step(x[:rows], y[:rows], rule)))
            for net, rule in zip(nets, rules, strict=True)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-12)
        x, y = np.roll(x, 1, axis=0), np.roll(y, 1)
    for name, w in nets[0].get_weights().items():
        np.testing.assert_allclose(w, nets[1].get_weights()[name], rtol=1e-9, atol=1e-12)


def test_a_batch_without_a_row_that_counts_has_no_loss(backend: Backend) -> None:
    """Where PyTorch divides 0 by 0."""
    for loss, y in (
        (CrossEntropy(ignore_index=-1), np.full(3, -1)),
        (CrossEntropy(ignore_index=-1), np.full(50, -1)),
        (CrossEntropy(class_weights=[0, 0, 1, 1]), np.array([0, 1, 0])),
    ):
        for dtype in (np.float32, np.float64):
            value, delta = evaluate(backend, loss, np.random.default_rng(0).normal(size=(len(y), 4)).astype(dtype), y)
            assert value == 0
            assert not delta.any()
            assert loss.mass(y) == 0


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: CrossEntropy(class_weights=[1, -1]), ArgumentError, r"class_weights\[1\] must be"),
        (lambda: CrossEntropy(class_weights=[0.0, 0.0]), ArgumentError, "a weight above 0"),
        (lambda: CrossEntropy(label_smoothing=1.5), ArgumentError, "label_smoothing must be"),
        (lambda: CrossEntropy(ignore_index=1.5), ArgumentTypeError, "ignore_index must be a whole number"),
        (lambda: get_loss({"name": "huber", "delta": 0}), ArgumentError, "delta must be"),
        (lambda: get_loss({"name": "huber", "gamma": 1}), ArgumentError, "loss 'huber'.*gamma"),
        (lambda: get_loss({"name": "hubert"}), ArgumentError, "did you mean 'huber'"),
        (lambda: gb.Network([gb.Dense(2, 3)], loss=CrossEntropy(class_weights=[1, 2])).loss(np.ones((1, 2)), np.zeros(1, int)),
         ArgumentError, "a weight for each of the 3 outputs"),
    ],
)  # fmt: skip
def test_settings_that_are_none(make: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_labels_are_checked_but_for_those_that_are_ignored() -> None:
    net = gb.Network([gb.Dense(2, 3)], loss=CrossEntropy(ignore_index=-100), device="cpu")
    x = np.ones((2, 2))
    assert np.isfinite(net.loss(x, np.array([-100, 2])))
    with pytest.raises(ArgumentError, match=r"y\[0\] is 3"):
        net.loss(x, np.array([3, -100]))
    assert net.loss(x, np.array([-100, -100])) == 0


def test_counts_are_not_negative() -> None:
    net = gb.Network([gb.Dense(2, 3)], loss="poisson", device="cpu")
    with pytest.raises(ArgumentError, match="poisson takes counts, which are not below 0; got -1"):
        net.loss(np.ones((1, 2)), np.array([[1.0, -1.0, 2.0]]))
    np.testing.assert_allclose(
        net.predict(np.ones((1, 2))), np.exp(net.backend.to_host(net.forward(np.ones((1, 2))))), rtol=1e-6
    )


@pytest.mark.parametrize("width", [0.5, 3.0])
def test_huber_of_another_width(backend: Backend, torch: Any, width: float) -> None:
    a, y = np.random.default_rng(0).normal(size=(2, 40, 3)) * 3
    a[0], a[1] = y[0] + width, y[1] - width
    z = torch.tensor(a, requires_grad=True)
    expected = torch.nn.functional.huber_loss(z, torch.tensor(y), delta=width)
    expected.backward()
    value, delta = evaluate(backend, get_loss({"name": "huber", "delta": width}), a, y)
    assert value == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(delta, z.grad.numpy(), rtol=1e-12, atol=1e-17)


# -- weights of samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [4, MANY_CLASSES])
@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        *((get_loss(name), "targets") for name in LOSSES),
        (CrossEntropy(), "labels"),
        (CrossEntropy(label_smoothing=0.1, ignore_index=1), "labels"),
    ],
    ids=str,
)  # fmt: skip
def test_weighted_rows_are_rows_that_stand_there_so_often(backend: Backend, loss: Loss, kind: str, m: int) -> None:
    rng, n = np.random.default_rng(1), 6
    a, weights = rng.normal(size=(n, m)), np.array([1, 0, 2, 3, 1, 2])
    y = rng.integers(0, m, n) if kind == "labels" else rng.random((n, m))
    if loss.output == "softmax" and kind == "targets":
        y /= y.sum(axis=1, keepdims=True)
    assert loss.weighs
    value, delta = evaluate(backend, loss, a, y, weights=weights)
    often = np.repeat(np.arange(n), weights)
    expected, _ = evaluate(backend, loss, a[often], y[often])
    share = loss.mass(y[often]) / loss.mass(y)
    assert value == pytest.approx(expected * share, rel=1e-13)
    _, plain = evaluate(backend, loss, a, y)
    np.testing.assert_allclose(delta, plain * weights[:, None], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("loss", [*(get_loss(name) for name in LOSSES), CrossEntropy(label_smoothing=0.3)], ids=str)
def test_the_loss_of_each_row(backend: Backend, loss: Loss) -> None:
    a, y = make_data(9, 4, 4, loss.name)
    rows = backend.to_host(loss.of_rows(backend, backend.asarray(a), backend.asarray(y)))
    assert rows.dtype == np.float64
    expected = [evaluate(backend, loss, a[i : i + 1], y[i : i + 1])[0] for i in range(9)]
    np.testing.assert_allclose(rows, expected, rtol=1e-13)
    assert rows.mean() == pytest.approx(evaluate(backend, loss, a, y)[0], rel=1e-13)


def test_the_loss_of_each_row_of_a_loss_of_ones_own(backend: Backend) -> None:
    class Cubed(Loss):
        name = "cubed"

        def value_and_delta(self, be: Any, a: Any, y: Any, v: Any, value: Any, delta: Any, rows: int) -> None:
            be.xp.subtract(a, y, out=v.d)
            be.xp.multiply(v.d, v.d, out=v.t)
            be.xp.multiply(v.d, v.t, out=v.t)
            be.total(v.t, 1 / rows, value)

    a, y = make_data(5, 3, 3)
    rows = backend.to_host(Cubed().of_rows(backend, backend.asarray(a), backend.asarray(y)))
    np.testing.assert_allclose(rows, ((a - y) ** 3).sum(axis=1), rtol=1e-12)
    assert not Cubed.weighs
