"""The command `gpubackprop`. Each subcommand is a function in a module of its own name, imported when it is called."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from gpubackprop import __version__
from gpubackprop.cli.output import Output
from gpubackprop.errors import GpuBackpropError, unknown_name
from gpubackprop.terminal import printable

COMMANDS = {
    "train": "Train a network on a data set and write a run folder.",
    "evaluate": "Score a trained network on rows that it was not trained on.",
    "predict": "Write a trained network's predictions to a .csv or .npy file.",
    "export": "Write a trained network as an ONNX file, with what it does to columns, units and labels.",
    "summary": "Show what is in a run folder.",
    "compare": "Show in which settings runs differ, and what came of it.",
    "runs": "List the runs in a folder: data, score, date and status.",
    "explain": "Show every matrix of a training step beside its formula and central differences.",
    "gradcheck": "Hold a network's gradients to derivatives measured from its loss.",
    "parity": "Name the first tensor in which two devices or precisions differ.",
    "bench": "Time training steps on several devices against each other.",
    "devices": "List the devices that networks can run on.",
    "doctor": "Say what this installation runs on, and what keeps it from a GPU.",
}
"""Name -> one line of help. The function `name` of the module `gpubackprop.cli.name` is the command."""

INTERRUPTED = 130

# typer has carried click inside since 0.20 or so, and used the package before: its exceptions lie in two places.
_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class _Commands(TyperGroup):
    """Knows its commands by name and help alone, and tells errors in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.running: TyperCommand | None = None
        for name, text in COMMANDS.items():
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_name("command", args[0], COMMANDS)
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, None, rest
        self.running = _imported(str(name))
        return name, self.running, rest

    def main(self, *args: Any, **options: Any) -> NoReturn:
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except GpuBackpropError as error:
            code = _fail(_with_options(str(error), self.running))
        except _UsageProblem as error:
            code = _fail(error.format_message())  # type: ignore[attr-defined]
        except typer.Abort:
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


def _imported(name: str) -> TyperCommand:
    module = import_module(f"gpubackprop.cli.{name}")
    alone = typer.Typer(add_completion=False)
    alone.command(name, help=getattr(module, name).__doc__ or COMMANDS[name])(getattr(module, name))
    command: TyperCommand = typer.main.get_command(alone)  # type: ignore[assignment]
    return command


def _with_options(message: str, command: TyperCommand | None) -> str:
    """A message of the library with the command's options where it names arguments.

    Arguments are known by an underscore in their name, by a value ("overwrite=True"), or by standing first.
    """
    for parameter in command.params if command else []:
        if parameter.param_type_name != "option" or not parameter.name:
            continue
        name, on, off = parameter.name, parameter.opts[0], (*parameter.secondary_opts, "")[0]
        word = rf"(?<![\w./'\"-]){re.escape(name)}"
        message = re.sub(rf"{word}=True\b", on, message)
        message = re.sub(rf"{word}=False\b", off, message)
        message = re.sub(rf"{word}=(?=\S)", f"{on} ", message)
        message = re.sub(rf"{word}(?![\w./'\"=-])" if "_" in name else rf"^{re.escape(name)}(?= )", on, message)
    return message


def _fail(message: str) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


app = typer.Typer(cls=_Commands, name="gpubackprop", invoke_without_command=True, pretty_exceptions_enable=False)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Backpropagation derived by hand, on an NVIDIA GPU or any CPU: train, evaluate and predict with dense networks."""
    if version:
        print(f"gpubackprop {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def main() -> NoReturn:
    """Run the command with the arguments of this process, and exit: 0, 2 for an error, 128 and the signal's number after one."""
    warnings.showwarning = _show_warning
    if os.environ.get("COLUMNS") == "0":  # what some terminals say that do not know
        del os.environ["COLUMNS"]
    if "numpy" not in sys.modules:
        # NumPy's OpenBLAS reads it when it is loaded: its idle threads sleep soon, and leave the cores to elementwise work.
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    # None: a closed one, whose number the next file that is opened would get, and what C libraries print with it.
    out = sys.stdout = Output(sys.stdout or _nowhere())
    sys.stderr = Output(sys.stderr or _nowhere())
    try:
        app()
    except SystemExit as ending:
        out.flush()
        # Somebody who reads no further, or a terminal that is gone, is not missing anything.
        if out.failure is not None and out.failure.errno not in (errno.EPIPE, errno.EIO) and not ending.code:
            sys.exit(_fail(f"the output could not be written: {out.failure.strerror}"))
        raise
    sys.exit(0)
