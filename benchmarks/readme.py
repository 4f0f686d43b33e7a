"""Put the tables of benchmarks/results/ into README.md, between the comments that name them: python benchmarks/readme.py"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import cpu_table  # noqa: E402


def accuracy(results: dict[str, Any]) -> str:
    """Markdown: what is held to what, and the worst error that was measured."""
    lines = ["| what | held to | cases | worst error | demanded |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        lines.append(f"| {row['what']} | {row['against']} | {row['cases']} | {row['worst']:.1e} | {row['allowed']} |")
    bugs = results["planted_bugs"]
    lines += [f"| {bugs} planted bugs | all of the above | each in a copy of the library | all caught | all |"]
    return "\n".join(lines)


TABLES = {"cpu": ("cpu.json", cpu_table.table), "accuracy": ("accuracy.json", accuracy)}


def filled(text: str) -> str:
    """The README with every table made anew whose results are there."""
    for name, (file, table) in TABLES.items():
        path = ROOT / "benchmarks" / "results" / file
        if not path.exists():
            continue
        results = json.loads(path.read_text())
        block = f"<!-- {name} -->\n{table(results)}\n<!-- /{name} -->"
        text, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S)
        if found != 1:
            raise SystemExit(f"README.md must hold <!-- {name} --> ... <!-- /{name} --> once; found it {found} times")
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
