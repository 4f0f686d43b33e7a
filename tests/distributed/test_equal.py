"""Several processes give what one gives, to rounding, whatever their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpubackprop as gb
from tests.distributed import cases
from tests.distributed.launching import mpi, needs_mpi


@pytest.fixture(scope="module")
def alone() -> dict[str, np.ndarray]:
    return cases.run(None)


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_several_ranks_give_what_one_gives(ranks: int, alone: dict[str, np.ndarray], tmp_path: Path) -> None:
    done = mpi(ranks, [cases.__file__, tmp_path / "found.npz"], tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert set(found) == set(alone)
    for name, wanted in alone.items():
        if wanted.dtype.kind == "U":
            assert found[name] == wanted, name
        else:
            np.testing.assert_allclose(found[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


_BATCHNORM = """
import numpy as np
import gpubackprop as gb
from gpubackprop.errors import ArgumentError
from tests.distributed.cases import batch_normalized, data, network
x, y, _ = data()
trainer = gb.Trainer(batch_normalized(), gb.SGD(0.1), distributed="auto")
try:
    trainer.fit(x, y, batch_size=3)
except ArgumentError as error:
    assert "this batch has one row" in str(error)
else:
    raise AssertionError("a part of one row was normalised")
for options in ({"batch_size": 36}, {"batch_size": None, "micro_batch_size": 5}):
    try:
        net = network([gb.BatchNorm(4, synchronized=True), gb.Dense(4, 8)])
        gb.Trainer(net, distributed="auto").fit(x, y, **options)
    except ArgumentError as error:
        assert "a synchronized BatchNorm needs rows of every batch in every process" in str(error)
    else:
        raise AssertionError(f"{options}: not every process has rows in one part")
trainer.fit(x[:30], y[:30], epochs=2, batch_size=10, shuffle=False)
if trainer.leads: np.savez("found.npz", **trainer.net.get_weights())
"""


@needs_mpi
def test_batchnorm_takes_each_rank_s_own_rows(tmp_path: Path) -> None:
    """As one process does with parts of that size; the running statistics are the mean over the ranks."""
    done = mpi(2, ["-c", _BATCHNORM], tmp_path)
    assert done.returncode == 0, done.stderr
    found, net, (x, y, _) = np.load(tmp_path / "found.npz"), cases.batch_normalized(), cases.data()
    gb.Trainer(net, gb.SGD(0.1)).fit(x[:30], y[:30], epochs=2, batch_size=10, shuffle=False, micro_batch_size=5)
    for name, wanted in net.get_weights().items():
        if "running" not in name:
            np.testing.assert_allclose(found[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)
    mean = np.zeros(4)
    for batch in [*np.split(x[:30], 3)] * 2:
        mean = 0.9 * mean + 0.1 * batch.mean(0)
    np.testing.assert_allclose(found["0.running_mean"], mean, rtol=1e-12)
