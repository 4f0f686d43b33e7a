"""From a name or a path to a data set."""

from __future__ import annotations

import os

from gpubackprop.data.arrays import load_npy, load_npz
from gpubackprop.data.builtin import SCIKIT_LEARN, load_scikit_learn, spirals, xor
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.images import IMAGE_SETS, load_images
from gpubackprop.data.tables import load_csv, load_parquet
from gpubackprop.data.targets import check_task
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError, unknown_name

NAMES = (*SCIKIT_LEARN, *IMAGE_SETS, "xor", "spirals")
"""The data sets known by name."""

SUFFIXES = (".npz", ".npy", ".csv", ".csv.gz", ".parquet")
"""The kinds of files that `load` reads."""


def load(
    source: str | os.PathLike[str],
    *,
    target: str | None = None,
    task: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Dataset:
    """The data set called `source`, or the one in the file at that path.

    source: a name in NAMES (`./digits` is a path), or a file: .npz (`load_npz`), .npy (`load_npy`: a pair), .csv or
    .csv.gz (`load_csv`), .parquet (`load_parquet`). target: for tables, the column to predict, or several with commas
    between. task: "classification" or "regression"; "auto" decides by `gpubackprop.data.targets.read_targets`.
    folder: for mnist and fashion-mnist, where the four IDX files are; without it the cache, Debian's folder and, if
    `download`, the web are tried, with the content checked by SHA-256.

    Raises ArgumentError for an unknown name or task and for an option that the source has no use for, DataError for a
    file that cannot be used, MissingExtraError where an optional dependency is missing.
    """
    if not isinstance(source, str | os.PathLike):
        raise ArgumentTypeError(
            f"source is a {type(source).__name__}, expected a name or path; names: {', '.join(NAMES)}"
        )
    check_task(task)
    name = os.fspath(source)
    if folder is not None and name not in IMAGE_SETS:
        raise ArgumentError(f"folder is for {' and '.join(IMAGE_SETS)}, not for {name!r}: leave it out")
    if isinstance(source, str) and name in NAMES:
        return _named(name, target, task, folder, download)
    lower = name.lower()
    if not lower.endswith((".csv", ".csv.gz", ".parquet")) and target is not None and lower.endswith(SUFFIXES):
        raise ArgumentError(f"target is for tables, not for {name!r}, whose target is the array y: leave it out")
    if lower.endswith(".npz"):
        return load_npz(name, task)
    if lower.endswith(".npy"):
        return load_npy(name, task)
    if lower.endswith((".csv", ".csv.gz")):
        return load_csv(name, target, task)
    if lower.endswith(".parquet"):
        return load_parquet(name, target, task)
    if os.path.exists(name) or os.sep in name or not isinstance(source, str):
        what = "is a folder" if os.path.isdir(name) else "not a kind of file that can be read"
        raise DataError(f"{name}: {what}; expected {', '.join(SUFFIXES)}, or a name: {', '.join(NAMES)}")
    raise unknown_name("data set", name, NAMES)


def _named(name: str, target: str | None, task: str, folder: str | os.PathLike[str] | None, download: bool) -> Dataset:
    if target is not None:
        raise ArgumentError(f"target is for tables, not for {name!r}, which has its own target: leave it out")
    if name in IMAGE_SETS:
        data = load_images(name, folder, download)
    elif name in SCIKIT_LEARN:
        data = load_scikit_learn(name)
    else:
        data = xor() if name == "xor" else spirals()
    if task not in ("auto", data.task):
        raise ArgumentError(f"task is {task!r}, but {name!r} is {data.task}: leave task at 'auto'")
    return data
