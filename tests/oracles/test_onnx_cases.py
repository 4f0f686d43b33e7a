"""ONNX's own test cases of the operators that this library has, read from its wheel: inputs, attributes and expected outputs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Backend
from gpubackprop.layers import LAYERS
from gpubackprop.network.parameters import Parameters

onnx = pytest.importorskip("onnx", reason="ONNX, whose test cases these are, is not installed")
FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
if not FOLDER.is_dir():
    pytest.skip("this version of ONNX comes without its test cases (1.22.0 has them)", allow_module_level=True)


class NotHereError(Exception):
    """What an operator can do and this library cannot."""


@cache
def cases() -> dict[str, Any]:
    """Case -> its model, for each model of one node that stands in `OPERATORS`."""
    found = {}
    for folder in sorted(FOLDER.iterdir()):
        if NAMES.fullmatch(folder.name):
            model = onnx.load(folder / "model.onnx")
            if [n.op_type in OPERATORS for n in model.graph.node] == [True]:
                found[folder.name.removeprefix("test_")] = model
    return found


def arrays(case: str, which: str) -> list[np.ndarray]:
    files = sorted((FOLDER / f"test_{case}" / "test_data_set_0").glob(f"{which}_*.pb"))
    return [np.asarray(onnx.numpy_helper.to_array(onnx.load_tensor(file))) for file in files]


# -- operators: (inputs, attributes, backend) -> outputs, of which None is not compared ------------------------------------


def elementwise(name: str, **options: str) -> Any:
    """An activation; options: ONNX's attribute -> the library's setting."""

    def run(inputs: list[np.ndarray], attributes: dict[str, Any], be: Backend) -> list[Any]:
        if not attributes.keys() <= options.keys():
            raise NotHereError(f"{name} with other constants")
        f = ACTIVATIONS[name](**{options[k]: v for k, v in attributes.items()})
        z = be.asarray(inputs[0].reshape(1, -1).copy())
        a = be.empty(z.shape, z.dtype)
        be.activate(f, z, a)
        return [be.to_host(a).reshape(inputs[0].shape)]

    return run


def gelu(inputs: list[np.ndarray], attributes: dict[str, Any], be: Backend) -> list[Any]:
    return elementwise("gelu_tanh" if attributes.get("approximate") == b"tanh" else "gelu")(inputs, {}, be)


def hard_sigmoid(inputs: list[np.ndarray], attributes: dict[str, Any], be: Backend) -> list[Any]:
    """clip(alpha x + beta, 0, 1); the library has PyTorch's alpha = 1/6 and beta = 1/2, so x is stretched."""
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return elementwise("hard_sigmoid")([(alpha * inputs[0] + (beta - 0.5)) * np.float32(6)], {}, be)


def network(
    layers: list[Any], be: Backend, arrays: dict[str, np.ndarray], loss: str = "half_squared_error"
) -> gb.Network:
    net = gb.Network(layers, loss=loss, device=be, dtype="float32")
    net.set_weights({name: array.reshape(net.get_weights()[name].shape) for name, array in arrays.items()})
    return net


def gemm(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    """alpha A B + beta C: a dense layer with the factors in its weight and bias."""
    a, b = (m.T if s.get(t) else m for m, t in zip(inputs, ("transA", "transB"), strict=False))
    c = s.get("beta", 1.0) * (inputs[2] if len(inputs) > 2 else np.zeros(1, np.float32))
    if c.shape == (len(a), b.shape[1]) and len(a) > 1:
        raise NotHereError("a bias for each row")
    bias = np.broadcast_to(c.reshape(-1), b.shape[1])
    net = network([gb.Dense(*b.shape)], be, {"0.weight": s.get("alpha", 1.0) * b, "0.bias": bias})
    return [be.to_host(net.forward(a))]


def matmul(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    a, b = inputs
    if b.ndim != 2:
        raise NotHereError("products of stacks of matrices")
    return [be.to_host(network([gb.Dense(*b.shape, bias=False)], be, {"0.weight": b}).forward(a))]


def rows_of(x: np.ndarray, axis: int) -> np.ndarray:
    """The axis as columns, everything else as rows."""
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def from_rows(rows: np.ndarray, like: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(like, axis, -1)
    return np.moveaxis(rows.reshape(moved.shape), -1, axis)


def classifier(classes: int, be: Backend, **options: Any) -> gb.Network:
    """A network whose logits are its inputs."""
    loss = gb.losses.CrossEntropy(**options) if options else "cross_entropy"
    return network([gb.Dense(classes, classes, bias=False)], be, {"0.weight": np.eye(classes)}, loss)


def softmax(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    (x,), axis = inputs, s.get("axis", -1)
    return [from_rows(classifier(x.shape[axis], be).predict(rows_of(x, axis)), x, axis)]


def log_softmax(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    """-log softmax is the cross-entropy of each class, a row and a label at a time."""
    (x,), axis = inputs, s.get("axis", -1)
    rows = rows_of(x, axis)
    net = classifier(x.shape[axis], be)
    losses = [[net.loss(row[None], np.array([j])) for j in range(x.shape[axis])] for row in rows]
    return [from_rows(-np.array(losses), x, axis)]


def cross_entropy(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    x, y = rows_of(inputs[0], 1), inputs[1].reshape(-1)
    reduction, ignored = s.get("reduction", b"mean").decode(), s.get("ignore_index")
    options: dict[str, Any] = {}
    if len(inputs) > 2:
        options["class_weights"] = inputs[2].tolist()
    if ignored is not None and (y == ignored).any():
        options["ignore_index"] = ignored
    net = classifier(x.shape[1], be, **options)
    if reduction == "none":
        rows = net.loss_function.of_rows(be, be.asarray(x.copy()), be.asarray(y.astype(np.int64)))
        loss: Any = be.to_host(rows).reshape(inputs[1].shape)
    else:
        loss = net.loss(x, y) * (net.loss_function.mass(y) if reduction == "sum" else 1)
    return [loss, from_rows(np.log(net.predict(x)), inputs[0], 1)]


def no_log_probabilities(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    raise NotHereError("a loss of log-probabilities; CrossEntropy takes logits")


def normalization(layer: str) -> Any:
    """Over all axes from `axis` on, which are a row here."""

    def run(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
        x, axis = inputs[0], s.get("axis", -1) % inputs[0].ndim
        width = int(np.prod(x.shape[axis:]))
        given = {f"0.{name}": a for name, a in zip(("gamma", "beta"), inputs[1:], strict=False)}
        net = network([LAYERS[layer](width=width, eps=s.get("epsilon", 1e-5))], be, given)
        return [be.to_host(net.forward(x.reshape(-1, width))).reshape(x.shape), None, None]

    return run


def prelu(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    """A slope for each of the last axes' elements, which are the units here."""
    x, slope = inputs
    net = network([gb.PReLU(slope.size, shared=False)], be, {"0.slope": slope})
    return [be.to_host(net.forward(x.reshape(-1, slope.size))).reshape(x.shape)]


def batch_norm(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    """Channels are the units and everything else is rows. The variance that is kept is the batch's own here, n/(n-1) of it in
    this library as in PyTorch."""
    x, scale, bias, mean, var = inputs
    momentum, training = 1 - s.get("momentum", 0.9), bool(s.get("training_mode", 0))
    given = {"0.gamma": scale, "0.beta": bias, "0.running_mean": mean, "0.running_var": var}
    net = network([gb.BatchNorm(len(scale), eps=s.get("epsilon", 1e-5), momentum=momentum)], be, given)
    rows = rows_of(x, 1)
    y = from_rows(be.to_host(net.forward(rows, training=training)), x, 1)
    after, n = net.get_weights(), len(rows)
    kept = (1 - momentum) * var
    return [y, after["0.running_mean"], kept + (after["0.running_var"] - kept) * (n - 1) / n]


def dropout(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
    x = inputs[0].reshape(len(inputs[0]), -1)
    training = bool(inputs[2]) if len(inputs) > 2 else False
    ratio = float(inputs[1]) if len(inputs) > 1 and inputs[1].size else 0.5
    if training and ratio:
        raise NotHereError("another library's random numbers")
    net = gb.Network([gb.Dense(x.shape[1], x.shape[1], bias=False), gb.Dropout(ratio)], device=be, dtype="float32")
    net.set_weights({"0.weight": np.eye(x.shape[1])})
    y = be.to_host(net.forward(x, training=training)).reshape(inputs[0].shape)
    return [y, np.ones(inputs[0].shape, bool)]


def optimizer(make: Any, states: tuple[str, ...]) -> Any:
    """One step, number T + 1, of several parameters at once."""

    def run(inputs: list[np.ndarray], s: dict[str, Any], be: Backend) -> list[Any]:
        rate, t, *rest = inputs
        count = len(rest) // (2 + len(states))
        groups = [rest[i : i + count] for i in range(0, len(rest), count)]
        rule = make(float(rate), int(t), s)
        parameters = Parameters(be, {str(i): a.shape for i, a in enumerate(groups[0])}, np.dtype(np.float32))
        rule.bind(parameters)
        rule.t = int(t)
        buffers = [parameters.P, parameters.G, *(rule.state[name] for name in states)]
        for buffer, group in zip(buffers, groups, strict=True):
            for segment, array in zip(parameters.segments, group, strict=True):
                be.copy_in(array, segment.of(buffer))
        rule.prepare()
        rule.apply(be)
        return [be.to_host(segment.of(b)) for b in (buffers[0], *buffers[2:]) for segment in parameters.segments]

    return run


def adagrad(rate: float, t: int, s: dict[str, Any]) -> Any:
    decay = s.get("norm_coefficient", 0.0)
    return gb.Adagrad(rate, lr_decay=s.get("decay_factor", 0.0), eps=s["epsilon"], weight_decay=decay)


def momentum(rate: float, t: int, s: dict[str, Any]) -> Any:
    """v <- alpha v + beta g, where beta is 1 in the first step."""
    if t and s["beta"] != 1:
        raise NotHereError("a factor of the gradient in the velocity")
    nesterov = s["mode"] == b"nesterov"
    return gb.SGD(rate, momentum=s["alpha"], nesterov=nesterov, weight_decay=s.get("norm_coefficient", 0.0))


def adam(rate: float, t: int, s: dict[str, Any]) -> Any:
    raise NotHereError("Adam whose first step, t = 0, corrects nothing")


OPERATORS: dict[str, Any] = {
    "Relu": elementwise("relu"),
    "LeakyRelu": elementwise("leaky_relu", alpha="slope"),
    "Elu": elementwise("elu", alpha="alpha"),
    "Selu": elementwise("selu"),
    "Celu": elementwise("celu", alpha="alpha"),
    "Gelu": gelu,
    "Sigmoid": elementwise("sigmoid"),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": elementwise("hard_swish"),
    "Mish": elementwise("mish"),
    "PRelu": prelu,
    "Softplus": elementwise("softplus"),
    "Softsign": elementwise("softsign"),
    "Swish": lambda inputs, s, be: elementwise("silu")(inputs, {k: v for k, v in s.items() if v != 1}, be),
    "Tanh": elementwise("tanh"),
    "Gemm": gemm,
    "MatMul": matmul,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "SoftmaxCrossEntropyLoss": cross_entropy,
    "NegativeLogLikelihoodLoss": no_log_probabilities,
    "LayerNormalization": normalization("LayerNorm"),
    "RMSNormalization": normalization("RMSNorm"),
    "BatchNormalization": batch_norm,
    "Dropout": dropout,
    "Adagrad": optimizer(adagrad, ("square_sum",)),
    "Momentum": optimizer(momentum, ("velocity",)),
    "Adam": optimizer(adam, ("m", "v")),
}
NAMES = re.compile(
    r"test_((leaky|p)?relu|elu|[sc]elu|gelu|(hard)?sigmoid|hardswish|mish|soft(plus|sign)|swish|tanh|gemm|matmul|(log)?softmax|"
    r"sce|nllloss|(layer|rms)_normalization|batchnorm|(training_)?dropout|ada(grad|m)|(nesterov_)?momentum)(_(?!.*expanded).*)?"
)
"""The cases of these operators; reading all models takes seconds."""


def outputs(case: str, be: Backend) -> list[tuple[np.ndarray, np.ndarray]]:
    """What this library gives and what ONNX wants, of each output; NotHereError for a case that it has nothing for."""
    (node,) = cases()[case].graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name not in ("seed", "ratio")}
    attributes.pop("stash_type", None)
    found = OPERATORS[node.op_type](arrays(case, "input"), attributes, be)
    wanted = zip(found, arrays(case, "output"), strict=False)
    return [(np.asarray(got), want) for got, want in wanted if got is not None]


@pytest.mark.parametrize("case", sorted(cases()))
def test_case(case: str, backend: Backend) -> None:
    try:
        with np.errstate(all="ignore"):
            found = outputs(case, backend)
    except NotHereError as missing:
        pytest.skip(f"this library has no {missing}")
    for got, want in found:
        assert got.shape == want.shape
        known = ~np.isnan(got)
        np.testing.assert_allclose(got[known], want[known], rtol=1e-5, atol=1e-6)


def test_most_cases_are_run() -> None:
    assert len(cases()) > 150
