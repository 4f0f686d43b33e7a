"""Put the tables of benchmarks/results/ into README and guide, between comments of their names: python -m benchmarks.readme"""

from __future__ import annotations

import json
import re
from typing import Any

from benchmarks.common import RESULTS, ROOT

PEERS = {
    "limit": "products alone",
    "ours": "gpubackprop",
    "ours numba": "with `numba`",
    "ours mkl": "with `mkl`",
    "torch eager": "PyTorch",
    "torch compile": "compiled",
    "jax jit": "JAX jit",
    "jax scan": "`lax.scan`",
    "scikit-learn": "scikit-learn",
    "thinc": "Thinc",
}
"""The columns of the table of steps on the CPU."""
IN_SHORT = {
    ("PyTorch autograd", "1e-12"): "loss, delta of each layer, all gradients, float64",
    ("complex step, h = 1e-30", "1e-12 of the largest entry"): "all gradients, float64 (absolute)",
    ("central differences, eps = 1e-5", "1e-7 + 1e-5 abs(g)"): "all gradients, float64 (absolute)",
    ("torch.optim", "1e-12"): "each optimizer's weights after each step, float64",
    ("itself", "1e-12"): "batches permuted or in parts, rows alone, float64",
    ("strict", "1e-5"): "outputs and deltas on the CPU, float32",
    ("float64", "finite, 1e-6"): "cross-entropies of logits to +-60000",
    ("mpmath", "1, a few rounding errors"): "relative accuracy of 16 activations (of what is allowed)",
    ("onnx 1.22", "1e-5"): "node tests of ONNX, float32",
    ("scikit-learn", "1e-10"): "coefficients of the estimators, float64",
    ("a network of 250 lines", "1e-10"): "weights, losses, history after any sequence of calls",
}
"""What a row of the proofs is held to, and what is demanded -> what such rows are, in the short table."""


def cpu(results: dict[str, Any]) -> str:
    """Markdown: milliseconds a step of every peer that was timed, and what it was measured on."""
    configs = results["configs"].values()
    peers = [p for p in PEERS if any(p in c["peers"] for c in configs)]
    rows = [[c["what"], *(_milliseconds(c["peers"].get(p)) for p in peers)] for c in configs]
    note = (
        f"Milliseconds a training step, medians (float32, SGD with momentum unless it says otherwise) "
        f"on {_where(results['machine'])}; lower is better. "
        "From `benchmarks/cpu.py`, which first checks that all have the same gradients."
    )
    return _table(["network", *(PEERS[p] for p in peers)], rows, note)


def layers(results: dict[str, Any]) -> str:
    """Markdown: the time of our step over PyTorch's, a line for each layer or activation, a column for each network."""
    found = results["layers"]
    networks = list(dict.fromkeys((tuple(r["widths"]), r["batch"]) for rows in found.values() for r in rows))
    lines = []
    for name, rows in found.items():
        ratios = {(tuple(r["widths"]), r["batch"]): f"{r['ratio']['ratio']:.2f}" for r in rows}
        lines.append([name.replace("_", " "), *(ratios.get(network, "") for network in networks)])
    heads = [f"{'-'.join(map(str, widths))}, {batch}" for widths, batch in networks]
    note = (
        f"Time of `train_step` over PyTorch's eager step (float32, SGD with momentum) on {_where(results['machine'])}; "
        "below 1 it is faster. From `benchmarks/layers.py`."
    )
    return _table(["layer \\ network, batch", *heads], lines, note)


def fit(results: dict[str, Any]) -> str:
    """Markdown: seconds of whole jobs, from the start of the process, and of the processor."""
    jobs = [(t["what"], job, found) for t in results["tasks"].values() for job, found in t["jobs"].items()]
    libraries = list(dict.fromkeys(library for _, _, found in jobs for library in found))
    rows = [[f"{what}: {job}", *(_job(found.get(library)) for library in libraries)] for what, job, found in jobs]
    note = (
        "Seconds from the start of the process until the job is done, in brackets those of the processor, medians (Adam, "
        f"same network and data; the better of one and all threads) on {_where(results['machine'])}; lower is better. "
        "From `benchmarks/fit.py`."
    )
    return _table(["job", *libraries], rows, note)


def accuracy(results: dict[str, Any]) -> str:
    """Markdown: what is held to what, and the worst error that was measured."""
    return _proofs(results, results["rows"])


def proofs(results: dict[str, Any]) -> str:
    """Markdown: the same in short, with the worst of each kind."""
    rows = []
    for kind, what in IN_SHORT.items():
        alike = [r for r in results["rows"] if (r["against"], r["allowed"]) == kind]
        rows.append({**max(alike, key=lambda r: r["worst"] or 0.0), "what": what})
    return _proofs(results, rows)


def _proofs(results: dict[str, Any], found: list[dict[str, Any]]) -> str:
    rows = [
        [r["what"], r["against"], r["cases"], "all equal" if r["worst"] is None else f"{r['worst']:.1e}", r["allowed"]]
        for r in found
    ]
    bugs = [
        f"{results['planted_bugs']} planted bugs",
        "all of the above",
        "each in a copy of the library",
        "all caught",
    ]
    return _table(["what", "held to", "cases", "worst error", "demanded"], [*rows, [*bugs, "all"]])


def estimators(results: dict[str, Any]) -> str:
    """Markdown: seconds of fits and predictions of our estimators and of scikit-learn's."""
    lines = []
    for job in results["jobs"]:
        times = [f"{job[part][who]:.3g}" for part in ("fit", "predict") for who in ("ours", "scikit-learn")]
        lines.append([job["what"], *times[:2], f"{job['fit']['times']:.1f}", *times[2:], "not yet measured"])
    heads = ["job", "fit", "scikit-learn's", "times as fast", "predict", "scikit-learn's", "on a GPU"]
    note = f"Seconds, medians, on {_where(results['machine'])}; float32, in turns. From `benchmarks/estimators.py`."
    return _table(heads, lines, note)


def streaming(results: dict[str, Any]) -> str:
    """Markdown: the speed of training from files, as a share of that with the same batches in memory."""
    cases = results["results"].values()
    sources = list(next(iter(cases))["share_of_in_memory"])
    lines = [
        [
            f"256-{'-'.join(map(str, case['hidden']))}-10, batch {case['batch_size']}",
            f"{case['samples_per_second']['in memory']:,}",
            *(f"{100 * case['share_of_in_memory'][source]:.0f} %" for source in sources),
        ]
        for case in cases
    ]
    note = (
        f"Speed of training from a file, as a share of that in memory; {results['file_bytes'] / 1e6:.0f} MB of float32 rows "
        f"in the system's cache, within {results['budget_bytes'] >> 20} MB above the libraries, one core for the training "
        f"and one for reading, on {_where(results['machine'])}. From `benchmarks/streaming.py`."
    )
    return _table(["network", "rows a second in memory", *sources], lines, note)


TABLES = {
    "cpu": cpu,
    "layers": layers,
    "fit": fit,
    "accuracy": accuracy,
    "proofs": proofs,
    "estimators": estimators,
    "streaming": streaming,
}
"""Name of a comment on a page, and of the results -> what makes the table."""
MADE_OF = {"proofs": "accuracy"}
"""Which results make a table, where they have another name."""
PAGES = ("README.md", *(f"examples/guide/{page}.md" for page in ("6_devices", "7_from_scikit_learn", "11_proofs")))


def filled(text: str) -> str:
    """The page with every table made anew whose place and results are there."""
    for name, table in TABLES.items():
        path = RESULTS / f"{MADE_OF.get(name, name)}.json"
        if not path.exists() or f"<!-- {name} -->" not in text:
            continue
        block = f"<!-- {name} -->\n{table(json.loads(path.read_text()))}\n<!-- /{name} -->"
        text, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S)
        if found != 1:
            raise SystemExit(f"the page must hold <!-- {name} --> ... <!-- /{name} --> once; found it {found} times")
    return text


def _table(columns: list[str], rows: list[list[str]], note: str = "") -> str:
    """A table of Markdown, with a note below it."""
    head, *lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([head, "|---" * len(columns) + "|", *lines, *(["", note] if note else [])])


def _where(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"{machine['devices']['cpu']}, {machine['when'][:10]}; {versions}"


def _milliseconds(timed: dict[str, Any] | None) -> str:
    return "" if timed is None else f"{timed['seconds'] * 1e3:.3g}"


def _job(found: dict[str, Any] | None) -> str:
    if found is None or "failed" in found:
        return "" if found is None else "failed"
    return f"{found['wall']:.3g} ({found['cpu']:.3g})"


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
