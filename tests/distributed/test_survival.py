"""What happens where one of several processes is not like the others: another input, an error, a signal, its death."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np

import gpubackprop as gb
from gpubackprop.training import Trainer
from gpubackprop.training.checkpoints import stored
from tests.distributed.cases import data, network
from tests.distributed.launching import mpi, needs_mpi

pytestmark = needs_mpi

_BEGIN = """
import os, signal, sys, time
import numpy as np
import gpubackprop as gb
from gpubackprop import distributed, errors
from gpubackprop.training import together, TrainingInterrupted
from tests.distributed.cases import data, network
ranks = distributed.join()
x, y, _ = data()

class At(gb.Callback):
    def __init__(self, epoch, act): self.epoch, self.act = epoch, act
    def on_epoch_end(self, trainer, record):
        if record["epoch"] == self.epoch: self.act()
"""

_DIFFERENT = (
    _BEGIN
    + """
def attempt(what, net=None, x=x, y=y, **options):
    try:
        gb.Trainer(net or network(), gb.SGD(0.1), distributed=ranks).fit(x, y, **{"epochs": 1, **options})
        said = "nothing"
    except errors.DisagreementError as error:
        said = str(error)
    if ranks.leads: print(f"{what}: {said}")

one = ranks.rank == 1
attempt("nothing")
attempt("values", x=x + 1e-9 * one)
attempt("rows", x=x[: 37 - one], y=y[: 37 - one])
attempt("setting", batch_size=16 if one else 32)
attempt("network", net=network([gb.Dense(4, 8, activation="relu" if one else "tanh")]))
attempt("weights of rows", sample_weight=np.ones(37) if one else None)
together.__version__ = "0.0.9" if one else "0.1.0"
attempt("version")
"""
)


def test_a_rank_that_differs_is_named_before_the_first_step(tmp_path: Path) -> None:
    done = mpi(3, ["-c", _DIFFERENT], tmp_path)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["nothing"] == "nothing"
    assert "rank 1 has another SHA-256 of x than" in said["values"]
    assert "shape and type" not in said["values"]
    assert 'rank 1 has another shape and type of x than the others: "(36, 4) float64", theirs "(37, 4)' in said["rows"]
    assert "rank 1 has another batch_size than the others: 16, theirs 32" in said["setting"]
    assert "rank 1 has another network" in said["network"]
    assert "rank 1 has another weights of rows than the others: true, theirs false" in said["weights of rows"]
    assert 'rank 1 has another version of gpubackprop than the others: "0.0.9", theirs "0.1.0"' in said["version"]


def test_an_error_in_one_rank_ends_the_others(tmp_path: Path) -> None:
    script = """
def fail(): raise ValueError("planted")
gb.Trainer(network(), callbacks=[At(2, fail)] if ranks.rank == 1 else [At(0, fail)], distributed=ranks).fit(x, y, epochs=10**6)
"""
    began = time.monotonic()
    done = mpi(2, ["-c", _BEGIN + script], tmp_path)
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert done.stderr.count("ValueError: planted") == 1
    assert "rank 1 of 2 failed; the others are ended" in done.stderr


def test_a_rank_that_never_comes_to_the_fit_ends_the_others(tmp_path: Path) -> None:
    script = "y[0] += 99 * (ranks.rank == 1); gb.Trainer(network(), distributed=ranks).fit(x, y)"
    done = mpi(2, ["-c", _BEGIN + script], tmp_path)
    assert done.returncode != 0
    assert "ArgumentError: y[0] is" in done.stderr
    assert "rank 1 of 2 failed; the others are ended" in done.stderr


_KILLED = (
    _BEGIN
    + """
from gpubackprop.training.checkpoints import stored
from pathlib import Path
def die():
    if ranks.rank == 1:
        until = time.monotonic() + 20
        while not stored(Path("kept")) and time.monotonic() < until: time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
callbacks = [gb.Checkpoints("kept", "7 steps"), At(3, die)]
gb.Trainer(network([gb.Dense(4, 8), gb.Dropout(0.3)]), gb.Adam(0.01), callbacks=callbacks, distributed=ranks).fit(
    x, y, epochs=6, batch_size=10)
"""
)
_RESUMED = (
    _BEGIN
    + """
trainer = gb.Trainer.resume("kept", callbacks=[gb.Checkpoints("kept", "7 steps"), At(0, None)], distributed=ranks)
trainer.continue_fit(x, y)
if ranks.leads: np.savez("found.npz", losses=trainer.history["loss"], **trainer.net.get_weights())
"""
)


def test_a_rank_is_killed_and_another_number_of_them_goes_on(tmp_path: Path) -> None:
    began = time.monotonic()
    done = mpi(2, ["-c", _KILLED], tmp_path)
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert stored(tmp_path / "kept")

    # A checkpoint of two goes on with three, and comes to what one process comes to in one go.
    done = mpi(3, ["-c", _RESUMED], tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    net, (x, y, _) = network([gb.Dense(4, 8), gb.Dropout(0.3)]), data()
    history = Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=6, batch_size=10)
    np.testing.assert_allclose(found["losses"], history["loss"], rtol=1e-12)
    for name, w in net.get_weights().items():
        np.testing.assert_allclose(found[name], w, rtol=1e-11, atol=1e-12)


def test_a_signal_ends_all_ranks_in_good_order(tmp_path: Path) -> None:
    """Rank 0 decides: a signal that the other one gets alone ends nothing."""
    script = """
def term(): os.kill(os.getpid(), signal.SIGTERM)
callbacks = [gb.Checkpoints("kept"), At(2 if ranks.rank else 5, term)]
trainer = gb.Trainer(network(), callbacks=callbacks, distributed=ranks)
try:
    trainer.fit(x, y, epochs=10**6)
except TrainingInterrupted as interrupt:
    with open(f"rank {ranks.rank}", "w") as file:
        file.write(f"{interrupt.signal} {len(trainer.history)} {trainer.history.stopped}")
"""
    done = mpi(2, ["-c", _BEGIN + script], tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (tmp_path / f"rank {rank}").read_text() == f"{int(signal.SIGTERM)} 5 interrupted"
    assert stored(tmp_path / "kept")
