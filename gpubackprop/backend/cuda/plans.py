"""Plans of matrix products: what cuBLASLt is told about one, and which of its algorithms is taken.

cuBLASLt is taken because it can be captured into a graph: the stream, the workspace and the algorithm are all named by the
caller. It is column-major: a row-major matrix is, without a copy, the transpose of a column-major one, and so
out = a b is computed as out^T = b^T a^T. Below, M, N, K are those of that transposed product: M columns and N rows of `out`.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import cublaslt
from gpubackprop.backend.cuda.cublaslt import Algorithm, CublasLtError, Library, Result
from gpubackprop.backend.cuda.measurements import Measurements
from gpubackprop.backend.cuda.timing import seconds_a_call

if TYPE_CHECKING:
    import cupy

log = logging.getLogger("gpubackprop.cuda")

WORKSPACE = 32 * 2**20
"""Bytes that an algorithm may use beside its operands: what NVIDIA recommends for Hopper."""
CANDIDATES = 8
"""Algorithms that are asked for and timed."""


@dataclass(frozen=True)
class Problem:
    """A product as cuBLASLt sees it: D = epilogue(op(A) op(B) + beta C), C being D, all column-major.

    `types`: of A (and B), of D. `alignment`: of A, B, D, bias and aux in bytes, up to 256.
    """

    M: int
    N: int
    K: int
    transpose_a: bool
    transpose_b: bool
    types: tuple[str, str]
    alignment: tuple[int, int, int, int, int] = (256,) * 5
    epilogue: str = "DEFAULT"
    tf32: bool = False

    @property
    def lda(self) -> int:
        """Leading dimension of A as it is stored."""
        return self.K if self.transpose_a else self.M

    @property
    def ldb(self) -> int:
        """Leading dimension of B as it is stored."""
        return self.N if self.transpose_b else self.K

    @property
    def aux_ld(self) -> int:
        """In elements. ReLU keeps a mask of bits whose rows are padded to 128; GELU its input, with rows of a multiple of 8."""
        return -(-self.M // 128) * 128 if "RELU" in self.epilogue else self.M

    @property
    def has_bias(self) -> bool:
        """Whether a bias is read, or its gradient written."""
        return "BIAS" in self.epilogue or "BGRAD" in self.epilogue

    @property
    def has_aux(self) -> bool:
        """Whether something is kept for the backward pass, or read in it."""
        return "AUX" in self.epilogue or self.epilogue.startswith(("DRELU", "DGELU"))

    @property
    def kind(self) -> str:
        """Its epilogue and precision, in words."""
        return f"{self.epilogue} in {'tf32' if self.tf32 else self.types[0]}"

    def small(self) -> Problem:
        """A problem of the same kind that takes no time: the same width but for multiples of 128, few rows."""
        M = self.M if self.M <= 256 else 128 + self.M % 128
        N, K = min(self.N, 96), min(self.K, 96)
        return replace(self, M=M, N=N, K=K, alignment=(256,) * 5)

    def check(self) -> None:
        """Raises UnsupportedError for what cuBLASLt documents as impossible."""
        gelu = "GELU" in self.epilogue and self.has_aux
        if gelu and self.M % 8:
            raise UnsupportedError(f"{self.M} columns are no multiple of 8")
        if self.K == 1 and self.epilogue.startswith(("DRELU", "DGELU", "BGRADA")):
            raise UnsupportedError("not with an inner width of 1")


class Operands(NamedTuple):
    """Addresses of what a product reads and writes, and the number beta."""

    a: int
    b: int
    d: int
    beta: float = 0.0
    bias: int = 0
    aux: int = 0


class UnsupportedError(Exception):
    """cuBLASLt has no algorithm for a problem, or none that works here."""


class Plan:
    """cuBLASLt's descriptors of one problem, and the algorithm for it."""

    def __init__(self, library: Library, problem: Problem) -> None:
        self.library, self.problem = library, problem
        self.algorithm = Algorithm()
        p, double = problem, problem.types[0] == "float64"
        self.scalar = ctypes.c_double if double else ctypes.c_float
        compute = cublaslt.COMPUTE_32F_FAST_TF32 if p.tf32 else cublaslt.COMPUTE_32F
        scale = cublaslt.DATA_TYPE["float64" if double else "float32"]
        self.descriptor = self._create("MatmulDesc", cublaslt.COMPUTE_64F if double else compute, scale)
        a_type, d_type = (cublaslt.DATA_TYPE[t] for t in p.types)
        rows_a, rows_b = (p.K, p.M) if p.transpose_a else (p.M, p.K), (p.N, p.K) if p.transpose_b else (p.K, p.N)
        a = self._create("MatrixLayout", a_type, *rows_a, p.lda)
        b = self._create("MatrixLayout", a_type, *rows_b, p.ldb)
        d = self._create("MatrixLayout", d_type, p.M, p.N, p.M)
        self.layouts = (a, b, d, d)
        self.set("TRANSA", int(p.transpose_a))
        self.set("TRANSB", int(p.transpose_b))
        self.set("EPILOGUE", cublaslt.EPILOGUE[p.epilogue])
        # Of the addresses of bias and aux the heuristics look at the alignment; the true ones are set before each call.
        if p.has_bias:
            self.set("BIAS_POINTER", p.alignment[3])
        if p.has_aux:
            self.set("EPILOGUE_AUX_LD", p.aux_ld)
            self.set("EPILOGUE_AUX_POINTER", p.alignment[4])

    def set(self, attribute: str, value: int) -> None:
        """Set an attribute of the product's descriptor."""
        self.library.set_attribute("MatmulDesc", self.descriptor, attribute, value)

    def _create(self, kind: str, *arguments: int) -> int:
        item = self.library.create(kind, *arguments)
        weakref.finalize(self, self.library.call, f"{kind}Destroy", item).atexit = False
        return item

    def candidates(self, handle: int) -> list[Algorithm]:
        """The algorithms that the library would take, best guess first; raises UnsupportedError where there is none."""
        library = self.library
        preference = library.create("MatmulPreference")
        try:
            a, b, d = self.problem.alignment[:3]
            limits = {"MAX_WORKSPACE_BYTES": WORKSPACE}
            limits |= {f"MIN_ALIGNMENT_{n}_BYTES": v for n, v in zip("ABCD", (a, b, d, d), strict=True)}
            for name, value in limits.items():
                library.set_attribute("MatmulPreference", preference, name, value)
            results, count = (Result * CANDIDATES)(), ctypes.c_int()
            library.call(
                "MatmulAlgoGetHeuristic", handle, self.descriptor, *self.layouts, preference, CANDIDATES, results,
                ctypes.byref(count),
            )  # fmt: skip
        except CublasLtError as error:
            raise UnsupportedError(f"no algorithm: {error}") from None
        finally:
            library.call("MatmulPreferenceDestroy", preference)
        found = [Algorithm.from_buffer_copy(r.algorithm) for r in results[: count.value] if _usable(r)]
        if not found:
            raise UnsupportedError("no algorithm")
        return found

    def check(self, handle: int) -> None:
        """Raises CublasLtError where the library says that it cannot run the algorithm, which may be another library's."""
        result = Result()
        algorithm = ctypes.byref(self.algorithm)
        self.library.call("MatmulAlgoCheck", handle, self.descriptor, *self.layouts, algorithm, ctypes.byref(result))
        if not _usable(result):
            raise CublasLtError(f"status {result.state}, {result.workspace} bytes of workspace")

    def queue(self, handle: int, operands: Operands, workspace: int, stream: int) -> None:
        """Queue the product on a stream. Raises CublasLtError where the library refuses."""
        a, b, d, factor, bias, aux = operands
        if self.problem.has_bias:
            self.set("BIAS_POINTER", bias)
        if self.problem.has_aux:
            self.set("EPILOGUE_AUX_POINTER", aux)
        alpha, beta = (ctypes.byref(self.scalar(v)) for v in (1.0, factor))
        of_a, of_b, of_d, _ = self.layouts
        self.library.call(
            "Matmul", handle, self.descriptor, alpha, a, of_a, b, of_b, beta, d, of_d, d, of_d,
            ctypes.byref(self.algorithm), workspace, WORKSPACE, stream,
        )  # fmt: skip


def _usable(result: Any) -> bool:
    return bool(result.state == 0 and result.workspace <= WORKSPACE)


class Planner:
    """cuBLASLt on one device: its handle, its workspace, and a plan for every problem that came up. See `of_device`.

    A problem's algorithm is the fastest of the library's candidates, timed once and then kept on disk with the name of
    the device and the library's version: the same machine adds up in the same order in the next run.

    Networks share it, on any stream and from any thread: what one stream queues waits for what another queued before, as all
    of it uses one workspace.
    """

    def __init__(self, cupy: ModuleType, index: int) -> None:
        self.cupy = cupy
        self.library = cublaslt.library(cupy.cuda.runtime.runtimeGetVersion() // 1000)
        with cupy.cuda.Device(index):
            self.handle = self.library.create("")
            weakref.finalize(self, self.library.call, "Destroy", self.handle).atexit = False
            self.workspace: Array = cupy.empty((WORKSPACE,), np.uint8)
            self._done = cupy.cuda.Event(disable_timing=True)
        name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        self._turn = threading.RLock()
        self._last: tuple[int, int] | None = None
        self._plans: dict[Problem, Plan | str] = {}
        self.measurements = Measurements(name, self.library.version)
        weakref.finalize(self, self.measurements.save)

    # -- using it -------------------------------------------------------------------------------------------------

    @contextmanager
    def in_turn(self) -> Iterator[Any]:
        """The current stream, for work that uses the workspace: after all such work that is queued elsewhere.

        What is captured into a graph is ordered when that graph is launched.
        """
        with self._turn:
            stream = self.cupy.cuda.get_current_stream()
            if stream.is_capturing():
                yield stream
                return
            # With per-thread default streams the same number is another stream in another thread.
            here = (stream.ptr, threading.get_ident())
            if self._last not in (None, here):
                stream.wait_event(self._done)
            try:
                yield stream
            finally:
                self._done.record(stream)
                self._last = here

    def capturing(self) -> bool:
        """Whether what is queued now goes into a graph, so that nothing can be tried out."""
        return bool(self.cupy.cuda.get_current_stream().is_capturing())

    def launch(self, graph: cupy.cuda.Graph) -> None:
        """Launch a graph in which there are products, on the current stream."""
        # The products of a step have all been timed by the time that it is launched.
        self.measurements.save()
        with self.in_turn():
            graph.launch()

    def run(self, plan: Plan, operands: Operands) -> None:
        """Queue a product on the current stream. Raises CublasLtError where the library refuses."""
        with self.in_turn() as stream:
            plan.queue(self.handle, operands, self.workspace.data.ptr, stream.ptr)

    # -- making plans ---------------------------------------------------------------------------------------------

    def plan(self, problem: Problem, operands: Operands) -> Plan:
        """The plan for a problem, made at its first use with these operands, whose outputs it may write.

        Raises UnsupportedError, at each use, where cuBLASLt cannot do it.
        """
        with self._turn:
            if problem not in self._plans:
                with self.in_turn():
                    self._plans[problem] = self._made(problem, operands, not self.capturing())
            found = self._plans[problem]
        if isinstance(found, str):
            raise UnsupportedError(found)
        return found

    def refuse(self, problem: Problem, reason: str) -> None:
        """Make no such plan from now on."""
        self._plans[problem] = reason

    def _made(self, problem: Problem, operands: Operands, may_run: bool) -> Plan | str:
        """A plan, or why there is none. may_run: whether products may be tried and timed now, as they may not in a capture."""
        try:
            problem.check()
            plan, key = Plan(self.library, problem), repr(astuple(problem))
            if may_run and operands.beta:
                # What is added to must not be written before its time, so the trials have an output of their own.
                size = {"float64": 8, "float32": 4}.get(problem.types[1], 2) * problem.M * problem.N
                try:
                    output = self.cupy.empty((size,), np.uint8)
                    operands = operands._replace(d=output.data.ptr)
                except self.cupy.cuda.memory.OutOfMemoryError:
                    log.warning("no memory to time algorithms in: the library's first choice is taken for %s", problem)
                    may_run = False
            if self._take_kept(plan, key, operands, may_run):
                return plan
            found = plan.candidates(self.handle)
            if may_run:
                seconds, plan.algorithm = self._fastest(plan, found, operands)
                entry = {"algorithm": list(plan.algorithm.data), "microseconds": round(1e6 * seconds, 3)}
                self.measurements.add("algorithms", key, entry)
            else:
                plan.algorithm = found[0]
        except UnsupportedError as reason:
            return str(reason)
        return plan

    def _take_kept(self, plan: Plan, key: str, operands: Operands, may_run: bool) -> bool:
        """Whether the algorithm of an earlier run is one still, and runs."""
        kept = self.measurements.of("algorithms").get(key)
        if kept is None:
            return False
        try:
            plan.algorithm = Algorithm((ctypes.c_uint64 * 8)(*kept["algorithm"]))
            plan.check(self.handle)
            if may_run:
                self.run(plan, operands)
        except (CublasLtError, LookupError, TypeError, ValueError) as error:
            log.warning("cuBLASLt: the algorithm kept for %s cannot be used: %s", plan.problem, error)
            return False
        return True

    def _fastest(self, plan: Plan, found: list[Algorithm], operands: Operands) -> tuple[float, Algorithm]:
        """The quickest of these algorithms, and its seconds; raises UnsupportedError where none of them runs."""
        best: tuple[float, Algorithm] | None = None
        reasons = []
        for algorithm in found:
            plan.algorithm = algorithm
            try:
                seconds = seconds_a_call(self.cupy, lambda: self.run(plan, operands))
            except CublasLtError as error:
                log.warning("cuBLASLt: an algorithm for %s failed and is left out: %s", plan.problem, error)
                reasons.append(str(error))
                continue
            if best is None or seconds < best[0]:
                best = seconds, algorithm
        if best is None:
            raise UnsupportedError(f"no algorithm runs: {reasons[0]}")
        return best


_planners: weakref.WeakValueDictionary[tuple[Any, int], Planner] = weakref.WeakValueDictionary()
_making = threading.Lock()


def of_device(cupy: ModuleType, index: int) -> Planner:
    """The planner of GPU number `index`: one for all networks there, destroyed with the last of them."""
    with _making:
        planner = _planners.get((cupy, index))
        if planner is None:
            planner = _planners[cupy, index] = Planner(cupy, index)
        return planner
