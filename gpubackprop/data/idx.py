"""The IDX format of the MNIST family: a big-endian header, then the values in C order.

Bytes 0-1 are zero, byte 2 is the type, byte 3 the number of dimensions; then one unsigned 32-bit size for each
dimension (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gpubackprop.errors import DataError
from gpubackprop.files.regular import check_inflation, check_memory, regular_file

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 8
GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 24


def read_idx(path: str | os.PathLike[str], *, sha256: str | None = None) -> NDArray[np.generic]:
    """The array in an IDX file, gzipped or not (told from its first bytes), in native byte order and C order.

    sha256: hexadecimal digest that the uncompressed content must have; None asks for none.

    Raises DataError naming the file when it is missing, empty, not IDX, truncated, longer than its header says,
    damaged, would inflate beyond reason, or has another digest.
    """
    path, size = regular_file(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw
        try:
            return _read(stream, path, size, compressed, sha256)
        except EOFError:
            raise DataError(f"{path}: truncated inside its gzip stream; copy or download it again") from None
        except (OSError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read: {error}; copy or download it again") from error


def _read(stream: BinaryIO, path: Path, size: int, compressed: bool, sha256: str | None) -> NDArray[np.generic]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise DataError(
            f"{path}: starts with bytes {magic.hex(' ')}: not an IDX file (00 00, a type, a number of dimensions)"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated inside its header of {4 + 4 * magic[3]} bytes; copy or download it again")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    dtype = np.dtype(TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if compressed:
        check_inflation(path, size, expected)
    elif size - 4 - len(sizes) < expected:
        raise _truncated(path, size - 4 - len(sizes), expected, shape)

    check_memory(path, expected)
    content = bytearray(expected)
    if (filled := fill(memoryview(content), stream)) < expected:
        raise _truncated(path, filled, expected, shape)
    digest = hashlib.sha256(magic + sizes)
    digest.update(content)
    # reading on to the end of the stream also makes gzip check its CRC
    if stream.read(1):
        raise DataError(
            f"{path}: bytes follow the {expected:,} that its header {shape} announces: not the file it should be"
        )
    if sha256 is not None and digest.hexdigest() != sha256:
        raise DataError(
            f"{path}: its content has SHA-256 {digest.hexdigest()}, expected {sha256}: damaged or another data set; "
            "remove the file to have it fetched again"
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def fill(view: memoryview, stream: BinaryIO) -> int:
    """Read a stream into a view, a block at a time, since decompressors read into memory of their own; the bytes that came."""
    filled = 0
    while block := stream.read(min(_BLOCK, len(view) - filled)):
        view[filled : filled + len(block)] = block
        filled += len(block)
    return filled


def _truncated(path: Path, found: int, expected: int, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"{path}: truncated: {found:,} of the {expected:,} bytes of values that its header {shape} announces; "
        "copy or download it again"
    )
