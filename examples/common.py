"""What the examples share that is no mathematics: their options, tables, and pictures of one look."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpubackprop.errors import GpuBackpropError, MissingExtraError

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#3366cc", "#e67e00", "#1a9850", "#cc3344", "#7b3fa0", "#888888"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#17a2b8", "#a0522d", GREY)

# A pipe has no width of its own, and 80 columns would fold the wider tables.
console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def options(description: str | None, *, seed: bool = False) -> argparse.ArgumentParser:
    """The parser that every example begins with: --device and --plot, and --seed where asked for."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--plot", type=_picture, metavar="FILE", help="save the picture there: .png, .svg or .pdf")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="of the initial weights and of the data's order")
    return parser


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text}: must end in .png, .svg or .pdf")
    return path


def run(main: Callable[[], Any]) -> None:
    """Run an example from the command line: an error of the library is one line and exit code 2."""
    try:
        main()
    except GpuBackpropError as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)


def table(
    title: str, columns: Sequence[str | tuple[str, str]], rows: Iterable[Sequence[Any]], *, lines: bool = False
) -> None:
    """Print a table; numbers stand to the right, and a column's first entry decides. columns: headings, alone or each with the
    format of the numbers below it."""
    names, formats = zip(*(column if isinstance(column, tuple) else (column, "") for column in columns), strict=True)
    rows = [[_text(cell, form) for cell, form in zip(row, formats, strict=True)] for row in rows]
    shown = Table(show_lines=lines)
    for i, column in enumerate(names):
        numeric = bool(rows) and _is_number(rows[0][i])
        matrices = any("\n" in row[i] for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", no_wrap=i == 0 or numeric or matrices)
    for row in rows:
        shown.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(title, style="bold", markup=False)
    console.print(shown)
    console.print()


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").lstrip("-").split("e")[0].isdigit()


def _text(value: Any, form: str) -> str:
    if isinstance(value, str):
        return value
    form = form or ("," if isinstance(value, int | np.integer) else ".4g")
    return f"{value:{form}}"


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into files; MissingExtraError where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("--plot", "plot") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "figure.constrained_layout.use": True,
        }
    )
    return plt


def decision_regions(axes: Any, probability: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> None:
    """Colour a square of the plane by `probability` of the second class, (n, 2) points -> (n,): blue 0, white 1/2, orange 1."""
    from matplotlib.colors import LinearSegmentedColormap

    side = np.linspace(low, high, 161, dtype=np.float32)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    colours = LinearSegmentedColormap.from_list("regions", ["#a9c0ea", "white", "#f7cf9e"])
    p = probability(plane).reshape(len(side), -1)
    axes.contourf(side, side, p, levels=np.linspace(0, 1, 10), cmap=colours, antialiased=False)
    axes.set_aspect("equal")


def save(figure: Any, path: Path) -> None:
    """Write the picture and say where. PNGs get a palette of 128 colours, which keeps them small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        from io import BytesIO

        from PIL import Image

        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=110)
        Image.open(drawn).convert("RGB").quantize(128, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        figure.savefig(path)
    pyplot().close(figure)
    console.print(f"picture: {path}", markup=False)
