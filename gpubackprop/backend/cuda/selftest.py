"""The self-test of an epilogue: what cuBLASLt makes of it on this machine, held to NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpubackprop.backend.cuda.plans import Operands, Planner, Problem

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "tf32": 4e-3, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest difference between a product with an epilogue and one without, relative in norm: a self-test, not a parity test."""


def epilogue_error(planner: Planner, problem: Problem) -> float:
    """Carry out a product with an epilogue on random operands, and compare all that it writes with NumPy in float64.

    Returns the largest error, relative in norm. Waits for the device: this is no part of a step.
    """
    p, rng = problem, np.random.default_rng(0)
    a_type, d_type = (_numpy_type(t) for t in p.types)
    # Row-major views of the column-major operands: their transposes.
    a = rng.normal(size=(p.M, p.K) if p.transpose_a else (p.K, p.M)).astype(a_type)
    b = rng.normal(size=(p.K, p.N) if p.transpose_b else (p.N, p.K)).astype(a_type)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    z = (wide_b.T if p.transpose_b else wide_b) @ (wide_a.T if p.transpose_a else wide_a)
    bias: np.ndarray = rng.normal(size=p.M).astype(d_type)
    aux: np.ndarray = np.zeros((p.N, p.aux_ld), d_type)
    if p.epilogue == "DGELU":
        aux = rng.normal(size=aux.shape).astype(d_type)
    if p.epilogue == "DRELU":
        # The mask is the library's own format: it is made by the epilogue that makes it in a step.
        positive, _, aux = _outcome(planner, replace(p, epilogue="RELU_AUX"), a, b, bias, aux)
        z = z * (positive.astype(np.float64) > 0)
    out, db, kept = _outcome(planner, p, a, b, bias, aux)
    if "BIAS" in p.epilogue:
        z = z + bias.astype(np.float64)
    want = np.maximum(z, 0) if p.epilogue.startswith("RELU") else z
    errors = []
    if "GELU" in p.epilogue:
        value, slope = _gelu_tanh(aux.astype(np.float64) if p.epilogue == "DGELU" else z)
        want = z * slope if p.epilogue == "DGELU" else value
        if "AUX" in p.epilogue:
            errors.append(_relative(kept, z))
    if p.epilogue == "BGRADA":
        sums = (wide_a if p.transpose_a else wide_a.T).sum(axis=1)
        errors.append(_relative(db, sums))
    return max([_relative(out, want), *errors])


def keeps_nan(planner: Planner, problem: Problem) -> bool:
    """Whether NaN in a row of the right operand comes out as NaN: cuBLASLt documents ReLU as max(x, 0), which leaves open whether
    a product that overflowed is hidden by it. Always of epilogues without a maximum. Waits for the device."""
    if not problem.epilogue.startswith("RELU"):
        return True
    p, (a_type, d_type) = problem, map(_numpy_type, problem.types)
    b = np.ones((p.N, p.K), a_type)
    b[0] = np.nan
    b = np.ascontiguousarray(b.T if p.transpose_b else b)
    bias, aux = np.zeros(p.M, d_type), np.zeros((p.N, p.aux_ld), d_type)
    out, _, _ = _outcome(planner, p, np.ones((p.M, p.K), a_type), b, bias, aux)
    return bool(np.isnan(out[0].astype(np.float64)).all())


def _outcome(
    planner: Planner, p: Problem, a: np.ndarray, b: np.ndarray, bias: np.ndarray, aux: np.ndarray
) -> list[np.ndarray]:
    """The output, bias and aux that a product of host operands leaves, on the host."""
    out = np.zeros((p.N, p.M), _numpy_type(p.types[1]))
    there = [planner.cupy.asarray(v) for v in (a, b, out, bias, aux)]
    at_a, at_b, at_out, at_bias, at_aux = (v.data.ptr for v in there)
    operands = Operands(at_a, at_b, at_out, bias=at_bias, aux=at_aux)
    planner.run(planner.plan(p, operands), operands)
    return [planner.cupy.asnumpy(v) for v in there[2:]]


def _gelu_tanh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c, k = np.sqrt(2 / np.pi), 0.044715
    t = np.tanh(c * (z + k * z**3))
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * k * z * z)


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    error = float(np.linalg.norm(got.astype(np.float64) - want)) / max(float(np.linalg.norm(want)), 1e-30)
    return error if np.isfinite(error) else float("inf")


def _numpy_type(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
