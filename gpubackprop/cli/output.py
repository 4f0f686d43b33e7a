"""Where the command writes: streams that may lack characters, or go away."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from typer import Exit, Option

from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.files.plain import as_json

if TYPE_CHECKING:
    from gpubackprop.proofs.gradcheck import GradcheckReport
    from gpubackprop.proofs.parity import ParityReport

FAILED = 1

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
"""The option of every command that prints figures."""


def show_report(net: object, report: GradcheckReport | ParityReport, as_json: bool) -> None:
    """Print a report of the proofs, and end with status 1 where it did not pass."""
    if as_json:
        print_json({"network": repr(net), **report.plain()})
    else:
        print(f"{net!r}\n{report}")
    if not report:
        raise Exit(FAILED)


def check_out(out: str, *endings: str, overwrite: bool) -> None:
    """Before work is done for a file: ArgumentError for another ending, DataError where one is there that must stay."""
    if not out.endswith(endings):
        raise ArgumentError(f"out must end in {' or '.join(endings)}; got {out!r}")
    if os.path.exists(out) and not overwrite:
        raise DataError(f"out={out} exists; choose another name, or say overwrite=True to replace it")


def print_json(value: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(as_json(value))


def table(headings: Sequence[str], *parts: Iterable[Sequence[str]]) -> Table:
    """Rows of text below their headings, a line between the parts; nothing in it is markup."""
    made = Table(*map(escape, headings), box=SIMPLE_HEAD)
    for rows in parts:
        for row in rows:
            made.add_row(*map(escape, row))
        made.add_section()
    return made


class Output:
    """Standard output or error of the command. A reader that went away, or a terminal that is gone, ends no training: what
    comes after goes nowhere, and `failure` says why."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        # Text that the terminal's encoding lacks, and bytes of file names that are no text, show as question marks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """Write text, as long as there is somewhere to write it to."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
