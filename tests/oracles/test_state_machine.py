"""The library and the textbook side by side, through any sequence of public calls: after each, all numbers are the same."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gpubackprop as gb
from gpubackprop.activations import Activation
from gpubackprop.backend.cpu import numpy_backend
from gpubackprop.losses import Loss
from gpubackprop.optimizers import Optimizer
from tests.oracles import textbook

TOLERANCE = 1e-10
D, ROWS = 4, 12
EPOCHS = 3


# -- functions of a user's own, written as plain array expressions --------------------------------------------------------


class OwnSoftsign(Activation):
    name = "own_softsign"
    saves = "z"

    def forward(self, be: Any, z: Any, a: Any) -> None:
        a[...] = z / (1 + abs(z))

    def times_derivative(self, be: Any, saved: Any, delta: Any) -> None:
        delta[...] = delta / (1 + abs(saved)) ** 2


class OwnPseudoHuber(Loss):
    name = "own_pseudo_huber"

    def value_and_delta(self, be: Any, a: Any, y: Any, v: Any, value: Any, delta: Any, rows: int) -> None:
        d = a - y
        root = (1 + d * d) ** 0.5
        value[...] = np.sum(root - 1) / (rows * a.shape[1])
        if delta is not None:
            delta[...] = d / root / (rows * a.shape[1])


CUSTOM = {f.name: f for f in (OwnSoftsign, OwnPseudoHuber)}


def pseudo_huber(a: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    root = np.sqrt(1 + (a - y) ** 2)
    return np.mean(root - 1), (a - y) / root / a.size


def know_own_functions(patch: pytest.MonkeyPatch) -> None:
    """Let the textbook know the functions that are not the library's."""
    softsign = (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2)
    patch.setitem(textbook.ACTIVATIONS, OwnSoftsign.name, softsign)
    patch.setitem(textbook.LOSSES, OwnPseudoHuber.name, pseudo_huber)


@pytest.fixture(autouse=True)
def _own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    know_own_functions(monkeypatch)


# -- problems -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A network and data that fit it. ways: the kinds of network that do the same at the same time."""

    ways: tuple[str, ...]
    layers: textbook.Layers
    loss: str
    penalties: dict[str, float]
    outputs: int
    labels: bool
    seed: int
    x: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)


HIDDEN: dict[str, Any] = {
    "none": lambda f: [],
    "dense": lambda f: [("Dense", {"inputs": D, "outputs": 5, "activation": f})],
    "dropout": lambda f: [("Dense", {"inputs": D, "outputs": 5, "activation": f}), ("Dropout", {"p": 0.3})],
    "batch norm": lambda f: [
        ("Dense", {"inputs": D, "outputs": 5, "bias": False}),
        ("BatchNorm", {"width": 5, "eps": 1e-5, "momentum": 0.1}),
        ("Activation", {"activation": f}),
    ],
    "layer norm": lambda f: [
        ("Dense", {"inputs": D, "outputs": 5, "activation": f}),
        ("LayerNorm", {"width": 5, "eps": 1e-5}),
    ],
}
LOSSES = {
    "half_squared_error": 3,
    "mean_squared_error": 1,
    "mean_absolute_error": 3,
    "binary_cross_entropy": 2,
    "cross_entropy": 3,
    "own_pseudo_huber": 2,
}
"""Each loss with its number of outputs."""
WAYS: dict[tuple[str, ...], int] = {("recorded", "eager"): 2, ("strict",): 2}
if find_spec("numba"):
    WAYS["compiled", "compiled"] = 1
"""The kinds of network, and how many of the sequences each is given: drawn, some would hardly come. Two on one device must have
the same bits."""


@st.composite
def problems(draw: st.DrawFn, hidden: str, ways: tuple[str, ...]) -> Problem:
    """compiled: few different ones, since each is compiled."""
    compiled = "compiled" in ways
    f = draw(st.sampled_from(["tanh"] if compiled else ["tanh", "relu", "silu", "own_softsign"]))
    loss = draw(st.sampled_from(["cross_entropy"] if compiled else list(LOSSES)))
    outputs = draw(st.sampled_from([3, 130])) if loss == "cross_entropy" and not compiled else LOSSES[loss]
    labels = loss == "cross_entropy" and (compiled or draw(st.booleans()))
    penalties = draw(st.sampled_from([{}] if compiled else [{}, {}, {"l1": 0.01, "l2": 0.1}]))
    seed = draw(st.integers(0, 5))
    layers = HIDDEN[hidden](f)
    layers.append(("Dense", {"inputs": 5 if layers else D, "outputs": outputs}))
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((ROWS, D)), rng.standard_normal((ROWS, outputs))
    if loss == "binary_cross_entropy":
        y = rng.integers(0, 2, (ROWS, outputs)).astype(float)
    elif loss == "cross_entropy":
        y = rng.integers(0, outputs, ROWS) if labels else rng.dirichlet(np.ones(outputs), ROWS)
    return Problem(ways, layers, loss, penalties, outputs, labels, seed, x, y)


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.6}),
    ("sgd", {"momentum": 0.6, "nesterov": True, "weight_decay": 0.01}),
    ("sgd", {"clip_norm": 0.5, "clip_value": 0.2}),
    ("adam", {}),
    ("adamw", {"weight_decay": 0.1}),
    ("rmsprop", {"momentum": 0.5, "centered": True}),
]
RATES = {"sgd": 0.02, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.005}
SCHEDULES: list[tuple[str, int, int | None]] = [
    ("constant", 0, None),
    ("constant", 3, None),
    ("cosine", 0, None),
    ("cosine", 2, 20),
    ("step", 1, None),
]


def schedule_of(schedule: tuple[str, int, int | None]) -> Any:
    name, warmup, total = schedule
    return gb.schedules.get_schedule(name, warmup=warmup, total=total)


def layer_of(kind: str, given: dict[str, Any]) -> Any:
    given = {**given, "activation": OwnSoftsign()} if given.get("activation") == OwnSoftsign.name else given
    return getattr(gb, kind)(**given)


def network_of(problem: Problem, way: str, backend: Any = None) -> gb.Network:
    loss: Any = OwnPseudoHuber() if problem.loss == OwnPseudoHuber.name else problem.loss
    return gb.Network(
        [layer_of(*layer) for layer in problem.layers],
        loss=loss,
        device=backend or ("strict" if way == "strict" else "cpu"),
        dtype="float64",
        seed=problem.seed,
        capture=way != "eager",
        **({"compile": True} if way == "compiled" else {}),
        **problem.penalties,
    )


@dataclass
class Subject:
    """A network of the library with what trains it."""

    way: str
    net: gb.Network
    optimizer: Any
    trainer: gb.Trainer


# -- callbacks ------------------------------------------------------------------------------------------------------------


class StopError(Exception):
    """What a callback of somebody's raises."""


@dataclass(frozen=True)
class Interruption:
    """Raised at the end of an epoch, or after its first step (if there are more)."""

    error: type[BaseException]
    epoch: int
    inside: bool


class Listener(gb.Callback):
    """Adds a score to each record that is the better the larger it is, uses the network, may halve the rate, and may raise."""

    def __init__(self, x: np.ndarray, scores: list[float], halve: bool, interruption: Interruption | None) -> None:
        self.x, self.scores, self.halve, self.interruption = x, scores, halve, interruption

    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        trainer.net.predict(self.x)
        if self.halve:
            trainer.optimizer.learning_rate *= 0.5
        self.tell(record["epoch"], record)

    def tell(self, epoch: int, record: dict[str, Any] | None) -> None:
        if record is not None:
            record["val_score"] = self.scores[epoch % len(self.scores)]
        at = self.interruption
        if at is not None and (at.epoch, at.inside) == (epoch, record is None):
            raise at.error


class ListenerInside(Listener):
    def on_progress(self, trainer: gb.Trainer, progress: Any) -> None:
        trainer.net.predict(self.x)
        if progress.step == 1:
            self.tell(progress.epoch, None)


STOPPING = [None, ("val_score", 1, -1), ("val_score", 2, -1), ("loss", 1, 1), ("val_loss", 1, 1)]
"""(column, patience, -1 where more of it is better)."""
INTERRUPTIONS = st.none() | st.builds(
    Interruption, st.sampled_from([StopError, KeyboardInterrupt]), st.integers(1, EPOCHS), st.booleans()
)
ROW_COUNTS = st.sampled_from([8, 1, 2, 5, ROWS])
SEVERAL = st.sampled_from([8, 2, 5, ROWS])
SIZES = st.sampled_from([4, 1, 3, 5, None])
PARTS = st.sampled_from([None, None, None, 1, 2, 3])
FORMS = st.sampled_from(["plain", "device", "fortran", "strided", "list"])


def handed(form: str, s: Subject, *arrays: np.ndarray) -> list[Any]:
    """Data as a caller may have them: host arrays in any layout, lists, or arrays on the device."""
    make: dict[str, Any] = {
        "plain": lambda a: a,
        "device": lambda a: s.net.backend.asarray(a.copy()),
        "fortran": np.asfortranarray,
        "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
        "list": lambda a: a.tolist(),
    }
    return [make[form](a) for a in arrays]


# -- the machine ----------------------------------------------------------------------------------------------------------


class SideBySide(RuleBasedStateMachine):
    """Each rule is a public call. The textbook is asked first; what it refuses, the library must refuse, and stay as it is."""

    hidden: str
    ways: tuple[str, ...]

    @initialize(data=st.data(), optimizer=st.sampled_from(OPTIMIZERS), schedule=st.sampled_from(SCHEDULES))
    def begin(
        self, data: st.DataObject, optimizer: tuple[str, dict[str, Any]], schedule: tuple[str, int, int | None]
    ) -> None:
        problem = data.draw(problems(self.hidden, self.ways))
        self.problem = problem
        if "compiled" in problem.ways:
            optimizer = OPTIMIZERS[1]
        self.subjects = [Subject(way, network_of(problem, way), None, None) for way in problem.ways]  # type: ignore[arg-type]
        self.initial = self.subjects[0].net.get_weights()
        self.model = textbook.Network(problem.layers, problem.loss, self.initial, problem.seed, **problem.penalties)
        self.new_optimizer(optimizer, schedule)
        self.data = problem.x.copy(), problem.y.copy()
        self.handed_out: list[tuple[Any, Any, np.ndarray]] = []
        self.left_behind: list[tuple[gb.Network, dict[str, np.ndarray]]] = []

    # -- both of them ------------------------------------------------------------------------------------------------

    def both(self, model: Any, library: Any) -> None:
        """The same answer from the model and from each subject, or a refusal from all."""
        try:
            expected = model()
        except textbook.RefusedError as refusal:
            for subject in self.subjects:
                try:
                    found = library(subject)
                except gb.GpuBackpropError:
                    continue
                raise AssertionError(f"{subject.way}: {found} is the answer to {refusal}") from None
            return
        for subject in self.subjects:
            assert_same(library(subject), expected, subject.way)

    @invariant()
    def same_state(self) -> None:
        if not hasattr(self, "model"):
            return
        x = self.problem.x[:3]
        expected = self.model.predict(x)
        for s in self.subjects:
            weights, predictions = s.net.get_weights(), s.net.predict(x)
            assert_same(weights, self.model.weights, f"{s.way}: weights")
            assert_same(predictions, expected, f"{s.way}: predictions")
            # They belong to the caller.
            for array in (*weights.values(), predictions):
                array.fill(np.nan)
            assert s.optimizer.t == self.optimizer.t, f"{s.way}: the optimizer's steps"
        if len(self.subjects) == 2 and self.subjects[0].net.backend.name == "cpu":
            one, other = (s.net.get_weights() for s in self.subjects)
            for name, weight in one.items():
                assert np.array_equal(weight, other[name]), f"bits of {name}: {' and '.join(self.problem.ways)}"
        for be, array, value in self.handed_out[-4:]:
            assert_same(be.to_host(array), value, "an array that was handed out")
        assert_same((self.problem.x, self.problem.y), self.data, "the caller's data")
        for net, weights in self.left_behind:
            assert_same(net.get_weights(), weights, "a network whose copy went on")

    # -- passes ------------------------------------------------------------------------------------------------------

    def keep(self, s: Subject, array: Any) -> np.ndarray:
        """What was handed out on the device, on the host; it must not change any more."""
        host = to_host(s, array)
        self.handed_out.append((s.net.backend, array, host))
        return host

    @rule(n=ROW_COUNTS, training=st.booleans(), form=FORMS)
    def forward(self, n: int, training: bool, form: str) -> None:
        x = self.problem.x[:n]

        def model() -> np.ndarray:
            outputs: np.ndarray = self.model.forward(x, training)[0]
            self.model.masks += training
            return outputs

        self.both(model, lambda s: self.keep(s, s.net.forward(*handed(form, s, x), training=training)))

    @rule(n=ROW_COUNTS, training=st.booleans(), form=FORMS)
    def loss(self, n: int, training: bool, form: str) -> None:
        x, y = self.problem.x[:n], self.problem.y[:n]
        self.both(
            lambda: self.model.loss_and_gradients(x, y, training)[0],
            lambda s: s.net.loss(*handed(form, s, x, y), training=training),
        )

    @rule(n=ROW_COUNTS, training=st.booleans(), form=FORMS)
    def gradients(self, n: int, training: bool, form: str) -> None:
        x, y = self.problem.x[:n], self.problem.y[:n]
        self.both(
            lambda: self.model.loss_and_gradients(x, y, training),
            lambda s: s.net.loss_and_gradients(*handed(form, s, x, y), training=training),
        )

    @rule(n=ROW_COUNTS, size=st.sampled_from([None, 1, 5]), form=FORMS)
    def predict(self, n: int, size: int | None, form: str) -> None:
        x = self.problem.x[:n]
        self.both(lambda: self.model.predict(x), lambda s: s.net.predict(*handed(form, s, x), batch_size=size))

    @rule(n=SEVERAL, size=st.sampled_from([None, 1, 5]), form=FORMS)
    def evaluate(self, n: int, size: int | None, form: str) -> None:
        x, y = self.problem.x[:n], self.problem.y[:n]
        self.both(
            lambda: self.model.evaluate(x, y), lambda s: gb.evaluate(s.net, *handed(form, s, x, y), batch_size=size)
        )

    # -- training ----------------------------------------------------------------------------------------------------

    @rule(n=ROW_COUNTS, part=PARTS, form=FORMS)
    def train_step(self, n: int, part: int | None, form: str) -> None:
        x, y = self.problem.x[:n], self.problem.y[:n]

        def library(s: Subject) -> np.ndarray:
            return self.keep(s, s.net.train_step(*handed(form, s, x, y), s.optimizer, micro_batch_size=part))

        self.both(lambda: self.model.train_step(x, y, self.optimizer, part)[0], library)

    @rule(
        n=ROW_COUNTS,
        epochs=st.integers(0, EPOCHS),
        size=SIZES,
        part=PARTS,
        shuffle=st.booleans(),
        validate=st.booleans(),
        stopping=st.sampled_from(STOPPING),
        scores=st.permutations([0.1, 0.5, 0.9]),
        halve=st.booleans(),
        form=FORMS,
        interruption=INTERRUPTIONS,
    )
    def fit(
        self,
        n: int,
        epochs: int,
        size: int | None,
        part: int | None,
        shuffle: bool,
        validate: bool,
        stopping: tuple[str, int, int] | None,
        scores: list[float],
        halve: bool,
        form: str,
        interruption: Interruption | None,
    ) -> None:
        if stopping is not None and stopping[0] == "val_loss" and not validate:
            stopping = None
        if "compiled" in self.problem.ways:
            size, part = 4, None
        x, y = self.problem.x[:n], self.problem.y[:n]
        validation = (self.problem.x, self.problem.y) if validate else None
        several = n > (size or n)
        kind = ListenerInside if interruption is not None and interruption.inside else Listener
        listener = kind(x[:2], scores, halve, interruption)

        def told(epoch: int, steps: int | None, record: dict[str, Any] | None) -> None:
            if record is not None:
                self.optimizer.eta *= 0.5 if halve else 1
                listener.tell(epoch, record)
            elif steps == 1 and several:
                listener.tell(epoch, None)

        def fit() -> None:
            try:
                self.model.fit(x, y, self.optimizer, epochs, size or n, shuffle, part, validation, stopping, told)
            except (StopError, KeyboardInterrupt) as error:
                self.model.stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else ""

        def model() -> Any:
            nonlocal stopping
            before = copy.deepcopy((self.model, self.optimizer))
            fit()
            if stopping is not None and shuffle and tied(stopping[0], self.model.records):
                # Which epoch is the best is a matter of rounding: both fit to the end.
                (self.model, self.optimizer), stopping = before, None
                fit()
            return self.model.stopped, self.model.records, self.model.best_epoch or None

        def library(s: Subject) -> Any:
            s.trainer.callbacks = [listener]
            options: dict[str, Any] = {}
            if stopping is not None and stopping[2] < 0:
                s.trainer.callbacks.append(gb.EarlyStopping(stopping[0], stopping[1], mode="max"))
            elif stopping is not None:
                options = {"patience": stopping[1], "monitor": stopping[0]}
            try:
                s.trainer.fit(
                    *handed(form, s, x, y),
                    epochs=epochs,
                    batch_size=size,
                    shuffle=shuffle,
                    micro_batch_size=part,
                    validation_data=validation and handed(form, s, *validation),
                    **options,
                )
            except (StopError, KeyboardInterrupt):
                assert interruption is not None
            history = s.trainer.history
            records = [
                {k: v for k, v in record.items() if k not in ("seconds", "samples_per_second")} for record in history
            ]
            # The norm costs a pass, and is taken where something asks for it.
            for record, whole in zip(records, self.model.records, strict=False):
                record.setdefault("gradient_norm", whole["gradient_norm"])
            if records:
                assert_same(s.optimizer.current_learning_rate(), self.optimizer.rate(self.optimizer.t), s.way)
            return history.stopped, records, history.best_epoch

        self.both(model, library)

    @rule(epochs=st.integers(2, EPOCHS), n=ROW_COUNTS, size=SIZES, shuffle=st.booleans())
    def fit_in_pieces(self, epochs: int, n: int, size: int | None, shuffle: bool) -> None:
        """One network trains for all epochs at once, the other for one at a time."""
        name, _, total = self.optimizer.schedule
        if name != "constant" and total is None:
            return
        size = 4 if "compiled" in self.problem.ways else size
        x, y = self.problem.x[:n], self.problem.y[:n]

        def library(s: Subject) -> None:
            s.trainer.callbacks = []
            whole = s is self.subjects[0]
            for _ in range(1 if whole else epochs):
                s.trainer.fit(x, y, epochs=epochs if whole else 1, batch_size=size, shuffle=shuffle)

        self.both(lambda: self.model.fit(x, y, self.optimizer, epochs, size or n, shuffle), library)

    # -- changes -----------------------------------------------------------------------------------------------------

    @rule(optimizer=st.sampled_from(OPTIMIZERS), schedule=st.sampled_from(SCHEDULES))
    def new_optimizer(self, optimizer: tuple[str, dict[str, Any]], schedule: tuple[str, int, int | None]) -> None:
        if "compiled" in self.problem.ways:
            optimizer = OPTIMIZERS[1]
        name, options = optimizer
        given = {"decay" if k == "weight_decay" else k: v for k, v in options.items()}
        self.optimizer = textbook.Optimizer(name, RATES[name], schedule, **given)
        for s in self.subjects:
            made = {"sgd": gb.SGD, "adam": gb.Adam, "adamw": gb.AdamW, "rmsprop": gb.RMSprop}[name]
            s.optimizer = made(RATES[name], schedule=schedule_of(schedule), **options)
            s.trainer = gb.Trainer(s.net, s.optimizer)

    @rule()
    def second_trainer(self) -> None:
        for s in self.subjects:
            s.trainer = gb.Trainer(s.net, s.optimizer)

    @rule(factor=st.sampled_from([0.5, 0.25]))
    def change_rate(self, factor: float) -> None:
        self.optimizer.eta *= factor
        for s in self.subjects:
            s.optimizer.learning_rate *= factor

    @rule(schedule=st.sampled_from(SCHEDULES))
    def change_schedule(self, schedule: tuple[str, int, int | None]) -> None:
        self.optimizer.schedule = schedule
        for s in self.subjects:
            s.optimizer.schedule = schedule_of(schedule)

    @rule(seed=st.integers(0, 3), views=st.booleans(), which=st.integers(0, 9))
    def set_weights(self, seed: int, views: bool, which: int) -> None:
        """views: all but one array are the network's own parameters, and one of those turned around."""
        rng = np.random.default_rng(seed)
        new = {name: 0.5 * rng.standard_normal(w.shape) for name, w in self.model.weights.items()}
        new |= {name: abs(w) + 0.5 for name, w in new.items() if name.endswith("running_var")}
        names = sorted(new)
        changed, turned = names[which % len(names)], names[(which + 1) % len(names)]
        for s in self.subjects:
            own = s.net.parameters if views else {}
            given = {**new, **own, changed: new[changed]}
            if turned in own and turned != changed:
                given[turned] = own[turned][::-1]
            s.net.set_weights(given)
        own = {name: w for name, w in self.model.weights.items() if views and "running" not in name}
        self.model.weights = {**new, **own, changed: new[changed]}
        if turned in own and turned != changed:
            self.model.weights[turned] = own[turned][::-1]

    @rule(epochs=st.integers(1, 2))
    def fit_on_its_own_weights(self, epochs: int) -> None:
        """The rows are columns of the first weight, which training changes."""
        own = self.model.weights["0.weight"].T.copy()
        n = min(len(own), ROWS)
        x, y = own[:n], self.problem.y[:n]
        if np.max(abs(own)) > 2:
            return  # it would diverge

        def model() -> None:
            self.model.fit(x, y, self.optimizer, epochs, 2, False)

        def library(s: Subject) -> None:
            s.trainer.callbacks = []
            s.trainer.fit(s.net.parameters["0.weight"].T[:n], y, epochs=epochs, batch_size=2, shuffle=False)

        if "compiled" not in self.problem.ways:
            self.both(model, library)

    # -- other places ------------------------------------------------------------------------------------------------

    @rule(with_optimizer=st.booleans())
    def save_and_load(self, with_optimizer: bool) -> None:
        self.optimizer.fit = (0, 0)
        if not with_optimizer:
            self.optimizer.t, self.optimizer.moments = 0, {}
        with TemporaryDirectory() as folder:
            for s in self.subjects:
                path = Path(folder) / f"{s.way}.safetensors"
                gb.save(path, s.net, optimizer=s.optimizer if with_optimizer else None)
                held = gb.load_checkpoint(path, device=s.net.backend.name, custom=CUSTOM)
                again = copy_of_settings(s.optimizer) if held.optimizer is None else held.optimizer
                self.move(s, held.net, again)

    @rule(how=st.sampled_from(["deepcopy", "pickle"]), what=st.sampled_from(["both", "trainer"]))
    def copy(self, how: str, what: str) -> None:
        def copied(value: Any) -> Any:
            return copy.deepcopy(value) if how == "deepcopy" else pickle.loads(pickle.dumps(value))

        for s in self.subjects:
            if what == "trainer":
                s.trainer.callbacks = []
                trainer = copied(s.trainer)
                self.move(s, trainer.net, trainer.optimizer, trainer)
            else:
                self.move(s, *copied((s.net, s.optimizer)))

    def move(self, s: Subject, net: gb.Network, optimizer: Any, trainer: Any = None) -> None:
        """Go on with a copy; what it was made from must stay as it is."""
        self.left_behind = [*self.left_behind[-1:], (s.net, s.net.get_weights())]
        s.net, s.optimizer, s.trainer = net, optimizer, trainer or gb.Trainer(net, optimizer)

    @precondition(lambda self: "compiled" not in self.problem.ways)
    @rule(device=st.sampled_from(["cpu", "strict"]))
    def to(self, device: str) -> None:
        for s in self.subjects:
            assert s.net.to(device) is s.net

    @rule(lengths=st.lists(ROW_COUNTS, min_size=2, max_size=3))
    def predict_in_threads(self, lengths: list[int]) -> None:
        """Several threads ask one network, several times each."""
        for s in self.subjects:

            def ask(n: int, s: Subject = s) -> None:
                for _ in range(3):
                    assert_same(s.net.predict(self.problem.x[:n]), self.model.predict(self.problem.x[:n]), s.way)

            in_threads([lambda n=n: ask(n) for n in lengths])  # type: ignore[misc]

    @rule(n=SEVERAL)
    def predict_while_training(self, n: int) -> None:
        x, y = self.problem.x[:n], self.problem.y[:n]
        if "compiled" in self.problem.ways:
            return

        def library(s: Subject) -> Any:
            over = threading.Event()

            def train() -> None:
                try:
                    for _ in range(3):
                        s.net.train_step(x, y, s.optimizer)
                finally:
                    over.set()

            def ask() -> None:
                while not over.is_set():
                    s.net.predict(self.problem.x)

            in_threads([train, ask])

        def model() -> None:
            for _ in range(3):
                self.model.train_step(x, y, self.optimizer)

        self.both(model, library)

    @rule(n=SEVERAL)
    def train_beside_another(self, n: int) -> None:
        """Another network on the same backend is trained in another thread."""
        x, y = self.problem.x[:n], self.problem.y[:n]

        def library(s: Subject) -> Any:
            other = network_of(self.problem, s.way, s.net.backend)
            optimizers = (s.optimizer, gb.SGD(0.1))

            def train(net: gb.Network, optimizer: Any) -> None:
                for _ in range(3):
                    net.train_step(x, y, optimizer)

            in_threads([lambda: train(s.net, optimizers[0]), lambda: train(other, optimizers[1])])
            return other.get_weights()

        def model() -> Any:
            other = textbook.Network(
                self.problem.layers, self.problem.loss, self.initial, self.problem.seed, **self.problem.penalties
            )
            optimizer = textbook.Optimizer("sgd", 0.1, ("constant", 0, None))
            for _ in range(3):
                self.model.train_step(x, y, self.optimizer)
            for _ in range(3):
                other.train_step(x, y, optimizer)
            return other.weights

        self.both(model, library)


def copy_of_settings(optimizer: Any) -> Any:
    """A new optimizer with the same settings, which has trained nothing."""
    given = optimizer.settings()
    schedule = dict(given.pop("schedule"))
    return type(optimizer)(**given, schedule=gb.schedules.get_schedule(schedule.pop("name"), **schedule))


def to_host(s: Subject, array: Any) -> np.ndarray:
    return s.net.backend.to_host(array)


def in_threads(functions: list[Any]) -> None:
    """Run them at the same time; the first error is raised here."""
    errors: list[BaseException] = []

    def caught(function: Any) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught, args=(f,)) for f in functions]
    usual = sys.getswitchinterval()
    # Small networks are done before another thread would have its turn.
    sys.setswitchinterval(1e-6)
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(usual)
    if errors:
        raise errors[0]


def tied(column: str, records: list[dict[str, Any]]) -> bool:
    """Whether one of an epoch's losses in training, of which less is better, is the least before it but for rounding.

    At the end of a schedule the rate is 0, and the loss of each epoch is a mean of the same numbers, in the order in which that
    epoch takes its rows. Other columns are computed in one order: what is equal there is equal in all its bits.
    """
    losses = [record["loss"] for record in records]
    least = np.minimum.accumulate(losses) if losses else np.empty(0)
    return column == "loss" and bool((abs(losses[1:] - least[:-1]) <= 1e-12 * np.maximum(1, abs(least[:-1]))).any())


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Equal to the tolerance of the largest element, in all that they hold."""
    if isinstance(expected, dict):
        assert sorted(found) == sorted(expected), f"{what}: {sorted(found)} in place of {sorted(expected)}"
        for name, value in expected.items():
            assert_same(found[name], value, f"{what}, {name}")
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected), f"{what}: {len(found)} in place of {len(expected)}"
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{what}, {i}")
    elif expected is None or isinstance(expected, str):
        assert found == expected, f"{what}: {found!r} in place of {expected!r}"
    else:
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape, f"{what}: {found.shape} in place of {expected.shape}"
        off = np.max(abs(found - expected), initial=0.0)
        limit = TOLERANCE * max(1.0, np.max(abs(expected), initial=0.0))
        assert off <= limit, f"{what}: off by {off:.3g} of {np.max(abs(expected)):.3g}"


def run(hidden: str, sequences: int, phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink)) -> None:
    """Sequences of up to 30 calls on networks of a kind, the same ones each time."""
    shares = {ways: share for ways, share in WAYS.items() if hidden in ("dense", "dropout") or "compiled" not in ways}
    for ways, share in shares.items():
        run_state_machine_as_test(
            type("SideBySide", (SideBySide,), {"hidden": hidden, "ways": ways}),
            settings=settings(
                max_examples=sequences * share // sum(shares.values()),
                stateful_step_count=30,
                derandomize=True,
                deadline=None,
                database=None,
                phases=phases,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.mark.parametrize("sequences", [300, pytest.param(3000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_any_sequence_of_calls(hidden: str, sequences: int) -> None:
    run(hidden, sequences // len(HIDDEN))


@pytest.mark.parametrize("seed", range(12))
def test_what_rounding_decides_is_left_open(seed: int) -> None:
    """Epochs of rate 0 have one loss, and which of them is the best depends on the order of its sum."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((ROWS, D)), rng.standard_normal((ROWS, 1))
    layers: textbook.Layers = [("Dense", {"inputs": D, "outputs": 1})]
    problem = Problem(("recorded", "eager"), layers, "mean_squared_error", {}, 1, False, seed, x, y)
    machine = type("Machine", (SideBySide,), {"hidden": "none", "ways": problem.ways})()
    given = {"n": ROWS, "epochs": 3, "part": None, "validate": False, "scores": [0.1, 0.5, 0.9], "halve": False}
    given |= {"form": "plain", "interruption": None, "shuffle": True}
    machine.begin(SimpleNamespace(draw=lambda _: problem), ("sgd", {}), ("cosine", 2, 20))
    # All 20 steps of the schedule, and 12 more.
    machine.fit(size=1, stopping=None, **given)
    machine.fit(size=5, stopping=("loss", 1, 1), **given)
    machine.same_state()
    assert machine.model.stopped == "epochs"


# -- it bites -------------------------------------------------------------------------------------------------------------


def _length_into_the_schedule(patch: pytest.MonkeyPatch) -> None:
    span = Optimizer.span

    def written(self: Optimizer, start: int, total: int, *rest: Any) -> None:
        self.schedule = self.schedule.over(start + total)
        span(self, start, total, *rest)

    patch.setattr(Optimizer, "span", written)


def _epochs_begin_anew(patch: pytest.MonkeyPatch) -> None:
    fit = gb.Trainer.fit
    patch.setattr(gb.Trainer, "fit", lambda self, *a, **k: fit(self, *a, **{"first_epoch": 0, **k}))


def _schedule_of_the_beginning(patch: pytest.MonkeyPatch) -> None:
    def factor(self: Optimizer, step: int) -> float:
        now, self.schedule = self.schedule, self.__dict__.setdefault("_first", self.schedule)
        try:
            return original(self, step)
        finally:
            self.schedule = now

    original = Optimizer.factor
    patch.setattr(Optimizer, "factor", factor)


def _masks_of_forward_are_drawn_again(patch: pytest.MonkeyPatch) -> None:
    forward = gb.Network.forward

    def uncounted(self: gb.Network, x: Any, *, training: bool = False) -> Any:
        count = self.engine.count()
        try:
            return forward(self, x, training=training)
        finally:
            self.engine.set_count(count)

    patch.setattr(gb.Network, "forward", uncounted)


def _copies_share_their_arrays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gb.Network, "__deepcopy__", lambda self, memo: self, raising=False)


def _moments_are_left_behind(patch: pytest.MonkeyPatch) -> None:
    get_state = Optimizer.get_state
    patch.setattr(
        Optimizer, "get_state", lambda self: {k: v if k == "t" else 0 * v for k, v in get_state(self).items()}
    )


def _steps_are_counted_before_they_are_possible(patch: pytest.MonkeyPatch) -> None:
    prepare = Optimizer.prepare

    def counted(self: Optimizer) -> None:
        t = self.t
        try:
            prepare(self)
        except gb.GpuBackpropError:
            self.t = t + 1
            raise

    patch.setattr(Optimizer, "prepare", counted)


def _best_is_worst(patch: pytest.MonkeyPatch) -> None:
    stopping = gb.EarlyStopping.__init__
    patch.setattr(gb.EarlyStopping, "__init__", lambda self, *a, mode="auto": stopping(self, *a, mode="min"))


def _copies_are_recorded_for_views(patch: pytest.MonkeyPatch) -> None:
    def dot(self: Any, a: Any, b: Any, out: Any) -> None:
        self._run(np.ascontiguousarray(a).dot, b, out)

    patch.setattr(numpy_backend.NumpyBackend, "dot", dot)
    patch.setattr(numpy_backend, "moved", lambda before, calls: None)


def _machine_code_for_some(patch: pytest.MonkeyPatch) -> None:
    """Of the networks that are made one after the other, every second one replays what it should run as machine code."""
    loop, order = numpy_backend.NumpyBackend.loop, {}

    def some(self: Any, *arguments: Any) -> Any:
        return None if order.setdefault(self, len(order)) % 2 else loop(self, *arguments)

    patch.setattr(numpy_backend.NumpyBackend, "loop", some)


FAULTS: dict[str, Any] = {
    "a copy is recorded for a view": _copies_are_recorded_for_views,
    "machine code where the last network had none": _machine_code_for_some,
    "a fit writes its length into the schedule": _length_into_the_schedule,
    "each fit draws the orders of the first": _epochs_begin_anew,
    "a schedule that is set later does not count": _schedule_of_the_beginning,
    "forward draws the masks of the next step": _masks_of_forward_are_drawn_again,
    "a copy shares its arrays": _copies_share_their_arrays,
    "moments are lost on the way": _moments_are_left_behind,
    "a refused step is counted": _steps_are_counted_before_they_are_possible,
    "the worst weights are put back": _best_is_worst,
    "a rate that is set later does not count": lambda patch: patch.setattr(
        Optimizer, "_is_settled", lambda self: self._settled is not None
    ),
    "views are written over before they are read": lambda patch: patch.setattr(
        "gpubackprop.network.engine.Engine.shares_memory", lambda self, array: False
    ),
    "one row has a variance": lambda patch: patch.setattr(
        "gpubackprop.network.engine.Engine.check_rows", lambda self, n: None
    ),
    "a loss is handed out that the next step changes": lambda patch: patch.setattr(
        "gpubackprop.network.workspace.Losses.next", lambda self: self._value
    ),
    "masks of a part are those of the first rows": lambda patch: patch.setattr(
        "gpubackprop.network.workspace.Batch.begins_at", lambda self, row: None
    ),
    "a user's own function is recorded": lambda patch: (
        patch.setattr(OwnSoftsign, "recordable", True),
        patch.setattr("gpubackprop.network.engine.Engine.check_recording", lambda *_, **__: None),
    ),
    "nobody waits": lambda patch: (
        patch.setattr("gpubackprop.backend.base.Backend.__enter__", lambda self: self),
        patch.setattr("gpubackprop.backend.base.Backend.__exit__", lambda self, *error: None),
    ),
}


def run_every_kind(sequences: int, phases: tuple[Phase, ...]) -> None:
    for hidden in HIDDEN:
        run(hidden, sequences // len(HIDDEN), phases)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, Flaky)):
        run_every_kind(300, (Phase.generate,))
