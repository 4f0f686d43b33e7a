"""Inputs alone, of rows whose target is not known: what a trained network is asked about."""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import tables
from gpubackprop.data.arrays import _member, _members, _read_npy, features
from gpubackprop.data.loading import NAMES, load
from gpubackprop.errors import DataError, MissingExtraError
from gpubackprop.files.regular import regular_file

Array = NDArray[np.generic]


def load_inputs(source: str, columns: Sequence[str] = (), *, folder: str | os.PathLike[str] | None = None) -> Array:
    """The rows x (n, d) of a source, float32 or uint8, in C order; targets are not looked at and need not be there.

    source: what `load` takes, or a single .npy file that holds x. columns: the table columns to take, in this order, as
    the network was trained on them; () takes all. Of a data set with an official test part: the inputs of that.

    Raises DataError for a file that cannot be used or lacks a column, ArgumentError for an unknown name.
    """
    lower = source.lower()
    if source in NAMES or not lower.endswith((".npz", ".npy", ".csv", ".csv.gz", ".parquet")):
        data = load(source, folder=folder)
        return data.x if data.x_test is None else data.x_test
    if lower.endswith(".npz"):
        return _from_npz(source)
    if lower.endswith(".npy"):
        path, size = regular_file(source.split(",")[0].strip())
        with path.open("rb") as stream:
            return features(_read_npy(stream, size, str(path)), str(path))
    if lower.endswith(".parquet"):
        return _from_parquet(source, columns)
    return _from_csv(source, columns)


def _from_csv(source: str, columns: Sequence[str]) -> Array:
    path, size = regular_file(source)
    try:
        with tables._open_text(path, size) as lines:
            first = lines.readline()
            separator = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
            lines.seek(0)
            rows = csv.reader(lines, delimiter=separator, strict=True)
            header = [name.strip() for name in next(rows, [])]
            inputs = _positions(path, header, columns)
            blocks = [
                tables._numbers(path, header, inputs, block, start)
                for start, block in tables._row_blocks(path, rows, len(header))
            ]
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: not a UTF-8 table ({error}); save it as CSV, UTF-8") from error
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); copy or download it again") from error
    if not blocks:
        raise DataError(f"{path}: has a header but no rows")
    return features(np.concatenate(blocks), str(path))


def _from_parquet(source: str, columns: Sequence[str]) -> Array:
    path, _ = regular_file(source)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading .parquet files", "data") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            inputs = _positions(path, header, columns)
            table = file.read(columns=[header[i] for i in inputs])
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a whole Parquet file ({reason}); write or download it again") from error
    if not table.num_rows:
        raise DataError(f"{path}: has columns but no rows")
    read = [tables._parquet_column(path, header[i], table.column(header[i]), text=False) for i in inputs]
    return features(np.stack(read, axis=1).astype(np.float64), str(path))


def _from_npz(source: str) -> Array:
    path, size = regular_file(source)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path, size)
            name = "x_test" if "x_test" in members else _member(members, "x", path)
            with archive.open(members[name]) as stream:
                return features(
                    _read_npy(cast(BinaryIO, stream), members[name].file_size, f"{path}: array {name}"),
                    f"{path}: {name}",
                )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(
            f"{path}: not a whole .npz archive ({error}); write it again with numpy.savez(path, x=x)"
        ) from error


def _positions(path: Path, header: list[str], columns: Sequence[str]) -> list[int]:
    """Where the wanted columns stand in the header; all of them in order if none are named."""
    if not header or header == [""]:
        raise DataError(f"{path}: the first line is blank; it must name the columns")
    if not columns:
        return list(range(len(header)))
    for name in columns:
        if header.count(name) != 1:
            near = get_close_matches(name, header, n=1, cutoff=0.5)
            hint = f" (there is {near[0]!r})" if near and name not in header else ""
            how = "no column" if name not in header else "several columns"
            raise DataError(f"{path}: has {how} {name!r}{hint}, which the network was trained on")
    return [header.index(name) for name in columns]
