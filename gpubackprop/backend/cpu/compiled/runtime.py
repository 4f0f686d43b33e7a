"""The functions that generated code calls: pointers from addresses, NumPy's own BLAS, and the masks of dropout. Imported
only where Numba is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.core.base import BaseContext
from numba.extending import intrinsic

from gpubackprop.backend.cpu.blas import direct_blas

FASTMATH = {"reassoc", "contract", "nsz"}
"""Liberties that LLVM may take: sums in any order, and multiply-adds. NaN and infinity keep their meaning."""


def _pointer_to(element: types.Type) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(typing_context: BaseContext, address: types.Type) -> tuple[types.Type, Callable[..., ir.Value]]:
        signature = types.CPointer(element)(types.int64)

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: types.Type, arguments: list[ir.Value]
        ) -> ir.Value:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


f4, f8 = _pointer_to(types.float32), _pointer_to(types.float64)
i8, u8, u1 = _pointer_to(types.int64), _pointer_to(types.uint64), _pointer_to(types.uint8)


def _as(source: types.Type, target: types.Type) -> Any:
    """The bits of one type as another."""

    @intrinsic  # type: ignore[untyped-decorator]
    def cast(typing_context: BaseContext, value: types.Type) -> tuple[types.Type, Callable[..., ir.Value]]:
        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: types.Type, arguments: list[ir.Value]
        ) -> ir.Value:
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return target(source), generate

    return cast


bits_of_float32, float32_of_bits = _as(types.float32, types.int32), _as(types.int32, types.float32)
bits_of_float64, float64_of_bits = _as(types.float64, types.int64), _as(types.int64, types.float64)


def _gemm(letter: str, real: types.Type) -> types.ExternalFunction | None:
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


@intrinsic  # type: ignore[untyped-decorator]
def _high_product(
    typing_context: BaseContext, a: types.Type, b: types.Type
) -> tuple[types.Type, Callable[..., ir.Value]]:
    """The upper 64 of the 128 bits of a b."""
    wide = ir.IntType(128)

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: types.Type, arguments: list[ir.Value]
    ) -> ir.Value:
        product = builder.mul(*(builder.zext(value, wide) for value in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@njit(nogil=True)  # type: ignore[untyped-decorator]
def draw(
    mask: np.ndarray, seed: int, layer: int, step: int, size: int, first: int, threshold: int, scale: float
) -> None:  # pragma: no cover - compiled
    """The mask of `gpubackprop.random.MaskStream`: Philox4x64-10 of (element // 16, step, layer, 0), all of them uint64."""
    end, block = first + size, first >> uint64(4)
    while block << uint64(4) < end:
        c0, c1, c2, c3, k0, k1 = block, step, layer, uint64(0), seed, uint64(0)
        for _ in range(10):
            high0, high1 = _high_product(c0, uint64(0xD2E7470EE14C6C93)), _high_product(c2, uint64(0xCA5A826395121157))
            low0, low1 = c0 * uint64(0xD2E7470EE14C6C93), c2 * uint64(0xCA5A826395121157)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0, k1 = k0 + uint64(0x9E3779B97F4A7C15), k1 + uint64(0xBB67AE8584CAA73B)
        for i in range(uint64(16)):
            element = (block << uint64(4)) + uint64(i)
            word = c0 if i < 4 else c1 if i < 8 else c2 if i < 12 else c3
            bits = (word >> (uint64(16) * (uint64(i) & uint64(3)))) & uint64(0xFFFF)
            if first <= element < end:
                mask[element - first] = scale if bits < threshold else scale * 0
        block += uint64(1)
