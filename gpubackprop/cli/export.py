"""`gpubackprop export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.interop.onnx import to_onnx
from gpubackprop.pipeline.model import load_run
from gpubackprop.terminal import Terminal, say


def export(
    run: Annotated[str, Argument(metavar="RUN", help="A run folder that `train` wrote.")],
    out: Annotated[str, Argument(metavar="FILE", help="FILE.onnx to write.")],
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a trained network as an ONNX file, with what it does to columns, units and labels."""
    if not out.endswith(".onnx"):
        raise ArgumentError(f"out must end in .onnx; got {out!r}")
    if Path(out).exists() and not overwrite:
        raise DataError(f"out={out} exists; choose another name, or say overwrite=True to replace it")
    to_onnx(load_run(run, "cpu"), out)
    say(Terminal(), f"{run} in {out}")
