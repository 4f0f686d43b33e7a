from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import cache_folder, images, load
from gpubackprop.data.images import IMAGE_SETS, STEMS, SYSTEM_FOLDER
from gpubackprop.errors import DataError

from .conftest import idx_bytes

DEBIAN = SYSTEM_FOLDER / "fashion-mnist"
needs_debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")


def small_set() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 30), ("t10k", 10)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 5, 4), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, n, dtype=np.uint8)
    return arrays


def put(folder: Path, arrays: dict[str, np.ndarray], *, compress: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in arrays.items():
        content = idx_bytes(array)
        if compress:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / stem).write_bytes(content)
    return folder


@needs_debian
def test_fashion_mnist_from_debian() -> None:
    data = load("fashion-mnist", download=False)
    assert data.x.shape == (60000, 784)
    assert data.x_test.shape == (10000, 784)
    assert data.x.dtype == data.x_test.dtype == np.uint8
    assert np.bincount(data.y).tolist() == [6000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.classes[data.y[0]] == "Ankle boot"
    # the mean pixel that others publish for the training part: 0.2860
    assert abs(data.x.mean() / 255 - 0.2860) < 5e-5


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_own_folder_is_taken_as_it_is(tmp_path: Path, compress: bool, dotted: bool) -> None:
    arrays = small_set()
    named = {stem.replace("-idx", ".idx") if dotted else stem: array for stem, array in arrays.items()}
    data = load("mnist", folder=put(tmp_path / "own", named, compress=compress))
    np.testing.assert_array_equal(data.x, arrays[STEMS[0]].reshape(30, 20))
    np.testing.assert_array_equal(data.y_test, arrays[STEMS[3]])
    assert data.y.dtype == np.int64
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("stem", "array", "message"),
    [
        (STEMS[0], np.zeros((29, 5, 4), np.uint8), "29 images, but .* has 30 labels"),
        (STEMS[0], np.zeros((30, 20), np.uint8), r"holds uint8 \(30, 20\), expected uint8 images with 3"),
        (STEMS[0], np.zeros((30, 5, 4), np.int16), "holds int16"),
        (STEMS[0], np.zeros((30, 0, 4), np.uint8), r"\(30, 0, 4\)"),
        (STEMS[1], np.full(30, 10, np.uint8), r"label 10, expected 0\.\.9"),
        (STEMS[1], np.zeros((30, 1), np.uint8), "expected uint8 labels with 1"),
        (STEMS[2], np.zeros((10, 4, 4), np.uint8), "images of 16 pixels, but .* has images of 20"),
        (STEMS[3], None, f"holds no {STEMS[3]}"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, stem: str, array: np.ndarray | None, message: str) -> None:
    arrays = {k: v for k, v in {**small_set(), stem: array}.items() if v is not None}
    with pytest.raises(DataError, match=message):
        load("mnist", folder=put(tmp_path / "own", arrays))


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        load("mnist", folder=tmp_path / "nothing")


def test_cache_and_system_folder_are_held_to_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small_set()
    digests = tuple(hashlib.sha256(idx_bytes(arrays[stem])).hexdigest() for stem in STEMS)
    monkeypatch.setitem(IMAGE_SETS, "mnist", replace(IMAGE_SETS["mnist"], sha256=digests))
    monkeypatch.setattr(images, "SYSTEM_FOLDER", tmp_path / "system")
    with pytest.raises(DataError, match="downloads are off"):
        load("mnist", download=False)
    put(tmp_path / "system" / "mnist", arrays)
    assert len(load("mnist", download=False).x) == 30
    other = {**arrays, STEMS[1]: (arrays[STEMS[1]] + 1) % 10}
    put(cache_folder() / "mnist", other, compress=True)
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz: its content has SHA-256 .* remove the file"):
        load("mnist", download=False)
