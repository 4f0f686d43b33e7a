"""cuBLASLt: descriptors, algorithms, plans.

cuBLASLt is taken because it can be captured into a graph: the stream, the workspace and the algorithm are all named by the
caller. It is column-major: a row-major matrix is, without a copy, the transpose of a column-major one, and so
out = a b is computed as out^T = b^T a^T. Below, M, N, K are those of that transposed product: M columns and N rows of `out`.
"""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.files import cache

log = logging.getLogger("gpubackprop.cuda")

WORKSPACE = 32 * 2**20
"""Bytes that an algorithm may use beside its operands: what NVIDIA recommends for Hopper."""
CANDIDATES = 8
"""Algorithms that are asked for and timed."""
_REPEATS = 5

# cudaDataType_t and cublasComputeType_t (library_types.h, cublas_api.h)
DATA_TYPE = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77

# struct cublasLtMatmulHeuristicResult_t of cublasLt.h: the algorithm is its first 64 bytes
_RESULT = np.dtype([("algo", "u8", 8), ("workspace", "u8"), ("state", "i4"), ("waves", "f4"), ("reserved", "i4", 4)])


@dataclass(frozen=True)
class Problem:
    """A product as cuBLASLt sees it: D = epilogue(alpha op(A) op(B) + beta C), C being D, all column-major.

    `types`: of A (and B), of D. `alignment`: of A, B and D in bytes, up to 256. `aux_ld`: in elements (bits for ReLU).
    """

    M: int
    N: int
    K: int
    transpose_a: bool
    transpose_b: bool
    types: tuple[str, str]
    alignment: tuple[int, int, int]
    epilogue: str = "DEFAULT"
    tf32: bool = False
    adds: bool = False
    device_alpha: bool = False

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
        """ReLU keeps a mask of bits whose rows are padded to 128; GELU its input, with rows of a multiple of 8."""
        return -(-self.M // 128) * 128 if "RELU" in self.epilogue else self.M

    @property
    def has_bias(self) -> bool:
        """Whether a bias is read, or its gradient written."""
        return "BIAS" in self.epilogue or "BGRAD" in self.epilogue

    @property
    def has_aux(self) -> bool:
        """Whether something is kept for the backward pass, or read in it."""
        return "AUX" in self.epilogue or self.epilogue in ("DRELU", "DGELU")

    def small(self) -> Problem:
        """A problem of the same kind that takes no time: the same width but for multiples of 128, few rows."""
        M = self.M if self.M <= 256 else 128 + self.M % 128
        N, K = min(self.N, 96), min(self.K, 96)
        return replace(self, M=M, N=N, K=K, alignment=(256, 256, 256), adds=False, device_alpha=False)

    def possible(self) -> bool:
        """Whether cuBLASLt documents such a product at all."""
        if "GELU" in self.epilogue and ("AUX" in self.epilogue or "DGELU" in self.epilogue) and self.M % 8:
            return False
        return not (self.K == 1 and self.epilogue in ("DRELU", "DGELU", "BGRADA"))


class UnsupportedError(Exception):
    """cuBLASLt has no algorithm for a problem, or the one it has failed its self-test."""


class Plan:
    """The descriptors of one problem and the algorithm for it."""

    def __init__(self, lt: CublasLt, problem: Problem) -> None:
        self.lt, self.problem = lt, problem
        api, p = lt.api, problem
        double = p.types[0] == "float64"
        compute = _COMPUTE_64F if double else _COMPUTE_32F_FAST_TF32 if p.tf32 else _COMPUTE_32F
        scale = DATA_TYPE["float64" if double else "float32"]
        self.scalar = np.float64 if double else np.float32
        self.descriptor = api.matmul_desc_create(compute, scale)
        a_type, d_type = (DATA_TYPE[t] for t in p.types)
        rows_a, rows_b = (p.K, p.M) if p.transpose_a else (p.M, p.K), (p.N, p.K) if p.transpose_b else (p.K, p.N)
        self.a = api.matrix_layout_create(a_type, *rows_a, p.lda)
        self.b = api.matrix_layout_create(a_type, *rows_b, p.ldb)
        self.d = api.matrix_layout_create(d_type, p.M, p.N, p.M)
        self.set("TRANSA", int(p.transpose_a))
        self.set("TRANSB", int(p.transpose_b))
        self.set("EPILOGUE", int(getattr(api.Epilogue, p.epilogue)))
        if p.device_alpha:
            self.set("POINTER_MODE", int(api.PointerMode.DEVICE))
        if p.has_aux:
            self.set("EPILOGUE_AUX_LD", p.aux_ld)
            # The heuristics refuse a null pointer; the true one is set before each call.
            self.set("EPILOGUE_AUX_POINTER", 16)
        if p.has_bias:
            self.set("BIAS_POINTER", 16)
        self.algorithm: np.ndarray = np.zeros(8, "u8")
        # At exit the library may be gone before this object: then the driver has taken everything back already.
        weakref.finalize(self, _destroy, api, self.descriptor, (self.a, self.b, self.d)).atexit = False

    def set(self, attribute: str, value: int) -> None:
        """Set an attribute of the product's descriptor, in the width that the library documents for it."""
        api = self.lt.api
        number = getattr(api.MatmulDescAttribute, attribute)
        buffer = np.array([value], api.get_matmul_desc_attribute_dtype(number))
        api.matmul_desc_set_attribute(self.descriptor, number, buffer.ctypes.data, buffer.nbytes)

    def candidates(self) -> np.ndarray:
        """The algorithms that the library would take, best guess first; raises UnsupportedError where there is none."""
        api, p = self.lt.api, self.problem
        preference = api.matmul_preference_create()
        try:
            names = ("A", "B", "C", "D")
            limits = {"MAX_WORKSPACE_BYTES": WORKSPACE}
            limits |= {f"MIN_ALIGNMENT_{n}_BYTES": p.alignment[min(i, 2)] for i, n in enumerate(names)}
            for name, value in limits.items():
                number = getattr(api.MatmulPreferenceAttribute, name)
                buffer = np.array([value], api.get_matmul_preference_attribute_dtype(number))
                api.matmul_preference_set_attribute(preference, number, buffer.ctypes.data, buffer.nbytes)
            results, count = np.zeros(CANDIDATES, _RESULT), np.zeros(1, np.int32)
            try:
                api.matmul_algo_get_heuristic(
                    self.lt.handle, self.descriptor, self.a, self.b, self.d, self.d, preference, CANDIDATES,
                    results.ctypes.data, count.ctypes.data,
                )  # fmt: skip
            except api.cuBLASLtError as error:
                raise UnsupportedError(f"no algorithm ({error})") from None
        finally:
            api.matmul_preference_destroy(preference)
        usable = results[: int(count[0])]
        usable = usable[(usable["state"] == 0) & (usable["workspace"] <= WORKSPACE)]
        if not len(usable):
            raise UnsupportedError("no algorithm")
        return np.array(usable["algo"])

    def accepts(self, algorithm: np.ndarray) -> bool:
        """Whether the library can run an algorithm that was kept from an earlier run."""
        lt, result = self.lt, np.zeros(1, _RESULT)
        try:
            lt.api.matmul_algo_check(
                lt.handle, self.descriptor, self.a, self.b, self.d, self.d, algorithm.ctypes.data, result.ctypes.data
            )
        except lt.api.cuBLASLtError:
            return False
        return int(result[0]["state"]) == 0 and int(result[0]["workspace"]) <= WORKSPACE

    def __call__(self, a: int, b: int, d: int, alpha: Any = 1.0, beta: Any = 0.0, bias: int = 0, aux: int = 0) -> None:
        """Queue the product on the current stream; all operands are addresses. alpha and beta: numbers, or, with
        `device_alpha`, addresses of numbers on the device."""
        if bias and self.problem.has_bias:
            self.set("BIAS_POINTER", bias)
        if aux and self.problem.has_aux:
            self.set("EPILOGUE_AUX_POINTER", aux)
        if self.problem.device_alpha:
            alpha_at, beta_at = int(alpha), int(beta)
        else:
            factors = np.array([alpha, beta], self.scalar)
            alpha_at, beta_at = factors.ctypes.data, factors.ctypes.data + factors.itemsize
        lt = self.lt
        stream = lt.cupy.cuda.get_current_stream().ptr
        lt.api.matmul(
            lt.handle, self.descriptor, alpha_at, a, self.a, b, self.b, beta_at, d, self.d, d, self.d,
            self.algorithm.ctypes.data, lt.workspace.data.ptr, WORKSPACE, stream,
        )  # fmt: skip


def _destroy(api: Any, descriptor: int, layouts: tuple[int, ...]) -> None:
    for layout in layouts:
        api.matrix_layout_destroy(layout)
    api.matmul_desc_destroy(descriptor)


class CublasLt:
    """The library's handle on one device, its workspace, and a plan for every problem that came up.

    A problem's algorithm is the fastest of the library's candidates, timed once and then kept on disk with the name of
    the device and the library's version: the same machine adds up in the same order in the next run.
    """

    def __init__(self, cupy: Any, index: int) -> None:
        from nvmath.bindings import cublasLt

        api: Any = cublasLt
        self.cupy, self.api = cupy, api
        with cupy.cuda.Device(index):
            self.handle = api.create()
            self.workspace: Array = cupy.empty((WORKSPACE,), np.uint8)
            name = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        self._file = f"algorithms-{cache.digest(name, api.get_version())}.json"
        self._chosen: dict[str, list[int]] = json.loads(cache.load(self._file) or b"{}")
        self._plans: dict[Problem, Plan | None] = {}
        self.refused: dict[str, str] = {}
        """Kinds of epilogue that are not used here, with the reason."""
        self.used: dict[str, int] = {}
        """Plans made, by epilogue."""

    def plan(self, problem: Problem, a: int, b: int, beta: float) -> Plan | None:
        """The plan for a problem, made at its first use, or None where cuBLASLt cannot do it."""
        if problem not in self._plans:
            try:
                if not problem.possible():
                    raise UnsupportedError(f"not with {problem.M} columns and an inner width of {problem.K}")
                self._plans[problem] = self._make(problem, a, b)
                self.used[problem.epilogue] = self.used.get(problem.epilogue, 0) + 1
            except UnsupportedError as reason:
                self._plans[problem] = None
                self.refuse(problem, str(reason))
        return self._plans[problem]

    def refuse(self, problem: Problem, reason: str) -> None:
        """Take no such plan from now on, and say so once a kind."""
        self._plans[problem] = None
        kind = f"{problem.epilogue} in {'tf32' if problem.tf32 else problem.types[0]}"
        if kind not in self.refused:
            self.refused[kind] = f"{problem.M}x{problem.N}x{problem.K}: {reason}"
            log.warning("cuBLASLt: %s is not used: %s", kind, self.refused[kind])

    def _make(self, problem: Problem, a: int, b: int) -> Plan:
        plan = Plan(self, problem)
        key = repr(astuple(problem))
        kept = self._chosen.get(key)
        if isinstance(kept, list) and len(kept) == 8 and plan.accepts(np.array(kept, "u8")):
            plan.algorithm = np.array(kept, "u8")
            return plan
        found = plan.candidates()
        plan.algorithm = found[0].copy()
        if len(found) > 1:
            plan.algorithm = self._fastest(plan, found, a, b)
        self._chosen[key] = [int(v) for v in plan.algorithm]
        cache.store(self._file, json.dumps(self._chosen).encode())
        return plan

    def _fastest(self, plan: Plan, found: np.ndarray, a: int, b: int) -> np.ndarray:
        """The quickest algorithm, on the true operands but with outputs of its own: nothing of the network is written."""
        cupy, p = self.cupy, plan.problem
        outputs: tuple[Array, ...] = ()
        try:
            itemsize = 2 if "16" in p.types[1] else 8 if p.types[1] == "float64" else 4
            sizes = (
                p.M * p.N * itemsize,
                max(p.M, p.N) * 8,
                p.aux_ld * p.N * itemsize if "DEFAULT" not in p.epilogue else 8,
            )
            outputs = tuple(cupy.zeros((size,), np.uint8) for size in sizes)
            factors = cupy.zeros((2,), np.float32)
        except cupy.cuda.memory.OutOfMemoryError:
            log.warning("no memory to time products in: the library's first choice is taken for %s", p)
            return np.array(found[0])
        d, bias, aux = (o.data.ptr for o in outputs)
        scalars = (factors.data.ptr, factors.data.ptr + 4) if p.device_alpha else (1.0, 0.0)
        best, fastest = np.array(found[0]), np.inf
        for algorithm in found:
            plan.algorithm = algorithm.copy()
            try:
                seconds = self._time(lambda: plan(a, b, d, scalars[0], scalars[1], bias, aux))
            except self.api.cuBLASLtError as error:
                log.warning("cuBLASLt: an algorithm for %s failed and is left out: %s", p, error)
                continue
            if seconds < fastest:
                best, fastest = plan.algorithm, seconds
        if not np.isfinite(fastest):
            raise UnsupportedError("every algorithm failed")
        return best

    def _time(self, work: Callable[[], None]) -> float:
        cuda = self.cupy.cuda
        work()
        times = []
        for _ in range(_REPEATS):
            start, end = cuda.Event(), cuda.Event()
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(cuda.get_elapsed_time(start, end))
        return float(np.median(times))
