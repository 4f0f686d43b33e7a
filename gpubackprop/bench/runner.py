"""The comparison itself: contenders take turns, block by block, on the same networks and batches."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gpubackprop.backend.select import get_backend
from gpubackprop.bench.cases import Case, Cell
from gpubackprop.bench.machine import machine
from gpubackprop.bench.measure import disagreement, has_kinks
from gpubackprop.bench.process import Worker, WorkerError
from gpubackprop.bench.result import Measured, Result
from gpubackprop.bench.subject import Contender, Description, contenders, descriptions
from gpubackprop.checks import positive, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError
from gpubackprop.network.network import Network
from gpubackprop.optimizers import get_optimizer

BATCH_SIZES = (1, 4, 16, 64, 256, 1024, 4096)
PAUSE = 0.15
"""Seconds between turns: OpenBLAS's threads keep a core busy, looking out for more work, for 2^28 ticks before they sleep."""
PASSES = 3
"""Times that all batch sizes are gone through, for a share of the rounds each and in new processes: what slows the machine
down for a few seconds, or a process for its lifetime, shows in the spread of the figures, and not as a figure."""
_REFERENCE = Contender("cpu", dtype="float64")


@dataclass(frozen=True)
class Progress:
    """The state of the measurement: `done` of `total` turns, and in words."""

    done: int
    total: int
    text: str


def benchmark(
    network: Network | str | os.PathLike[str] | Sequence[int],
    *,
    devices: str | Sequence[str] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    widths: Sequence[int] | None = None,
    activation: str = "relu",
    loss: str = "cross_entropy",
    optimizer: str = "sgd",
    phases: bool = False,
    compile: bool = False,
    repeats: int = 7,
    seconds: float = 0.1,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Time training steps of a network on several devices, with several types and numbers of threads, against each other.

        print(gb.benchmark([784, 512, 10], devices="cpu@1,cpu@2,cuda", batch_sizes=[16, 256, 4096]))

    network: a `Network` (whose architecture counts, not its weights), a saved one's path, or the widths of an `mlp`, with
    `activation` and `loss`. widths: measure it with all hidden layers this wide, once for each. devices: what to compare,
    DEVICE[@THREADS][:TYPE], as in "cpu", "cpu@1", "cpu:float64", "cuda:0:tf32", "strict"; None: all that work here.
    optimizer: a name. phases: also time forward, loss, backward and update apart. compile: run small steps on the CPU as
    machine code, as `Network` does with compile=True; the result's settings say so. seed: of weights and random batches.

    Each contender runs in processes of its own. Before it is timed, its outputs, loss, gradients and the losses of a stretch
    of training are held to those of the same network in float64 on the CPU; one that is wrong gets no figures. Then they
    take turns in random order, `repeats` times, and time each part for about `seconds` a turn, after a warm-up.

    Ctrl-C ends it early and gives back what there is, with `result.interrupted`. Raises ArgumentError and DataError for what
    cannot be measured, DeviceError for a device that is not there, MissingExtraError for `compile` without Numba.
    """
    wanted = contenders(devices)
    subjects = descriptions(network, widths, activation=activation, loss=loss, seed=seed)
    sizes = sorted({whole_number("batch_sizes", n) for n in _listed("batch_sizes", batch_sizes)})
    get_optimizer(optimizer, learning_rate=1e-4)
    if compile and any(c.device == "cpu" for c in wanted):
        get_backend("cpu").check_compiler()
    plan = {
        "networks": [d["name"] for d in subjects],
        "activation": activation if not isinstance(network, (Network, str, os.PathLike)) else "as built",
        "loss": subjects[0]["loss"],
        "optimizer": optimizer,
        "batch_sizes": sizes,
        "repeats": whole_number("repeats", repeats),
        "seconds": positive("seconds", seconds),
        "phases": bool(phases),
        "compile": bool(compile),
        "seed": whole_number("seed", seed, least=0),
    }
    return run(subjects, wanted, plan, on_progress)


def in_process(contender: Contender) -> Worker:
    """A process for the measurements of a contender."""
    return Worker("gpubackprop.bench.measure:Bench", contender, environment=contender.environment())


def run(
    subjects: Sequence[Description],
    wanted: Sequence[Contender],
    plan: dict[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
    connect: Callable[[Contender], Worker] = in_process,
) -> Result:
    """`benchmark` after its arguments were looked at. connect: gives a contender's process."""
    columns = [Measured(c.label, c.device, c.dtype, c.precision, c.threads) for c in wanted]
    result = Result(machine(), plan, columns)
    with ExitStack() as stack:
        workers = {c.label: stack.enter_context(closing(connect(c))) for c in wanted}
        reference = stack.enter_context(closing(in_process(_REFERENCE)))
        turns = len(workers) * (2 + len(subjects) * len(plan["batch_sizes"]) * plan["repeats"])
        comparison = _Comparison(result, workers, reference, turns, on_progress)
        try:
            comparison.begin()
            ends = [plan["repeats"] * i // PASSES for i in range(PASSES + 1)]
            for rounds in (range(a, b) for a, b in pairwise(ends) if a < b):
                for worker in workers.values():
                    worker.close()
                for described in subjects:
                    for n in plan["batch_sizes"]:
                        comparison.measure(described, n, rounds)
            comparison.measure_ceilings()
        except KeyboardInterrupt:
            result.interrupted = True
    for case in result.cases:
        case.cells = {label: cell for label, cell in case.cells.items() if cell.timings or cell.failed}
    result.cases = [case for case in result.cases if case.cells]
    return result


@dataclass
class _Comparison:
    """What is done with the contenders, whose processes have their labels. done: turns that were taken, of `turns`."""

    result: Result
    workers: dict[str, Worker]
    reference: Worker
    turns: int
    listener: Callable[[Progress], None] | None
    done: int = 0
    cases: dict[tuple[str, int], Case] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = self.result.settings
        self.order = random.Random(self.plan["seed"])

    def begin(self) -> None:
        """Start every contender and measure what its device can do at best. Raises DeviceError for one that is not there."""
        for column in self.result.contenders:
            try:
                column.threads = self.workers[column.label].ask("describe")["threads"]
            except WorkerError as error:
                column.failed = str(error)
        self.measure_ceilings()

    def measure_ceilings(self) -> None:
        """Measure what the devices can do at best; of two measurements the better one is nearer to it."""
        for column in self.result.contenders:
            self._report(f"{column.label}: the fastest product, the largest copy")
            time.sleep(PAUSE)
            try:
                for what, rate in self.workers[column.label].ask("ceilings").items():
                    column.ceilings[what] = max(rate, column.ceilings.get(what, 0.0))
            except WorkerError as error:
                column.failed = str(error)
            self.done += 1

    def measure(self, described: Description, n: int, rounds: range) -> None:
        """All contenders' turns on one network with n rows, in these rounds."""
        where = f"{described['name']}, batch {n}"
        case = self._prepared(described, n, where)
        ready = [label for label, cell in case.cells.items() if not cell.failed]
        for repeat in rounds:
            for label in self.order.sample(ready, len(ready)):
                self._report(f"{where}, round {repeat + 1} of {self.plan['repeats']}: {label}")
                time.sleep(PAUSE)
                self.done += 1
                cell = case.cells[label]
                if not cell.failed:
                    with self._failing(label, cell):
                        cell.add(self.workers[label].ask("block", self.plan["seconds"], self.plan["phases"]))
        for label in ready:
            if not case.cells[label].failed:
                self.workers[label].ask("release")
        self.done += len(rounds) * (len(self.workers) - len(ready))

    def _prepared(self, described: Description, n: int, where: str) -> Case:
        """The case, with the network built by every contender that computes the right thing; the others have failed."""
        ask = (described, n, self.plan["optimizer"], self.plan["seed"])
        case = self.cases.get((described["name"], n))
        first = case is None
        self._report(f"{where}: the same results everywhere?" if first else where)
        expected, why = self._reference_tensors(ask) if first else ({}, "")
        if case is None:
            case = self.cases[described["name"], n] = Case(described["name"], described["widths"], n)
            self.result.cases.append(case)
        for column in self.result.contenders:
            cell = case.cells.setdefault(column.label, Cell(failed=why or None))
            if cell.failed:
                continue
            with self._failing(column.label, cell):
                found = self.workers[column.label].ask("prepare", *ask, self.plan["compile"])
                if first:
                    kinks = has_kinks(described)
                    wrong = disagreement(found["tensors"], expected, column.dtype, column.precision, kinks)
                    if wrong:
                        raise WorkerError(f"wrong result: {wrong}")
                    column.how, cell.work = found["how"], found["work"]
                    cell.memory = cell.work.pop("memory")
        return case

    def _reference_tensors(self, ask: tuple[Any, ...]) -> tuple[dict[str, Any], str]:
        """The network's results in float64, or the reason why they are not known."""
        try:
            expected = self.reference.ask("prepare", *ask, False, True)["tensors"]
            self.reference.ask("release")
        except WorkerError as error:
            return {}, f"there is nothing to hold its results to: {error}"
        return expected, ""

    @contextmanager
    def _failing(self, label: str, cell: Cell) -> Iterator[None]:
        """An error becomes the cell's result; the contender goes on in a new process, with all its memory free again."""
        try:
            yield
        except (WorkerError, DeviceError) as error:
            cell.fail(str(error))
            self.workers[label].close()

    def _report(self, said: str) -> None:
        if self.listener is not None:
            self.listener(Progress(self.done, self.turns, said))


def _listed(name: str, values: object) -> list[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise ArgumentTypeError(f"{name} must be a list of whole numbers; got {values!r}")
    found = list(values)
    if not found:
        raise ArgumentError(f"{name} is empty; name at least one")
    return found
