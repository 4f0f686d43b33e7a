from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpubackprop.data.idx import TYPES, read_idx
from gpubackprop.errors import DataError

from .conftest import idx_bytes

SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    array=st.sampled_from(list(TYPES.values())).flatmap(
        lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    ),
    compress=st.booleans(),
)
def test_round_trip(tmp_path: Path, array: np.ndarray, compress: bool) -> None:
    path = tmp_path / "a.idx"
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    read = read_idx(path, sha256=hashlib.sha256(content).hexdigest())
    assert read.dtype.isnative
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("compress", [False, True])
def test_truncation_at_every_byte_is_noticed(write, compress: bool) -> None:
    content = gzip.compress(idx_bytes(SMALL), mtime=0) if compress else idx_bytes(SMALL)
    for length in range(len(content)):
        path = write("cut.idx", content[:length])
        with pytest.raises(DataError, match=r"cut\.idx"):
            read_idx(path)


def test_every_flipped_bit_is_noticed_by_the_digest(write) -> None:
    content = idx_bytes(SMALL)
    digest = hashlib.sha256(content).hexdigest()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError):
            read_idx(write("flipped.idx", bytes(flipped)), sha256=digest)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x0a\1\0\0\0\1\0", "not an IDX file"),
        (idx_bytes(SMALL) + b"\0", "bytes follow"),
        (gzip.compress(idx_bytes(SMALL) + b"\0", mtime=0), "bytes follow"),
        (gzip.compress(idx_bytes(SMALL), mtime=0) + b"junk", "cannot be read"),
        (b"\0\0\x08\2" + b"\xff" * 8, "truncated"),
        (gzip.compress(b"\0\0\x08\2" + b"\xff" * 8, mtime=0), "would inflate"),
        (gzip.compress(b"\0\0\x08\1\x20\0\0\0", mtime=0), "would inflate"),
        (gzip.compress(b"\0\0\x08\1\0\1\0\0" + bytes(9), mtime=0), "truncated: 9 of the 65,536 bytes"),
    ],
)
def test_bad_files(write, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_idx(write("bad.idx", content))


def test_missing_folder_pipe(tmp_path: Path) -> None:
    (tmp_path / "train-images").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="did you mean train-images"):
        read_idx(tmp_path / "train-image")
    with pytest.raises(DataError, match="cannot be listed"):
        read_idx(tmp_path / "none" / "a.idx")
    with pytest.raises(DataError, match="no such file"):
        read_idx(tmp_path / "train-images" / "a.idx")
    with pytest.raises(DataError, match="is a folder"):
        read_idx(tmp_path)
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(tmp_path / "pipe")
