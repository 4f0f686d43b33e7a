"""Matrix products by cuBLASLt, with what comes after a product done inside it (its "epilogue")."""

from __future__ import annotations

import logging

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda.choices import Choices
from gpubackprop.backend.cuda.cublaslt import DATA_TYPE, CublasLtError
from gpubackprop.backend.cuda.plans import Operands, Planner, Problem, UnsupportedError
from gpubackprop.backend.cuda.selftest import TOLERANCE, epilogue_error, keeps_nan

log = logging.getLogger("gpubackprop.cuda")


def alignment(address: int) -> int:
    """The largest power of two up to 256 that divides an address."""
    return min(256, address & -address) if address else 256


class Products:
    """The vocabulary's products, each with the epilogues that it may take. `choices`: which of them are taken.

    tf32: whether float32 products may round their operands to TF32. Every method returns whether it did the work; where it
    did not, the output holds nothing of use.
    """

    def __init__(self, planner: Planner, tf32: bool, epilogues: bool = True) -> None:
        self.planner, self.tf32, self.epilogues = planner, tf32, epilogues
        self.refused: dict[str, str] = {}
        """Kinds of product that cuBLASLt does not do here, with the reason for the first such one."""
        self.choices = Choices(planner)
        self._verified: dict[Problem, str] = {}

    def multiply(
        self,
        a: Array,
        b: Array,
        out: Array,
        epilogue: str = "DEFAULT",
        *,
        beta: float = 0.0,
        bias: Array | None = None,
        aux: Array | None = None,
    ) -> bool:
        """out = epilogue(a b + beta out) for row-major a (n, k), b (k, m), each as it is or a transposed view."""
        if epilogue != "DEFAULT" and not self.epilogues:
            return False
        layout_a, layout_b = _layout(a), _layout(b)
        if layout_a is None or layout_b is None or out.ndim != 2 or not out.flags.c_contiguous or not out.size:
            return False
        if str(a.dtype) != str(b.dtype) or not {str(a.dtype), str(out.dtype)} <= set(DATA_TYPE) or not a.shape[1]:
            return False
        (n, k), m = a.shape, b.shape[1]
        at_bias, at_aux = (0 if v is None else v.data.ptr for v in (bias, aux))
        operands = Operands(b.data.ptr, a.data.ptr, out.data.ptr, beta, at_bias, at_aux)
        aligned = tuple(alignment(p) for p in (*operands[:3], at_bias, at_aux))
        tf32 = self.tf32 and str(a.dtype) == "float32"
        types = (str(a.dtype), str(out.dtype))
        problem = Problem(m, n, k, layout_b, layout_a, types, aligned, epilogue, tf32)  # type: ignore[arg-type]
        try:
            plan = self.planner.plan(problem, operands)
            self._verify(problem)
            self.planner.run(plan, operands)
        except UnsupportedError as reason:
            self._refuse(problem, str(reason))
            return False
        except CublasLtError as error:
            self.planner.refuse(problem, str(error))
            self._refuse(problem, str(error))
            return False
        return True

    def _refuse(self, problem: Problem, reason: str) -> None:
        if problem.kind not in self.refused:
            self.refused[problem.kind] = f"{problem.M}x{problem.N}x{problem.K}: {reason}"
            log.warning("cuBLASLt: %s is not used: %s", problem.kind, self.refused[problem.kind])

    def _verify(self, problem: Problem) -> None:
        """Raises UnsupportedError where this kind of epilogue, at this width, does not do here what it is taken for: tried
        once, on small operands."""
        if problem.epilogue == "DEFAULT":
            return
        small = problem.small()
        if small not in self._verified:
            if self.planner.capturing():
                raise UnsupportedError("cannot be tested during a capture")
            self._verified[small] = self._tested(small)
        if self._verified[small]:
            raise UnsupportedError(self._verified[small])

    def _tested(self, small: Problem) -> str:
        """Why the epilogue is not to be trusted; "" where it is."""
        tolerance = TOLERANCE["tf32" if small.tf32 else small.types[1]]
        try:
            error = epilogue_error(self.planner, small)
            if error <= tolerance and not keeps_nan(self.planner, small):
                return "it turns NaN into 0, which would hide that a product overflowed"
        except (UnsupportedError, CublasLtError) as reason:
            return f"could not be tested: {reason}"
        if error <= tolerance:
            return ""
        return f"its self-test is off by {error:.1e}, relative, where {tolerance:.0e} is allowed"


def _layout(matrix: Array) -> bool | None:
    """Whether a matrix is the transpose of a C-contiguous one; None where it is neither that nor C-contiguous itself."""
    if matrix.ndim != 2:
        return None
    if matrix.flags.c_contiguous:
        return False
    return True if matrix.flags.f_contiguous else None
