"""`gpubackprop runs`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from gpubackprop.cli.output import Json, print_json, table
from gpubackprop.errors import DataError
from gpubackprop.files.lock import is_held
from gpubackprop.pipeline.run_folder import CHECKPOINTS, read_settings
from gpubackprop.terminal import Terminal

COLUMNS = ("name", "data", "metric", "score", "date", "status")


def runs(
    folder: Annotated[str, Argument(metavar="[FOLDER]", help="The folder that the run folders are in.")] = "runs",
    as_json: Json = False,
) -> None:
    """List the runs in a folder, the oldest first, a line each: data, score, date and status."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: no such folder; name one that holds run folders")
    inside = [p for p in root.iterdir() if (p / "settings.json").exists() or (p / CHECKPOINTS).is_dir()]
    found = sorted(map(_line, inside), key=lambda line: (line["date"], line["name"]))
    if as_json:
        print_json({"folder": folder, "runs": found})
        return
    Terminal().print(table(COLUMNS, ([_text(line[column]) for column in COLUMNS] for line in found)))


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def _line(run: Path) -> dict[str, Any]:
    """One run. status: "running", "done", "interrupted", or why its settings cannot be read."""
    line: dict[str, Any] = dict.fromkeys(COLUMNS) | {"name": run.name}
    line["date"] = datetime.fromtimestamp(run.stat().st_mtime, timezone.utc).isoformat(" ", "minutes")
    try:
        about = read_settings(run)
        line["data"], result = about["data"]["name"], about.get("result")
        line["date"] = datetime.fromisoformat(about["started"]).isoformat(" ", "minutes")
        if result is not None:
            line["metric"], line["score"] = next(iter(result["test"].items()), (None, None))
        done = result is not None and result["stopped"] != "interrupted"
        line["status"] = "running" if is_held(run) else "done" if done else "interrupted"
    except (DataError, LookupError, TypeError, ValueError, AttributeError) as error:
        line["status"] = f"not readable: {error}" if isinstance(error, DataError) else f"not readable: {error!r}"
    return line
