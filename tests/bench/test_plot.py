"""The picture of a result."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpubackprop.bench.plot import check_available, save_plot
from gpubackprop.errors import ArgumentError, DataError, MissingExtraError
from tests.bench.samples import result


def test_a_png_with_a_row_for_each_network(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    one = result({"cpu": [1e-5, 1e-3], "cuda:0": [1e-4, 1e-4]}, [1, 100])
    two = result({"cpu": [1e-5, 1e-3], "cuda:0": [1e-4, 1e-4]}, [1, 100], network="9-9-9")
    save_plot(one, tmp_path / "one.png")
    one.cases += two.cases
    save_plot(one, tmp_path / "two.png")
    first, second = (image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert second.shape[0] == 2 * first.shape[0]
    assert first[..., :3].std() > 0.05, "there is something to see"


def test_nothing_to_draw_and_nowhere_to_draw_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(ArgumentError, match="nothing to plot"):
        save_plot(result({"cpu": [None]}, [1]), tmp_path / "x.png")
    with pytest.raises(DataError, match="cannot be written"):
        save_plot(result({"cpu": [1.0]}, [1]), tmp_path / "no" / "x.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"gpubackprop\[plot\]"):
        check_available()
