"""Runs the pages of the guide and puts what they print into them: `python examples/guide/make.py`.

Each block of Python on a page is run after those before it; the block of text behind it is what it prints.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

PAGES = sorted(Path(__file__).parent.glob("*.md"))
_BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?P<gap>\n*)(```text\n.*?```\n)?", re.S)


def filled(text: str) -> str:
    """The page with what its blocks print, run in an empty folder."""
    names: dict[str, object] = {"__name__": "guide"}

    def run(found: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(found["code"], "<guide>", "exec"), names)
        told = "\n".join(line.rstrip() for line in printed.getvalue().rstrip().splitlines())
        return f"```python\n{found['code']}```\n" + (f"```text\n{told}\n```\n" if told else "") + (found["gap"] or "")

    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return _BLOCK.sub(run, text)
        finally:
            os.chdir(before)


def main() -> None:
    """Make every page anew."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
