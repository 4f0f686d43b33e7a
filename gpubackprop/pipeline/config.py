"""What a file asks of a training run: TOML with an option a line, or the settings.json of a run, which then is repeated."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from gpubackprop.errors import DataError
from gpubackprop.pipeline.run_folder import versions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Option of `train` -> value, without those that are left open.

    Raises DataError for a file that cannot be read, and for the settings.json of a run that its settings alone do not make again:
    one on arrays or on standard input, or one that was trained further. Warns where that run was made with other versions, since
    then it is repeated to rounding, not bit for bit.
    """
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8")
        asked: dict[str, Any] = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if path.suffix != ".json":
        return asked
    try:
        options = run_options(asked)
        if options["data"] in (None, "-"):
            raise DataError(
                f"{path}: that run was on arrays or standard input, which no file names: it cannot be repeated"
            )
        if asked.get("continued_from"):
            raise DataError(
                f"{path}: that run was trained further after {asked['continued_from']} epochs, which other settings would not "
                "give: it cannot be repeated in one"
            )
        then = {k: v for k, v in versions().items() if asked["versions"][k] != v}
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not the settings.json of a run of this version: {error!r}") from None
    if then:
        others = ", ".join(f"{k} {asked['versions'][k]}, here {v}" for k, v in then.items())
        warnings.warn(
            f"{path}: was written with {others}: the run is repeated to rounding", RuntimeWarning, stacklevel=2
        )
    return {name: value for name, value in options.items() if value is not None}


def run_options(about: dict[str, Any]) -> dict[str, Any]:
    """The options of `train` that made the run with this settings.json. Raises LookupError or TypeError for anything else."""
    data = about["data"]
    columns = {k: v for k, v in data["columns"].items() if k != "scale" and v != []}
    named = {k: data[k] for k in ("target", "task", "folder", "weight", "group", "max_bytes", "memory", "sha256")}
    words = {"missing": ",".join(word for word in data["format"]["missing"] if word)}
    settings = about["settings"]
    # As text, since on a command line no words at all are no list.
    settings = {**settings, "layers": "none" if settings["layers"] == [] else settings["layers"]}
    return {"data": data["source"], **named, **data["format"], **words, **columns, **settings}
