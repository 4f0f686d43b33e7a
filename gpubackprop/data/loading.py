"""From a name or a path to a data set, or to rows whose target is not known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpubackprop.data.arrays import load_npy, load_npz, load_x
from gpubackprop.data.builtin import SCIKIT_LEARN, load_scikit_learn, spirals, xor
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.images import IMAGE_SETS, load_images
from gpubackprop.data.tables import SUFFIXES, is_table, read_table, title_of
from gpubackprop.data.targets import check_task
from gpubackprop.data.text_tables import TextFormat
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError, unknown_name

if TYPE_CHECKING:
    import numpy as np

    from gpubackprop.data.tables import Table

NAMES = (*SCIKIT_LEARN, *IMAGE_SETS, "xor", "spirals")
"""The data sets known by name."""


def load(
    source: str | os.PathLike[str],
    *,
    target: str | Sequence[str] | None = None,
    task: str = "auto",
    weight: str | None = None,
    group: str | None = None,
    format: TextFormat | None = None,
    text: Sequence[str] = (),
    max_bytes: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Dataset:
    """The data set called `source`, or the one in the file at that path.

    source: a name in NAMES (`./digits` is a path), or a file: .npz (`load_npz`), .npy (`load_npy`: a pair), or a table
    (`read_table`; "-" is standard input). Of a table: target, weight and group are columns (`Dataset.from_frame`), text,
    format and max_bytes go to `read_table`. task: "classification", "regression", "multilabel"; "auto" decides by
    `gpubackprop.data.targets.read_targets`. folder: for mnist and fashion-mnist, where the four IDX files are; without it the
    cache, Debian's folder and, if `download`, the web are tried, with the content checked by SHA-256.

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
    named = isinstance(source, str) and name in NAMES
    if is_table(name) and not named:
        goals = [target] if isinstance(target, str) else target or ()
        table = read_table(name, text=[*goals, *text], format=format, max_bytes=max_bytes)
        return Dataset.from_frame(table, target, task=task, weight=weight, group=group, name=title_of(name))
    usual = TextFormat()
    written = {k: v for k, v in vars(format or usual).items() if v != getattr(usual, k)}
    for option, value in {"target": target, "weight": weight, "group": group, **written}.items():
        if value is not None and (named or name.lower().endswith((".npz", ".npy"))):
            raise ArgumentError(f"{option} is for tables, not for {name!r}, which holds arrays: leave it out")
    if max_bytes is not None:
        raise ArgumentError(
            f"max_bytes is for tables, not for {name!r}, whose size is known before it is read: leave it out"
        )
    if named:
        return _named(name, task, folder, download)
    if name.lower().endswith(".npz"):
        return load_npz(name, task)
    if name.lower().endswith(".npy"):
        return load_npy(name, task)
    raise _unknown(source)


def load_rows(
    source: str,
    *,
    text: Sequence[str] = (),
    format: TextFormat | None = None,
    max_bytes: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Table | np.ndarray:
    """The rows of a source, of which no target is needed: a `Table`, or an array (n, d), float32, float64 or uint8.

    source: what `load` takes, or a single .npy file that holds x. Of a data set with an official test part: the inputs of
    that. Raises what `load` raises.
    """
    if source not in NAMES and is_table(source):
        return read_table(source, text=text, format=format, max_bytes=max_bytes)
    if source not in NAMES and source.lower().endswith((".npz", ".npy")):
        return load_x(source)
    data = load(source, folder=folder)
    return data.x if data.x_test is None else data.x_test


def _unknown(source: str | os.PathLike[str]) -> Exception:
    name = os.fspath(source)
    if os.path.exists(name) or os.sep in name or not isinstance(source, str):
        what = "is a folder" if os.path.isdir(name) else "not a kind of file that can be read"
        return DataError(f"{name}: {what}; expected .npz, .npy, {', '.join(SUFFIXES)}, or a name: {', '.join(NAMES)}")
    return unknown_name("data set", name, NAMES)


def _named(name: str, task: str, folder: str | os.PathLike[str] | None, download: bool) -> Dataset:
    if name in IMAGE_SETS:
        data = load_images(name, folder, download)
    elif name in SCIKIT_LEARN:
        data = load_scikit_learn(name)
    else:
        data = xor() if name == "xor" else spirals()
    if task not in ("auto", data.task):
        raise ArgumentError(f"task is {task!r}, but {name!r} is {data.task}: leave task at 'auto'")
    return data
