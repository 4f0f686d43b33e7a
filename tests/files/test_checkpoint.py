from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as serialize

import gpubackprop as gb
from gpubackprop.activations import Activation
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, DeviceError
from gpubackprop.files.checkpoint import _digest
from gpubackprop.losses import LOSSES, Loss
from gpubackprop.optimizers import OPTIMIZERS, Optimizer
from gpubackprop.optimizers.schedules import SCHEDULES, get_schedule

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 40)


def deep_network(**options: Any) -> gb.Network:
    layers = [gb.Dense(5, 8, "gelu"), gb.BatchNorm(8), gb.Dropout(0.3), gb.Dense(8, 8, "selu", bias=False)]
    layers += [gb.LayerNorm(8, eps=1e-4), gb.Activation("tanh"), gb.Dense(8, 3)]
    return gb.Network(
        layers, **{"loss": "cross_entropy", "device": "cpu", "l1": 1e-4, "l2": 1e-3, "seed": 7, **options}
    )


def same_weights(a: gb.Network, b: gb.Network) -> bool:
    mine, theirs = a.get_weights(), b.get_weights()
    return list(mine) == list(theirs) and all(np.array_equal(mine[k], theirs[k], equal_nan=True) for k in mine)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small network with its optimizer and extras, after two steps."""
    net, optimizer = gb.mlp([5, 3], loss="cross_entropy", device="cpu"), gb.SGD(0.1, momentum=0.9)
    for _ in range(2):
        net.train_step(X, Y, optimizer)
    path = tmp_path / "model.safetensors"
    gb.save(path, net, optimizer=optimizer, extra={"note": "two steps", "order": np.arange(3)})
    return path


# -- what comes back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(backend: Backend, dtype: str, tmp_path: Path) -> None:
    net = deep_network(device=backend, dtype=dtype)
    net.train_step(X, Y, gb.SGD(0.1))
    gb.save(tmp_path / "a", net)
    back = gb.load(tmp_path / "a", backend.name)
    assert same_weights(net, back)
    assert repr(back) == repr(net)
    assert repr(back.layers) == repr(net.layers)
    for setting in ("dtype", "precision", "seed", "l1", "l2"):
        assert getattr(back, setting) == getattr(net, setting)
    assert np.array_equal(back.predict(X), net.predict(X))
    assert back.loss(X, Y) == net.loss(X, Y)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str, tmp_path: Path) -> None:
    gb.save(tmp_path / "a", gb.mlp([2, 3], loss=loss, device="cpu"))
    assert gb.load(tmp_path / "a", "cpu").loss_function.name == loss


def test_saving_twice_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    once = gb.load_checkpoint(saved, "cpu")
    gb.save(tmp_path / "again", once.net, optimizer=once.optimizer, extra=once.extra)
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize(("here", "there"), [("cpu", "strict"), ("strict", "cpu")])
def test_another_device(here: str, there: str, tmp_path: Path) -> None:
    net = deep_network(device=here)
    gb.save(tmp_path / "a", net)
    back = gb.load_checkpoint(tmp_path / "a", there)
    assert back.net.backend.name == there
    assert back.saved_on["device"] == here
    assert same_weights(net, back.net)


def test_precision_that_is_not_here(tmp_path: Path) -> None:
    net = deep_network()
    vars(net)["precision"] = "tf32"  # as if it had been trained so on a GPU
    gb.save(tmp_path / "a", net)
    back = gb.load_checkpoint(tmp_path / "a", "cpu")
    assert back.net.precision == "native"
    assert back.saved_on["precision"] == "tf32"
    with pytest.raises(DeviceError, match="tf32"):
        gb.load(tmp_path / "a", "cpu", precision="tf32")


def test_wrong_device_and_precision_are_the_callers_errors(saved: Path) -> None:
    with pytest.raises(ArgumentError, match="unknown device 'gpu'"):
        gb.load(saved, "gpu")
    with pytest.raises(ArgumentError, match="precision must be one of"):
        gb.load(saved, "cpu", precision="fp8")


def test_weights_that_diverged_come_back_as_they_were(tmp_path: Path) -> None:
    net = gb.mlp([2, 3], device="cpu")
    net.parameters["0.weight"][0, 0] = np.nan
    gb.save(tmp_path / "a", net)
    assert same_weights(net, gb.load(tmp_path / "a", "cpu"))


def test_extra(tmp_path: Path) -> None:
    values = {"classes": ["café", "thé"], "rate": 0.1, "none": None, "nested": {"a": [1, True]}}
    arrays = {
        "big_endian": np.arange(3, dtype=">i4"),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "reversed": np.arange(4, dtype=np.uint8)[::-1],
        "scalar": np.array(2.5),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3)),
    }
    gb.save(tmp_path / "a", gb.mlp([2, 3], device="cpu"), extra={**values, **arrays})
    extra = gb.load_checkpoint(tmp_path / "a", "cpu").extra
    assert {k: extra[k] for k in values} == values
    for name, array in arrays.items():
        assert np.array_equal(extra[name], array)
        assert extra[name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "value", [{1, 2}, float("nan"), (1, 2), {1: "a"}, object(), np.float32(1), np.array(["a"]), np.array([None])]
)
def test_extra_of_other_kinds_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"extra\['it'\]"):
        gb.save(tmp_path / "a", gb.mlp([2, 3], device="cpu"), extra={"it": value})
    assert not list(tmp_path.iterdir())


def test_any_tool_can_read_the_arrays(saved: Path) -> None:
    with safe_open(saved, framework="numpy") as file:
        assert set(file.keys()) == {"0.weight", "0.bias", "optimizer.t", "optimizer.velocity", "extra.order"}
        manifest = json.loads(file.metadata()["gpubackprop"].partition(" ")[2])
    assert manifest["saved_on"]["blas_threads"] >= 1
    assert manifest["layers"][0] == {"type": "Dense", "settings": {"inputs": 5, "outputs": 3, "activation": "identity"}}


# -- going on exactly where it was --------------------------------------------------------------------------------


def make_optimizer(name: str) -> Optimizer:
    special = {"sgd": {"momentum": 0.9, "nesterov": True, "clip_norm": 0.5}, "adamw": {"clip_value": 0.1}}
    special["rmsprop"] = {"momentum": 0.5, "centered": True, "weight_decay": 1e-3, "decoupled_weight_decay": True}
    schedule = get_schedule("cosine", warmup=3, total=12)
    return OPTIMIZERS[name](learning_rate=0.02, schedule=schedule, **special.get(name, {}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_is_exact(name: str, tmp_path: Path) -> None:
    batches = [(X[i : i + 10], Y[i : i + 10]) for i in (0, 10, 20, 30)] * 3
    straight, optimizer = deep_network(), make_optimizer(name)
    for x, y in batches:
        straight.train_step(x, y, optimizer)

    first, half = deep_network(), make_optimizer(name)
    for x, y in batches[:5]:
        first.train_step(x, y, half)
    gb.save(tmp_path / "a", first, optimizer=half)
    resumed = gb.load_checkpoint(tmp_path / "a", "cpu")
    assert resumed.optimizer is not None
    assert not same_weights(first, straight)
    for x, y in batches[5:]:
        resumed.net.train_step(x, y, resumed.optimizer)
    assert same_weights(resumed.net, straight)
    mine, theirs = resumed.optimizer.get_state(), optimizer.get_state()
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resume_of_a_fit_is_exact(schedule: str, tmp_path: Path) -> None:
    def start() -> tuple[gb.Network, Optimizer]:
        options = {"every": 7} if schedule == "step" else {}
        return deep_network(), gb.SGD(0.05, momentum=0.9, schedule=get_schedule(schedule, total=16, **options))

    net, optimizer = start()
    gb.Trainer(net, optimizer).fit(X, Y, epochs=4, batch_size=10)
    first, half = start()
    gb.Trainer(first, half).fit(X, Y, epochs=2, batch_size=10)
    gb.save(tmp_path / "a", first, optimizer=half)
    c = gb.load_checkpoint(tmp_path / "a", "cpu")
    gb.Trainer(c.net, c.optimizer).fit(X, Y, epochs=2, batch_size=10, first_epoch=2)
    assert same_weights(c.net, net)


def test_an_optimizer_that_has_not_begun(tmp_path: Path) -> None:
    net = gb.mlp([5, 3], loss="cross_entropy", device="cpu")
    gb.save(tmp_path / "a", net, optimizer=gb.Adam(1e-2))
    c = gb.load_checkpoint(tmp_path / "a", "cpu")
    assert c.optimizer is not None
    c.net.train_step(X, Y, c.optimizer)
    net.train_step(X, Y, gb.Adam(1e-2))
    assert same_weights(c.net, net)


def test_an_optimizer_of_another_network_is_refused(tmp_path: Path) -> None:
    optimizer, net, other = gb.Adam(), gb.mlp([5, 3], loss="cross_entropy", device="cpu"), gb.mlp([5, 3], device="cpu")
    net.train_step(X, Y, optimizer)
    with pytest.raises(ArgumentError, match="another network"):
        gb.save(tmp_path / "a", other, optimizer=optimizer)


# -- damage -------------------------------------------------------------------------------------------------------


def test_every_truncation_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for size in range(len(content)):
        saved.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            gb.load(saved, "cpu")


def test_every_flipped_byte_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 1 << i % 8
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            gb.load(saved, "cpu")


@pytest.mark.nightly
def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for i in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[i // 8] ^= 1 << i % 8
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            gb.load(saved, "cpu")


def test_bytes_behind_the_end_are_noticed(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        gb.load(saved, "cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "no safetensors file"),
        (b"\xff" * 8 + b"{}", "no safetensors file"),
        (serialize({"a": np.zeros(2)}), "not one that gpubackprop.save wrote"),
        (serialize({"a": np.zeros(2)}, metadata={"gpubackprop": "0 {}"}), "damaged"),
        (serialize({"a": np.zeros(2)}, metadata={"gpubackprop": f"{_digest(b'[]')} []"}), "damaged"),
        (serialize({"a": np.zeros(2)}, metadata={"gpubackprop": f"{_digest(b'[' * 9999)} {'[' * 9999}"}), "damaged"),
    ],
)
def test_files_of_another_kind(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        gb.load(path, "cpu")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        gb.load(tmp_path, "cpu")


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Rewrite a checkpoint with right checksums but another content."""
    with safe_open(path, framework="numpy") as file:
        manifest = json.loads(file.metadata()["gpubackprop"].partition(" ")[2])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(manifest, arrays)
    rewrite(path, manifest, arrays)


def rewrite(path: Path, manifest: Any, arrays: dict[str, np.ndarray]) -> None:
    text = json.dumps(manifest)
    path.write_bytes(serialize(arrays, metadata={"gpubackprop": f"{_digest(text.encode())} {text}"}))


FORGERIES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "later version": (lambda m, a: m.update(version=2), "format version 2"),
    "unknown layer": (lambda m, a: m["layers"][0].update(type="Eval"), "unknown layer 'Eval'"),
    "unknown setting": (lambda m, a: m["layers"][0]["settings"].update(code="1"), "code"),
    "unknown loss": (lambda m, a: m.update(loss="os.system"), "unknown loss"),
    "unknown optimizer": (lambda m, a: m["optimizer"].update(name="x"), "unknown optimizer"),
    "unknown activation": (lambda m, a: m["layers"][0]["settings"].update(activation="x"), "unknown activation"),
    "huge layers": (lambda m, a: m["layers"][0]["settings"].update(outputs=10**12), "hold|outputs"),
    "huge norm": (lambda m, a: m["layers"].append({"type": "BatchNorm", "settings": {"width": 10**12}}), "normalises"),
    "no layers": (lambda m, a: m.update(layers=[]), "layer"),
    "layers of another kind": (lambda m, a: m.update(layers=3), "no network"),
    "missing entry": (lambda m, a: m.pop("seed"), "lacks 'seed'"),
    "negative seed": (lambda m, a: m.update(seed=-1), "seed"),
    "negative step": (lambda m, a: m.update(step=-1), "no network"),
    "missing array": (lambda m, a: a.pop("0.bias"), "not those"),
    "another array": (lambda m, a: a.update({"../evil": np.zeros(1)}), "not those"),
    "another shape": (lambda m, a: a.update({"0.bias": np.zeros((1, 3), "f4")}), "not those"),
    "another dtype": (lambda m, a: a.update({"0.bias": np.zeros(3, "i4")}), "not those"),
    "missing state": (lambda m, a: (a.pop("optimizer.velocity"), m["arrays"].pop("optimizer.velocity")), "velocity"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_files_are_refused(what: str, saved: Path) -> None:
    change, message = FORGERIES[what]
    forge(saved, change)
    with pytest.raises(CheckpointError, match=message):
        gb.load(saved, "cpu")


SUBSTITUTES = (None, True, 0, -1, 2**70, 0.5, "", "relu", "float32", [], [1], {}, {"a": 1}, [[]], "x" * 50)


def mutate(value: Any, rng: np.random.Generator) -> Any:
    """The same description with something in it changed: another type, an absent or a strange key, another length."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = str(rng.choice(sorted(value)))
        what = rng.random()
        if what < 0.15:
            return {k: v for k, v in value.items() if k != name}
        if what < 0.25:
            return {**value, "".join(rng.choice(list("abc._/"), 3)): value[name]}
        return {**value, name: mutate(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = int(rng.integers(len(value)))
        what = rng.random()
        if what < 0.2:
            return value[:i] + value[i + 1 :]
        return value[:i] + [mutate(value[i], rng)] * (1 + (what < 0.4)) + value[i + 1 :]
    return SUBSTITUTES[int(rng.integers(len(SUBSTITUTES)))]


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 5000), marks=pytest.mark.nightly)])
def test_any_other_description_gives_the_one_error(seeds: range, saved: Path) -> None:
    with safe_open(saved, framework="numpy") as file:
        manifest = json.loads(file.metadata()["gpubackprop"].partition(" ")[2])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    refused = 0
    for seed in seeds:
        rewrite(saved, mutate(manifest, np.random.default_rng(seed)), arrays)
        try:
            gb.load_checkpoint(saved, "cpu")
        except CheckpointError:
            refused += 1
    assert refused > len(seeds) / 2


# -- writing ------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
import gpubackprop as gb
net = gb.mlp([100, 100], device="cpu", seed=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    gb.save(sys.argv[1], net)
except gb.GpuBackpropError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_keeps_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, saved], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("CheckpointError")
    assert "unchanged" in done.stdout
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_old_file(
    call: str, error: BaseException, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises((CheckpointError, KeyboardInterrupt)):
            gb.save(saved, gb.mlp([2, 3], device="cpu"))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_destinations_that_are_no_files_are_refused(saved: Path, tmp_path: Path) -> None:
    net = gb.mlp([2, 3], device="cpu")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(saved)
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("pipe", "no regular"),
        ("link", "symbolic link"),
        ("folder", "a folder"),
        ("no/such", "No such"),
    ):
        with pytest.raises(CheckpointError, match=message):
            gb.save(tmp_path / name, net)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_permissions(saved: Path, tmp_path: Path) -> None:
    net = gb.mlp([2, 3], device="cpu")
    saved.chmod(0o640)
    gb.save(saved, net)
    assert saved.stat().st_mode & 0o777 == 0o640
    before = os.umask(0o027)
    try:
        gb.save(tmp_path / "new", net)
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


# -- user-defined classes -----------------------------------------------------------------------------------------


class Scale(gb.Layer):
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.multiply(v.x, self.factor, out=v.a)

    def settings(self) -> dict[str, Any]:
        return {"factor": self.factor}


class Silent(Scale):
    settings = gb.Layer.settings


class Scaled(gb.Dense):
    """One of the library's, with an argument more, which the settings of that know nothing of."""

    def __init__(self, *arguments: Any, scale: Any = 1.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scale = scale


class Square(Activation):
    name = "square"

    def forward(self, be: Any, z: Any, a: Any) -> None:
        be.xp.multiply(z, z, out=a)


class Bold(Loss):
    name = "bold"


def test_custom_classes_come_back_through_a_table(tmp_path: Path) -> None:
    net = gb.Network([gb.Dense(5, 4, Square()), Scale(3.0), gb.Dense(4, 2)], loss=Bold(), device="cpu")
    gb.save(tmp_path / "a", net)
    back = gb.load(tmp_path / "a", "cpu", custom={"Scale": Scale, "square": Square, "bold": Bold})
    assert np.array_equal(back.predict(X), net.predict(X))
    with pytest.raises(CheckpointError, match="custom="):
        gb.load(tmp_path / "a", "cpu")


@pytest.mark.parametrize("scale", [1.0, 5.0, np.float32(5.0), (1.0, 2.0), np.ones(3), None, "large"], ids=str)
@pytest.mark.parametrize("inside", [True, False])
def test_a_layer_that_derives_from_the_librarys_must_tell_its_own_arguments(
    scale: Any, inside: bool, tmp_path: Path
) -> None:
    layer = Scaled(5, 5, "relu", bias=False, initializer="zeros", scale=scale)
    net = gb.Network([gb.Residual([layer]) if inside else layer], device="cpu")
    if isinstance(scale, float) and scale == 1.0:
        gb.save(tmp_path / "a", net)
        back = gb.load(tmp_path / "a", "cpu", custom={"Scaled": Scaled})
        assert repr(back.layers) == repr(net.layers)
        return
    with pytest.raises(ArgumentError, match=r"\(Scaled\) cannot be saved: its settings"):
        gb.save(tmp_path / "a", net)


def test_custom_classes_that_could_not_come_back_are_refused(tmp_path: Path) -> None:
    impostor = type("Dense", (gb.Dense,), {})
    twin = type("Twin", (Square,), {"name": "relu"})
    anonymous = type("Anonymous", (Loss,), {"name": ""})
    tuple_layer = Scale((1, 2))  # type: ignore[arg-type]
    for layers, loss, message in (
        ([gb.Dense(5, 4), Silent(2.0)], "half_squared_error", "settings"),
        ([gb.Dense(5, 4), tuple_layer], "half_squared_error", "settings"),
        ([impostor(5, 4)], "half_squared_error", "library's name 'Dense'"),
        ([gb.Dense(5, 4, twin())], "half_squared_error", "name of its own"),
        ([gb.Dense(5, 4)], anonymous(), "name of its own"),
    ):
        with pytest.raises(ArgumentError, match=message):
            gb.save(tmp_path / "a", gb.Network(layers, loss=loss, device="cpu"))  # type: ignore[arg-type]
    own_rule = type("Own", (gb.SGD,), {})
    with pytest.raises(ArgumentError, match="Own is not one of the library's own"):
        gb.save(tmp_path / "a", gb.mlp([2, 3], device="cpu"), optimizer=own_rule(0.1))
    assert not list(tmp_path.iterdir())


def test_only_real_networks_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="net must be a Network"):
        gb.save(tmp_path / "a", {"0.weight": np.zeros(3)})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="complex128"):
        gb.save(tmp_path / "a", gb.mlp([2, 3], device="cpu", dtype="complex128"))


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_the_constants_of_functions_and_losses_come_back(tmp_path: Path, device: str) -> None:
    """Those that are not what they are by default, of activations inside layers and alone, and of the loss."""
    make = gb.activations
    layers = [
        gb.Dense(3, 4, make.ELU(alpha=0.5)),
        gb.Activation(make.Softplus(beta=2.0)),
        gb.PReLU(4, shared=False, initial=0.1),
        gb.RMSNorm(4, eps=1e-3),
        gb.Dense(4, 4, make.LeakyReLU(0.3)),
        gb.Activation({"name": "celu", "alpha": 2.0}),
    ]
    loss = gb.losses.CrossEntropy(class_weights=[1, 2, 0.5, 1], label_smoothing=0.1, ignore_index=-1)
    net = gb.Network(layers, loss=loss, device=device, seed=5)
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.array([0, 1, 2, 3, -1, 1, 2, 0])
    net.train_step(x, y, gb.SGD(0.1))
    gb.save(tmp_path / "net.safetensors", net)
    again = gb.load(tmp_path / "net.safetensors", device=device)
    assert [repr(layer) for layer in again.layers] == [repr(layer) for layer in layers]
    assert repr(again.loss_function) == repr(loss)
    assert again.loss(x, y) == net.loss(x, y)
    np.testing.assert_array_equal(again.predict(x), net.predict(x))
