from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpubackprop.data import load
from gpubackprop.data.arrays import features
from gpubackprop.data.idx import read_idx
from gpubackprop.errors import DataError

from .conftest import idx_bytes

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12) % 3


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("X", "Y"), ("x_train", "y_train")])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_names(tmp_path: Path, names: tuple[str, str], write) -> None:
    write(tmp_path / "a.npz", **{names[0]: X, names[1]: Y}, notes=np.array(["not read"]))
    data = load(tmp_path / "a.npz")
    assert (data.name, data.task, data.classes, data.targets) == ("a", "classification", ("0", "1", "2"), ("y",))
    assert data.x.dtype == np.float32
    np.testing.assert_allclose(data.x, X, rtol=1e-7)
    np.testing.assert_array_equal(data.y, Y)
    assert data.x_test is None


def test_official_test_part_gets_the_same_labels(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", x=X, y=np.array([-1, 1] * 6), x_test=X[:3], y_test=np.array([1, 1, -1]))
    data = load(path)
    assert data.classes == ("-1", "1")
    assert data.y_test.tolist() == [1, 1, 0]
    with pytest.raises(DataError, match="y_test holds 7, which no training row has"):
        load(saved(tmp_path / "b.npz", x=X, y=np.array([-1, 1] * 6), x_test=X[:2], y_test=np.array([1, 7])))
    with pytest.raises(DataError, match="only one of x_test and y_test"):
        load(saved(tmp_path / "c.npz", x=X, y=Y, x_test=X))
    with pytest.raises(DataError, match="x_test has 2 columns"):
        load(saved(tmp_path / "d.npz", x=X, y=Y, x_test=X[:, :2], y_test=Y))
    with pytest.raises(DataError, match=r"y has shape \(11,\)"):
        load(saved(tmp_path / "e.npz", x=X, y=Y, x_test=X, y_test=Y[:11]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    x=st.sampled_from(["?", "u1", "i1", ">i2", "<u4", ">i8", "f2", ">f4", "<f8", ">f8"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5),
            elements={"allow_nan": False, "allow_infinity": False, "min_value": -1000, "max_value": 1000}
            if "f" in dtype
            else None,
        )
    ),
    fortran=st.booleans(),
)
def test_any_numbers_become_native_c_order(tmp_path: Path, x: np.ndarray, fortran: bool) -> None:
    path = saved(tmp_path / "any.npz", x=np.asfortranarray(x) if fortran else x, y=np.arange(len(x)) + 0.5)
    data = load(path)
    assert data.x.flags.c_contiguous
    assert data.x.dtype in ([np.uint8] if x.dtype == np.uint8 else [np.float32, np.float64])
    assert data.x.dtype.isnative
    np.testing.assert_array_equal(data.x, x.reshape(len(x), -1).astype(data.x.dtype))


def test_timestamps_keep_their_differences() -> None:
    x = np.array([[1.7e9, 0.5], [1.7e9 + 1, 0.25], [1.7e9 + 2, 1.0]])
    assert features(x, "x").dtype == np.float64
    np.testing.assert_array_equal(features(x, "x"), x)
    assert features(x[:, 1:], "x").dtype == np.float32
    assert features(x[:1], "x").dtype == np.float32


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(complex), "complex128"),
        (X.astype(str), "<U"),
        (np.zeros((12, 2), "M8[s]"), "datetime64"),
        (np.zeros(12), r"reshape it to \(n, 1\)"),
        (np.zeros((0, 3)), "no rows"),
        (np.zeros((12, 0)), "no columns"),
        (np.where(np.arange(36).reshape(12, 3) == 7, np.nan, X), "row 2, column 1 holds nan"),
        (np.where(np.arange(36).reshape(12, 3) == 8, -np.inf, X), "row 2, column 2 holds -inf"),
        (np.where(np.arange(36).reshape(12, 3) == 35, 1e39, X), "row 11, column 2 holds 1e\\+39"),
        (np.where(np.arange(36).reshape(12, 3) == 7, np.nan, X).astype(np.float16), "row 2, column 1 holds nan"),
        (X[:11], r"y has shape \(12,\) and x \(11, 3\)"),
    ],
)
def test_unusable_x(tmp_path: Path, x: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path / "a.npz", x=x, y=Y))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([[Bomb()]], dtype=object), y=Y)
    with pytest.raises(DataError, match="dtype object"):
        load(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array(["a"] * 12), "array y: has dtype <U1"),
        (np.zeros((12, 1, 1)), r"y has shape \(12, 1, 1\)"),
        (np.zeros((12, 0)), r"y has shape \(12, 0\)"),
        (np.float64(3), r"y has shape \(\)"),
        (np.where(Y == 1, np.nan, Y), "row 1 holds NaN"),
    ],
)
def test_unusable_y(tmp_path: Path, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path / "a.npz", x=X, y=y))


def test_missing_and_ambiguous_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds features, y; expected x or x_train"):
        load(saved(tmp_path / "a.npz", features=X, y=Y))
    with pytest.raises(DataError, match="one of the two"):
        load(saved(tmp_path / "b.npz", x=X, x_train=X, y=Y))
    with pytest.raises(DataError, match="not unique when case is ignored"):
        load(saved(tmp_path / "c.npz", x=X, X=X, y=Y))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_truncated_at_every_byte(tmp_path: Path, save) -> None:
    save(tmp_path / "a.npz", x=X, y=Y)
    content = (tmp_path / "a.npz").read_bytes()
    for length in range(len(content)):
        (tmp_path / "a.npz").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.npz"):
            load(tmp_path / "a.npz")


def test_npz_with_flipped_bits_is_refused_or_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    content = (tmp_path / "a.npz").read_bytes()
    refused = 0
    for bit in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a.npz").write_bytes(flipped)
        try:
            data = load(tmp_path / "a.npz")
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(data.x, X.astype(np.float32))
            np.testing.assert_array_equal(data.y, Y)
    assert refused > 500


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_bombs_are_refused_before_they_inflate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.files.regular.INFLATION_FLOOR", 1 << 20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1 << 18, 8)), y=np.zeros(1 << 18))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(DataError, match=r"would inflate to 1[0-9,]+ or more"):
        load(path)


def test_what_no_memory_could_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with holes is as large as it says, and takes no room on the disk."""
    np.save(tmp_path / "x.npy", np.zeros((10, 2)))
    np.save(tmp_path / "y.npy", np.arange(10) % 2)
    np.savez(tmp_path / "t.npz", x=np.zeros((10, 2)), y=np.arange(10) % 2)
    (tmp_path / "t-idx3-ubyte").write_bytes(idx_bytes(np.zeros((5, 10, 10), np.uint8)))
    monkeypatch.setattr("gpubackprop.files.regular.memory", lambda: 100)
    for read, name in ((load, "x.npy"), (load, "t.npz"), (read_idx, "t-idx3-ubyte")):
        with pytest.raises(DataError, match="bytes, and this machine has 100"):
            read(tmp_path / name)


def test_headers_are_not_believed(tmp_path: Path) -> None:
    header = npy_bytes(np.zeros((12, 3))).replace(b"(12, 3)", b"(9999999999, 3)".replace(b" ", b""))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header)
        archive.writestr("y.npy", npy_bytes(Y))
    with pytest.raises(DataError, match=r"truncated|not a \.npy array"):
        load(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", npy_bytes(X) + b"tail")
        archive.writestr("y.npy", npy_bytes(Y))
    with pytest.raises(DataError, match="damaged: 292 bytes"):
        load(tmp_path / "b.npz")


def test_files_of_another_kind(write) -> None:
    for name, content in (("a.npz", "x,y\n1,2\n"), ("b.npz", npy_bytes(X)), ("x.npy", "text"), ("c.npz", b"")):
        write("y.npy", npy_bytes(Y))
        with pytest.raises(DataError, match=name):
            load(write(name, content))


@pytest.mark.parametrize(
    ("x_name", "y_name"), [("x", "y"), ("X", "Y"), ("X", "y"), ("train_x", "train_y"), ("a-X", "a-y"), ("a.x", "a.y")]
)
def test_npy_pair_by_name(write, x_name: str, y_name: str) -> None:
    write(f"{y_name}.npy", npy_bytes(X[:, :2]))
    data = load(write(f"{x_name}.npy", npy_bytes(X)))
    assert (data.task, data.y.shape, data.targets) == ("regression", (12, 2), ("y0", "y1"))
    np.testing.assert_array_equal(data.y, X[:, :2])


def test_npy_pair_spelled_out(write) -> None:
    inputs, labels = write("inputs.npy", npy_bytes(X)), write("labels.npy", npy_bytes(Y[:, None]))
    data = load(f"{inputs},{labels}")
    assert data.y.shape == (12,)
    for source, message in (
        (f"{inputs},{labels},{labels}", "expected two files"),
        (f"{inputs},nothing.npy", "nothing.npy: no such file"),
        (str(inputs), "does not say where y is"),
        (str(write("x.npy", npy_bytes(X))), "no y.npy beside it"),
    ):
        with pytest.raises(DataError, match=message):
            load(source)


def test_npy_truncated_at_every_byte(write) -> None:
    write("y.npy", npy_bytes(Y))
    content = npy_bytes(X)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"x\.npy"):
            load(write("x.npy", content[:length]))


def test_large_blocks_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.idx._BLOCK", 1000)
    x = np.random.default_rng(0).integers(0, 256, (3000, 70), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.arange(3000) % 7)
    np.testing.assert_array_equal(load(tmp_path / "a.npz").x, x)
