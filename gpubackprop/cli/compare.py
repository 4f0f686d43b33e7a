"""`gpubackprop compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from gpubackprop.cli.output import Json, print_json, table
from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.files.atomic import replacing
from gpubackprop.pipeline.config import run_options
from gpubackprop.pipeline.run_folder import HISTORY, read_settings
from gpubackprop.terminal import Terminal, say
from gpubackprop.training.figures import png
from gpubackprop.training.history import History, curves


def compare(
    runs: Annotated[list[str], Argument(metavar="RUN RUN...", help="Run folders that `train` wrote.")],
    plot: Annotated[str | None, Option(help="Draw all curves into one PNG there.")] = None,
    as_json: Json = False,
) -> None:
    """Show in which settings runs differ, and what came of it."""
    if len(set(runs)) < 2 or len(set(runs)) < len(runs):
        raise ArgumentError(f"compare takes two or more different run folders; got {' '.join(runs)}")
    found = [_asked_and_found(Path(run)) for run in runs]
    asked, scores = (_by_name([pair[i] for pair in found]) for i in (0, 1))
    differ = {name: values for name, values in asked.items() if any(v != values[0] for v in values)}
    if plot:
        made = png(curves({run: History.load(Path(run, HISTORY)) for run in runs}))
        with replacing(Path(plot)) as file:
            file.write(made)
    if as_json:
        print_json({"runs": runs, "settings": differ, "scores": scores})
        return
    console = Terminal()
    console.print(
        table(["", *runs], *([[name, *map(_text, part[name])] for name in part] for part in (differ, scores)))
    )
    if plot:
        say(console, f"curves in {plot}")


def _asked_and_found(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    about = read_settings(run)
    try:
        result = about.get("result") or {"test": {}}
        ended = {k: result.get(k) for k in ("stopped", "epochs", "best_epoch")}
        return {k: v for k, v in run_options(about).items() if k != "sha256"}, {**result["test"], **ended}
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{run}: holds no settings of a run of this version: {error!r}") from None


def _by_name(entries: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [entry.get(name) for entry in entries] for name in dict.fromkeys(n for e in entries for n in e)}


def _text(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
