"""Everything that wants a GPU, part by part, in two calls of six minutes: each call ends by itself when its seconds are over.

    python -m benchmarks.gpu_all --out results_gpu --only environment,conformance,doctor,parity,tests
    python -m benchmarks.gpu_all --out results_gpu --only benchmark,training,narrow,overlap
    python -m benchmarks.gpu_all --out results_gpu --only benchmark --seconds 550     # goes on with what was left out
    python -m benchmarks.gpu_all --dry-run --seconds 900     # all of it on the stand-ins of the tests, in a few minutes

Parts: environment; conformance (what this CuPy answers to the expressions that the stand-in is held to); doctor (which level
of the chain each precision gets, and why); parity (the CPU against the GPU in every precision); tests (those marked `cuda`);
benchmark (benchmarks.gpu); training (the same run on both devices); narrow (narrow networks with all layers in one kernel, and
one by one); overlap (own kernels of a graph that begin while the one before ends, and not). Each has a process of its own and
its share of the seconds, of what those before it left; it works through its items from the most telling one on, writes each down
at once in a JSON file of its name, and lists what it left out. A part that fails or hangs, with all that it started, does not
stop the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.common import write

SHARES = {
    "environment": 15,
    "conformance": 45,
    "doctor": 75,
    "parity": 65,
    "tests": 150,
    "benchmark": 200,
    "training": 60,
    "narrow": 50,
    "overlap": 40,
}
"""How the parts that are asked for share the seconds of a call. Those of each call above are `SECONDS` together."""
SECONDS = 350.0
"""Of a call, unless it says otherwise."""
LAST_BEGINNING = 0.85
"""The share of a part's seconds after which it begins nothing; what is under way may go on to their end, at which it is ended."""
T = TypeVar("T")


class Part:
    """The report of one part, in this process. `dry`: on the stand-ins, with little work."""

    def __init__(self, name: str, out: Path, dry: bool, seconds: float) -> None:
        self.out, self.dry, self.file = out, dry, out / f"{name}.json"
        self.last = time.monotonic() + seconds
        self.end = self.last - (1 - LAST_BEGINNING) * seconds
        self.report: dict[str, Any] = {"left_out": [], "failed": []}

    def put(self, name: str, value: Any, failed: bool = False) -> None:
        """Write down an item."""
        self.report[name] = value
        if failed:
            self.report["failed"].append(name)
        self.write()

    def attempt(self, name: str, work: Callable[[], tuple[Any, bool]]) -> None:
        """Write down what `work` gives, (value, whether it is as it should be), or the error that it raises."""
        started = time.perf_counter()
        try:
            value, good = work()
        except Exception as error:  # the report is there to hold whatever goes wrong
            value, good = {"error": f"{type(error).__name__}: {error}"}, False
        self.put(name, {"seconds": time.perf_counter() - started, "result": value}, not good)

    def while_there_is_time(self, items: Iterable[T], name: Callable[[T], str]) -> Iterator[T]:
        """These items, as far as the time goes; the others are left out."""
        for item in items:
            if time.monotonic() < self.end:
                yield item
            else:
                self.report["left_out"].append(name(item))
        self.write()

    def write(self) -> None:
        """All that is known by now."""
        write(self.file, self.report, default=str)


def environment(part: Part) -> None:
    """The machine, its GPU as the driver names it, and the packages."""
    from gpubackprop.backend.cuda.diagnosis import software
    from gpubackprop.bench.machine import machine

    part.put("machine", machine())
    part.put("software", software())
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm",
        "--format=csv,noheader",
    ]
    for name, command in (("gpu", query), ("packages", [sys.executable, "-m", "pip", "list", "--format=freeze"])):
        try:
            part.put(name, limited(command, 20)[1].strip().splitlines())
        except OSError as error:
            part.put(name, str(error))


def conformance(part: Part) -> None:
    """What CuPy answers here, beside what is written down; an item for each expression that is answered otherwise."""
    import cupy
    import cupyx

    from tests.cuda.conformance.ask import answer, differs, quiet
    from tests.cuda.conformance.test_conformance import LINES

    part.put("cupy", cupy.__version__)
    same = 0
    for expression, wanted in part.while_there_is_time(LINES, lambda line: line[0]):
        with quiet(cupy):
            found = answer(cupy, cupyx, expression)
        if differs(found, wanted):
            part.put(expression, {"here": found, "written": wanted}, failed=True)
        same += not differs(found, wanted)
    part.put("the same", f"{same} of {len(LINES)}")


def doctor(part: Part) -> None:
    """What each precision runs on: the level of the chain, ways taken, products refused, graphs, the first losses."""
    import gpubackprop as gb

    part.put("devices", [vars(d) for d in gb.devices()])
    widths, rows = ([12, 16, 8, 5], 32) if part.dry else ([784, 512, 256, 10], 1024)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, widths[0])).astype(np.float32), rng.integers(0, widths[-1], rows)

    def work(precision: str, activation: str) -> tuple[Any, bool]:
        options = {"activation": activation, "loss": "cross_entropy", "device": "cuda", "precision": precision}
        net = gb.mlp(widths, **options)
        optimizer = gb.Adam(1e-3)
        losses = [float(net.backend.to_host(net.train_step(x, y, optimizer))) for _ in range(4)]
        be: Any = net.backend
        products, recorder = getattr(be, "products", None), getattr(be, "recorder", None)
        found = {"how": be.describe(), "losses": losses, "capture failed": getattr(recorder, "failure", None)}
        if products is not None:
            found["ways"] = {str(key): way for key, way in products.choices.taken.items()}
            found["refused"] = products.refused
            found["measured"] = products.planner.measurements.of("ways")
        return found, losses[-1] < losses[0] and recorder is not None and recorder.failure is None

    activations = ("relu",) if part.dry else ("relu", "gelu_tanh", "gelu")
    pairs = [(p, a) for a in activations for p in ("fp32", "tf32", "bf16", "fp16", "fp64")]
    for precision, activation in part.while_there_is_time(pairs, " ".join):
        part.attempt(f"{precision} {activation}", lambda p=precision, a=activation: work(p, a))  # type: ignore[misc]


TESTS = (
    *(
        "tests/cuda/conformance",
        "tests/cuda/test_device.py",
        "tests/cuda/test_timing.py",
        "tests/cuda/test_launcher.py",
    ),
    *(
        "tests/cuda/test_activation_kernels.py",
        "tests/cuda/test_loss_kernels.py",
        "tests/cuda/test_optimizer_kernels.py",
    ),
    *("tests/cuda/test_norm_kernels.py", "tests/cuda/test_gather_kernels.py", "tests/cuda/test_random_kernels.py"),
    *("tests/cuda/test_normalization_kernels.py", "tests/cuda/test_layerwise_kernels.py", "tests --ignore=tests/cuda"),
)
"""Files with tests marked `cuda`, the most telling ones first."""


def tests(part: Part) -> None:
    """The tests marked `cuda`, file by file."""
    for file in part.while_there_is_time(TESTS[:3] if part.dry else TESTS, str):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "cuda and not nightly",
            "--tb=short",
            "-rf",
            # What newer packages there warn of, or lack, must not cost the tests beside it.
            *("-W", "default", "--continue-on-collection-errors"),
            *file.split(),
        ]
        code, output = limited(command, max(part.last - time.monotonic() - 3, 1))
        good = code in (0, 5)  # 5: no such test in there
        part.put(file, {"code": code, "ended": code is None, "output": output[-20000:]}, failed=not good)


def parity(part: Part) -> None:
    """Ten steps of several networks, tensor by tensor, against the CPU."""
    import gpubackprop as gb

    sizes = [([20, 33, 17, 5], 100)] if part.dry else [([784, 512, 256, 10], 256), ([20, 33, 17, 5], 100)]
    every = [
        (widths, n, precision, activation)
        for activation in ("relu", "tanh", "gelu_tanh")
        for precision in (None, "tf32", "bf16", "fp16")
        for widths, n in sizes
    ]

    def work(widths: list[int], n: int, precision: str | None, activation: str) -> tuple[Any, bool]:
        net = gb.mlp(widths, activation=activation, loss="cross_entropy", seed=1, device="cpu")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(n, widths[0])).astype(np.float32), rng.integers(0, widths[-1], n)
        other: Any = "cuda" if precision is None else ("cuda", precision)
        report = gb.check_parity(net, x, y, devices=("cpu", other), steps=2 if part.dry else 10)
        return str(report), bool(report)

    def named(item: tuple[list[int], int, str | None, str]) -> str:
        return f"{item[3]} {item[2] or 'fp32'} {'-'.join(map(str, item[0]))}"

    for item in part.while_there_is_time(every[:4] if part.dry else every, named):
        part.attempt(named(item), lambda item=item: work(*item))  # type: ignore[misc]


def training(part: Part) -> None:
    """The same run on both devices: Fashion-MNIST where it is in the data folder, else scikit-learn's digits."""
    import gpubackprop as gb
    from gpubackprop.data import load, split

    try:
        data = load("digits" if part.dry else "fashion-mnist", download=False)
    except gb.GpuBackpropError:
        data = load("digits")
    if data.x_test is None:
        own, held = split(len(data.x), 0.2, seed=0, labels=data.y)
        x, y, tx, ty = data.x[own], data.y[own], data.x[held], data.y[held]
    else:
        x, y, tx, ty = data.x, data.y, data.x_test, data.y_test
    scale = np.float32(data.x.max())
    x, tx = x / scale, tx / scale
    part.put("data", {"name": data.name, "rows": len(x)})

    def work(device: str, precision: str | None) -> tuple[Any, bool]:
        hidden = (32, 16) if part.dry else (256, 128)
        net = gb.mlp([x.shape[1], *hidden, 10], loss="cross_entropy", device=device, precision=precision, seed=0)
        history = gb.Trainer(net, gb.Adam(1e-3)).fit(x, y, epochs=1 if part.dry else 10, batch_size=256)
        entry = {"loss": history["loss"], "rate": history["samples_per_second"][-1], "test": gb.evaluate(net, tx, ty)}
        return entry, bool(np.isfinite(history["loss"]).all())

    runs = [("cuda", None), ("cpu", None), ("cuda", "bf16"), ("cuda", "tf32"), ("cuda", "fp16")]
    for device, precision in part.while_there_is_time(runs[:2] if part.dry else runs, str):
        part.attempt(f"{device} {precision or 'fp32'}", lambda d=device, p=precision: work(d, p))  # type: ignore[misc]


def narrow(part: Part) -> None:
    """Narrow networks with all layers in one kernel and one by one: rows a second, and whether the losses are the same."""
    every = [(p, (w,) * 5 + (10,), b) for b in (2**17, 1024) for w in (64, 128, 32) for p in ("bf16", "tf32", "fp16")]
    _on_and_off(part, "narrow", every, 1e-2)


def overlap(part: Part) -> None:
    """Own kernels of a graph that begin while the one before ends, and not: rows a second, and whether the losses are equal."""
    shapes = [
        ((64,) * 5 + (10,), 1024),
        ((784, 512, 256, 10), 128),
        ((784, 512, 256, 10), 1024),
        ((64,) * 5 + (10,), 2**17),
    ]
    _on_and_off(part, "overlap", [(p, w, b) for w, b in shapes for p in ("bf16", "native", "tf32", "fp16")], 0.0)


def _on_and_off(part: Part, option: str, every: list[tuple[str, tuple[int, ...], int]], tolerance: float) -> None:
    """The same training with an option of `CudaBackend` and without, for each (precision, widths, batch)."""
    import gpubackprop as gb
    from gpubackprop.backend.cuda.cuda_backend import CudaBackend

    def work(precision: str, widths: tuple[int, ...], batch: int) -> tuple[Any, bool]:
        rng, found = np.random.default_rng(0), {}
        n = 2 * batch if part.dry else 2**20
        x, y = rng.normal(size=(n, widths[0])).astype(np.float32), rng.integers(0, 10, n)
        for on in (True, False):
            options: dict[str, Any] = {option: on}
            device = CudaBackend(0, precision, **options)
            net = gb.mlp(widths, activation="relu", loss="cross_entropy", device=device, seed=0)
            history = gb.Trainer(net, gb.SGD(0.1)).fit(x, y, epochs=2 if part.dry else 4, batch_size=batch)
            found["on" if on else "off"] = {
                "rate": history["samples_per_second"][-1],
                "loss": history["loss"][-1],
                "how": device.describe(),
            }
        losses = [entry["loss"] for entry in found.values()]
        return found, bool(np.isclose(*losses, rtol=tolerance, atol=0))

    every = [("bf16", (16,) * 5 + (10,), 64)] if part.dry else every
    for item in part.while_there_is_time(every, str):
        part.attempt(" ".join(map(str, item)), lambda item=item: work(*item))  # type: ignore[misc]


def benchmark(part: Part) -> None:
    """The comparison with other libraries; its own JSON is beside this one."""
    budget = str(part.end - time.monotonic())
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(part.out / "gpu.json"), "--budget", budget]
    if part.dry:
        command += ["--dry-run", "--only", "32-32-32-10, batch 64, adam", "--peers", "ours,torch eager", "--again"]
    code, output = limited(command, max(part.last - time.monotonic() - 3, 1))
    part.put("table", {"code": code, "output": output[-40000:]}, failed=code != 0)


def limited(command: list[str], seconds: float) -> tuple[int | None, str]:
    """(exit code, output) of a command; after so many seconds it is ended, with all that it started: (None, output so far)."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        code = _wait(process, seconds)
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


PARTS: dict[str, Callable[[Part], None]] = {
    f.__name__: f for f in (environment, conformance, doctor, parity, tests, benchmark, training, narrow, overlap)
}


def run_part(name: str, out: Path, dry: bool, seconds: float) -> int:
    """One part, in this process; 1 where something in it is not as it should be."""
    if dry and name in ("conformance", "doctor", "parity", "training", "narrow", "overlap"):
        from tests.cuda.stand_in import stand_in_for_this_process

        stand_in_for_this_process(strict=name != "conformance")
    part, started = Part(name, out, dry, seconds), time.perf_counter()
    part.write()
    PARTS[name](part)
    part.put("part_seconds", time.perf_counter() - started)
    return int(bool(part.report["failed"]))


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for this call (default {SECONDS:g})")
    parser.add_argument("--dry-run", action="store_true", help="on the stand-ins, with little work")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return run_part(options.part, options.out, options.dry_run, options.seconds)
    failures, names, end = 0, options.only.split(","), time.monotonic() + options.seconds
    for i, name in enumerate(names):
        started = time.monotonic()
        seconds = share(names[i:], end - started)
        command = [sys.executable, "-m", "benchmarks.gpu_all", "--part", name, "--out", str(options.out)]
        command += ["--seconds", str(seconds)]
        process = subprocess.Popen(
            command + (["--dry-run"] if options.dry_run else []), start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )  # fmt: skip
        code = _wait(process, seconds)
        failures += code != 0
        took = time.monotonic() - started
        print(f"{name:12} {took:6.1f} s of {seconds:5.1f}  {_outcome(options.out / f'{name}.json', code)}", flush=True)
    return failures


def share(parts: list[str], seconds: float) -> float:
    """What the first of these parts gets of the seconds that are left for all of them."""
    return seconds * SHARES[parts[0]] / sum(SHARES[part] for part in parts)


def _outcome(file: Path, code: int | None) -> str:
    """One line on a part, from its report."""
    if not file.exists():
        return f"FAILED ({code}), without a report"
    report = json.loads(file.read_text(encoding="utf-8"))
    said = ["ended: out of time"] if code is None else ["done" if code == 0 else f"FAILED ({code})"]
    said += [f"not as it should be: {', '.join(report['failed'])}"] if report["failed"] else []
    said += [f"left out: {', '.join(report['left_out'])}"] if report["left_out"] else []
    return "; ".join(said)


if __name__ == "__main__":
    sys.exit(main())
