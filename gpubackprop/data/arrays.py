"""NumPy's own files, .npz and .npy, read without pickle and without trusting what they declare."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.dataset import Dataset
from gpubackprop.data.idx import fill
from gpubackprop.data.tables import DAMAGED
from gpubackprop.data.targets import read_targets
from gpubackprop.errors import DataError
from gpubackprop.files.regular import check_inflation, check_memory, regular_file

Array = NDArray[np.generic]
FLOAT32_MAX = float(np.finfo(np.float32).max)
_FEATURE_PRECISION = 1e-4


def features(x: Array, where: str) -> Array:
    """x: (n, d, ...), bool, integer or floating, as finite (n, d') in C order and native byte order.

    uint8 stays, the rest becomes float32. Columns whose rounding to float32 (2**-24 of the largest value) exceeds 1e-4
    of their range, as with timestamps, would lose what tells their rows apart: then x becomes float64, for a
    Standardizer to bring back into range.

    Raises DataError for a rank below 2, no rows or columns, NaN, infinity, and values beyond float32.
    """
    if x.ndim < 2:
        raise DataError(
            f"{where}: has shape {x.shape}, expected (n, d): rows are samples; for one feature reshape it to (n, 1)"
        )
    if not x.size:
        raise DataError(f"{where}: has shape {x.shape}: there are no rows or no columns")
    x = x.reshape(len(x), -1)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    largest, smallest = x.max(axis=0).astype(np.float64), x.min(axis=0).astype(np.float64)
    magnitude = np.maximum(np.abs(largest), np.abs(smallest))
    # a NaN anywhere makes max NaN, an infinity stays infinite: no second pass over the data
    if not (magnitude <= FLOAT32_MAX).all():
        column = int(np.argmin(magnitude <= FLOAT32_MAX))
        row = int(np.argmin(np.abs(x[:, column].astype(np.float64)) <= FLOAT32_MAX))
        raise DataError(
            f"{where}: row {row}, column {column} holds {x[row, column]}; expected finite numbers that float32 can hold"
        )
    spread = largest - smallest
    coarse = (spread > 0) & (magnitude * 2.0**-24 > _FEATURE_PRECISION * spread)
    return np.ascontiguousarray(x, dtype=np.float64 if x.dtype.itemsize > 4 and coarse.any() else np.float32)


def load_npz(path: str | os.PathLike[str], task: str) -> Dataset:
    """The data set in an .npz archive: x and y (or x_train and y_train), optionally x_test and y_test, in either case.

    Other arrays are not read. Raises DataError for an archive that is damaged, is of another kind, declares sizes out
    of proportion, or lacks an array.
    """
    with _archive(path) as (path, archive, members):
        x_name, y_name = (_member(members, name, path) for name in ("x", "y"))
        if ("x_test" in members) != ("y_test" in members):
            raise DataError(f"{path}: holds only one of x_test and y_test; save both or neither")
        names = [x_name, y_name] + (["x_test", "y_test"] if "x_test" in members else [])
        read = [_read_member(archive, members[name], path) for name in names]
    return assemble(path, dict(zip(("x", "y", "x_test", "y_test"), read, strict=False)), task)


def read_npz_chunk(path: Path) -> tuple[Array, ...]:
    """x and y of an .npz archive as they were saved, and sample_weight if it has that. Raises what `load_npz` raises."""
    with _archive(path) as (path, archive, members):
        names = [_member(members, name, path) for name in ("x", "y")] + ["sample_weight"] * ("sample_weight" in members)
        return tuple(_read_member(archive, members[name], path) for name in names)


def rows_of_npz(path: Path) -> int:
    """The rows of x in an .npz archive, of which the header alone is read. Raises what `load_npz` raises."""
    with _archive(path) as (path, archive, members):
        member = members[_member(members, "x", path)]
        with archive.open(member) as stream:
            shape, *_ = read_header(cast(BinaryIO, stream), member.file_size, f"{path}: x")
        return shape[0] if shape else 0


@contextlib.contextmanager
def _archive(path: str | os.PathLike[str]) -> Iterator[tuple[Path, zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """An .npz archive and its arrays by lower-case name, after a look at what they would inflate to; what goes wrong while it is
    read becomes DataError."""
    path, size = regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            check_inflation(path, size, sum(info.file_size for info in infos))
            members = {info.filename[:-4].lower(): info for info in infos}
            if len(members) < len(infos):
                names = ", ".join(info.filename[:-4] for info in infos)
                raise DataError(
                    f"{path}: the array names {names} are not unique when case is ignored; keep one x and one y"
                )
            yield path, archive, members
    except DataError:
        raise
    except (UnicodeError, *DAMAGED) as error:
        raise DataError(
            f"{path}: not a whole .npz archive ({error}); write it again with numpy.savez(path, x=x, y=y)"
        ) from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Array:
    with archive.open(member) as stream:
        return _read_npy(cast(BinaryIO, stream), member.file_size, f"{path}: array {member.filename[:-4]}")


def load_npy(source: str, task: str) -> Dataset:
    """The data set in two .npy files: "X.npy,Y.npy", or one whose stem is x or ends in _x, -x or .x, with y beside it.

    So `x.npy` goes with `y.npy` and `train_X.npy` with `train_Y.npy` or `train_y.npy`. Raises DataError for a file that
    is missing, damaged or of another kind, and for a name that does not say where y is.
    """
    x_path, y_path = npy_pair(source)
    return assemble(x_path, {"x": _load_npy(x_path), "y": _load_npy(y_path)}, task)


def _load_npy(path: str | os.PathLike[str]) -> Array:
    path, size = regular_file(path)
    with path.open("rb") as stream:
        return _read_npy(stream, size, str(path))


def npy_pair(source: str) -> tuple[Path, Path]:
    """The two files that `load_npy` reads. Raises DataError for a name that does not say where y is."""
    if "," in source and not os.path.exists(source):
        parts = [part.strip() for part in source.split(",")]
        if len(parts) != 2 or not all(part.lower().endswith(".npy") for part in parts):
            raise DataError(f"{source}: expected two files, x first: x.npy,y.npy")
        return Path(parts[0]), Path(parts[1])
    return Path(source), _beside(Path(source))


def load_x(source: str) -> Array:
    """The inputs alone in an .npz archive (x_test if it has that) or in an .npy file."""
    first = source.split(",")[0].strip()
    if first.lower().endswith(".npy"):
        return features(_load_npy(first), first)
    with _archive(first) as (path, archive, members):
        name = "x_test" if "x_test" in members else _member(members, "x", path)
        return features(_read_member(archive, members[name], path), f"{path}: {name}")


def assemble(path: Path, arrays: dict[str, Array], task: str) -> Dataset:
    """The data set of arrays x and y, optionally x_test and y_test, once their numbers of rows and columns agree."""
    parts: dict[str, Array] = {}
    for name in ("x", "x_test"):
        if name in arrays:
            x, y = arrays[name], arrays[name.replace("x", "y", 1)]
            parts[name] = features(x, f"{path}: {name}")
            if y.ndim not in (1, 2) or len(y) != len(x) or not y.size:
                raise DataError(
                    f"{path}: y has shape {y.shape} and x {x.shape}, expected y: ({len(x)},) or ({len(x)}, m)"
                )
    x_test = parts.get("x_test")
    if x_test is not None and x_test.shape[1] != parts["x"].shape[1]:
        raise DataError(f"{path}: x_test has {x_test.shape[1]} columns, x has {parts['x'].shape[1]}")
    raw, rows = arrays["y"], len(arrays["y"])
    if x_test is not None:
        if arrays["y_test"].shape[1:] != raw.shape[1:]:
            raise DataError(f"{path}: y_test has shape {arrays['y_test'].shape}, y has {raw.shape}")
        raw = np.concatenate([raw, arrays["y_test"]])
    targets = read_targets(raw, task, f"{path}: y")
    y, y_test = targets.values[:rows], None if x_test is None else targets.values[rows:]
    if targets.classes and len(unknown := np.setdiff1d(targets.values[rows:], y)):
        raise DataError(f"{path}: y_test holds {targets.classes[unknown[0]]}, which no training row has")
    columns = 1 if targets.classes else y.shape[1]
    names = ("y",) if columns == 1 else tuple(f"y{i}" for i in range(columns))
    return Dataset(path.stem, parts["x"], y, targets.task, targets.classes, (), x_test, y_test, names)


def named_x(path: Path) -> bool:
    """Whether the name says that a file holds x: its stem is x or ends in _x, -x or .x."""
    stem = path.stem
    return stem[-1:] in ("x", "X") and (len(stem) == 1 or stem[-2] in "_-.")


def _beside(x_path: Path) -> Path:
    stem = x_path.stem
    if not named_x(x_path):
        raise DataError(f"{x_path}: its name does not say where y is; give both files, x first: x.npy,y.npy")
    choices = [
        x_path.with_name(f"{stem[:-1]}{letter}{x_path.suffix}") for letter in ("yY" if stem[-1] == "x" else "Yy")
    ]
    found = next((path for path in choices if path.exists()), None)
    if found is None:
        raise DataError(f"{x_path}: no {choices[0].name} beside it; give both files, x first: x.npy,y.npy")
    return found


def _member(members: dict[str, zipfile.ZipInfo], name: str, path: Path) -> str:
    found = [choice for choice in (name, f"{name}_train") if choice in members]
    if len(found) != 1:
        held = ", ".join(sorted(members)) or "no arrays"
        raise DataError(
            f"{path}: holds {held}; expected {name} or {name}_train, one of the two: numpy.savez(path, x=x, y=y)"
        )
    return found[0]


def read_header(stream: BinaryIO, size: int, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], bytes]:
    """Of the .npy array in `stream`, `size` bytes long: its shape, whether it lies in Fortran's order, its dtype, and the bytes
    of its values that were read already.

    Raises DataError for what is no .npy array of numbers, or one whose header does not account for every byte.
    """
    remedy = "write it again with numpy.save"
    head = io.BytesIO(stream.read(min(size, 1 << 16)))
    try:
        version = np.lib.format.read_magic(head)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{where}: .npy version {version}, which only structured arrays need; save plain numbers")
        of_version = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = of_version(head)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: not a .npy array ({str(error).splitlines()[0]}); {remedy}") from error
    if dtype.kind not in "biuf":
        raise DataError(f"{where}: has dtype {dtype}; expected bool, integers or floating-point numbers")
    expected, held = math.prod(shape) * dtype.itemsize, size - head.tell()
    if held != expected:
        what = "truncated" if held < expected else "damaged"
        raise DataError(
            f"{where}: {what}: {held:,} bytes of values, but its header {shape} {dtype} says {expected:,}; {remedy}"
        )
    return shape, fortran, dtype, head.read()


def _read_npy(stream: BinaryIO, size: int, where: str) -> Array:
    """The array in `stream`, `size` bytes long: the header must account for every byte before one is allocated."""
    shape, fortran, dtype, rest = read_header(stream, size, where)
    expected = math.prod(shape) * dtype.itemsize
    check_memory(where, expected)
    content = bytearray(expected)
    content[: len(rest)] = rest
    filled = len(rest) + fill(memoryview(content)[len(rest) :], stream)
    if filled < expected:
        raise DataError(
            f"{where}: truncated after {filled:,} of {expected:,} bytes of values; write it again with numpy.save"
        )
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
