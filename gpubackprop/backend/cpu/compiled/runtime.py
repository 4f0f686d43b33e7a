"""What the generated code calls: pointers from addresses, and NumPy's own BLAS. Imported only where Numba is installed."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.extending import intrinsic

from gpubackprop.backend.cpu.blas import direct_blas

FASTMATH = {"reassoc", "contract", "nsz"}
"""What LLVM may assume: sums in any order, and multiply-adds. NaN and infinity keep their meaning."""


def _pointer_to(element: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(typing_context: Any, address: Any) -> Any:
        signature = types.CPointer(element)(types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


f4, f8 = _pointer_to(types.float32), _pointer_to(types.float64)
i8, u8, u1 = _pointer_to(types.int64), _pointer_to(types.uint64), _pointer_to(types.uint8)


def _gemm(letter: str, real: Any) -> Any:
    """cblas_?gemm by a symbol of its own, which code that is loaded from the disk cache finds as well."""
    blas = direct_blas()
    if blas is None:
        return None
    symbol = f"gpubackprop_{letter}gemm"
    llvm.add_symbol(symbol, blas.addresses[letter + "gemm"])
    i, matrix = (types.int64 if blas.integer_size == 8 else types.int32), types.CPointer(real)
    flag = types.int32
    signature = types.void(flag, flag, flag, i, i, i, real, matrix, i, matrix, i, real, matrix, i)
    return types.ExternalFunction(symbol, signature)


sgemm, dgemm = _gemm("s", types.float32), _gemm("d", types.float64)
