"""`gpubackprop export`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from gpubackprop.cli.output import check_out
from gpubackprop.interop.onnx import to_onnx
from gpubackprop.pipeline.model import load_run
from gpubackprop.terminal import Terminal, say


def export(
    run: Annotated[str, Argument(metavar="RUN", help="A run folder that `train` wrote.")],
    out: Annotated[str, Argument(metavar="FILE", help="FILE.onnx to write.")],
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a trained network as an ONNX file, with what it does to columns, units and labels."""
    check_out(out, ".onnx", overwrite=overwrite)
    to_onnx(load_run(run, "cpu"), out)
    say(Terminal(), f"{run} in {out}")
