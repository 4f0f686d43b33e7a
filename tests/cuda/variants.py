"""Every instantiation of the kernels that the library may ask for: what the tests compile and run."""

from __future__ import annotations

from itertools import product

from gpubackprop.backend.cuda.kernel_table import (
    GATHERED,
    GATHERED_TARGETS,
    GROUPS,
    NARROW_ROWS,
    NARROW_WIDTHS,
    SIZE,
    STORAGE,
    functors,
    kernels,
    rules,
)

_ACCUMULATED = [(t, "double" if t == "double" else "float") for t in STORAGE]
_PARAMETERS = (("float", "float"), ("double", "double"), ("float", "f16"), ("float", "bf16"))
"""(P, H) of an optimizer: parameters with their gradients and states, and the copy of them that products take."""


def _widths(*types: str) -> list[tuple[str, int]]:
    return [(t, v) for t in types for v in (1, 16 // SIZE[t])]


def variants() -> dict[str, list[tuple[str | int, ...]]]:
    """Every instantiation that the host may ask for, by kernel."""
    found: dict[str, list[tuple[str | int, ...]]] = {name: [()] for name, k in kernels().items() if not k.template}
    functions = tuple(functors("activation.cu"))
    for name in ("bias_activation", "activation", "activation_derivative"):
        found[name] = list(product(STORAGE, functions))
    for name in ("column_sums", "norm_gradient_sums"):
        found[name] = list(_widths(*STORAGE))
    found["finish_column_sums"] = [*(("float", g) for g in ("float", "f16", "bf16")), ("double", "double")]
    targets = {t: ("int", "long long", a, *((t,) if t != a else ())) for t, a in _ACCUMULATED}
    found["cross_entropy"] = [(t, y, g) for t in STORAGE for y in targets[t] for g in GROUPS]
    found["elementwise_loss"] = [(t, y, f) for t in STORAGE for y in targets[t][2:] for f in functors("loss.cu")]
    found["gather_rows"] = [(*x, *y) for x in GATHERED for y in GATHERED_TARGETS]
    found["convert"] = [("float", "f16"), ("float", "bf16")]
    for name in ("dropout", "batch_norm_apply", "batch_norm_backward"):
        found[name] = [(t,) for t in STORAGE]
    found["squared_norm"] = list(dict.fromkeys((t, r) for t, a in _ACCUMULATED for r in (a, "double")))
    names = dict.fromkeys(rule.name for rule in rules())
    found["optimizer_step"] = [(rule, *types) for rule in names for types in _PARAMETERS]
    found["lars_step"] = found["lamb_step"] = list(_PARAMETERS)
    for name in (
        *("penalty", "penalty_gradient", "unscale", "restore", "set_scalars"),
        *("segment_norms", "segment_ratios", "lamb_moments", "finish_spreads"),
    ):
        found[name] = [("float",), ("double",)]
    found["column_spreads"] = [(t, min(v, 4)) for t, v in _widths(*STORAGE)]
    found["layer_norm_forward"] = found["layer_norm_backward"] = list(product(STORAGE, GROUPS))
    found["narrow_forward"] = found["narrow_backward"] = [(t, w) for t in NARROW_ROWS for w in NARROW_WIDTHS]
    return found
