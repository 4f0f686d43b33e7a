"""Rows drawn from all of a table that is too large to be read whole."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.data.sampling import identities, sample_table
from tests.pipeline.test_large import ROWS, write

pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.text_tables.BLOCK", 16 << 10)


@pytest.mark.parametrize("rows", [1, 500, ROWS, 10 * ROWS])
def test_a_sample_is_of_rows_that_are_there(tmp_path: Path, rows: int) -> None:
    path = write(tmp_path / "t.csv")
    whole = gb.Dataset.from_frame(gb.data.read_table(path, text=["y"]), "y").x
    table, places, total = sample_table(path, rows, seed=3, text=["y"])
    assert total == ROWS
    assert len(table) == len(places) == min(rows, ROWS)
    assert (np.diff(places) > 0).all()
    for name in ("a", "city"):
        assert table.column(name).to_pylist() == whole.column(name).take(places).to_pylist()
    again = sample_table(path, rows, seed=3, text=["y"])[1]
    assert np.array_equal(places, again)
    if 1 < rows < ROWS:
        assert not np.array_equal(places, sample_table(path, rows, seed=4, text=["y"])[1])


def test_every_row_is_as_likely_as_any_other(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 600)
    counts = np.zeros(600)
    for seed in range(200):
        counts[sample_table(path, 60, seed)[1]] += 1
    # 20 times each, binomially spread: 4.2.
    assert abs(counts.mean() - 20) < 1e-9
    assert 3.4 < counts.std() < 5.0
    assert abs(np.corrcoef(counts, np.arange(600))[0, 1]) < 0.15


def test_numbers_in_one_part_and_text_in_another(tmp_path: Path) -> None:
    """A column becomes of one type, whatever its parts were."""
    path = tmp_path / "t.csv"
    filler = "x" * 40
    lines = [f"{i},{i if i < 900 else f'no {i}'},{i / 2 if i > 500 else i},{filler}" for i in range(1000)]
    path.write_text("a,b,c,d\n" + "\n".join(lines) + "\n")
    table, places, _ = sample_table(path, 400, seed=0)
    assert table.column("b").to_pylist() == [str(i) if i < 900 else f"no {i}" for i in places]
    assert table.column("a").to_pylist() == places.tolist()
    assert table.column("c").to_pylist() == [i / 2 if i > 500 else i for i in places]


def test_text_is_that_of_the_file_where_some_parts_hold_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.text_tables.BLOCK", 4096)
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n" + "01,True,1.50\n" * 2000 + "x,maybe,y\n" * 1000)
    table, places, _ = sample_table(path, 1500, seed=0)
    assert places.tolist() == sample_table(path, 1500, seed=0, text=["a", "b", "c"])[1].tolist()
    found = [set(table.column(name).to_pylist()) for name in "abc"]
    assert found == [{"01", "x"}, {"True", "maybe"}, {"1.50", "y"}]


def test_what_a_cell_is_told_by_does_not_depend_on_the_others() -> None:
    def told(values: list[object], kind: pa.DataType | None = None) -> list[str | None]:
        found = identities(pa.array(values, kind)).to_pylist()
        assert found == [identities(pa.array([value], kind))[0].as_py() for value in values]
        return found  # type: ignore[no-any-return]

    assert told(["1", "1.0", "-3.", "01", "1.50", "x.0", "", None]) == ["1", "1", "-3", "01", "1.50", "x.0", "", None]
    assert told([1.0, 1.5, None]) == ["1", "1.5", None]
    assert told([7, None]) == ["7", None]
    assert told(["a", "b", None], pa.dictionary(pa.int8(), pa.string())) == ["a", "b", None]
    assert told([datetime.date(2020, 1, 2)]) == ["2020-01-02"]
