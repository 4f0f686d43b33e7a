"""Several processes give what one gives, to rounding, whatever their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
