import numpy as np
import pytest

from gpubackprop.data.inputs import load_inputs
from gpubackprop.errors import ArgumentError, DataError


def test_columns_are_taken_by_name_in_the_order_asked_for(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,b,a\nx,1,2\ny,3,4\n")
    np.testing.assert_array_equal(load_inputs(str(path), ["a", "b"]), [[2, 1], [4, 3]])
    with pytest.raises(DataError, match="column text holds 'x'"):
        load_inputs(str(path))
    with pytest.raises(DataError, match="no column 'c'"):
        load_inputs(str(path), ["c"])


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": ["x", "y"], "b": [1, 3], "a": [2.0, 4.0]}), path)
    np.testing.assert_array_equal(load_inputs(str(path), ["a", "b"]), [[2, 1], [4, 3]])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        load_inputs(str(path), ["a", "b"])


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays(tmp_path, kind):
    x = np.arange(6.0).reshape(3, 2)
    path = tmp_path / f"rows.{kind}"
    (np.save if kind == "npy" else lambda p, a: np.savez(p, x=a))(path, x)
    np.testing.assert_array_equal(load_inputs(str(path)), x)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError):
        load_inputs(str(path))


def test_bad_sources(tmp_path):
    (tmp_path / "e.csv").write_text("")
    (tmp_path / "h.csv").write_text("a,b\n")
    for source, message in (("e.csv", "e.csv"), ("h.csv", "no rows"), ("none.csv", "none.csv")):
        with pytest.raises(DataError, match=message):
            load_inputs(str(tmp_path / source))
    with pytest.raises(ArgumentError, match="did you mean"):
        load_inputs("digts")
