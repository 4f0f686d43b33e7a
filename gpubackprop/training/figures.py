"""Figures of matplotlib, which need no display."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from gpubackprop.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float, title: str) -> Figure:
    """A matplotlib Figure that shows itself in a notebook, whatever MPLBACKEND says. Raises MissingExtraError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing a picture", "plot") from None

    kind: Any = type("Picture", (Figure,), {"_repr_png_": png})
    made: Figure = kind(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    # A dollar sign in a name is no formula.
    made.suptitle(title, parse_math=False)
    return made


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # Of characters that the font does not have.
        warnings.simplefilter("ignore")
        figure.savefig(drawn, format="png", dpi=120)
    return drawn.getvalue()
