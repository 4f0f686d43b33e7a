"""ONNX files, run by onnxruntime: the same answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS, Activation, get_activation
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.losses import LOSSES
from tests.cli.commands import refused, run
from tests.small import make_data

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def answers(path: Path, **inputs: Any) -> dict[str, np.ndarray]:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert {i.name for i in session.get_inputs()} == set(inputs)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


LAYERS: dict[str, Any] = {
    "dense": lambda f: [gb.Dense(5, 6, f), gb.Dense(6, 3)],
    "no bias": lambda f: [gb.Dense(5, 6, f, bias=False), gb.Dense(6, 3, bias=False)],
    "dropout": lambda f: [gb.Dense(5, 6, f), gb.Dropout(0.4), gb.Dense(6, 3)],
    "batch norm": lambda f: [gb.Dense(5, 6), gb.BatchNorm(6), gb.Activation(f), gb.Dense(6, 3)],
    "layer norm": lambda f: [gb.Dense(5, 6, f), gb.LayerNorm(6), gb.Dense(6, 3)],
    "rms norm": lambda f: [gb.Dense(5, 6, f), gb.RMSNorm(6), gb.Dense(6, 3)],
    "prelu": lambda f: [gb.Dense(5, 6, f), gb.PReLU(6, shared=False), gb.PReLU(6), gb.Dense(6, 3)],
    "residual": lambda f: [
        gb.Dense(5, 6),
        gb.Residual([gb.BatchNorm(6), gb.Residual([gb.Dense(6, 6, f)]), gb.Dense(6, 6)]),
        gb.Dense(6, 3),
    ],
}


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("layers", LAYERS)
def test_every_layer_and_loss(layers: str, loss: str, tmp_path: Path) -> None:
    x, y = make_data(40, 5, 3, loss)
    net = gb.Network(LAYERS[layers]("gelu"), loss=loss, device="cpu", seed=1)
    for _ in range(5):
        net.train_step(x, y, gb.SGD(0.05))
    gb.to_onnx(net, tmp_path / "n.onnx")
    for n in (40, 1):
        close(answers(tmp_path / "n.onnx", x=x[:n].astype(np.float32))["output"], net.predict(x[:n]))


@pytest.mark.parametrize(
    "f",
    [
        *sorted(ACTIVATIONS),
        {"name": "softplus", "beta": 2.5},
        {"name": "elu", "alpha": 0.3},
        {"name": "celu", "alpha": 2.0},
    ],
)
def test_every_activation(f: Any, tmp_path: Path) -> None:
    net = gb.Network([gb.Dense(5, 40, get_activation(f), bias=False), gb.Dense(40, 2)], device="cpu", seed=2)
    x = 4 * np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    gb.to_onnx(net, tmp_path / "n.onnx")
    close(answers(tmp_path / "n.onnx", x=x)["output"], net.predict(x))


def frame(n: int = 200) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    age: list[Any] = rng.integers(18, 90, n).astype(float).tolist()
    age[::9] = [None] * len(age[::9])
    colour: list[Any] = rng.choice(["red", "green", "blue"], n).tolist()
    colour[::11] = [None] * len(colour[::11])
    return {
        "age": age,
        "pay": np.exp(3 * rng.normal(size=n)).round(2).tolist(),
        "colour": colour,
        "town": [f"town {i}" for i in rng.integers(0, 60, n)],
        "member": rng.choice([True, False], n).tolist(),
        "answer": np.where((rng.random(n) < 0.2) ^ (np.array(colour) == "red"), "yes", "no").tolist(),
        "price": rng.normal(100, 20, n).tolist(),
        "first": (rng.random(n) < 0.5).astype(int).tolist(),
        "second": (rng.random(n) < 0.5).astype(int).tolist(),
    }


def inputs_of(model: Any, columns: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    found = {}
    for column in model.inputs.columns:
        if column.inputs:
            values = columns[column.name]
            if column.kind == "category":
                found[column.name] = np.array([["" if v is None else str(v)] for v in values], dtype=object)
            else:
                found[column.name] = np.array([[np.nan if v is None else float(v)] for v in values], np.float32)
    return found


@pytest.mark.parametrize("target", ["answer", "price", "first,second"])
def test_a_model_of_a_table(target: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    columns = frame()
    goals = target.split(",")
    used = {k: v for k, v in columns.items() if k in ("age", "pay", "colour", "town", "member", *goals)}
    data = gb.Dataset.from_frame(used, target=target, **({"task": "multilabel"} if len(goals) > 1 else {}))
    gb.train_run(data, out=tmp_path / "run", epochs=5, layers=[8], device="cpu")
    model = gb.load_run(tmp_path / "run", device="cpu")
    gb.to_onnx(model, tmp_path / "m.onnx")
    later = {k: v for k, v in used.items() if k not in goals}
    later["colour"] = ["violet", *later["colour"][1:]]
    later["pay"] = [1e30, *later["pay"][1:]]
    found = answers(tmp_path / "m.onnx", **inputs_of(model, later))
    assert {c.kind for c in model.inputs.columns} == {"number", "category", "boolean"}
    if target == "price":
        close(found["variable"] / 100, model.predict(later) / 100)
    else:
        close(found["probabilities"], model.predict_proba(later))
        np.testing.assert_array_equal(found["label"], model.predict(later))


def trained(columns: dict[str, Any], folder: Path, **options: Any) -> Any:
    pytest.importorskip("pyarrow")
    gb.train_run(
        gb.Dataset.from_frame(columns, target="y", **options), out=folder / "run", epochs=3, layers=[8], device="cpu"
    )
    model = gb.load_run(folder / "run", device="cpu")
    gb.to_onnx(model, folder / "m.onnx")
    return model


@pytest.mark.parametrize("missing", [None, ["", "none"]])
def test_cells_that_are_no_values(missing: list[str] | None, tmp_path: Path) -> None:
    """Infinite numbers, and the words that training took for missing values: without those, they are levels."""
    rng = np.random.default_rng(0)
    size, colour = rng.normal(size=200), rng.choice(["red", "NA", "blue", "none"], 200)
    size[::7] = np.nan
    y = np.where((size > 0) ^ (colour == "NA"), "yes", "no")
    options = {} if missing is None else {"format": gb.data.TextFormat(missing=missing)}
    model = trained({"size": size, "colour": colour, "y": y}, tmp_path, **options)
    columns = {
        "size": [np.inf, -np.inf, *[0.3] * 9],
        "colour": [*["red"] * 3, "NA", "none", "?", "-", "nan", "", "blue", "other"],
    }
    found = answers(tmp_path / "m.onnx", **inputs_of(model, columns))["probabilities"]
    close(found, model.predict_proba(columns))
    assert np.allclose(found[3], found[8]) == (missing is None)
    assert np.allclose(found[4], found[8]) == (missing is not None)


def test_numbers_far_from_0_keep_their_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stamp = 1.7e9 + rng.uniform(0, 600, 300)
    heavy = 1e9 + rng.normal(size=300) + 1e13 * (rng.random(300) < 0.02)
    heavy[::5] = np.nan
    y = 1e9 + (stamp - 1.7e9) % 200 + np.nan_to_num(heavy - 1e9).clip(-3, 3)
    near = rng.normal(size=300)
    columns = {"stamp": stamp, "heavy": heavy, "near": near, "y": y}
    model = trained(columns, tmp_path)
    assert [len(c.inputs) for c in model.inputs.columns] == [1, 3, 1]
    given = {"stamp": stamp[:, None], "heavy": heavy[:, None], "near": near[:, None].astype(np.float32)}
    found = answers(tmp_path / "m.onnx", **given)["variable"]
    assert found.dtype == np.float64
    close((found - 1e9) / 100, (model.predict({k: v for k, v in columns.items() if k != "y"}) - 1e9) / 100)


def test_arrays_far_from_0_keep_their_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = 1.7e9 + rng.uniform(0, 600, (300, 3))
    data = gb.data.Dataset("far", x, (x[:, 0] > x[:, 1]).astype(int), "classification", ("no", "yes"))
    gb.train_run(data, out=tmp_path / "run", epochs=3, layers=[8], device="cpu")
    model = gb.load_run(tmp_path / "run", device="cpu")
    gb.to_onnx(model, tmp_path / "m.onnx")
    close(answers(tmp_path / "m.onnx", x=x)["probabilities"], model.predict_proba(x))


def test_columns_with_the_names_of_the_graph(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=200).tolist() for name in ("v1", "c0", "c0_", "v2", "label", "probabilities")}
    y = np.array(columns["v1"]) + columns["c0"]
    model = trained({**columns, "y": y}, tmp_path)
    found = answers(tmp_path / "m.onnx", **inputs_of(model, columns))["variable"]
    close(found, model.predict(columns))
    with pytest.raises(ArgumentError, match="column 'label' has the name of an output"):
        trained({**columns, "y": np.where(y > 0, "yes", "no")}, tmp_path / "classes")


def test_points_in_time(tmp_path: Path) -> None:
    """Every day of four centuries, hours, times of day, missing ones: the calendar of the graph is pyarrow's."""
    pa = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    n = 4000
    first = np.datetime64("1803-01-01", "s")
    moments = first + rng.integers(0, 400 * 365 * 86400, n).astype("timedelta64[s]")
    days = np.datetime64("1599-12-28") + rng.permutation(n * 37)[:n].astype("timedelta64[D]")
    clock = rng.integers(0, 86400, n)
    gaps = rng.random(n) < 0.1
    y = np.where((moments.astype("datetime64[M]").astype(int) % 12 < 6) ^ (clock > 40000), "early", "late")

    def table(rows: slice) -> Any:
        return pa.table(
            {
                "at": pa.array(moments[rows], mask=gaps[rows]),
                "day": [None if g else str(d) for d, g in zip(days[rows], gaps[rows][::-1], strict=True)],
                "clock": pa.array(clock[rows].astype(np.int32), pa.time32("s")),
                "y": y[rows],
            }
        )

    gb.train_run(
        gb.Dataset.from_frame(table(slice(0, 2000)), target="y"),
        out=tmp_path / "run",
        epochs=3,
        layers=[16],
        device="cpu",
    )
    model = gb.load_run(tmp_path / "run", device="cpu")
    assert {c.kind for c in model.inputs.columns} == {"date"}
    assert sum(len(c.inputs) for c in model.inputs.columns) >= 15
    gb.to_onnx(model, tmp_path / "m.onnx")
    later = slice(2000, n)
    missing = np.datetime64("NaT")
    seconds = {
        "at": np.where(gaps, missing, moments)[later],
        "day": np.where(gaps[later][::-1], missing, days[later].astype("datetime64[s]")),
    }
    given = {k: np.where(np.isnat(v), np.nan, v.astype(np.int64).astype(float))[:, None] for k, v in seconds.items()}
    found = answers(tmp_path / "m.onnx", **given, clock=clock[later].astype(float)[:, None])
    close(found["probabilities"], model.predict_proba(table(later).drop_columns(["y"])))


@pytest.mark.parametrize("name", ["iris", "diabetes"])
def test_a_model_of_an_array(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = gb.data.load(name)
    gb.train_run(data, out=tmp_path / "run", epochs=5, layers=[8], device="cpu")
    model = gb.load_run(tmp_path / "run", device="cpu")
    run("export", tmp_path / "run", tmp_path / "m.onnx")
    assert "exists" in refused("export", tmp_path / "run", tmp_path / "m.onnx")
    found = answers(tmp_path / "m.onnx", x=data.x.astype(np.float32))
    if name == "iris":
        close(found["probabilities"], model.predict_proba(data.x))
        assert found["label"].tolist() == model.predict(data.x).tolist()
    else:
        close(found["variable"] / 100, model.predict(data.x) / 100)


def test_what_has_no_operator_is_refused(tmp_path: Path) -> None:
    class Own(Activation):
        name = "own"

    class Layer(gb.Dense):  # type: ignore[misc]
        pass

    for layer in (gb.Dense(5, 3, Own()), Layer(5, 3)):
        with pytest.raises(ArgumentError, match="own: ONNX has no operator"):
            gb.to_onnx(gb.Network([layer], device="cpu"), tmp_path / "n.onnx")
    with pytest.raises(ArgumentTypeError, match="must be a Network or a Model"):
        gb.to_onnx("run", tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


def test_without_onnx() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\nimport gpubackprop as gb\n"
        "try:\n    gb.to_onnx(gb.mlp([2, 3], device='cpu'), 'x.onnx')\nexcept gb.GpuBackpropError as error:\n    print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "gpubackprop[onnx]"' in told
