"""`gpubackprop summary`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from gpubackprop.cli.output import Json, print_json, table
from gpubackprop.errors import DataError
from gpubackprop.files.checkpoint import FORGED
from gpubackprop.pipeline.model import Model, load_run
from gpubackprop.pipeline.run_folder import HISTORY, read_settings
from gpubackprop.terminal import Terminal, say
from gpubackprop.training import History

_HEADINGS = {"learning_rate": "rate", "samples_per_second": "samples/s", "gradient_norm": "|gradient|"}


def summary(
    run: Annotated[str, Argument(metavar="RUN", help="A run folder that `train` wrote.")],
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    as_json: Json = False,
) -> None:
    """Show what is in a run folder: the network, the settings, the history and the result."""
    folder = Path(run)
    model, about = load_run(folder, device), read_settings(folder)
    history = History.load(folder / HISTORY)
    if as_json:
        print_json({**about, "history": history.records})
        return
    try:
        _show(Terminal(), model, about, history)
    except FORGED as error:
        raise DataError(f"{folder}: holds other settings or another history than `train` wrote: {error!r}") from error


def _show(console: Terminal, model: Model, about: dict[str, Any], history: History) -> None:
    say(console, model.network.summary())
    rows = about.get("rows", {})
    say(console, f"data: {model.data['name']}; " + "; ".join(f"{part}: {what}" for part, what in rows.items() if what))
    settings = {k: v for k, v in about.get("settings", {}).items() if v is not None}
    say(console, "settings: " + ", ".join(f"{k}={v}" for k, v in settings.items()))
    if len(history):
        columns, *rows = history.rows()
        console.print(table([_HEADINGS.get(c, c) for c in columns], rows))
    result = about.get("result")
    if result:
        scores = ", ".join(f"{k} {v:.4f}" for k, v in result["test"].items() if v is not None)
        best = f", best epoch {result['best_epoch']}" if result["best_epoch"] else ""
        say(console, f"stopped by {result['stopped']} after {result['epochs']} epochs{best}; test: {scores}")
