"""The README's table of benchmarks/results/cpu.json: python benchmarks/cpu_table.py [FILE]"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.goals import goals  # noqa: E402

COLUMNS = {
    "limit": "products alone",
    "ours": "gpubackprop",
    "ours numba": "with `numba`",
    "torch eager": "PyTorch",
    "torch compile": "compiled",
    "jax jit": "JAX jit",
    "jax scan": "`lax.scan`",
    "scikit-learn": "scikit-learn",
    "thinc": "Thinc",
}


def table(results: dict[str, Any]) -> str:
    """Markdown: milliseconds a step of every peer that was timed, and what it was measured on."""
    configs = results["configs"]
    peers = [p for p in COLUMNS if any(p in c["peers"] for c in configs.values())]
    lines = [
        "| network | " + " | ".join(COLUMNS[p] for p in peers) + " |",
        "|---" * (len(peers) + 1) + "|",
    ]
    for c in configs.values():
        cells = [_milliseconds(c["peers"].get(p)) for p in peers]
        lines.append(f"| {c['what']} | " + " | ".join(cells) + " |")
    m = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    lines += [
        "",
        f"Milliseconds a training step, medians (float32, SGD with momentum unless it says otherwise) "
        f"on {m['cpu']}, {m['when'][:10]}; "
        f"{versions}; lower is better. From `benchmarks/cpu.py`, which first checks that all have the same gradients.",
    ]
    return "\n".join(lines)


def met(results: dict[str, Any]) -> str:
    """Markdown: the ratios beside their goals."""
    lines = ["| network | ratio to | measured | goal |", "|---|---|---|---|"]
    for config, c in results["configs"].items():
        for name, goal in goals(config).items():
            if name in c["ratios"]:
                lines.append(f"| {c['what']} | {name} | {c['ratios'][name]['ratio']:.3g} | {goal:g} |")
    return "\n".join(lines)


def _milliseconds(timed: dict[str, Any] | None) -> str:
    return "" if timed is None else f"{timed['seconds'] * 1e3:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "benchmarks/results/cpu.json")
    parser.add_argument("--goals", action="store_true", help="the ratios beside their goals instead")
    options = parser.parse_args()
    results = json.loads(options.file.read_text())
    print(met(results) if options.goals else table(results))


if __name__ == "__main__":
    main()
