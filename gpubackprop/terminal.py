"""Text for a terminal, without control characters: a name from a file must not command the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def printable(text: str) -> str:
    """The text with what commands terminals, such as ESC in a name out of a file, as escapes."""
    return "".join(c if c in "\n\t" or c.isprintable() or c == "\u3000" else ascii(c)[1:-1] for c in text)


def say(console: Console, text: str) -> None:
    """Print text as it is: nothing in it is markup. A terminal, which would break long lines anywhere, gets them broken between
    words; elsewhere no line is broken."""
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)


class Terminal(Console):
    """A console whose own colours and lines are all that commands the terminal: the text that it is given is `printable`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)
