"""Everything that wants a GPU, in one command, each part in a process and a time limit of its own, with JSON for each.

    python -m benchmarks.gpu_all --out results_gpu
    python -m benchmarks.gpu_all --out results_gpu --only tests,benchmark
    python -m benchmarks.gpu_all --dry-run       # what of it runs on a CPU

Parts: environment, doctor (which level of the chain each precision gets, and why), tests (pytest -m cuda), parity (the CPU
against the GPU in every precision), training (the same run on both devices), benchmark (benchmarks.gpu). A part that fails or
runs out of time does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LIMITS = {"environment": 60, "doctor": 180, "tests": 420, "parity": 180, "training": 180, "benchmark": 560}
"""Seconds for each part."""


def environment(dry: bool) -> dict[str, Any]:
    """The machine, its GPU as the driver names it, and the packages."""
    from gpubackprop.bench.machine import machine

    found = machine()
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        found["gpu"] = f"nvidia-smi: {error}"
    listed = subprocess.run([sys.executable, "-m", "pip", "list", "--format=json"], capture_output=True, text=True)
    found["installed"] = {p["name"]: p["version"] for p in json.loads(listed.stdout or "[]")}
    return found


def doctor(dry: bool) -> dict[str, Any]:
    """What each precision runs on: the level of the chain, epilogues taken and refused, graphs, time of the first steps."""
    import gpubackprop as gb

    found: dict[str, Any] = {"devices": [vars(d) for d in gb.devices()], "precisions": {}}
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1024, 784)).astype(np.float32), rng.integers(0, 10, 1024)
    for precision in ("fp32",) if dry else ("fp32", "tf32", "bf16", "fp16", "fp64"):
        for activation in ("relu", "gelu_tanh", "gelu"):
            started = time.perf_counter()
            try:
                net = gb.mlp(
                    [784, 512, 256, 10], activation=activation, loss="cross_entropy", device="cpu" if dry else "cuda",
                    precision=precision,
                )  # fmt: skip
                optimizer = gb.Adam(1e-3)
                losses = [float(net.backend.to_host(net.train_step(x, y, optimizer))) for _ in range(4)]
                entry: dict[str, Any] = {"how": net.backend.describe(), "losses": losses}
                products = getattr(net.backend, "products", None)
                taken = products.choices.taken if products else {}
                entry["ways"] = {str(key): way for key, way in taken.items()}
                entry["refused"] = getattr(products, "refused", {})
                entry["capture_failed"] = getattr(getattr(net.backend, "recorder", None), "failure", None)
            except Exception as error:  # the report is there to hold whatever goes wrong
                entry = {"failed": f"{type(error).__name__}: {error}"}
            entry["seconds"] = time.perf_counter() - started
            found["precisions"][f"{precision} {activation}"] = entry
    return found


def tests(dry: bool) -> dict[str, Any]:
    """The tests marked `cuda`."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "cuda and not nightly",
        "-x" if dry else "--maxfail=40",
        "-rf",
    ]
    command += ["--tb=short", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    return {"returncode": done.returncode, "output": done.stdout[-20000:], "errors": done.stderr[-4000:]}


def parity(dry: bool) -> dict[str, Any]:
    """Ten steps of several networks, tensor by tensor, against the CPU."""
    import gpubackprop as gb

    rng, found = np.random.default_rng(0), {}
    for activation in ("relu", "tanh", "gelu_tanh"):
        for precision in (None,) if dry else (None, "tf32", "bf16", "fp16"):
            other: Any = "strict" if dry else "cuda" if precision is None else ("cuda", precision)
            for widths, n in (([784, 512, 256, 10], 256), ([20, 33, 17, 5], 100)):
                net = gb.mlp(widths, activation=activation, loss="cross_entropy", seed=1, device="cpu")
                x = rng.normal(size=(n, widths[0])).astype(np.float32)
                key = f"{activation} {precision or 'fp32'} {'-'.join(map(str, widths))}"
                try:
                    report = gb.check_parity(net, x, rng.integers(0, widths[-1], n), devices=("cpu", other))
                    found[key] = {"passed": bool(report), "report": str(report)}
                except Exception as error:  # the report is there to hold whatever goes wrong
                    found[key] = {"passed": False, "report": f"{type(error).__name__}: {error}"}
    return {"passed": all(v["passed"] for v in found.values()), "networks": found}


def training(dry: bool) -> dict[str, Any]:
    """The same run on both devices: Fashion-MNIST where it is in the data folder, else scikit-learn's digits."""
    import gpubackprop as gb
    from gpubackprop.data import load, split

    try:
        data = load("digits" if dry else "fashion-mnist", download=False)
    except gb.GpuBackpropError:
        data = load("digits")
    if data.x_test is None:
        own, held = split(len(data.x), 0.2, seed=0, labels=data.y)
        x, y, tx, ty = data.x[own], data.y[own], data.x[held], data.y[held]
    else:
        x, y, tx, ty = data.x, data.y, data.x_test, data.y_test
    scale = np.float32(data.x.max())
    x, tx = x / scale, tx / scale
    found: dict[str, Any] = {"data": data.name, "rows": len(x)}
    runs = (
        [("cpu", None)]
        if dry
        else [("cuda", None), ("cuda", "tf32"), ("cuda", "bf16"), ("cuda", "fp16"), ("cpu", None)]
    )
    for device, precision in runs:
        net = gb.mlp([x.shape[1], 256, 128, 10], loss="cross_entropy", device=device, precision=precision, seed=0)
        started = time.perf_counter()
        history = gb.Trainer(net, gb.Adam(1e-3)).fit(x, y, epochs=2 if dry else 10, batch_size=256)
        seconds = time.perf_counter() - started
        entry = {"seconds": seconds, "loss": history["loss"], "rate": history["samples_per_second"][-1]}
        found[f"{device} {precision or 'fp32'}"] = entry | {"test": gb.evaluate(net, tx, ty)}
    return found


def benchmark(dry: bool, out: Path | None = None) -> dict[str, Any]:
    """The comparison with other libraries; its own JSON is beside this one."""
    target = (out or Path(".")) / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(target), *(["--dry-run"] if dry else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    return {"returncode": done.returncode, "table": done.stdout[-30000:], "errors": done.stderr[-8000:]}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (environment, doctor, tests, parity, training, benchmark)
}


def run_part(name: str, out: Path, dry: bool) -> int:
    """One part, in this process."""
    started = time.perf_counter()
    result = benchmark(dry, out) if name == "benchmark" else PARTS[name](dry)
    result["part_seconds"] = time.perf_counter() - started
    (out / f"{name}.json").write_text(json.dumps(result, indent=1, default=str), encoding="utf-8")
    failed = result.get("returncode", 0) or not result.get("passed", True)
    return int(bool(failed))


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return run_part(options.part, options.out, options.dry_run)
    failures = 0
    for name in options.only.split(","):
        command = [sys.executable, "-m", "benchmarks.gpu_all", "--part", name, "--out", str(options.out)]
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command + (["--dry-run"] if options.dry_run else []),
                timeout=LIMITS[name], env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            outcome = "done" if done.returncode == 0 else f"FAILED ({done.returncode})"
        except subprocess.TimeoutExpired:
            outcome = f"FAILED: more than {LIMITS[name]} s"
        failures += outcome != "done"
        print(f"{name:12} {time.perf_counter() - started:6.1f} s  {outcome}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
