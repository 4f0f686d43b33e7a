"""Results with chosen times, for what is done with results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpubackprop.bench.cases import Case, Cell, Timing
from gpubackprop.bench.result import Measured, Result

MACHINE = {
    "when": "2026-01-01T00:00:00+00:00",
    "devices": {"cpu": "A processor, 2 cores", "cuda:0": "A GPU"},
    "cores": 2,
    "memory": 8 << 30,
    "system": "Linux",
    "load": 0.1,
}


def timing(seconds: float, spread: float = 0.02) -> Timing:
    """A timing whose 10th and 90th percentile lie `spread` of the median to either side."""
    return Timing(seconds, seconds * (1 - spread), seconds * (1 + spread), [seconds] * 3)


def result(
    times: Mapping[str, Sequence[float | None]],
    sizes: Sequence[int],
    *,
    spread: float = 0.02,
    transfer: Mapping[str, float] | None = None,
    network: str = "8-4-2",
    phases: bool = False,
) -> Result:
    """times: label -> seconds a step at each of `sizes`, None where not measured. transfer: label -> seconds of the copy."""
    labels = list(times)
    columns = [
        Measured(label, _device(label), "float64" if "float64" in label else "float32", _precision(label), 1, "eager")
        for label in labels
    ]
    for column in columns:
        column.ceilings = {"flops": 1e11, "bytes": 1e10}
    found = Result(dict(MACHINE), {"networks": [network], "batch_sizes": list(sizes), "repeats": 7}, columns)
    for i, n in enumerate(sizes):
        case = Case(network, [int(w) for w in network.split("-")], n)
        for label in labels:
            step = times[label][i]
            if step is not None:
                case.cells[label] = _cell(step, (transfer or {}).get(label, 0.0), spread, n, phases)
        found.cases.append(case)
    return found


def _cell(step: float, copy: float, spread: float, n: int, phases: bool) -> Cell:
    parts = {"step": step, "step_with_transfer": step + copy, "transfer": copy, "host": step / 10, "device": step * 0.9}
    if phases:
        parts |= {"forward": step / 4, "loss": step / 8, "backward": step / 2, "update": step / 8}
    work = {"parameters": 50, "flops": 200 * n, "bytes": 100 * n, "transfer_bytes": 40 * n}
    return Cell({name: timing(t, spread) for name, t in parts.items()}, work, 1 << 20)


def _device(label: str) -> str:
    return "cuda:0" if label.startswith("cuda") else label.split("@")[0].split(":")[0]


def _precision(label: str) -> str:
    last = label.split(":")[-1]
    return last if last in ("tf32", "bf16", "fp16") else "native"
