"""What is checked against what, and the worst error measured: the table of the README.

    python -m benchmarks.accuracy            prints the table and writes benchmarks/results/accuracy.json

Needs PyTorch. Errors are relative: the norm of the difference over the norm of the expected array, unless a row says otherwise.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase

import gpubackprop as gb
from benchmarks.common import RESULTS, write
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.bench.machine import machine
from gpubackprop.layers import Tensors
from gpubackprop.losses import LOSSES
from tests import exact
from tests.interop import test_estimators as estimators
from tests.oracles import test_onnx_cases as onnx_cases
from tests.oracles import test_state_machine as state_machine
from tests.oracles import test_threads as threads
from tests.oracles.random_networks import LOGIT_LOSSES, random_case, relative, targets
from tests.oracles.test_accuracy_over_range import step
from tests.oracles.test_differences import LAYERS, PAIRS
from tests.oracles.test_layerwise_papers import CASES, worst_error
from tests.oracles.test_torch_autograd import differences
from tests.oracles.test_torch_optimizers import RULES, SCHEDULES, pytorch, trajectory
from tests.planted.bugs import BUGS
from tests.test_numerical_honesty import LOGITS, value_and_delta
from tests.test_numerical_honesty import exact as exact_loss

MANY = 10_000_000


@dataclass(frozen=True)
class Row:
    """One line of the table. worst: the largest error, or None where all are equal or none is. allowed: what the tests demand."""

    what: str
    against: str
    cases: str
    worst: float | None
    allowed: str

    @property
    def error(self) -> str:
        """The largest error in words."""
        return "all equal" if self.worst is None else f"{self.worst:.1e}"


def autograd() -> Iterator[Row]:
    worst: dict[str, float] = {}
    for seed in range(300):
        for name, error in differences(torch, random_case(seed)).items():
            kind = "delta" if name.startswith("delta") else name.split(".")[-1]
            worst[kind] = max(worst.get(kind, 0.0), error)
    names = {"weight": "dC/dW", "bias": "dC/db", "x": "dC/dx", "delta": "delta of each layer", "loss": "loss"}
    for kind, text in names.items():
        yield Row(f"{text}, float64", "PyTorch autograd", "300 random networks", worst[kind], "1e-12")


def measured_derivatives() -> Iterator[Row]:
    rng = np.random.default_rng(7)
    for method, text, allowed in (
        ("complex", "complex step, h = 1e-30", "1e-12 of the largest entry"),
        ("central", "central differences, eps = 1e-5", "1e-7 + 1e-5 abs(g)"),
    ):
        worst, entries, networks = 0.0, 0, 0
        for layers, loss in PAIRS:
            x, y = rng.standard_normal((4, 3)), targets(loss, 4, 2, rng)
            for f in ACTIVATIONS:
                net = gb.Network(LAYERS[layers](f), loss=loss, dtype="float64", device="cpu", seed=1)
                report = gb.gradcheck(net, x, y, method=method)
                assert report, str(report)
                entries, networks = entries + len(report.compared), networks + 1
                worst = max(worst, report.max_error)
        cases = f"{entries:,} entries of {networks} networks: each layer x activation x loss"
        yield Row("every gradient, float64 (absolute)", text, cases, worst, allowed)


def optimizers() -> Iterator[Row]:
    torch.set_default_dtype(torch.float64)
    families: dict[str, float] = {}
    for name, (make, kind, _) in RULES.items():
        families[kind] = max(families.get(kind, 0.0), trajectory(torch, make(), pytorch(torch, name)))
    for kind, error in families.items():
        count = sum(rule[1] == kind for rule in RULES.values())
        cases = f"100 steps, {count} setting{'s' if count > 1 else ''}"
        yield Row(f"{kind}, weights after each step", "torch.optim", cases, error, "1e-12")
    worst = 0.0
    for name, (ours, kind, theirs) in SCHEDULES.items():
        schedule = gb.schedules.get_schedule(name, **ours)

        def scheduler(o: Any, kind: str = kind, theirs: dict[str, Any] = theirs) -> Any:
            return getattr(torch.optim.lr_scheduler, kind)(o, **theirs)

        make = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)  # noqa: E731
        worst = max(worst, trajectory(torch, gb.SGD(0.1, momentum=0.9, schedule=schedule), make, scheduler))
    yield Row("schedules", "torch.optim.lr_scheduler", f"100 steps, {len(SCHEDULES)} schedules", worst, "1e-12")
    clip = trajectory(
        torch,
        gb.Adam(0.01, clip_norm=0.05),
        lambda p: torch.optim.Adam(p, lr=0.01),
        clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 0.05),
    )
    yield Row("clipping by norm", "clip_grad_norm_", "100 steps", clip, "1e-12")
    torch.set_default_dtype(torch.float32)
    for kind in ("lars", "lamb"):
        worst = max(worst_error(make(), rule) for name, (make, rule) in CASES.items() if name.startswith(kind))
        yield Row(
            f"{kind.upper()}, weights after each step", "its paper's formula", "100 steps, 2 settings", worst, "1e-12"
        )


def symmetries() -> Iterator[Row]:
    for dtype, allowed in (("float64", "1e-12"), ("float32", "1e-5")):
        worst = dict.fromkeys(("permuted batch", "sum of micro-batches", "row alone", "permuted hidden units"), 0.0)
        for seed in range(300):
            case, rng = random_case(seed), np.random.default_rng(seed)
            if len(case.x) < 2:
                continue
            net = case.network(dtype=dtype)
            gradients = net.loss_and_gradients(case.x, case.y)[1]
            order = rng.permutation(len(case.x))
            _keep(worst, "permuted batch", net.loss_and_gradients(case.x[order], case.y[order])[1], gradients)
            sizes = len(case.x) // 2, len(case.x) - len(case.x) // 2
            first = net.loss_and_gradients(case.x[: sizes[0]], case.y[: sizes[0]])[1]
            second = net.loss_and_gradients(case.x[sizes[0] :], case.y[sizes[0] :])[1]
            mean = {k: (sizes[0] * first[k] + sizes[1] * second[k]) / len(case.x) for k in first}
            _keep(worst, "sum of micro-batches", mean, gradients)
            a = np.array(net.forward(case.x))
            _keep(worst, "row alone", {"a": np.array(net.forward(case.x[:1]))}, {"a": a[:1]})
            if len(case.widths) > 2:
                units = rng.permutation(case.widths[1])
                other = case.network(dtype=dtype)
                other.set_weights(_permuted(net.get_weights(), units))
                found = other.loss_and_gradients(case.x, case.y)[1]
                _keep(worst, "permuted hidden units", found, _permuted(gradients, units))
        for name, error in worst.items():
            yield Row(f"{name}, {dtype} (of the largest array)", "itself", "300 random networks", error, allowed)


def _permuted(w: dict[str, np.ndarray], units: np.ndarray) -> dict[str, np.ndarray]:
    changed = {"0.weight": w["0.weight"][:, units], "0.bias": w["0.bias"][units], "1.weight": w["1.weight"][units]}
    return {**w, **changed}


def _keep(worst: dict[str, float], name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    largest = max(float(np.linalg.norm(e)) for e in expected.values())
    if largest:
        off = max(float(np.linalg.norm(found[k] - e)) for k, e in expected.items()) / largest
        worst[name] = max(worst[name], off)


def parity() -> Iterator[Row]:
    rng = np.random.default_rng(3)
    pairs = (
        ("float64", ("cpu", "strict"), "1e-12"),
        ("float32", ("cpu", "strict"), "1e-5"),
        ("float64", ("cpu", ("cpu", "float32")), "1e-5"),
    )
    for dtype, devices, allowed in pairs:
        worst = 0.0
        for f in ACTIVATIONS:
            for loss in LOSSES:
                net = gb.mlp([20, 40, 30, 5], activation=f, loss=loss, dtype=dtype, dropout=0.1, device="cpu", seed=2)
                x, y = rng.standard_normal((64, 20)), targets(loss, 64, 5, rng)
                report = gb.check_parity(net, x, y, devices, 10)
                assert report, str(report)
                held = [d.relative_error for (_, kind), d in report.worst.items() if kind in ("forward", "delta")]
                worst = max(worst, *held)
        one = f"{dtype} on the cpu"
        other = "strict" if devices[1] == "strict" else "float32 on the cpu"
        cases = f"10 steps of {len(ACTIVATIONS) * len(LOSSES)} networks"
        yield Row(f"outputs and deltas, {one}", other, cases, worst, allowed)


def large_logits() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for dtype, largest in LOGITS.items():
        a = rng.uniform(-largest, largest, (1000, 10)).astype(dtype)
        worst = 0.0
        for loss in LOGIT_LOSSES:
            y = rng.integers(0, 10, 1000) if loss == "cross_entropy" else rng.integers(0, 2, a.shape).astype(dtype)
            value, delta = value_and_delta(gb.get_backend("cpu"), LOSSES[loss](), a, y)
            assert np.isfinite(delta).all()
            worst = max(worst, abs(value / exact_loss(loss, a, y)[0] - 1))
        yield Row(
            f"cross-entropies of logits to +-{largest:g}, {dtype}", "float64", "10,000 logits", worst, "finite, 1e-6"
        )


def many_rows() -> Iterator[Row]:
    be, rng = gb.get_backend("cpu"), np.random.default_rng(1)
    a = rng.standard_normal((MANY, 1), np.float32) + np.float32(3)
    z = a.astype(np.float64)
    value, delta = value_and_delta(be, LOSSES["mean_squared_error"](), a, np.zeros_like(a))
    error = abs(value / float(np.square(z).mean()) - 1)
    yield Row("mean loss of 10 million rows, float32", "float64 sum", "mean_squared_error", error, "1e-6")
    sums = be.empty((1,), np.float32)
    be.column_sums(delta, sums)
    yield Row(
        "dC/db of 10 million rows, float32",
        "float64 sum",
        "mean_squared_error",
        relative(sums, delta.sum(axis=0, dtype=np.float64)),
        "1e-6",
    )
    W = be.empty((1, 1), np.float32)
    be.dot(a.T, delta, W)
    expected = (z * delta).sum(axis=0)
    yield Row(
        "dC/dW of 10 million rows, float32 product",
        "float64 sum",
        "mean_squared_error",
        relative(W[0], expected),
        "not demanded",
    )
    v = Tensors(**{k: be.empty((1, 1), np.float32) for k in ("mean", "var", "rstd")})
    xhat, one, zero = be.empty(a.shape, np.float32), np.ones(1, np.float32), np.zeros(1, np.float32)
    be.normalize(a, 0, 1e-5, v.mean, v.var, v.rstd, xhat, one, zero, be.empty(a.shape, np.float32))
    error = max(abs(float(v.mean[0, 0]) / z.mean() - 1), abs(float(v.var[0, 0]) / z.var() - 1))
    yield Row("batch statistics of 10 million rows, float32", "float64", "mean and variance", error, "1e-6")


def over_the_range() -> Iterator[Row]:
    for dtype in ("float32", "float64"):
        worst, points = 0.0, 0
        for name in ACTIVATIONS:
            z = exact.points(dtype)
            some = np.abs(z) < 1e30
            columns = [column[some] for column in exact.table(name, dtype)]
            flushed = float(np.finfo(dtype).tiny) * (2 + np.abs(z[some].astype(np.float64))) ** 2
            for found, want, error in zip(step(z[some], name, "recorded"), columns[::2], columns[1::2], strict=True):
                worst = max(worst, float((np.abs(found.astype(np.float64) - want) / (error + flushed)).max()))
                points += len(want)
        cases = f"{points:,} values and slopes of {len(ACTIVATIONS)} activations, from 1e-30 to 1e30"
        yield Row(
            f"relative accuracy, {dtype} (of what is allowed)", "mpmath", cases, worst, "1, a few rounding errors"
        )


def other_tests() -> Iterator[Row]:
    passed, worst, be = 0, 0.0, gb.get_backend("cpu")
    for case in sorted(onnx_cases.cases()):
        try:
            with np.errstate(all="ignore"):
                found = list(onnx_cases.outputs(case, be))
        except onnx_cases.NotHereError:
            continue
        passed += 1
        for got, want in ((np.float64(got), np.float64(want)) for got, want in found):
            known = ~np.isnan(got) & np.isfinite(want)
            if known.any():
                worst = max(worst, float(np.abs(got - want)[known].max() / max(1.0, np.abs(want[known]).max())))
    yield Row("node tests of ONNX, float32", "onnx 1.22", f"{passed} cases", worst, "1e-5")
    worst, fits = 0.0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, list_of_cases in (("MLPClassifier", estimators.CLASSIFIERS), ("MLPRegressor", estimators.REGRESSORS)):
            for options, y, weights in list_of_cases:
                own, theirs = estimators.both(kind, options, y, weights)
                for a, b in zip(own.coefs_ + own.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
                    worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)))
                fits += 1
    yield Row("coefficients of the estimators, float64", "scikit-learn", f"{fits} fits, every solver", worst, "1e-10")


def sequences_and_threads() -> Iterator[Row]:
    with pytest.MonkeyPatch.context() as patch:
        state_machine.know_own_functions(patch)
        state_machine.run_every_kind(300, (Phase.generate,))
    cases = f"300 sequences of up to 30 calls, {len(state_machine.HIDDEN)} kinds of network"
    demanded = f"{state_machine.TOLERANCE:.0e}"
    yield Row("weights, losses, history after any sequence of calls", "a network of 250 lines", cases, None, demanded)
    threads.test_one_network_answers_many("cpu")
    threads.test_networks_on_one_backend_do_not_meet("cpu")
    yield Row(
        "answers and weights from several threads at once", "one thread", "one network, and one for each", None, "equal"
    )


CHAPTERS: tuple[Callable[[], Iterator[Row]], ...] = (
    autograd,
    measured_derivatives,
    optimizers,
    symmetries,
    parity,
    large_logits,
    many_rows,
    over_the_range,
    other_tests,
    sequences_and_threads,
)


def main() -> None:
    """Measure every row, print the table as Markdown, and write the results."""
    torch.set_num_threads(1)
    about, started = machine(("numpy", "torch")), time.perf_counter()
    rows = [row for chapter in CHAPTERS for row in chapter()]
    print("| what | against | cases | worst error | demanded |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.against} | {row.cases} | {row.error} | {row.allowed} |")
    print(f"| planted bugs | all of the above | {len(BUGS)} bugs, each caught in tests/test_planted_bugs.py | | all |")
    seconds = round(time.perf_counter() - started, 1)
    result = {"machine": about, "seconds": seconds, "planted_bugs": len(BUGS), "rows": [asdict(row) for row in rows]}
    write(RESULTS / "accuracy.json", result)


if __name__ == "__main__":
    main()
