"""Matrix products by cuBLASLt, with what comes after a product done inside it (its "epilogue")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda.cublaslt import DATA_TYPE, CublasLt, Problem, UnsupportedError
from gpubackprop.backend.cuda.selftest import TOLERANCE, epilogue_error


def alignment(address: int) -> int:
    """The largest power of two up to 256 that divides an address."""
    return min(256, address & -address) if address else 256


class Products:
    """The vocabulary's products, each with the epilogues that it may take, in order of preference.

    tf32: whether float32 products may round their operands to TF32. Every method returns whether it did the work; False
    leaves everything as it was.
    """

    def __init__(self, lt: CublasLt, tf32: bool, epilogues: bool = True) -> None:
        self.lt, self.tf32, self.epilogues = lt, tf32, epilogues
        self._verified: dict[Problem, str] = {}
        self.epilogue_error = epilogue_error

    def multiply(
        self,
        a: Array,
        b: Array,
        out: Array,
        epilogue: str = "DEFAULT",
        *,
        alpha: Any = 1.0,
        beta: Any = 0.0,
        bias: Array | None = None,
        aux: Array | None = None,
        device_alpha: bool = False,
    ) -> bool:
        """out = epilogue(alpha a b + beta out) for row-major a (n, k), b (k, m), each as it is or a transposed view."""
        if epilogue != "DEFAULT" and not self.epilogues:
            return False
        layout_a, layout_b = _layout(a), _layout(b)
        if layout_a is None or layout_b is None or out.ndim != 2 or not out.flags.c_contiguous or not out.size:
            return False
        if str(a.dtype) != str(b.dtype) or not {str(a.dtype), str(out.dtype)} <= set(DATA_TYPE) or not a.shape[1]:
            return False
        (n, k), m = a.shape, b.shape[1]
        addresses = (b.data.ptr, a.data.ptr, out.data.ptr)
        problem = Problem(
            m, n, k, layout_b, layout_a, (str(a.dtype), str(out.dtype)),
            tuple(alignment(p) for p in addresses), epilogue,  # type: ignore[arg-type]
            self.tf32 and str(a.dtype) == "float32", bool(device_alpha or beta), device_alpha,
        )  # fmt: skip
        plan = self.lt.plan(problem, addresses[0], addresses[1], beta)
        if plan is None or not self._trusted(problem):
            return False
        plan(
            *addresses, alpha, beta,
            bias=0 if bias is None else bias.data.ptr, aux=0 if aux is None else aux.data.ptr,
        )  # fmt: skip
        return True

    def first_of(self, epilogues: Sequence[str], a: Array, b: Array, out: Array, **options: Any) -> str | None:
        """Multiply with the first of these epilogues that can be had; its name, or None where none can."""
        return next((e for e in epilogues if self.multiply(a, b, out, e, **options)), None)

    def _trusted(self, problem: Problem) -> bool:
        """Whether this kind of epilogue, at this width, does here what it is taken for: tried once, on small operands."""
        if problem.epilogue == "DEFAULT":
            return True
        small = problem.small()
        if small not in self._verified:
            self._verified[small] = self._verify(small)
        if self._verified[small]:
            self.lt.refuse(problem, self._verified[small])
        return not self._verified[small]

    def _verify(self, small: Problem) -> str:
        """Why the epilogue is not to be trusted; "" where it is."""
        tolerance = TOLERANCE["tf32" if small.tf32 else small.types[1]]
        try:
            error = self.epilogue_error(self.lt, small)
        except UnsupportedError as reason:
            return f"could not be tested: {reason}"
        return (
            ""
            if error <= tolerance
            else f"its self-test is off by {error:.1e}, relative, where {tolerance:.0e} is allowed"
        )


def _layout(matrix: Array) -> bool | None:
    """Whether a matrix is the transpose of a C-contiguous one; None where it is neither that nor C-contiguous itself."""
    if matrix.ndim != 2:
        return None
    if matrix.flags.c_contiguous:
        return False
    return True if matrix.flags.f_contiguous else None
