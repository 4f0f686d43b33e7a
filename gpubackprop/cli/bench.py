"""`gpubackprop bench`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from json import dumps as encode
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from typer import Argument, Option

from gpubackprop.bench.charts import save_plot
from gpubackprop.bench.compare import render_comparison, to_dict
from gpubackprop.bench.page import to_html
from gpubackprop.bench.result import Result
from gpubackprop.bench.runner import BATCH_SIZES, Progress, benchmark
from gpubackprop.bench.text import show
from gpubackprop.cli.options import NEW, OWN, given, refuse
from gpubackprop.cli.output import FAILED
from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.files.atomic import replacing
from gpubackprop.terminal import Terminal
from gpubackprop.training.figures import figure

INTERRUPTED = 130
LAYERS = "784,512,256,10"
STDOUT = "-"


def bench(
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        Argument(
            metavar="[RUN | compare A.json B.json]", help="A run folder or saved network; or two results to compare."
        ),
    ] = None,
    layers: Annotated[str | None, Option(help=f"Widths of the network, inputs first. By default {LAYERS}.")] = None,
    widths: Annotated[
        str | None, Option(help="Widths for all hidden layers, each a network of its own: 64,256,1024.")
    ] = None,
    batch_sizes: Annotated[str, Option(help="Rows a step, with commas between.")] = ",".join(map(str, BATCH_SIZES)),
    devices: Annotated[
        str | None,
        Option(help="cpu, cpu@1 (threads), cpu:float64, cuda:0:tf32, strict, ... By default all there are."),
    ] = None,
    activation: Annotated[str, Option(help="Of the hidden layers.")] = "relu",
    loss: Annotated[str, Option(help="cross_entropy, mean_squared_error, ...")] = "cross_entropy",
    optimizer: Annotated[str, Option(help="sgd, adam, ...")] = "sgd",
    phases: Annotated[bool, Option("--phases", help="Also time forward, loss, backward and update apart.")] = False,
    compile: Annotated[
        bool, Option("--compile", help="On the CPU: small training steps as machine code (extra numba).")
    ] = False,
    repeats: Annotated[int, Option(help="Rounds, in which the contenders take turns.", min=1)] = 7,
    seconds: Annotated[float, Option(help="To time each part for, each turn.")] = 0.1,
    seed: Annotated[int, Option(help="Of the weights and the random batches.", min=0)] = 0,
    json: Annotated[
        str | None,
        Option(help="Write the result there, for `compare` and device=auto:FILE; - prints it instead of tables."),
    ] = None,
    csv: Annotated[str | None, Option(help="Write a table there.")] = None,
    plot: Annotated[str | None, Option(help="Draw a PNG there.")] = None,
    html: Annotated[str | None, Option(help="Write a page there, with plots and tables (extra plot).")] = None,
) -> None:
    """Time training steps on several devices against each other, and say from which batch size on which one is faster.

    `bench compare A.json B.json` shows two results of --json side by side. Ctrl-C shows what was measured by then. Ends with
    status 1 if something could not be measured, or its results are wrong.
    """
    outputs = {"--json": json, "--csv": csv, "--plot": plot, "--html": html}
    if what and what[0] == "compare":
        refuse(context, given(context) - {"what", "json"}, "bench compare reads two results and measures nothing")
        _compare(what[1:], json)
        return
    if what and len(what) > 1:
        raise ArgumentError(f"bench takes one run folder; got {' '.join(what)}")
    if what:
        refuse(context, NEW, OWN)
    network = what[0] if what else _numbers("--layers", LAYERS if layers is None else layers)
    _check_writable({k: path for k, path in outputs.items() if path is not None and (k, path) != ("--json", STDOUT)})
    if plot or html:
        figure(1, 1, "")  # there is matplotlib
    with _display() as display:
        result = benchmark(
            network,
            devices=devices,
            batch_sizes=_numbers("--batch-sizes", batch_sizes),
            widths=None if widths is None else _numbers("--widths", widths),
            activation=activation,
            loss=loss,
            optimizer=optimizer,
            phases=phases,
            compile=compile,
            repeats=repeats,
            seconds=seconds,
            seed=seed,
            on_progress=display,
        )
    if json == STDOUT:
        print(encode(result.to_dict(), indent=1))
    else:
        show(result.render())
    _write(result, json, csv, plot, html)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.failures():
        raise typer.Exit(FAILED)


def _compare(paths: list[str], json: str | None) -> None:
    if len(paths) != 2:
        raise ArgumentError(f"bench compare takes two results, A.json and B.json; got {len(paths)}")
    a, b = (Result.load(path) for path in paths)
    if json == STDOUT:
        print(encode(to_dict(a, b), indent=1))
        return
    if json:
        _check_writable({"--json": json})
    show(render_comparison(a, b, (paths[0], paths[1])))
    if json:
        _write_text(json, f"{encode(to_dict(a, b), indent=1)}\n")
        print(f"wrote {json}")


def _write(result: Result, json: str | None, csv: str | None, plot: str | None, html: str | None) -> None:
    writers: list[tuple[str | None, Callable[[str], None]]] = [
        (json, result.save),
        (csv, lambda path: _write_text(path, result.to_csv())),
        (html, lambda path: _write_text(path, to_html(result))),
    ]
    if result.cases:
        writers.append((plot, lambda path: save_plot(result, path)))
    for path, write in writers:
        if path and path != STDOUT:
            write(path)
            print(f"wrote {path}", file=sys.stderr if json == STDOUT else sys.stdout)


def _write_text(path: str, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _check_writable(outputs: dict[str, str]) -> None:
    """Before minutes are spent on what could not be kept. Raises DataError."""
    for name, path in outputs.items():
        folder = Path(path).parent
        if not folder.is_dir():
            raise DataError(f"{name} {path}: there is no folder {folder}; make it first")
        if path == STDOUT or Path(path).is_dir() or not os.access(folder, os.W_OK):
            raise DataError(f"{name} {path}: cannot be written; name a file in a folder that can be written to")
    doubled = {path for path in outputs.values() if list(outputs.values()).count(path) > 1}
    if doubled:
        raise ArgumentError(f"{' and '.join(n for n, p in outputs.items() if p in doubled)} name the same file")


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(f"{name} must be whole numbers with commas between, as in 16,64; got {text!r}") from None


@contextmanager
def _display() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, nothing elsewhere; it is told of the progress."""
    console = Terminal(stderr=True)
    # Drawing it takes time from what is measured.
    columns = (BarColumn(20), TimeRemainingColumn(), TextColumn("{task.description}"))
    bar = Bar(*columns, console=console, transient=True, refresh_per_second=2)
    task = bar.add_task("", total=None)
    with bar if console.is_terminal else nullcontext():
        yield lambda p: bar.update(task, total=p.total, completed=p.done, description=p.text)
