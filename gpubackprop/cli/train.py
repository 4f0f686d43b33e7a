"""`gpubackprop train`."""

from __future__ import annotations

import shlex
import signal
import time
import warnings
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.models import OptionInfo

from gpubackprop.cli.options import given, refuse, with_settings
from gpubackprop.cli.output import Json, print_json
from gpubackprop.data import NAMES, TextFormat
from gpubackprop.distributed import join
from gpubackprop.errors import ArgumentError, DisagreementError, unknown_name
from gpubackprop.pipeline.config import read_config
from gpubackprop.pipeline.encoder import ColumnChoices
from gpubackprop.pipeline.runs import RunInterruptedError, resume_run, train_run
from gpubackprop.terminal import Terminal, say
from gpubackprop.training.display import Display, duration


def _columns(which: str) -> OptionInfo:
    option: OptionInfo = Option(metavar="COLUMN", help=f"Columns of a table {which}; with commas between, or repeated.")
    return option


def _configured(context: typer.Context, path: str | None) -> str | None:
    """Let the options of a file stand where the command line has none."""
    names: dict[str, Any] = {}
    for p in context.command.params:
        if p.name not in ("config", "resume", "as_json", "help"):
            names |= {name.lstrip("-").replace("-", "_"): p for name in (p.name or "", *p.opts)}
    options = {}
    for key, value in (read_config(path) if path else {}).items():
        if (option := names.get(key.replace("-", "_"))) is None:
            raise unknown_name(f"option in {path}", key, {option.name for option in names.values()})
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(v, (str, int, float)) for v in values):
            raise ArgumentError(
                f"{path}: {key} must be a word, a number, true or false, or a list of them; got {value!r}"
            )
        # As they stand on a command line, so that the same is refused: 2.5 epochs are not 2.
        words = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
        several = getattr(option, "multiple", False)
        options[option.name] = words if several else words[0] if len(words) == 1 else ",".join(map(str, words))
    context.default_map = options
    return path


@with_settings(before="out")
def train(
    context: typer.Context,
    data: Annotated[
        str | None,
        Argument(
            metavar="DATA",
            help=f"{', '.join(NAMES)}, or a file: .npz, .npy (x; y beside it), or a table: .csv, .tsv, .data, .parquet, "
            ".feather, also .gz, .zip, .zst ...; - reads a table from standard input",
        ),
    ] = None,
    target: Annotated[
        str | None, Option(help="Column(s) of a table to predict, with commas between; #0 is the first, #-1 the last.")
    ] = None,
    task: Annotated[
        str, Option(help="classification, regression or multilabel (columns of 0 and 1); auto: as the target looks.")
    ] = "auto",
    drop: Annotated[list[str] | None, _columns("to leave out")] = None,
    only: Annotated[list[str] | None, _columns("to use, and no others")] = None,
    keep: Annotated[list[str] | None, _columns("to use though they seem to carry nothing")] = None,
    categorical: Annotated[list[str] | None, _columns("whose numbers are categories")] = None,
    numeric: Annotated[list[str] | None, _columns("whose text is numbers")] = None,
    log: Annotated[list[str] | None, _columns("whose logarithm counts too, as where tails are heavy")] = None,
    weight: Annotated[str | None, Option(help="Column of a table: what each row counts in training.")] = None,
    group: Annotated[
        str | None, Option("--split-by", help="Column of a table: rows in which it is equal are not parted.")
    ] = None,
    missing: Annotated[
        str | None,
        Option("--missing", "--na", help='Words for missing values, with commas between; "": only empty cells.'),
    ] = None,
    decimal: Annotated[str | None, Option(help='"." or ",", for numbers that can be read both ways.')] = None,
    separator: Annotated[str | None, Option(help="Between the cells of a table; by default as it looks.")] = None,
    encoding: Annotated[str | None, Option(help="Of a table's text, such as cp1252; by default as it looks.")] = None,
    header: Annotated[
        bool | None, Option("--header/--no-header", help="Whether the first row names the columns.")
    ] = None,
    comment: Annotated[str | None, Option(help="How lines of a table begin that are no rows, such as #.")] = None,
    max_bytes: Annotated[
        int | None, Option(help="Bytes that a table may take; by default 100 times its file.", min=1)
    ] = None,
    memory: Annotated[
        int | None,
        Option(
            help="Bytes that training may take, by default those of the machine: a larger table is trained on as a stream.",
            min=1,
        ),
    ] = None,
    folder: Annotated[str | None, Option(help="Where the IDX files of (fashion-)mnist are.")] = None,
    out: Annotated[str | None, Option(help="Run folder; by default runs/DATA-1, runs/DATA-2, ...")] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace a run that is in --out, once this one is whole.")
    ] = False,
    resume: Annotated[
        str | None,
        Option(
            metavar="RUN", help="Go on with a run that was interrupted; --epochs: so many more than it was to have."
        ),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        Option(help='"500 steps", "5 minutes", "2 epochs". By default every minute and each epoch that improves.'),
    ] = None,
    stop_on: Annotated[
        list[str] | None,
        Option(metavar="SIGNAL", help="Save and end on this signal too, such as SIGUSR1 of SLURM; may be repeated."),
    ] = None,
    config: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="Options from a .toml file, a line each, or a run's settings.json, which repeats it; those given here win.",
            is_eager=True,
            callback=_configured,
        ),
    ] = None,
    sha256: Annotated[
        str | None, Option(help="Refuse data that have another fingerprint, that of settings.json.")
    ] = None,
    as_json: Json = False,
    **asked: Any,
) -> None:
    """Train a network on DATA; leave its weights, settings, history, curves and checkpoints in a run folder.

    Rows are held out for `gpubackprop evaluate`: the official test part, or a share of the rows. Ctrl-C, SIGTERM and SIGHUP
    finish the batch and save; --resume goes on from there, or from the newest checkpoint, to the same result.
    """
    console = Terminal(stderr=as_json)
    started = time.perf_counter()
    ranks = join()
    leads = ranks is None or ranks.leads
    if not leads:
        # What the data are warned about rank 0 says for all.
        console.quiet = True
        warnings.simplefilter("ignore")
    common: dict[str, Any] = {
        "folder": folder,
        "checkpoint_every": checkpoint_every,
        "stop_on": [_signal(name) for name in stop_on or ()],
        "callbacks": [Display(console)],
        "say": partial(say, console),
        "distributed": ranks,
    }
    interrupted: RunInterruptedError | None = None
    asked_for = given(context)
    if "data" in asked_for and "sha256" not in asked_for:
        sha256 = None
    with ranks or nullcontext():
        try:
            if resume is not None:
                refuse(context, asked_for - _WITH_RESUME, "a run that goes on keeps its settings")
                run = resume_run(
                    resume,
                    more_epochs=asked["epochs"] or 0,
                    data=data,
                    device=asked["device"] if "device" in asked_for else None,
                    **common,
                )
            elif data is None:
                raise ArgumentError("Missing argument DATA: what to train on (or --resume RUN)")
            else:
                words = {} if missing is None else {"missing": ("", *(word.strip() for word in missing.split(",")))}
                run = train_run(
                    data,
                    target=target,
                    task=task,
                    weight=weight,
                    group=group,
                    format=TextFormat(separator, encoding, header, comment, decimal=decimal, **words),
                    columns=ColumnChoices(
                        drop=tuple(drop or ()),
                        only=None if only is None else tuple(only),
                        keep=tuple(keep or ()),
                        categorical=tuple(categorical or ()),
                        numeric=tuple(numeric or ()),
                        log=tuple(log or ()),
                    ),
                    max_bytes=max_bytes,
                    memory=memory,
                    sha256=sha256,
                    out=out,
                    overwrite=overwrite,
                    **common,
                    **asked,
                )
        except RunInterruptedError as error:
            interrupted, run = error, error.run
        except DisagreementError:
            if leads:
                raise
            raise typer.Exit(2) from None
    spent = duration(time.perf_counter() - started)
    if run.report is not None:
        first, rest = run.report.lines()
        say(console, f"test ({run.judged_on}): {first}\n{rest}")
    how = "interrupted" if interrupted else "done"
    say(console, f"{how} after {len(run.history)} epochs, {spent}; run folder: {run.path}")
    if as_json and leads:
        ended = {"run": str(run.path), "epochs": len(run.history), "stopped": run.history.stopped}
        print_json({**ended, "judged_on": run.judged_on, "test": run.scores})
    if interrupted:
        say(console, f"go on with: gpubackprop train --resume {shlex.quote(str(run.path))}")
        raise typer.Exit(128 + interrupted.signal)


_WITH_RESUME = {"resume", "epochs", "data", "device", "folder", "checkpoint_every", "stop_on", "as_json"}


def _signal(name: str) -> int:
    """The number of the signal with this name, with or without SIG."""
    try:
        return int(signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"])
    except KeyError:
        raise unknown_name("signal", name.lower(), [s.name.lower() for s in signal.Signals]) from None
