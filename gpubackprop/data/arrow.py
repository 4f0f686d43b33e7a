"""pyarrow, which tables need (extra "data"): loaded where something of it is first used, so that all else works without it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpubackprop.errors import MissingExtraError

__all__ = ["csv", "pa", "parquet", "pc"]


class _Module:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        try:
            return getattr(import_module(self._name), attribute)
        except ImportError:
            raise MissingExtraError("reading tables", "data") from None


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv, parquet
else:
    pa, pc, csv, parquet = map(_Module, ("pyarrow", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet"))
