"""From the columns of a table to a network's inputs: fitted to the training rows, kept as plain data beside the weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpubackprop.data import cells
from gpubackprop.data.arrow import pa, pc
from gpubackprop.data.tables import Table
from gpubackprop.data.text_tables import listed
from gpubackprop.errors import ArgumentError, CheckpointError, DataError
from gpubackprop.layout import aligned
from gpubackprop.precision import is_constant

Array = NDArray[Any]
Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

ONE_HOT = 64
"""Up to so many levels, each gets an input of its own; a column of more is known by its levels' mean targets."""
RARE = 3
"""Levels of fewer training rows are one level together."""
FOLDS = 5
SMOOTHING = 10.0
"""Rows of the mean over all that a level's mean target is blended with: Micci-Barreca, "A preprocessing scheme for
high-cardinality categorical attributes in classification and prediction problems" (2001)."""
MOST_MEANS = 20
"""With more classes than that, a mean for each would be too many inputs: the most frequent levels get inputs instead."""
NEARLY_ALL = 0.9
"""The share of rows with a level of their own from which on text is names, not categories."""
FEWEST = 10
"""Below this many rows, that all values differ says nothing."""

HEAVY = 10.0
"""Where the farthest value is so many times as far from the median as the values are on average, a network sees the others in
the logarithm only."""

FARTHEST = 1e6
"""A scaled input is at most so large: a value of later rows must not overflow the network."""

_ROWS = 1 << 16
_ID = re.compile(
    r"(^|[\W_])(id|idx|index|key|nr|no|num|number|row|uid|uuid|guid|unnamed: \d+)[\W_]*$|^column 1$|^row$", re.I
)


_PLACE = re.compile("#[0-9]+")
"""The names that the columns of a table without a header get."""


@dataclass
class Column:
    """What becomes of a column of the table.

    kind: "number", "boolean", "category", "date" or "left out". becomes: in words, with the reason where it is
    left out. missing: training rows without a value. levels: different values in them. settings: all that `Encoder.transform`
    needs, as plain values. inputs: the names of the inputs that it makes.
    """

    name: str
    kind: str
    becomes: str
    missing: int = 0
    levels: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ColumnChoices:
    """What the user decides of columns, by their names. drop: to leave out. only: to use, and no others (None: all). keep: to
    use although they seem to carry nothing. categorical, numeric: to take for such. log: numbers to take the logarithm of.
    scale: numbers to mean 0 and variance 1. One name may come without a tuple around it."""

    drop: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    scale: bool = True

    def __post_init__(self) -> None:
        for option, names in [*vars(self).items()]:
            if isinstance(names, str):
                object.__setattr__(self, option, (names,))

    def found_in(self, table: Table) -> ColumnChoices:
        """The same with the table's own names; ArgumentError for one that it does not have."""
        found: dict[str, Any] = {}
        try:
            for option, names in vars(self).items():
                if option != "scale" and names is not None:
                    found[option] = tuple(table.find(name, f"{option}={name}") for name in table.split(names))
        except DataError as error:
            raise ArgumentError(str(error)) from None
        return replace(self, **found)


class Encoder:
    """Table -> inputs (n, d).

    Numbers: scaled, a missing one by the median, with an input that says so. Yes and no: 1 and 0. Categories: an input for
    each level, the rare ones together, or the mean target of the level. Dates: time passed and year, and month, weekday and
    hour as points on a circle. columns: what became of each column of the training table.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = list(columns)

    @property
    def inputs(self) -> list[str]:
        """The names of the d inputs."""
        return [name for column in self.columns for name in column.inputs]

    @property
    def names(self) -> list[str]:
        """The columns that a table must have: those that make inputs, and all where they are known by their places alone."""
        by_place = all(_PLACE.fullmatch(column.name) for column in self.columns)
        return [column.name for column in self.columns if column.inputs or by_place]

    @property
    def text(self) -> list[str]:
        """The columns that were read as text and have to be again, so that their levels, and numbers with a decimal comma, are
        those of training; of those that are left out, the ones that were to be read so."""
        return [column.name for column in self.columns if column.settings.get("text")]

    @property
    def has_means(self) -> bool:
        """Whether a column is known by its levels' mean targets."""
        return any("means" in column.settings for column in self.columns)

    @classmethod
    def fit(cls, table: Table, y: Array, classes: int = 0, choices: ColumnChoices | None = None) -> Encoder:
        """The encoder for training rows and their targets: labels (n,) of `classes` classes, or values (n, m).

        Raises DataError where no column is left to predict from, ArgumentError for choices that the table does not have.
        """
        choices, target = (choices or ColumnChoices()).found_in(table), _Target(y, classes)
        seen = dict.fromkeys(target.keys, "the target")
        with np.errstate(over="ignore", invalid="ignore"):
            columns = [_fit(table, name, target, choices, seen) for name in table.names]
        for column in columns:
            meant = column.kind in ("boolean", "category") or column.name in choices.categorical
            if meant or column.settings.get("decimal") == ",":
                column.settings["text"] = cells.is_text(table.columns.schema.field(column.name).type)
        if not any(column.inputs for column in columns):
            why = "; ".join(f"{column.name}: {column.becomes}" for column in columns[:8])
            raise DataError(f"no column is left to predict from ({why}); say keep=NAME to use one")
        return cls(columns)

    def transform(self, table: Table, dtype: DTypeLike = np.float32) -> Array:
        """The inputs (n, d), C-contiguous, for rows of a table with the columns of the training table, in any order.

        Raises DataError for a column that is not there.
        """
        result = np.empty((len(table), len(self.inputs)), dtype)
        for column, place in self._places(table):
            values = table.column(column.name)
            for row in range(0, len(table), _ROWS):
                raw = _RAW[column.kind](values.slice(row, _ROWS), column.settings)
                result[row : row + _ROWS, place] = _scaled(raw, column.settings)
        return result

    def remarks(self, table: Table) -> list[str]:
        """What should be known of later rows, a sentence each: levels that training had not, values missing for the first
        time, cells that are no numbers or dates. Raises DataError for a column that is not there."""
        return [remark for column, _ in self._places(table) for remark in _remarks(column, table.column(column.name))]

    def transform_training(self, table: Table, y: Array, classes: int = 0, dtype: DTypeLike = np.float32) -> Array:
        """The inputs for the training rows themselves: as `transform`, but a row's mean targets come from the four fifths of
        the rows that it is not among, since otherwise it would be told its own target."""
        result, target = self.transform(table, dtype), _Target(y, classes)
        for column, place in self._places(table):
            if "means" in column.settings:
                codes = _codes(table.column(column.name), column.settings["levels"])
                result[:, place] = _scaled(target.means_of_others(codes, column.settings), column.settings)
        return result

    def _places(self, table: Table) -> list[tuple[Column, slice]]:
        """The columns that make inputs, and where these are; DataError where the table lacks one."""
        there = set(table.names)
        missing = [name for name in self.names if name not in there]
        if missing:
            near = get_close_matches(missing[0], table.names, n=1, cutoff=0.5)
            hint = f"there is {near[0]!r}" if near else f"it has {listed(table.names)}"
            if _PLACE.fullmatch(missing[0]):
                hint += "; without a header, columns are known by their places: all are needed, the target too"
            raise DataError(f"the table has no column {listed([*map(repr, missing)])}, which training had; {hint}")
        stops = np.cumsum([len(column.inputs) for column in self.columns])
        return [
            (column, slice(int(stop) - len(column.inputs), int(stop)))
            for column, stop in zip(self.columns, stops, strict=True)
            if column.inputs
        ]

    def state(self) -> dict[str, Any]:
        """Everything, as values that JSON can hold."""
        return {"columns": [{**vars(c), "settings": {**c.settings}, "inputs": [*c.inputs]} for c in self.columns]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Encoder:
        """The encoder whose `state()` this is; raises CheckpointError for anything that cannot be one."""

        try:
            columns = [Column(*(entry[f.name] for f in fields(Column))) for entry in state["columns"]]
            for column in columns:
                if column.inputs:
                    raw = _scaled(_RAW[column.kind](pa.array([None], pa.string()), column.settings), column.settings)
                    if raw.shape != (1, len(column.inputs)) or not np.isfinite(raw).all():
                        raise ValueError(f"column {column.name} does not make {len(column.inputs)} inputs")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(f"the description of the table's columns is damaged: {error!r}") from error
        return cls(columns)


def described(columns: Sequence[Column], most: int = 60) -> list[str]:
    """A table of columns and what becomes of them, a line each; of very many, the first and all that are left out."""
    shown = [c for i, c in enumerate(columns) if i < most or c.kind == "left out"][: 2 * most]
    rows: list[tuple[str, ...]] = [("column", "kind", "missing", "levels", "becomes")]
    rows += [(c.name, c.kind, f"{c.missing:,}", f"{c.levels:,}", c.becomes) for c in shown]
    rows = [(name if len(name) <= 30 else name[:29] + "…", *rest) for name, *rest in rows]
    lines = aligned(rows, "<<>><")
    return lines + [f"... {len(columns) - len(shown):,} columns more"] * (len(shown) < len(columns))


# -- the kinds: the cells of a column, and what was learnt of it -> raw inputs (n, width) ------------------------------------


def _number(column: pa.Array, s: Mapping[str, Any]) -> Floats:
    values = cells.yes_or_no(column) if s["decimal"] == "yes or no" else cells.numbers(column, s["decimal"])
    absent = np.isnan(values)
    values = np.where(absent, s["median"], values)
    parts = [values, absent][: 1 + s["gaps"]]
    if s["unit"]:
        away = values - s["median"]
        parts.insert(1, np.sign(away) * np.log1p(np.abs(away) / s["unit"]))
    return np.stack(parts, axis=1)


def _category(column: pa.Array, s: Mapping[str, Any]) -> Floats:
    codes = _codes(column, s["levels"])
    if "means" in s:
        return np.asarray(s["means"], np.float64)[codes]
    return np.eye(len(s["levels"]) + 2)[:, s["used"]][codes]


def _date(column: pa.Array, s: Mapping[str, Any]) -> Floats:
    # A run of before may have learnt 99 as the year 99; then later rows are read so too.
    moments = cells.times(column, s["format"], short=s["median"] < _YEAR_1000)
    absent = moments.is_null().to_numpy(zero_copy_only=False)
    moments = moments.fill_null(pa.scalar(round(s["median"]), moments.type))
    parts = [cells.numbers(moments)]
    for name in s["parts"]:
        period = CALENDAR[name]
        turn = getattr(pc, name)(moments).cast(pa.float64()).to_numpy(zero_copy_only=False)
        parts += [f(2 * np.pi * turn / period) for f in (np.sin, np.cos)] if period else [turn]
    return np.stack([*parts, absent][: len(parts) + s["gaps"]], axis=1)


_RAW: dict[str, Callable[[Any, Mapping[str, Any]], Floats]] = {
    "number": _number,
    "boolean": _number,
    "category": _category,
    "date": _date,
}
_YEAR_1000 = -30_610_224_000
CALENDAR = {"year": 0, "month": 12, "day_of_week": 7, "hour": 24}
"""pyarrow's names for the parts of a point in time, with the period after which they come again (0: never)."""


def _codes(column: pa.Array, known: Sequence[str]) -> Codes:
    """Places (n,) of the cells in the known levels; len(known) for other levels, len(known) + 1 for missing cells."""
    return _places_of(*cells.levels(column), known)


def _places_of(codes: Codes, found: Sequence[str], known: Sequence[str]) -> Codes:
    place = {level: i for i, level in enumerate(known)}
    if not place.keys() >= {*found}:
        # Text keeps the point of 1.0, which is 1 in another file.
        place = {cells.identity(level): i for level, i in reversed(place.items())} | place
        found = [level if level in place else cells.identity(level) for level in found]
    return np.array([place.get(level, len(known)) for level in found] + [len(known) + 1])[codes]


def _scaled(raw: Floats, s: Mapping[str, Any]) -> Floats:
    return np.clip((raw - s["mean"]) / s["scale"], -FARTHEST, FARTHEST) if "mean" in s else raw


# -- what is learnt of a column ----------------------------------------------------------------------------------------------


class _Target:
    """The targets as numbers (n, k) to take means of: values, standardised, or for each class (of two: the second) 0 or 1."""

    def __init__(self, y: Array, classes: int) -> None:
        self.classes = classes
        if classes:
            self.values = np.eye(classes)[:, classes == 2 :][y]
            self.keys = [_key(_by_appearance(y))]
        else:
            spread = y.std(axis=0)
            self.values = (y - y.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
            self.keys = [_key(column.astype(np.float64)) for column in y.T]

    def means(self, codes: Codes, count: int, rows: Array) -> Floats:
        """For each of `count` codes its mean target (count, k) over some rows, blended with the mean over all of them."""
        prior = self.values[rows].mean(axis=0)
        sums = np.stack([np.bincount(codes[rows], column, count) for column in self.values[rows].T], axis=1)
        sizes = np.bincount(codes[rows], minlength=count)[:, None]
        result: Floats = (sums + SMOOTHING * prior) / (sizes + SMOOTHING)
        return result

    def means_of_others(self, codes: Codes, s: Mapping[str, Any]) -> Floats:
        """For each row the mean target of its level over the rows of the other folds."""
        # Philox words, as in `split`: NumPy keeps them bit for bit across versions.
        fold = np.random.Philox(key=0).random_raw(len(codes)) % FOLDS
        result = np.empty((len(codes), self.values.shape[1]))
        for k in range(FOLDS):
            result[fold == k] = self.means(codes, len(s["levels"]) + 2, fold != k)[codes[fold == k]]
        return result


def _by_appearance(labels: Array) -> Codes:
    """Codes (n,) that number the different labels in the order of their coming."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes]


def _key(values: Array) -> bytes:
    """Equal for columns that say the same: equal numbers, or the same rows in levels, whatever these are called."""
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).digest() + values.dtype.kind.encode()


def _fit(table: Table, name: str, target: _Target, choices: ColumnChoices, seen: dict[bytes, str]) -> Column:
    """What becomes of a column; seen: the columns before it, by their keys."""
    if name in choices.drop:
        return Column(name, "left out", "dropped, as asked")
    if choices.only is not None and name not in choices.only:
        return Column(name, "left out", "not among the columns to use")
    values = table.column(name)
    if values.null_count == len(values):
        return Column(name, "left out", "it has no values", len(values))
    column, key = _understood(name, values, target, choices, table.format.decimal)
    asked = (choices.keep, choices.categorical, choices.numeric, choices.only or ())
    reason = "" if any(name in names for names in asked) else _carries_nothing(column, values)
    copied = [seen[k] for k in key if k in seen]
    if copied and name not in choices.keep:
        reason = f"a copy of {copied[0]}"
    if column.kind == "left out" or reason:
        return Column(name, "left out", reason or column.becomes, column.missing, column.levels)
    seen |= dict.fromkeys(key[:1], name)
    s = column.settings
    if choices.scale and (column.kind in ("number", "date") or "means" in s):
        raw = _RAW[column.kind](values, s)
        mean, variance = raw.mean(axis=0), raw.var(axis=0)
        scale = np.where(is_constant(variance, mean, len(raw)), 1.0, np.sqrt(variance))
        if not np.isfinite(variance).all():
            raise DataError(f"column {name}: holds values too large to square; rescale it, or say drop={name}")
        if s.get("gaps"):
            mean[-1], scale[-1] = 0.0, 1.0
        s |= {"mean": mean.tolist(), "scale": scale.tolist()}
    return column


def _understood(
    name: str, values: pa.Array, target: _Target, choices: ColumnChoices, decimal: str | None
) -> tuple[Column, list[bytes]]:
    """The column as what its cells are, not scaled yet, and its keys."""
    kind = values.type
    if not (cells.is_text(kind) or cells.is_number(kind) or cells.is_time(kind) or str(kind) == "bool"):
        return Column(name, "left out", f"it holds values of type {kind}", values.null_count), []
    if name not in choices.categorical:
        if cells.is_time(kind):
            return _date_column(name, values, cells.OF_DAY if str(kind)[:5] in ("time3", "time6") else "")
        numeric = name in choices.numeric
        if cells.is_text(kind):
            if writing := cells.find_writing(values, decimal, 0.0 if numeric else cells.MOSTLY):
                doubt = "; 1,234 and the like could be read otherwise (decimal)" if writing.unsure else ""
                how = f"text read as numbers with decimal {writing.decimal!r}{doubt}, "
                return _number_column(name, values, writing.decimal, how, choices, target)
            if found := cells.time_format(values):
                return _date_column(name, values, *found)
        elif numeric or (cells.is_number(kind) and "dictionary" not in str(kind)):
            return _number_column(name, values, decimal or ".", "", choices, target)
        if cells.is_yes_or_no(values):
            return _number_column(name, values, "yes or no", "", choices, target)
    distinct = cells.distinct(values)
    asked = {*choices.keep, *choices.categorical, *(choices.only or ())}
    present = len(values) - values.null_count
    if name not in asked and present >= FEWEST and distinct >= NEARLY_ALL * present:
        why = "names or prose: nearly every row has its own"
        return Column(name, "left out", why, values.null_count, distinct), []
    return _category_column(name, *cells.levels(values), target)


def _gaps(column: Column) -> Column:
    """The column with an input that says where values are missing, if some are."""
    column.settings["gaps"] = column.missing > 0
    if column.missing:
        column.inputs.append(f"{column.name} missing")
        column.becomes += "; where missing the median, and an input that says so"
    return column


def _number_column(
    name: str, values: pa.Array, decimal: str, how: str, choices: ColumnChoices, target: _Target
) -> tuple[Column, list[bytes]]:

    is_flag = decimal == "yes or no"
    x = cells.yes_or_no(values) if is_flag else cells.numbers(values, decimal)
    absent = np.isnan(x)
    missing, present = int(absent.sum()), x[~absent]
    if not present.size:
        return Column(name, "left out", "none of its values is a number", missing), []
    distinct, median = cells.distinct(pa.array(present)), float(np.median(present))
    away = np.abs(present - median)
    heavy = name in choices.log or (not is_flag and away.max() > HEAVY * away.mean())
    unit = float(np.median(away) or away.mean() or 1.0) if heavy else 0.0
    becomes = how + ("1 and 0" if is_flag else "scaled, and its logarithm" if unit else "scaled")
    if unread := missing - values.null_count:
        becomes += f"; {unread:,} cells that are no finite numbers taken as missing"
    settings = {"decimal": decimal, "median": median, "unit": unit}
    inputs = [name, f"{name} log"] if heavy else [name]
    column = Column(name, "boolean" if is_flag else "number", becomes, missing, distinct, settings, inputs)
    keys = [_key(x)]
    if distinct == target.classes and not missing:
        keys.append(_key(_by_appearance(x)))
    return _gaps(column), keys


def _category_column(name: str, codes: Codes, found: list[str], target: _Target) -> tuple[Column, list[bytes]]:
    missing = int((codes < 0).sum())
    sizes = np.bincount(codes[codes >= 0], minlength=len(found))
    order = sorted(range(len(found)), key=lambda i: (-sizes[i], found[i]))
    column = Column(name, "category", "", missing, len(found))
    k = target.values.shape[1]
    if len(found) > ONE_HOT and k <= MOST_MEANS:
        kept = [found[i] for i in order if sizes[i] > 1]
        own = _places_of(codes, found, kept)
        means = target.means(own, len(kept) + 2, np.ones(len(own), bool))
        column.settings = {"levels": kept, "means": means.tolist()}
        column.inputs = [f"{name} mean {i}" if k > 1 else f"{name} mean" for i in range(k)]
        column.becomes = "mean target of the level, out of fold"
        return column, [_key(codes)]
    kept = [found[i] for i in order if sizes[i] >= min(RARE, sizes.max())][:ONE_HOT]
    used = list(range(len(kept))) + [len(kept)] * (len(kept) < len(found)) + [len(kept) + 1] * (missing > 0)
    column.settings = {"levels": kept, "used": used}
    column.inputs = [f"{name}={level}" for level in [*kept, "other", "missing"]]
    column.inputs = [column.inputs[i] for i in used]
    column.becomes = f"{len(used)} inputs, one for each level"
    if len(kept) < len(found):
        column.becomes += f" but the {len(found) - len(kept):,} rare, which share one"
    return column, [_key(codes)]


def _date_column(name: str, values: pa.Array, format: str, unsure: bool = False) -> tuple[Column, list[bytes]]:
    seconds = cells.numbers(cells.times(values, format))
    absent = np.isnan(seconds)
    column = Column(name, "date", "", int(absent.sum()), len(np.unique(seconds[~absent])))
    median = float(np.median(seconds[~absent]))
    parts = ["hour"] if format == cells.OF_DAY else list(CALENDAR)
    column.settings = {"format": format, "median": median, "parts": parts, "gaps": False}
    inputs = [
        [f"{name} {part} {turn}" for turn in ("sin", "cos")] if CALENDAR[part] else [f"{name} {part}"] for part in parts
    ]
    # The parts that are the same in every row say nothing.
    varies = np.ptp(_date(values, column.settings), axis=0) > 1e-6
    stops = np.cumsum([1, *map(len, inputs)])
    kept = [i for i in range(len(parts)) if varies[stops[i] : stops[i + 1]].any()]
    column.settings["parts"] = [parts[i] for i in kept]
    column.inputs = [f"{name} elapsed", *(name for i in kept for name in inputs[i])]
    column.becomes = ", ".join(["time passed", *(parts[i].replace("_", " ") for i in kept)])
    column.becomes += f" of text read as {format}" if format else ""
    column.becomes += "; day, month and year could stand in another order" if unsure else ""
    return _gaps(column), [_key(seconds)]


def _carries_nothing(column: Column, values: pa.Array) -> str:
    """Why the column cannot help; "" where it may."""
    if column.levels == 1 and not column.missing:
        return f"constant: {str(values[0].as_py())[:40]!r} in every row"
    present = len(values) - column.missing
    numbered = column.kind == "number" and "int" in str(values.type) and _ID.search(column.name)
    if numbered and column.levels == present >= FEWEST:
        return "numbers the rows: all different"
    return ""


def _remarks(column: Column, values: pa.Array) -> list[str]:
    """What is new in the cells of a column, against the training rows."""
    remarks = []
    if column.kind != "category":
        fill = {**column.settings, "gaps": True}
        absent = int(_RAW[column.kind](values, fill)[:, -1].sum())
        if absent and not column.settings["gaps"]:
            remarks.append(
                f"column {column.name}: {absent:,} rows without a value, which in training all had: the median"
            )
        if unread := absent - values.null_count:
            remarks.append(f"column {column.name}: {unread:,} cells that are no {column.kind} taken as missing")
    elif (new := _codes(values, column.settings["levels"]) == len(column.settings["levels"])).any():
        remarks.append(f"column {column.name}: {int(new.sum()):,} rows with levels that are rare or new")
    return remarks
