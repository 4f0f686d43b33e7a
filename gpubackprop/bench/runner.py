"""The comparison itself: contenders take turns, block by block, on the same networks and batches."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gpubackprop.bench.agreement import disagreement, has_kinks
from gpubackprop.bench.client import Client, ContenderError
from gpubackprop.bench.contenders import Contender, contenders
from gpubackprop.bench.machine import machine
from gpubackprop.bench.results import Case, Cell, Column, Result, Timing
from gpubackprop.bench.subject import Description, descriptions
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
    """What is being done now: `done` of `total` turns, and in words."""

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
    optimizer: a name. phases: also time forward, loss, backward and update apart. seed: of weights and random batches.

    Each contender runs in processes of its own. Before it is timed, its outputs, loss, gradients and the losses of a stretch
    of training are held to those of the same network in float64 on the CPU; one that is wrong gets no figures. Then they
    take turns in random order, `repeats` times, and time each part for about `seconds` a turn, after a warm-up.

    Ctrl-C ends it early and gives back what there is, with `result.interrupted`. Raises ArgumentError and DataError for what
    cannot be measured, DeviceError for a device that is not there.
    """
    wanted = contenders(devices)
    subjects = descriptions(network, widths, activation=activation, loss=loss, seed=seed)
    sizes = sorted({whole_number("batch_sizes", n) for n in _listed("batch_sizes", batch_sizes)})
    get_optimizer(optimizer, learning_rate=1e-4)
    plan = {
        "networks": [d["name"] for d in subjects],
        "activation": activation if not isinstance(network, (Network, str, os.PathLike)) else "as built",
        "loss": subjects[0]["loss"],
        "optimizer": optimizer,
        "batch_sizes": sizes,
        "repeats": whole_number("repeats", repeats),
        "seconds": positive("seconds", seconds),
        "phases": bool(phases),
        "seed": whole_number("seed", seed, least=0),
    }
    return run(subjects, wanted, plan, on_progress)


def run(
    subjects: Sequence[Description],
    wanted: Sequence[Contender],
    plan: dict[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
    connect: Callable[[Contender], Client] = Client,
) -> Result:
    """`benchmark` after its arguments were looked at. connect: makes a contender's client."""
    columns = [Column(c.label, c.device, c.dtype, c.precision, c.threads) for c in wanted]
    result = Result(machine(), plan, columns)
    turns = 2 * len(wanted) + len(subjects) * len(plan["batch_sizes"]) * plan["repeats"] * len(wanted)
    with ExitStack() as stack:
        clients = {c.label: stack.enter_context(closing(connect(c))) for c in wanted}
        reference = stack.enter_context(closing(Client(_REFERENCE)))
        comparison = _Comparison(result, clients, reference, turns, on_progress)
        try:
            comparison.begin()
            for rounds in _shares(plan["repeats"]):
                comparison.start_anew()
                for described in subjects:
                    for n in plan["batch_sizes"]:
                        comparison.measure(described, n, rounds)
            comparison.end()
        except KeyboardInterrupt:
            result.interrupted = True
            comparison.keep_what_there_is()
    return result


class _Comparison:
    def __init__(
        self,
        result: Result,
        clients: dict[str, Client],
        reference: Client,
        turns: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.result = result
        self.clients = clients
        self.reference = reference
        self._turns = turns
        self._done = 0
        self._listener = on_progress
        self._order = random.Random(result.settings["seed"])
        self._case: Case | None = None
        self._blocks: dict[str, list[dict[str, float]]] = {}
        self._known: dict[tuple[str, int], tuple[Case, dict[str, list[dict[str, float]]]]] = {}

    def begin(self) -> None:
        """Start every contender and measure what its device can do at best."""
        for column in self.result.contenders:
            try:
                column.threads = self.clients[column.label].start()["threads"]
            except ContenderError as error:
                column.failed = str(error)
        self._measure_ceilings()

    def start_anew(self) -> None:
        """Let every contender go on in a new process, which starts when it is next asked."""
        for client in self.clients.values():
            client.close()

    def end(self) -> None:
        """Measure once more what the devices can do at best: the better of two is nearer to it."""
        self._measure_ceilings()

    def _measure_ceilings(self) -> None:
        for column in self.result.contenders:
            self._report(f"{column.label}: the fastest product, the largest copy")
            time.sleep(PAUSE)
            try:
                for what, rate in self.clients[column.label].ask("ceilings").items():
                    column.ceilings[what] = max(rate, column.ceilings.get(what, 0.0))
            except ContenderError as error:
                column.failed = str(error)
            self._done += 1

    def measure(self, described: Description, n: int, rounds: range) -> None:
        """All contenders' turns on one network with n rows, in these rounds."""
        plan, key = self.result.settings, (described["name"], n)
        first = key not in self._known
        if first:
            self._known[key] = Case(described["name"], described["widths"], n), {}
        self._case, self._blocks = self._known[key]
        ready = self._prepare(described, n) if first else self._prepare_again(described, n)
        for repeat in rounds:
            for label in self._order.sample(list(ready), len(ready)):
                self._report(f"{described['name']}, batch {n}, round {repeat + 1} of {plan['repeats']}: {label}")
                time.sleep(PAUSE)
                self._turn(label)
        for label in ready:
            self._finish(label)
        self._done += len(rounds) * (len(self.clients) - len(ready))
        self.keep_what_there_is()

    def keep_what_there_is(self) -> None:
        """Put the blocks that were measured so far into the result."""
        case, self._case = self._case, None
        if case is None:
            return
        for label, blocks in self._blocks.items():
            cell = case.cells[label]
            cell.timings = {}
            if blocks and cell.failed is None:
                cell.timings = {part: Timing.of([b[part] for b in blocks]) for part in blocks[0]}
        case.cells = {label: cell for label, cell in case.cells.items() if cell.timings or cell.failed}
        if case.cells and all(case is not c for c in self.result.cases):
            self.result.cases.append(case)

    def _prepare(self, described: Description, n: int) -> list[str]:
        """Build the network everywhere; the contenders that compute the right thing."""
        assert self._case is not None
        plan, ready = self.result.settings, []
        ask = (described, n, plan["optimizer"], plan["seed"])
        self._report(f"{described['name']}, batch {n}: the same results everywhere?")
        expected, why = None, ""
        try:
            expected = self.reference.ask("prepare", *ask, True)["tensors"]
            self.reference.ask("release")
        except ContenderError as error:
            why = f"there is nothing to hold its results to: {error}"
        for column in self.result.contenders:
            cell = self._case.cells[column.label] = Cell()
            try:
                if expected is None:
                    raise ContenderError(why)
                found = self.clients[column.label].ask("prepare", *ask)
            except (ContenderError, DeviceError) as error:
                cell.failed = str(error)
                continue
            wrong = disagreement(found["tensors"], expected, column.dtype, column.precision, kinks=has_kinks(described))
            if wrong:
                cell.failed = f"wrong result: {wrong}"
                self.clients[column.label].ask("release")
                continue
            cell.work, column.how = found["work"], found["how"]
            cell.memory = cell.work.pop("memory")
            self._blocks[column.label] = []
            ready.append(column.label)
        return ready

    def _prepare_again(self, described: Description, n: int) -> list[str]:
        """Build the network once more wherever it computed the right thing; the contenders that could."""
        assert self._case is not None
        plan, ready = self.result.settings, []
        self._report(f"{described['name']}, batch {n}")
        for label, cell in self._case.cells.items():
            if cell.failed is None:
                try:
                    self.clients[label].ask("prepare", described, n, plan["optimizer"], plan["seed"])
                    ready.append(label)
                except (ContenderError, DeviceError) as error:
                    cell.failed = str(error)
        return ready

    def _turn(self, label: str) -> None:
        assert self._case is not None
        self._done += 1
        if self._case.cells[label].failed:
            return
        plan = self.result.settings
        try:
            self._blocks[label].append(self.clients[label].ask("block", plan["seconds"], plan["phases"]))
        except (ContenderError, DeviceError) as error:
            self._case.cells[label].failed = str(error)

    def _finish(self, label: str) -> None:
        assert self._case is not None
        cell = self._case.cells[label]
        if cell.failed is None:
            self.clients[label].ask("release")

    def _report(self, text: str) -> None:
        if self._listener is not None:
            self._listener(Progress(self._done, self._turns, text))


def _shares(repeats: int) -> list[range]:
    """The rounds of each pass."""
    ends = [repeats * i // PASSES for i in range(PASSES + 1)]
    return [range(a, b) for a, b in pairwise(ends) if a < b]


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise ArgumentTypeError(f"{name} must be a list of whole numbers; got {values!r}")
    found = list(values)
    if not found:
        raise ArgumentError(f"{name} is empty; name at least one")
    return found
