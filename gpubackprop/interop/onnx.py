"""Networks and models as ONNX graphs, with what comes before and after the network: columns, scales, labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gpubackprop.activations import Activation
from gpubackprop.data.tables import table_from
from gpubackprop.data.text_tables import TextFormat
from gpubackprop.errors import ArgumentError, ArgumentTypeError, MissingExtraError
from gpubackprop.files.atomic import replacing
from gpubackprop.layers import Activation as ActivationLayer
from gpubackprop.layers import BatchNorm, Dense, Dropout, Layer, LayerNorm, PReLU, Residual, RMSNorm
from gpubackprop.layers.stack import of_layer
from gpubackprop.network.network import Network
from gpubackprop.pipeline.encoder import CALENDAR, FARTHEST, Column, Encoder
from gpubackprop.pipeline.model import Model

if TYPE_CHECKING:
    import onnx

OPSET, ML_OPSET, IR_VERSION = 20, 3, 9

FAR = 1000
"""From so many times its scale from 0, a number needs more digits than float32 has."""


def to_onnx(net_or_model: Network | Model, path: str | os.PathLike[str]) -> None:
    """Write a network, or a model with its preparation, as an ONNX file with any number of rows n.

    A `Network`: input "x" (n, d), output "output" (n, m), what `predict` gives. A `Model` (`gb.load_run`): of an array's
    columns, the input "x"; of a table's, an input (n, 1) by each column's name, float for numbers (NaN where a value is
    missing; 1 and 0 for yes and no), text for categories ("" where one is missing, or a word that stood for that in training;
    the graph takes no blanks away that are around a text), and double for dates: seconds since 1970, or since midnight for
    times of day. Its outputs: "label" (n,) text and "probabilities" (n, k) for
    classes, "label" (n, m) int64 and "probabilities" for several labels a row, "variable" (n, m) for values in their unit: the
    names that scikit-learn's converter gives. Numbers, inputs or values, are double where they are `FAR` standard deviations
    from 0 on average, such as seconds since 1970 within a day: the file says the type of each.

    Raises ArgumentError for what has no operator of ONNX (user-defined layers and activations), for a column with the name of an
    output, and MissingExtraError without the onnx package.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("to_onnx", "onnx") from error
    if isinstance(net_or_model, Network):
        graph = _Graph(net_or_model.dtype)
        x = graph.input("x", net_or_model.widths[0])
        graph.output("output", graph.network(net_or_model, x), net_or_model.widths[-1])
    elif isinstance(net_or_model, Model):
        inputs = net_or_model.inputs
        graph = _Graph(net_or_model.network.dtype, inputs.names if isinstance(inputs, Encoder) else ())
        graph.model(net_or_model)
    else:
        raise ArgumentTypeError(f"net_or_model must be a Network or a Model of gb.load_run; got {net_or_model!r}")
    made = graph.finished()
    onnx.checker.check_model(made, full_check=True)
    with replacing(Path(path)) as file:
        file.write(made.SerializeToString())


class _Graph:
    """A graph that grows line by line; every method takes and returns names of values. columns: inputs to come, whose names no
    other value may have."""

    def __init__(self, dtype: np.dtype[Any], columns: Sequence[str] = ()) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self.dtype, self.helper, self.array = dtype, helper, numpy_helper.from_array
        self.text, self.whole, self.double = TensorProto.STRING, TensorProto.INT64, TensorProto.DOUBLE
        self.kind = helper.np_dtype_to_tensor_dtype
        self.real = self.kind(dtype)
        self.columns = set(columns)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def finished(self) -> onnx.ModelProto:
        """The ONNX model."""
        make = self.helper
        graph = make.make_graph(self.nodes, "gpubackprop", self.inputs, self.outputs, self.constants)
        sets = [make.make_opsetid("", OPSET), make.make_opsetid("ai.onnx.ml", ML_OPSET)]
        return make.make_model(graph, opset_imports=sets, ir_version=IR_VERSION, producer_name="gpubackprop")

    def input(self, name: str, width: int, kind: int | None = None) -> str:
        """A new input (n, width)."""
        self.inputs.append(self.helper.make_tensor_value_info(name, kind or self.real, ["n", width]))
        return name

    def output(self, name: str, value: str, width: int | None, kind: int | None = None) -> None:
        """Make a value an output (n, width), or (n,). Raises ArgumentError for the name of a column."""
        if name in self.columns:
            raise ArgumentError(
                f"column {name!r} has the name of an output of the graph, and an input cannot: rename it, and train again"
            )
        self.nodes.append(self.helper.make_node("Identity", [value], [name]))
        shape = ["n"] if width is None else ["n", width]
        self.outputs.append(self.helper.make_tensor_value_info(name, kind or self.real, shape))

    def constant(self, value: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """A constant array."""
        name = self.free(f"c{len(self.constants)}")
        array = np.asarray(value, dtype or self.dtype)
        self.constants.append(self.array(array, name))
        return name

    def do(self, operator: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """The first output of an operator."""
        name = self.free(f"v{len(self.nodes)}")
        self.nodes.append(self.helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def free(self, name: str) -> str:
        """The name, or one made of it that no column has."""
        while name in self.columns:
            name += "_"
        return name

    # -- the network --------------------------------------------------------------------------------------------------

    def network(self, net: Network, x: str) -> str:
        """The nodes of `net.predict(x)`; the name of their result."""
        x = self.chain(net.layers, net.get_weights(), x)
        output = net.loss_function.output
        return {
            "identity": lambda: x,
            "softmax": lambda: self.do("Softmax", x, axis=1),
            "sigmoid": lambda: self.do("Sigmoid", x),
            "exponential": lambda: self.do("Exp", x),
        }[output]()

    def chain(self, layers: Sequence[Layer], arrays: dict[str, np.ndarray], x: str) -> str:
        """The nodes of a chain of layers on x; the name of their result."""
        for i, layer in enumerate(layers):
            own = of_layer(arrays, i)
            if type(layer) is Residual:
                x = self.do("Add", x, self.chain(layer.layers, own, x))
            else:
                x = self.activation(layer.activation, self.layer(layer, own, x))
        return x

    def layer(self, layer: Layer, arrays: dict[str, np.ndarray], x: str) -> str:
        """A layer without its activation, as in `predict`."""
        kind, c = type(layer), {name: self.constant(a) for name, a in arrays.items()}
        if kind is Dense:
            return self.do("Gemm", x, c["weight"], *([c["bias"]] if "bias" in c else []))
        if kind in (Dropout, ActivationLayer):
            return x
        if isinstance(layer, BatchNorm) and kind is BatchNorm:
            given = (c[name] for name in ("gamma", "beta", "running_mean", "running_var"))
            return self.do("BatchNormalization", x, *given, epsilon=layer.eps)
        if isinstance(layer, LayerNorm) and kind is LayerNorm:
            return self.do("LayerNormalization", x, c["gamma"], c["beta"], axis=-1, epsilon=layer.eps)
        if isinstance(layer, RMSNorm) and kind is RMSNorm:
            mean = self.do("ReduceMean", self.do("Mul", x, x), self.constant([1], np.int64), keepdims=1)
            root = self.do("Sqrt", self.do("Add", mean, self.constant(layer.eps)))
            return self.do("Mul", self.do("Div", x, root), c["gamma"])
        if kind is PReLU:
            return self.do("PRelu", x, c["slope"])
        raise ArgumentError(f"{layer!r} is no layer of this library's own: ONNX has no operator for it")

    def activation(self, f: Activation, x: str) -> str:
        """f(x)."""
        settings = {k: v for k, v in vars(f).items() if not k.startswith("_")}
        made = _ACTIVATIONS.get(f.name) if type(f).__module__ == Activation.__module__ else None
        if made is None:
            raise ArgumentError(f"activation {f.name!r} is not of this library's own: ONNX has no operator for it")
        return made(self, x, **settings)

    # -- before and after it ------------------------------------------------------------------------------------------

    def model(self, model: Model) -> None:
        """A whole model: inputs, network, and outputs."""
        net = model.network
        if isinstance(model.inputs, Encoder):
            format = model.format() or TextFormat()
            parts = [self.column(c, format) for c in model.inputs.columns if c.inputs]
            x = parts[0] if len(parts) == 1 else self.do("Concat", *parts, axis=1)
        else:
            units = model.inputs
            dtype = self.type_of(units is not None and _is_far(units.mean, units.scale))
            x = self.input("x", net.widths[0], self.kind(dtype))
            if units is not None:
                x = self.do("Sub", x, self.constant(units.mean, dtype))
                x = self.cast(self.do("Div", x, self.constant(units.scale, dtype)), dtype, self.dtype)
        answer, width = self.network(net, x), net.widths[-1]
        if model.classes:
            if width == 1:
                answer = self.do("Concat", self.do("Sub", self.constant(1.0), answer), answer, axis=1)
            best = self.do("ArgMax", answer, axis=1, keepdims=0)
            label = self.do("Gather", self.constant(model.classes, np.object_), best)
            self.output("label", label, None, self.text)
            self.output("probabilities", answer, len(model.classes))
        elif model.data["task"] == "multilabel":
            label = self.do("Cast", self.do("GreaterOrEqual", answer, self.constant(0.5)), to=self.whole)
            self.output("label", label, width, self.whole)
            self.output("probabilities", answer, width)
        else:
            dtype = self.dtype
            if (units := model.targets) is not None:
                dtype = self.type_of(_is_far(units.mean, units.scale))
                answer = self.do("Mul", self.cast(answer, self.dtype, dtype), self.constant(units.scale, dtype))
                answer = self.do("Add", answer, self.constant(units.mean, dtype))
            self.output("variable", answer, width, self.kind(dtype))

    def type_of(self, far: bool) -> np.dtype[Any]:
        """The type of numbers: the network's own, or of those far from 0 float64."""
        return np.dtype(np.float64) if far else self.dtype

    def cast(self, x: str, given: np.dtype[Any], wanted: np.dtype[Any]) -> str:
        """x in another type of numbers."""
        return x if given == wanted else self.do("Cast", x, to=self.kind(wanted))

    def column(self, column: Column, format: TextFormat) -> str:
        """The inputs that an encoder makes of a column, (n, width). format: which texts stand for missing values."""
        s = column.settings
        if column.kind == "category":
            return self.category(column, format)
        if column.kind == "date":
            return self.date(column)
        far = "mean" in s and _is_far(s["mean"][0], s["scale"][0])
        dtype = self.type_of(far or (s["unit"] > 0 and _is_far(s["median"], s["unit"])))

        def c(value: ArrayLike) -> str:
            return self.constant(value, dtype)

        x = self.input(column.name, 1, self.kind(dtype))
        absent = self.do("Or", self.do("IsNaN", x), self.do("IsInf", x))
        values = self.do("Where", absent, c(s["median"]), x)
        parts = [values]
        if s["unit"]:
            away = self.do("Sub", values, c(s["median"]))
            size = self.do("Log", self.do("Add", self.do("Div", self.do("Abs", away), c(s["unit"])), c(1.0)))
            parts.append(self.do("Mul", self.do("Sign", away), size))
        if s["gaps"]:
            parts.append(self.do("Cast", absent, to=self.kind(dtype)))
        return self.scaled(parts, s, dtype)

    def date(self, column: Column) -> str:
        """What the encoder makes of a point in time: time passed, year, and month, weekday and hour as points on a circle.

        Year and month of a number of days: Hinnant, "chrono-compatible low-level date algorithms" (2013), civil_from_days, whose
        years begin in March.
        """
        s, do = column.settings, self.do

        def c(value: ArrayLike) -> str:
            return self.constant(value, np.float64)

        def whole(x: str, by: float) -> str:
            return do("Floor", do("Div", x, c(by)))

        def rest(x: str, by: float) -> str:
            return do("Sub", x, do("Mul", whole(x, by), c(by)))

        x = self.input(column.name, 1, self.double)
        absent = do("Or", do("IsNaN", x), do("IsInf", x))
        seconds = do("Where", absent, c(round(s["median"])), do("Floor", x))
        days = whole(seconds, 86400)
        civil = do("Add", days, c(719468))
        era, of_era = whole(civil, 146097), rest(civil, 146097)
        leaps = do("Sub", do("Sub", whole(of_era, 36524), whole(of_era, 1460)), whole(of_era, 146096))
        year = whole(do("Add", of_era, leaps), 365)
        before = do("Sub", do("Add", do("Mul", year, c(365)), whole(year, 4)), whole(year, 100))
        of_year = do("Sub", of_era, before)
        march = whole(do("Add", do("Mul", of_year, c(5)), c(2)), 153)
        month = do("Add", rest(do("Add", march, c(2)), 12), c(1))
        after = do("Cast", do("LessOrEqual", month, c(2)), to=self.double)
        turns = {
            "year": do("Add", do("Add", year, do("Mul", era, c(400))), after),
            "month": month,
            "day_of_week": rest(do("Add", days, c(3)), 7),
            "hour": rest(whole(seconds, 3600), 24),
        }
        parts = [seconds]
        for name in s["parts"]:
            period = CALENDAR[name]
            turn = do("Mul", turns[name], c(2 * np.pi / period)) if period else turns[name]
            parts += [do("Sin", turn), do("Cos", turn)] if period else [turn]
        if s["gaps"]:
            parts.append(do("Cast", absent, to=self.double))
        return self.scaled(parts, s, np.dtype(np.float64))

    def scaled(self, parts: list[str], settings: dict[str, Any], dtype: np.dtype[Any]) -> str:
        """The inputs of a column, values of `dtype`, side by side, standardized where its settings say how, for the network."""
        x = parts[0] if len(parts) == 1 else self.do("Concat", *parts, axis=1)
        if "mean" in settings:
            mean, scale, low, high = (
                self.constant(v, dtype) for v in (settings["mean"], settings["scale"], -FARTHEST, FARTHEST)
            )
            x = self.do("Clip", self.do("Div", self.do("Sub", x, mean), scale), low, high)
        return self.cast(x, dtype, self.dtype)

    def category(self, column: Column, format: TextFormat) -> str:
        """A table of what the encoder makes of each level, of others and of none, looked up by the level."""
        levels: list[str] = list(column.settings["levels"])
        other = _unlike([*levels, *format.missing])
        rows = table_from({column.name: [*levels, other, None]}, format)
        table = Encoder([column]).transform(rows, self.dtype)
        x = self.input(column.name, 1, self.text)
        places = dict.fromkeys(["", *format.missing], len(levels) + 1) | {level: i for i, level in enumerate(levels)}
        codes = self.do(
            "LabelEncoder", x, domain="ai.onnx.ml", keys_strings=[*places], values_int64s=[*places.values()],
            default_int64=len(levels),
        )  # fmt: skip
        found = self.do("Gather", self.constant(table), codes)
        return self.do("Reshape", found, self.constant([-1, table.shape[1]], np.int64))


def _is_far(mean: ArrayLike, scale: ArrayLike) -> bool:
    """Whether some numbers are so far from 0 that float32 lacks digits for them."""
    return bool((np.abs(mean) > FAR * np.asarray(scale)).any())


def _unlike(levels: Sequence[str]) -> str:
    """A text that is none of the levels."""
    text = "another level"
    while text in levels:
        text += "'"
    return text


def _softplus(graph: _Graph, x: str, beta: float) -> str:
    if beta == 1:
        return graph.do("Softplus", x)
    return graph.do("Div", graph.do("Softplus", graph.do("Mul", x, graph.constant(beta))), graph.constant(beta))


_ACTIVATIONS: dict[str, Callable[..., str]] = {
    "identity": lambda g, x: x,
    "sigmoid": lambda g, x: g.do("Sigmoid", x),
    "tanh": lambda g, x: g.do("Tanh", x),
    "relu": lambda g, x: g.do("Relu", x),
    "leaky_relu": lambda g, x, slope: g.do("LeakyRelu", x, alpha=slope),
    "elu": lambda g, x, alpha: g.do("Elu", x, alpha=alpha),
    "selu": lambda g, x, alpha: g.do("Selu", x),
    "celu": lambda g, x, alpha: g.do("Celu", x, alpha=alpha),
    "gelu": lambda g, x: g.do("Gelu", x),
    "gelu_tanh": lambda g, x: g.do("Gelu", x, approximate="tanh"),
    "softplus": _softplus,
    "silu": lambda g, x: g.do("Mul", x, g.do("Sigmoid", x)),
    "mish": lambda g, x: g.do("Mish", x),
    "softsign": lambda g, x: g.do("Softsign", x),
    "hard_sigmoid": lambda g, x: g.do("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hard_swish": lambda g, x: g.do("HardSwish", x),
}
