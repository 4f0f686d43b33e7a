from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.cpu.compiled import EpochProgram, MachineCode, installed, program
from gpubackprop.backend.cpu.compiled.operations import UntranslatableError, operations
from gpubackprop.errors import ArgumentError
from tests.backend.interpreted import run_of
from tests.small import LOSSES, OPTIMIZERS, make_data, make_optimizer

needs_numba = pytest.mark.skipif(not installed(), reason="the numba extra is not installed")
N = 4


class Case:
    """A network, its data, and its training step, recorded."""

    def __init__(self, net: gb.Network, optimizer: str = "sgd momentum") -> None:
        self.net = net
        loss = net.loss_function.name
        self.x, self.y = make_data(3 * N, net.widths[0], net.widths[-1], loss)
        self.x = self.x.astype(net.dtype)
        self.y = self.y.astype(np.int64 if self.y.ndim == 1 else net.dtype)
        self.optimizer = make_optimizer(optimizer)
        self.optimizer.bind(net.engine.parameters)
        batch = net.engine.load(self.x[:N], self.y[:N])
        self.buffers = batch.x, batch.targets
        self.step: Any = net.engine.training_program(batch, self.optimizer)
        self.order = np.random.default_rng(5).permutation(len(self.x))

    def replay(self) -> None:
        """The three steps of the data in its order, one after the other."""
        for i in range(3):
            rows = self.order[i * N : (i + 1) * N]
            for buffer, data in zip(self.buffers, (self.x, self.y), strict=True):
                buffer[...] = data[rows]
            self.optimizer.prepare()
            self.step()

    def code(self) -> MachineCode:
        return MachineCode(self.step.calls, *self.buffers, self.optimizer.h)

    def run(self, code: EpochProgram) -> None:
        """The same three steps through generated code: one, then the other two."""
        code(self.x, self.y, self.order, 0, self.optimizer.prepare_many(1))
        code(self.x, self.y, self.order, N, self.optimizer.prepare_many(2))

    def interpret(self) -> None:
        """The same three steps, by the generated source as Python."""
        code = self.code()
        assert hasattr(code, "_text"), code.reason
        self.run(EpochProgram(code._source, run_of(code._text), *code._buffers))


def assert_same(a: Case, b: Case) -> None:
    tolerance = 1e-12 if a.net.dtype == np.float64 else 2e-6
    np.testing.assert_allclose(a.net.engine.steps.sums, b.net.engine.steps.sums, rtol=tolerance)
    assert a.optimizer.t == b.optimizer.t == 3
    for (name, found), expected in zip(a.net.get_weights().items(), b.net.get_weights().values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)
    for name, state in b.optimizer.state.items():
        np.testing.assert_allclose(a.optimizer.state[name], state, rtol=10 * tolerance, atol=tolerance, err_msg=name)


def mlp(widths: tuple[int, ...] = (3, 5, 4), **options: Any) -> gb.Network:
    return gb.mlp(list(widths), **{"device": "cpu", "loss": "cross_entropy", "seed": 2, **options})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, dtype: str) -> None:
    found, expected = (Case(mlp(activation=activation, dtype=dtype)) for _ in range(2))
    found.interpret()
    expected.replay()
    assert_same(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str, dtype: str) -> None:
    found, expected = (Case(mlp(loss=loss, dtype=dtype), "adam") for _ in range(2))
    found.interpret()
    expected.replay()
    assert_same(found, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer: str) -> None:
    found, expected = (Case(mlp(dtype="float64"), optimizer) for _ in range(2))
    found.interpret()
    expected.replay()
    assert_same(found, expected)


LAYERS = [gb.Dropout(0.3), gb.BatchNorm(5), gb.LayerNorm(5), gb.RMSNorm(5), gb.PReLU(5), gb.Activation("tanh")]
LAYERS.append(gb.Residual([gb.LayerNorm(5), gb.Dense(5, 3, "gelu"), gb.Dropout(0.2), gb.Dense(3, 5)]))


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_every_layer(layer: gb.Layer) -> None:
    def case() -> Case:
        layers = [gb.Dense(3, 5), copy.copy(layer), gb.Dense(5, 4)]
        return Case(gb.Network(layers, loss="cross_entropy", dtype="float64", device="cpu", l1=0.01, l2=0.01))

    found, expected = case(), case()
    found.interpret()
    expected.replay()
    assert_same(found, expected)
    assert int(found.net.step) == int(expected.net.step)


@pytest.mark.parametrize("widths", [(64, 96, 8), (96, 160, 10)])
def test_products_by_blas_and_momentum_in_them(widths: tuple[int, ...]) -> None:
    found, expected = (Case(mlp(widths, dtype="float64")) for _ in range(2))
    if "gemm" not in found.code().__dict__.get("_text", ""):
        pytest.skip("this NumPy's BLAS has no symbols that are known here")
    found.interpret()
    expected.replay()
    assert_same(found, expected)


def test_rows_as_they_lie() -> None:
    found, expected = Case(mlp()), Case(mlp())
    expected.order = np.arange(3 * N)
    expected.replay()
    code = found.code()
    run = EpochProgram(code._source, run_of(code._text), *code._buffers)
    run(found.x, found.y, None, 0, found.optimizer.prepare_many(3))
    assert_same(found, expected)


def test_divergence_shows_as_nan() -> None:
    found = Case(mlp())
    found.net.set_weights({name: np.full_like(w, 1e30) for name, w in found.net.get_weights().items()})
    found.x[...] = 1e30
    found.interpret()
    assert not np.isfinite(found.net.engine.steps.sums[0])


def test_wrong_arguments_are_refused_before_anything_is_read() -> None:
    case = Case(mlp())
    code = case.code()
    run = EpochProgram(code._source, run_of(code._text), *code._buffers)
    numbers = case.optimizer.prepare_many(3)
    with pytest.raises(ArgumentError, match="x must be like"):
        run(case.x.astype(np.float64), case.y, case.order, 0, numbers)
    with pytest.raises(ArgumentError, match="y must be like"):
        run(case.x, case.y.astype(np.float32), case.order, 0, numbers)
    with pytest.raises(ArgumentError, match="x must be like"):
        run(case.x[:, ::-1], case.y, case.order, 0, numbers)
    with pytest.raises(ArgumentError, match="rows 4 to 16 were asked for"):
        run(case.x, case.y, case.order, N, numbers)
    with pytest.raises(ArgumentError, match="numbers must be like"):
        run(case.x, case.y, case.order, 0, np.ones((3, 2), np.float32))


class OwnLayer(gb.Layer):
    """Runs Python at each step."""

    def forward(self, be: Any, v: Any, training: bool) -> None:
        v.a[...] = 2 * v.x

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        dx[...] = 2 * v.delta


def test_a_layer_of_ones_own_is_replayed() -> None:
    net = gb.Network([gb.Dense(3, 5), OwnLayer(), gb.Dense(5, 4)], loss="cross_entropy", device="cpu")
    code = Case(net).code()
    assert code.program() is None
    assert "_without_result" in code.reason


def test_calls_that_are_not_known_are_named() -> None:
    a = np.ones(3)
    for call, named in [
        ((np.sort, (a,)), "sort"),
        ((np.cbrt, (a, a)), "cbrt"),
        ((a.sort, ()), "sort"),
        ((np.add, (np.ones(3, complex), a, np.ones(3, complex))), "complex"),
        ((np.add, (np.ones((2, 2, 2)), a[0:1], np.ones((2, 2, 2)))), "3 dimensions"),
    ]:
        with pytest.raises(UntranslatableError, match=named):
            operations([call])


A, MASK = np.ones((4, 4), np.float32), np.ones((4, 4), bool)
INDEX, SHIFT = np.arange(4), np.asarray(70, np.uint64)


@pytest.mark.parametrize(
    "call",
    [
        (np.subtract, (A[:, 1:], A[:, :-1], A[:, 1:])),
        (np.subtract, (A, A[:1], A)),
        (np.divide, (A, A[:1, :1], A)),
        (np.negative, (A[::-1], A)),
        (np.copyto, (A, A.T)),
        (np.copyto, (A[1:], A[:-1])),
        (np.maximum.reduce, (A, 0, None, A[2], False)),
        (A.dot, (A, A)),
        (np.add, (MASK, MASK, MASK)),
        (np.add.reduce, (MASK, 0, np.dtype(bool), np.ones(4, bool), False)),
        (np.copyto, (MASK, np.float32(0.5))),
        (MASK.fill, (2.0,)),
        (A[:, 1].take, (INDEX, None, np.ones(4, np.float32), "clip")),
        (A.T.take, (INDEX, None, np.ones(4, np.float32), "clip")),
        (A.reshape(-1).take, (INDEX.reshape(2, 2), None, np.ones((2, 2), np.float32), "clip")),
        (A.reshape(-1).put, (INDEX, 0.5, "clip")),
        (A.reshape(-1).put, (INDEX, np.ones(1, np.float32), "clip")),
        (np.negative, (A.astype(">f4"), np.ones((4, 4), np.float32))),
        (np.negative, (np.zeros(4, [("x", "u1"), ("y", "<f4")])["y"], np.ones(4, np.float32))),
        (np.right_shift, (INDEX.astype(np.uint64), SHIFT, np.ones(4, np.uint64))),
        (np.greater, (INDEX, INDEX.astype(np.uint64), np.ones(4, bool))),
    ],
)
def test_what_numpy_computes_otherwise_is_replayed(call: Any) -> None:
    """Outputs that overlap operands, arithmetic of truth values, indices of other forms, and arrays of other layouts."""
    with pytest.raises(UntranslatableError):
        operations([call])


def test_what_pays() -> None:
    small = Case(mlp()).code()
    assert small.saved > 1e-5
    assert Case(mlp((3, 500, 500, 4), activation="tanh", dtype="float64")).code().saved < small.saved
    wide = gb.mlp([784, 1024, 1024, 10], loss="cross_entropy", device="cpu")
    x, y = make_data(512, 784, 10, "cross_entropy")
    batch = wide.engine.load(x.astype(np.float32), y)
    optimizer = gb.SGD(0.1, momentum=0.9)
    step: Any = wide.engine.training_program(batch, optimizer)
    # The products take nearly all of the time.
    assert MachineCode(step.calls, batch.x, batch.targets, optimizer.h).saved == 0


OF_64 = [gb.BatchNorm(64), gb.LayerNorm(64), gb.RMSNorm(64), gb.PReLU(64), gb.Dropout(0.2)]
OF_64 += [gb.Residual([gb.LayerNorm(64), gb.Dense(64, 64, "relu")]), *map(gb.Activation, ACTIVATIONS)]


@pytest.mark.parametrize("layer", OF_64, ids=repr)
def test_every_layer_at_the_sizes_that_machine_code_is_for(layer: gb.Layer) -> None:
    """NumPy's faster ways for large arrays, which the generated code does not know, are for larger ones."""
    net = gb.Network([gb.Dense(16, 64, "relu"), layer, gb.Dense(64, 3)], loss="cross_entropy", device="cpu")
    x, y = make_data(256, 16, 3, "cross_entropy")
    batch = net.engine.load(x.astype(np.float32), y)
    for optimizer in (gb.Adam(), gb.SGD(0.1, momentum=0.9)):
        step: Any = net.engine.training_program(batch, optimizer)
        assert operations(step.calls)


def test_a_long_step_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "function", lambda text: pytest.fail("compiled"))
    code = Case(mlp((3, *[4] * 60, 4))).code()
    assert code.program() is None
    assert "compiling more than" in code.reason


def test_only_networks_that_ask_for_it_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "function", lambda text: pytest.fail("compiled"))
    x, y = make_data(70, 3, 4, "cross_entropy")
    gb.Trainer(mlp(), gb.SGD(0.1)).fit(x, y, epochs=3, batch_size=16)


# -- with Numba -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path))
    return tmp_path / "code"


@needs_numba
def test_machine_code_gives_the_same_and_is_kept_on_disk(folder: Path) -> None:
    found, expected = (
        Case(mlp((40, 64, 10), activation="gelu", dropout=0.2, seed=2**63 + 5), "adam") for _ in range(2)
    )
    code = found.code()
    compiled = code.program()
    assert compiled is not None
    found.run(compiled)
    expected.replay()
    assert_same(found, expected)
    masks = [case.net.engine.training.batch(N).tensors[1].mask for case in (found, expected)]
    np.testing.assert_array_equal(*masks)
    assert list(folder.glob("step-*.code"))
    assert not list(folder.glob(".*"))


@needs_numba
def test_a_fit_is_compiled_where_that_is_asked_for(folder: Path) -> None:
    fits = []
    for compile in (True, False):
        net = mlp(compile=compile)
        x, y = make_data(70, 3, 4, "cross_entropy")
        fits.append((net, gb.Trainer(net, gb.SGD(0.1)).fit(x, y, epochs=3, batch_size=16)))
    (compiled, history), (replayed, expected) = fits
    assert list(folder.glob("step-*.code"))
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    for name, array in replayed.get_weights().items():
        np.testing.assert_allclose(compiled.get_weights()[name], array, rtol=2e-6, atol=2e-6, err_msg=name)


@needs_numba
def test_the_bits_depend_neither_on_the_number_of_steps_nor_on_what_is_cached(folder: Path) -> None:
    x, y = make_data(70, 3, 4, "cross_entropy")
    found = []
    for lengths in ((6,), (3, 3), (5, 1)):
        net, optimizer = mlp(compile=True), gb.SGD(0.1, momentum=0.9)
        for epochs in lengths:
            gb.Trainer(net, optimizer).fit(x, y, epochs=epochs, batch_size=16)
        found.append(net.get_weights())
    for weights in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(weights[name], array, err_msg=name)


@needs_numba
def test_steps_by_hand_are_compiled_where_that_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, of two sizes in turn, whether or not it needs a second look; rows of another type and order are converted."""
    called: list[int] = []
    original = EpochProgram.__call__

    def counted(self: EpochProgram, *arguments: Any) -> None:
        if len(arguments[-1]):
            called.append(self.rows)
        original(self, *arguments)

    monkeypatch.setattr(EpochProgram, "__call__", counted)
    x, y = make_data(16, 3, 4, "cross_entropy")
    sizes, found = (16, 16, 7, 7, 16, 16), []
    for compile in (True, False):
        net, optimizer = mlp(compile=compile), gb.Adam(0.01, clip_norm=1.0)
        losses = [float(net.train_step(np.asfortranarray(x[:n]), y[:n].astype(np.int32), optimizer)) for n in sizes]
        found.append((losses, net.get_weights()))
        assert called == (list(sizes) if compile else []), called
        called.clear()
    (losses, weights), (expected, replayed) = found
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    for name, array in replayed.items():
        np.testing.assert_allclose(weights[name], array, rtol=2e-6, atol=2e-6, err_msg=name)


_ANSWER = """
import sys
from gpubackprop.backend.cpu.compiled import module
print(module.load("from numba import njit\\n@njit\\ndef run(n): return 2 * n\\n").run(21))
"""


def answer(folder: Path) -> str:
    """What a new process computes with compiled code, whose cache is in the folder."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "GPUBACKPROP_CACHE": str(folder), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run([sys.executable, "-c", _ANSWER], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_numba
def test_machine_code_that_was_altered_is_made_again(tmp_path: Path) -> None:
    assert answer(tmp_path) == "42\n"
    (path,) = (tmp_path / "code").iterdir()
    whole, written = path.read_bytes(), path.stat().st_mtime_ns
    assert answer(tmp_path) == "42\n"
    assert path.stat().st_mtime_ns == written, "it was compiled again"
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]):
        path.write_bytes(damaged)
        assert answer(tmp_path) == "42\n"
        assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.rglob("*")] == ["code", path.name], "nothing else is kept, nor believed"


@needs_numba
def test_two_processes_keep_the_same_code(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "GPUBACKPROP_CACHE": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", _ANSWER], env=environment) for _ in range(2)]
    assert [p.wait() for p in running] == [0, 0]
    assert len(list((tmp_path / "code").iterdir())) == 1


@needs_numba
def test_rows_of_another_type_in_a_file_are_converted_batch_by_batch(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 255, (64, 6), np.uint8), np.arange(64) % 4
    np.save(tmp_path / "x.npy", x)
    histories = [
        gb.Trainer(gb.mlp([6, 8, 4], loss="cross_entropy", device="cpu", compile=compile), "sgd").fit(
            rows, y, epochs=2, batch_size=16
        )
        for compile in (False, True)
        for rows in (x, np.load(tmp_path / "x.npy", mmap_mode="r"))
    ]
    for history in histories[1:]:
        np.testing.assert_allclose(history["loss"], histories[0]["loss"], rtol=1e-5)


@needs_numba
def test_an_interrupt_while_the_compiler_works_has_counted_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    optimizer = gb.Adam(1e-3)
    x, y = np.zeros((64, 6), np.float32), np.arange(64) % 4
    trainer = gb.Trainer(gb.mlp([6, 8, 4], loss="cross_entropy", device="cpu", compile=True), optimizer)
    monkeypatch.setattr("gpubackprop.backend.cpu.compiled.program.EpochProgram.__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=1, batch_size=16)
    assert optimizer.t == 0
